"""Batches: what the model reads, what the loss counts, and how rows are grouped."""

import numpy as np
import pytest
import torch

from sharp_plugins.prompted.dataset import PromptedDataset, prompts_alone, sample_of

PAD = 1


class Rows(list):
    def __init__(self, rows):
        super().__init__(torch.tensor(row) for row in rows)
        self.sizes = np.array([len(row) for row in rows])


def rows(count=40):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 9, (count, 2), generator=generator).tolist()
    make = [[torch.randint(4, 30, (n,), generator=generator).tolist() for n in pair] for pair in lengths]
    return Rows([prompt for prompt, _ in make]), Rows([[*text, 2] for _, text in make])


def plain(prompt, text, count_prompt):
    """One row's source and what is to be predicted at each place, None where nothing is counted."""
    whole = [*prompt.tolist(), *text.tolist()]
    return whole[:-1], [s if count_prompt or i >= len(prompt) else None for i, s in enumerate(whole)][1:]


@pytest.mark.parametrize("count_prompt", [False, True])
@pytest.mark.parametrize("only_scored", [False, True])
@pytest.mark.parametrize("leave_out_end", [False, True])
def test_each_row_is_read_and_counted_as_alone(count_prompt, only_scored, leave_out_end):
    prompts, texts = rows()
    data = PromptedDataset(prompts, texts, PAD, count_prompt, only_scored, leave_out_end=leave_out_end)
    texts = [text[:-1] if leave_out_end else text for text in texts]
    sample = data.collater([data[i] for i in (3, 0, 17, 5)])
    inputs, counted = sample["net_input"], 0
    assert ("scored" in inputs) == (only_scored and not count_prompt) and sample["nsentences"] == len(sample["target"]) == 4
    for place, i in enumerate(sample["id"].tolist()):
        source, wanted = plain(prompts[i], texts[i], count_prompt)
        assert inputs["src_lengths"][place] == len(source) == data.size(i) == data.num_tokens(i)
        assert inputs["src_tokens"][place].tolist() == source + [PAD] * (inputs["src_tokens"].size(1) - len(source))
        places = inputs["scored"][place].tolist() if "scored" in inputs else range(sample["target"].size(1))
        found = {at: symbol for at, symbol in zip(places, sample["target"][place].tolist()) if symbol != PAD}
        assert found == {at: symbol for at, symbol in enumerate(wanted) if symbol is not None}
        counted += len(found)
    assert sample["ntokens"] == counted and isinstance(sample["ntokens"], int)


@pytest.mark.parametrize("count_prompt", [False, True])
@pytest.mark.parametrize("only_scored", [False, True])
def test_prompts_alone_are_those_and_their_texts(count_prompt, only_scored):
    prompts, texts = rows()
    data = PromptedDataset(prompts, texts, PAD, count_prompt, only_scored)
    sample = data.collater([data[i] for i in range(9)])
    alone = prompts_alone(sample, PAD)
    for i in range(9):
        for found, wanted in ((alone["net_input"]["src_tokens"], prompts), (alone["target"], texts)):
            assert found[i].tolist() == wanted[i].tolist() + [PAD] * (found.size(1) - len(wanted[i]))
    assert alone["net_input"]["src_lengths"].tolist() == prompts.sizes[:9].tolist()
    assert "prompt_lengths" in sample and sample["net_input"]["src_tokens"].size(1) > alone["net_input"]["src_tokens"].size(1)


def test_prompts_without_texts():
    prompts, _ = rows()
    data = PromptedDataset(prompts, None, PAD)
    sample = data.collater([data[1], data[2]])
    assert sample["target"] is None and sample["net_input"]["src_lengths"].tolist() == prompts.sizes[1:3].tolist()


def test_batches_are_of_like_length_and_within_the_limits():
    prompts, texts = rows(200)
    data = PromptedDataset(prompts, texts, PAD, shuffle=True)
    np.random.seed(0)
    order = data.ordered_indices()
    assert sorted(order) == list(range(200)) and (np.diff(data.sizes[order]) >= 0).all()
    assert not (order == data.ordered_indices()).all()  # rows of one length come in another order
    np.random.seed(0)
    assert (order == data.ordered_indices()).all()
    batches = data.batch_by_size(order, max_tokens=40, required_batch_size_multiple=1)
    assert all(max(data.sizes[list(batch)]) * len(batch) <= 40 for batch in batches)
    assert max(map(len, data.batch_by_size(order, max_sentences=3))) == 3
    kept, left_out = data.filter_indices_by_size(order, 10)
    assert max(data.sizes[kept]) == 10 and min(data.sizes[left_out]) == 11


def test_no_rows_are_no_batch():
    assert PromptedDataset(*rows(), PAD).collater([]) == {}


def test_a_sample_needs_no_more_than_two_symbols():
    sample = sample_of([torch.tensor([5])], [torch.tensor([2])], PAD, count_prompt=False, only_scored=True)
    assert sample["net_input"]["src_tokens"].tolist() == [[5]] and sample["net_input"]["scored"].tolist() == [[0]]
