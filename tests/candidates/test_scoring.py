"""Scores with each prompt read once equal those of one candidate at a time, of our decoders and of transformers'."""

import choices
import decoders
import published_decoders
import pytest
import torch

from sharp_plugins.candidates import scoring
from sharp_plugins.candidates.scoring import in_common, score_candidates
from sharp_plugins.networks.prefix import Prefix

EXAMPLES = [
    # One symbol each; several, some of them in common; nothing in common, as where prompts were cut; a long and a short one.
    ([[5, 6, 7, 8], [5, 6, 7, 9], [5, 6, 7, 10]], [1, 1, 1]),
    ([[5, 6, 7, 8, 9, 11, 12], [5, 6, 7, 8, 9, 13]], [4, 3]),
    ([[20, 21, 22, 23], [21, 22, 24]], [2, 1]),
    ([[30, 31, 32, 33], [30, 31, *range(34, 46)]], [2, 12]),
    ([[7, 9], [7, 8, 9]], [1, 2]),
]


def examples():
    return [{"sequences": [torch.tensor(row) for row in rows], "counted": counted} for rows, counted in EXAMPLES]


def assert_as_one_at_a_time(decoder, logits_of, most=1e-5):
    found = score_candidates(decoder, examples(), pad=1)
    for scores, example in zip(found, examples()):
        with torch.no_grad():
            wanted = [choices.plain_score(logits_of, *pair) for pair in zip(example["sequences"], example["counted"])]
        torch.testing.assert_close(scores, torch.stack(wanted), rtol=0, atol=most)


@pytest.mark.parametrize("family", [decoders.gpt2, decoders.opt, decoders.llama], ids=["gpt2", "opt", "llama"])
def test_scores_are_those_of_transformers(family, monkeypatch):
    pytest.importorskip("transformers")
    theirs, ours = family()
    for columns in (scoring.COLUMNS, 20):  # all rests at once, and a few at a time
        monkeypatch.setattr(scoring, "COLUMNS", columns)
        assert_as_one_at_a_time(ours, lambda tokens: theirs(tokens).logits)


def test_a_prefix_stands_before_all(monkeypatch):
    _, decoder = decoders.llama()
    decoder.prefix = Prefix.of(decoder, 4, hidden=0).eval()
    bare = score_candidates(decoders.llama()[1], examples(), pad=1)
    assert_as_one_at_a_time(decoder, decoder)
    assert (score_candidates(decoder, examples(), pad=1)[0] - bare[0]).abs().max() > 0.1


def test_padding_may_reach_beyond_the_last_position():
    _, decoder = decoders.gpt2(n_positions=16, our_max_positions=16)
    rows = [torch.tensor([*range(2, 14), 20, 21]), torch.tensor([*range(2, 14), 22, 23, 24])]
    short = [torch.tensor([3, 4]), torch.tensor([3, *range(20, 35)])]
    both = [{"sequences": rows, "counted": [2, 3]}, {"sequences": short, "counted": [1, 15]}]
    for scores, example in zip(score_candidates(decoder, both, pad=1), both):
        with torch.no_grad():
            wanted = [choices.plain_score(decoder, *pair) for pair in zip(example["sequences"], example["counted"])]
        torch.testing.assert_close(scores, torch.stack(wanted), rtol=0, atol=1e-5)


def test_each_prompt_is_read_once(monkeypatch):
    _, decoder = decoders.opt()
    read, forward = [], decoder.features

    def features(tokens, cache=None):
        read.append(tuple(tokens.shape))
        return forward(tokens, cache)

    monkeypatch.setattr(decoder, "features", features)
    score_candidates(decoder, examples()[:1], pad=1)
    assert read == [(1, 3)]  # candidates of one symbol cost nothing more
    read.clear()
    score_candidates(decoder, examples()[1:2], pad=1)
    assert read == [(1, 5), (1, 1)]  # "8 9" is in common, and of the second nothing else is read


def test_what_is_in_common_leaves_a_symbol_to_each():
    rows = [torch.tensor(row) for row in ([5, 6, 7], [5, 6, 7, 8], [5, 6, 9])]
    assert [in_common(rows[:2]), in_common(rows), in_common([rows[0], torch.tensor([6, 7])])] == [2, 2, 0]


# ---------------------------------------------------------------------- from texts, with transformers' tokenizers

TEXTS = [
    ("the cat sat. Is it true? \nYes or No?\n", ["Yes", "No", "the the in at"], [0]),
    ("A long story: " + "in the hat at the in " * 9, [" the", " a hat", " at in the"], [1, 2]),
    ("It was", [" the in", " the at"], [1]),
    ("Mind the spaces:  ", ["in", "  the hat"], [0]),
]
# What the published tokenizer puts before a text, or what MeZO's code puts there.
STARTS = {"gpt2": ("none", None), "opt": ("<s>", 0), "llama": ("auto", 1)}


@pytest.mark.parametrize("family", STARTS)
def test_a_converted_decoder_scores_texts_as_transformers_does(family, tmp_path):
    """Prompt and candidate tokenised together, cut on the left, one candidate at a time."""
    transformers = pytest.importorskip("transformers")
    from sharp_plugins.candidates.evaluate import Checkpoint
    from sharp_plugins.convert.decoder_conversion import convert_decoder

    start, index = STARTS[family]
    directory = published_decoders.write(tmp_path / "published", family)
    convert_decoder(directory, tmp_path / "out")
    lines = choices.write_lines(tmp_path / "test.jsonl", TEXTS)
    flags = ["--test", lines, "--start", start, "--max-positions", 90]
    data = choices.prepare(tmp_path / "out", tmp_path / "data", *flags)
    found = Checkpoint(tmp_path / "out" / "model.pt", data, "cpu").choose("test", 3)
    model = transformers.AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(directory))
    begin, was_cut = [] if index is None else [index], False
    for (prompt, candidates, answers), choice in zip(TEXTS, found.choices):
        wanted = []
        for candidate in candidates:
            before = tokenizer.encode(prompt.rstrip(" "), add_special_tokens=False)
            whole = tokenizer.encode((prompt + candidate).rstrip(" "), add_special_tokens=False)
            cut = begin + whole[-(90 - len(begin)) :]
            was_cut |= len(cut) < len(begin + whole)
            with torch.no_grad():
                wanted.append(choices.plain_score(lambda ids: model(ids).logits, torch.tensor(cut), len(whole) - len(before)))
        torch.testing.assert_close(torch.tensor(choice.scores), torch.stack(wanted), rtol=0, atol=1e-5)
        assert choice.chosen == int(torch.stack(wanted).argmax()) and choice.answers == answers
    assert was_cut
