"""The task: batches, what does not fit, and every method and precision on it."""

import shutil

import choices
import numpy as np
import prompts
import pytest
import torch
import toy

from sharp_plugins.candidates.config import CandidatesConfig
from sharp_plugins.candidates.task import Candidates

LORA = ["--arch", "lora", "--base-arch", "sharp_decoder", *prompts.MODEL[2:], "--lora-rank", "2"]
METHODS = {
    "adam": "--optimizer adam --lr 0.01",
    "sam": "--optimizer sam --lr 0.01 --sam-rho 0.05",
    "dsam": "--optimizer dsam --lr 0.01 --sam-rho 0.05",
    "bar": "--optimizer bar --lr 0.01",
}


@pytest.mark.parametrize(
    "method, precision", [("sam", ""), ("dsam", ""), ("bar", "--bf16"), ("adam", "--fp16"), ("sam", "--fp16"), ("dsam", "--bf16")]
)
def test_every_method_learns(data, method, precision):
    trainer = choices.trainer(data, *METHODS[method].split(), *precision.split(), model=LORA, dropout="0.1")
    (sample,) = toy.batches(trainer, [9])
    before = {name: p.detach().float().clone() for name, p in trainer.get_model().named_parameters() if p.requires_grad}
    losses = [float(trainer.train_step([sample])["loss"]) for _ in range(12)]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    after = dict(trainer.get_model().named_parameters())
    assert any(not torch.equal(after[name].float(), value) for name, value in before.items())


def test_batch_size_counts_examples_and_max_tokens_all_candidates(data):
    for flags, fits in (
        (["--batch-size", "4"], lambda batch: batch["nsentences"] <= 4),
        (["--max-tokens", "150"], lambda batch: batch["nsentences"] < 24),
    ):
        trainer = choices.trainer(data, *flags)
        found = list(trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=False))
        assert sum(batch["nsentences"] for batch in found) == 24 and all(map(fits, found)) and len(found) > 2
    dataset = trainer.task.dataset("train")
    for batch in found:
        rows = [dataset.num_tokens(int(i)) for i in batch["id"]]
        assert max(rows) * len(rows) <= 150
        assert all(row == sum(len(s) - 1 for s in dataset[int(i)]["sequences"]) for row, i in zip(rows, batch["id"]))
    trainer = choices.trainer(data, "--max-tokens", "30")
    with pytest.raises(ValueError, match="--max-tokens 30: an example has 45 symbols with all its candidates; give at least"):
        trainer.get_train_iterator(epoch=1)


def test_examples_come_in_random_order_in_training_alone(data):
    task = choices.trainer(data).task
    dataset = task.dataset("train")
    orders = [dataset.ordered_indices().tolist() for _ in range(3)]
    assert len(set(map(tuple, orders))) > 1 and all(sorted(order) == list(range(24)) for order in orders)
    assert not any(np.all(np.diff(dataset.sizes[order]) >= 0) for order in orders)
    dataset.shuffle = False
    assert np.all(np.diff(dataset.sizes[dataset.ordered_indices()]) >= 0)


def test_a_prefix_that_leaves_no_room(data):
    prefix = ["--arch", "prefix", "--base-arch", "sharp_decoder", *prompts.MODEL[2:], "--prefix-length", "50"]
    with pytest.raises(ValueError, match="--prefix-length 50: rows of up to .. positions do not fit into 14"):
        choices.trainer(data, model=prefix)


def test_a_test_set_for_which_a_prefix_leaves_no_room(backbone, tmp_path, caplog):
    lines = choices.write_lines(tmp_path / "train.jsonl", choices.rows(4))
    long = choices.write_lines(tmp_path / "test.jsonl", [("Ann " * 40 + "is", choices.WORDS, [0])])
    data = choices.prepare(backbone, tmp_path / "data", "--train", lines, "--valid", lines, "--test", long)
    caplog.set_level("WARNING")  # which the command before has raised
    told = "the longest sequence of test takes 63 positions, more than the model's 61: it will be refused"
    for model, is_told in ((prompts.MODEL, False), (["--arch", "prefix", "--base-arch", *prompts.MODEL[1:]], True)):
        choices.trainer(data, model=[*model, "--prefix-length", "3"] if is_told else model)
        assert (told in caplog.text) == is_told


def test_another_models_data(data, tmp_path):
    other = prompts.write_backbone(tmp_path / "smollm", is_gpt2=False)
    with pytest.raises(ValueError, match="its dict.txt and tokenizer.json are another model's"):
        choices.trainer(data, "--finetune-from-model", other / "model.pt")


def test_data_of_another_task(data, backbone, tmp_path):
    lines = prompts.write_lines(tmp_path / "rows.jsonl", prompts.pairs(3))
    other = prompts.prepare(backbone, tmp_path / "other", "--train", lines)
    with pytest.raises(FileNotFoundError, match="candidates prepare` writes such a directory"):
        choices.trainer(other)
    with pytest.raises(FileNotFoundError, match="prompted prepare` writes such a directory"):
        prompts.trainer(data)
    with pytest.raises(FileNotFoundError, match="no data of more; there are train, valid, test"):
        choices.trainer(data, subset="more")


def test_data_that_were_changed(data, tmp_path):
    changed = tmp_path / "data"
    shutil.copytree(data, changed)
    with open(changed / "dict.txt", "a") as file:
        file.write("more 1\n")
    with pytest.raises(ValueError, match="dict.txt: it is not the one that the data were made with"):
        Candidates.setup_task(CandidatesConfig(data=str(changed)))
    with pytest.raises(ValueError, match="--task candidates needs data"):
        Candidates.setup_task(CandidatesConfig())


def test_it_writes_no_texts(data):
    with pytest.raises(ValueError, match="--task candidates writes no texts"):
        Candidates.setup_task(CandidatesConfig(data=str(data))).build_generator([], None)
