"""A validation that generates, in this process: its scores against sacrebleu's, and what it leaves alone."""

import random
import weakref
from argparse import Namespace
from pathlib import Path

import numpy as np
import prompts
import pytest
import torch
import toy
from fairseq.data import Dictionary
from fairseq.logging import metrics
from processes import assert_equal
from sacrebleu.metrics import BLEU, CHRF

from sharp_plugins.generation import generator as generation
from sharp_plugins.generation.flags import GenerationFlags
from sharp_plugins.generation.generator import Generator
from sharp_plugins.generation.settings import SearchSettings
from sharp_plugins.prompted.checks import check_validation
from sharp_plugins.prompted.references import Reference, read_references
from sharp_plugins.prompted.summed_scores import scores, statistics
from sharp_plugins.prompted.validation import Validation, read_flags
from sharp_plugins.prompted.validation_data import ValidationDataset, inputs_of

ARGS = '{"max_len_b": 20}'
FLAGS = ["--eval-bleu", "--eval-bleu-args", ARGS, "--batch-size", "2"]
LORA = ["--arch", "lora", "--base-arch", "sharp_decoder", *prompts.MODEL[2:], "--lora-rank", "2"]
PREFIX = ["--arch", "prefix", "--base-arch", *prompts.MODEL[1:], "--prefix-length", "3", "--prefix-hidden", "0"]
VALID = prompts.pairs(6, 6)


@pytest.fixture
def trainer(data, learned):
    """Builds a trainer on the learnt weights that generates in validation."""

    def build(*flags, model=prompts.MODEL, where=data):
        return prompts.ready(prompts.trainer(where, *FLAGS, *flags, model=model), learned)

    return build


def train(trainer, updates=2):
    samples = list(trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=False))
    for sample in samples[:updates]:
        trainer.train_step([sample])


def plain_scores(trainer, pairs=VALID, **settings):
    """Each prompt alone through a generator, and sacrebleu's scores of all."""
    task, model, texts = trainer.task, trainer.get_model(), []
    ends = tuple(task.dictionary.index(symbol) for symbol in task.prepared.stop)
    search = SearchSettings(stops=ends, **{"beam": 1, "max_len_b": 20, **settings})
    for prompt, _ in pairs:
        tokens = torch.tensor(task.encoding.prompts([prompt]))
        output = Generator([model], task.dictionary, search).generate([model], {"net_input": {"src_tokens": tokens}})[0][0][
            "tokens"
        ]
        symbols = [s for s in task.encoding.symbols(output.tolist()) if s not in task.prepared.stop]
        texts.append(task.encoding.decode_text(symbols).replace("\n", " "))
    most = max(len(references) for _, references in pairs)
    streams = [[dict(enumerate(references)).get(place) for _, references in pairs] for place in range(most)]
    return BLEU().corpus_score(texts, streams).score, CHRF(word_order=2).corpus_score(texts, streams).score


# ---------------------------------------------------------------------- the numbers


def test_statistics_add_up_to_sacrebleus_scores():
    rng, words = random.Random(0), 'the a dog cat . , lives in (Bonn) "Graz" is, it\'s'.split()

    def text(least=0):
        return " ".join(rng.choice(words) for _ in range(rng.randint(least, 9)))

    for _ in range(50):
        texts = [text() for _ in range(rng.randint(2, 12))]
        references = [[text(1) for _ in range(rng.randint(1, 4))] for _ in texts]
        streams = [[each[place] if place < len(each) else None for each in references] for place in range(4)]
        cut = rng.randint(1, len(texts) - 1)
        sums = statistics(texts[:cut], references[:cut]) + statistics(texts[cut:], references[cut:])
        wanted = {"bleu": BLEU().corpus_score(texts, streams).score, "chrf": CHRF(word_order=2).corpus_score(texts, streams).score}
        assert scores(sums) == wanted
    assert scores(torch.zeros_like(sums)) == {"bleu": 0, "chrf": 0}


@pytest.mark.parametrize("model", [prompts.MODEL, LORA, PREFIX], ids=["full", "lora", "prefix"])
def test_bleu_and_chrf_are_those_of_all_prompts_and_all_references(trainer, model):
    built = trainer(model=model)
    found = prompts.validate(built)
    assert (found["bleu"], found["chrf"]) == plain_scores(built) and found["bleu"] > 1
    assert found["gen_texts"] == 6 and found["gen_seconds"] >= 0 and found["gen_tokens_per_s"] > found["gen_texts_per_s"] > 0
    args = '{"max_len_b": 14, "beam": 3, "lenpen": 0.5, "no_repeat_ngram_size": 2, "beam_rules": "lora"}'
    task = built.task
    task.validation = Validation(args, task.generation_flags(), task.dictionary, task.build_bpe(None))
    found = prompts.validate(built)
    settings = {"max_len_b": 14, "beam": 3, "length_penalty": 0.5, "no_repeat_ngram": 2, "rules": "lora"}
    assert (found["bleu"], found["chrf"]) == plain_scores(built, **settings)


def test_each_subset_has_scores_of_its_own_of_prompts_that_are_spread_over_it(trainer):
    built = trainer("--valid-subset", "valid,test", "--eval-bleu-inputs", "4")
    for subset, pairs in (("valid", VALID), ("test", prompts.pairs(5, 5))):
        chosen = [pairs[place * len(pairs) // 4] for place in range(4)]
        assert [each.prompt for each in built.task.dataset(subset).inputs] == [prompt for prompt, _ in chosen]
        found = prompts.validate(built, subset)
        assert (found["bleu"], found["chrf"]) == plain_scores(built, chosen) and found["gen_texts"] == 4


def test_lines_with_one_prompt_are_one_prompt_with_all_texts(trainer, backbone, tmp_path):
    """Two parallel files repeat a prompt for each of its texts."""
    pairs = [(prompt, text) for prompt, texts in VALID for text in texts]
    for part, side in (("prompts", 0), ("texts", 1)):
        (tmp_path / part).write_text("".join(pair[side] + "\n" for pair in pairs))
    train = prompts.write_lines(tmp_path / "train.jsonl", prompts.pairs(32, 32))
    files = ["--train", train, "--valid", tmp_path / "prompts", tmp_path / "texts", "--format", "lora-gpt2"]
    built = trainer(where=prompts.prepare(backbone, tmp_path / "data", *files))
    found = prompts.validate(built)
    assert found["gen_texts"] == 6 and (found["bleu"], found["chrf"]) == plain_scores(built)


def test_what_ranks_send_one_by_one_is_added_too():
    """Without a criterion whose logging outputs can be summed, fairseq gathers them, with those of no dummy batch."""
    outputs = [{"loss": 1}, {"_generation": torch.cat([torch.tensor([1.0, 5, 2]), statistics(["a dog is"], [["a dog is"]])])}]
    outputs.append({"_generation": torch.cat([torch.tensor([1.0, 3, 2]), statistics(["a cat sat here"], [["a cat sat"]])])})
    with metrics.aggregate(new_root=True) as found:
        Validation.reduce(outputs)
    wanted = BLEU().corpus_score(["a dog is", "a cat sat here"], [["a dog is", "a cat sat"]]).score
    values = found.get_smoothed_values()
    assert values["bleu"] == wanted and values["gen_tokens_per_s"] == 2 and "_generation" not in values


# ---------------------------------------------------------------------- who generates what


class Iterator:
    def __init__(self, batches, shard_id, num_shards):
        self.frozen_batches, self.shard_id, self.num_shards = batches, shard_id, num_shards


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("limits", [{"max_sentences": 2}, {"max_sentences": 1, "max_steps": 1}, {"max_tokens": 9, "max_steps": 1}])
def test_each_prompt_is_brought_once_over_all_ranks(ranks, limits):
    rows = toy_rows([3, 4, 4, 2, 5, 5, 3])
    data = ValidationDataset(rows, rows, 1, inputs=[Reference(row, str(row), ("x",)) for row in range(7)])
    batches = [[3, 0], [6, 1], [2, 4], [5]]
    brought = []
    for rank in range(ranks):
        data.share_out(Iterator(batches, rank, ranks), **limits)
        own = batches[rank::ranks][: limits.get("max_steps")]
        found = [data.collater([data[row] for row in batch]) for batch in own]
        toy.check_that_it_can_be_pinned(found)
        brought += [group["net_input"] for sample in found for group in sample.get("generation", ())]
        if rank:  # a step without a batch of its own is given the first one
            assert "generation" not in data.collater([data[row] for row in batches[0]])
    sizes = sorted(length for inputs in brought for length in inputs["src_lengths"].tolist())
    assert sizes == [2, 3, 3, 4, 4, 5, 5]
    assert all(inputs["src_tokens"].numel() <= limits.get("max_tokens", 99) for inputs in brought)
    assert all(len(inputs["src_tokens"]) <= limits.get("max_sentences", 9) for inputs in brought)


def test_batches_of_prompts_are_as_large_as_the_limit_of_tokens_lets_them_be():
    """With the long prompts first in the file, too."""
    sizes = [9, 9, 9, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    rows = toy_rows(sizes)
    data = ValidationDataset(rows, rows, 1, inputs=[Reference(row, str(row), ("x",)) for row in range(len(sizes))])
    data.share_out(Iterator([[row] for row in range(len(sizes))], 0, 1), max_tokens=18)
    groups = [sorted(sizes[number] for number in group) for found in data.brought.values() for group in found]
    assert sorted(groups) == [[2, 2], [2] * 9, [9], [9, 9]]


def test_prompts_of_few_steps_are_generated_in_batches_of_the_limit(trainer, monkeypatch):
    built, sizes, generate = trainer("--max-valid-steps", "0"), [], Validation.generate  # which is one step
    watched = lambda self, batch, model: (sizes.append(len(batch["references"])), generate(self, batch, model))[1]  # noqa: E731
    monkeypatch.setattr(Validation, "generate", watched)
    found = prompts.validate(built)
    assert sizes == [2, 2, 2] and (found["bleu"], found["chrf"]) == plain_scores(built) and found["gen_texts"] == 6


def toy_rows(sizes):
    class Rows(list):
        pass

    rows = Rows(torch.full((size,), 4 + place) for place, size in enumerate(sizes))
    rows.sizes = np.array(sizes)
    return rows


def test_nothing_is_generated_without_the_flag(data, learned, monkeypatch):
    monkeypatch.setattr(Generator, "generate", None)
    built = prompts.ready(prompts.trainer(data, "--batch-size", "2"), learned)
    assert "bleu" not in prompts.validate(built)
    assert "generation" not in next(built.get_valid_iterator("valid").next_epoch_itr(shuffle=False))


def test_a_sample_of_each_batch_is_logged_and_no_cache_of_keys_and_values_is_left(trainer, monkeypatch, caplog):
    caplog.set_level("INFO")
    built, caches = trainer("--eval-bleu-print-samples", "--eval-bleu-args", '{"sampling": true, "max_len_b": 20}'), []
    assert "--eval-bleu: a validation continues 6 prompts, and scores them by 9 references" in caplog.text

    class Watched(generation.BeamCache):
        def __init__(self, *args):
            super().__init__(*args)
            caches.append(weakref.ref(self))

    monkeypatch.setattr(generation, "BeamCache", Watched)
    first = prompts.validate(built)
    assert len(caches) == 3 and not any(cache() for cache in caches)  # without a collection of garbage
    for side in ("hypothesis", "reference"):
        assert caplog.text.count(f"example {side}: ") == 3
    built.task.validation.print_samples = False
    assert prompts.validate(built)["bleu"] == first["bleu"]  # samples too are the same in each validation
    assert caplog.text.count("example hypothesis: ") == 3


# ---------------------------------------------------------------------- training is left alone

SAM = "--optimizer sam --base-optimizer sgd --lr 0 --sam-rho 5"


@pytest.mark.parametrize(
    "flags, model",
    [
        (f"{SAM} --fp16 --fp16-no-flatten-grads --fp16-init-scale 4 --ema-decay 0.9 --store-ema", prompts.MODEL),
        ("--optimizer bar --base-optimizer adam --lr 0 --bar-alpha 2 --memory-efficient-bf16", LORA),
        (f"{SAM} --amp".replace("sam", "dsam", 1), PREFIX),
    ],
    ids=["sam, fp16, ema", "bar, memory-efficient bf16", "dsam, amp"],
)
def test_it_generates_with_the_weights_themselves(trainer, flags, model):
    """With the learning rate 0 they stay what they are, whatever a method did to them in between."""
    built = trainer(*flags.split(), model=model)
    before = prompts.validate(built)
    train(built)
    after = prompts.validate(built)
    assert (after["bleu"], after["chrf"]) == (before["bleu"], before["chrf"]) and before["chrf"] > 10


@pytest.mark.parametrize(
    "args, flags",
    [
        (ARGS, "--optimizer adam --lr 0.01"),
        ('{"sampling": true, "beam": 2, "max_len_b": 20}', "--optimizer dsam --base-optimizer adam --lr 0.01"),
    ],
    ids=["greedy, adam", "samples, dsam"],
)
def test_training_is_the_same_bit_for_bit(data, learned, args, flags):
    found = []
    for bleu in ([], ["--eval-bleu", "--eval-bleu-args", args]):
        random.seed(1), np.random.seed(1)
        built = prompts.ready(prompts.trainer(data, *flags.split(), "--batch-size", "4", *bleu, dropout="0.2"), learned)
        generators = []  # after each validation; fairseq seeds torch's anew in each update
        for _ in range(2):
            train(built)
            assert ("bleu" in prompts.validate(built)) == bool(bleu)
            generators.append([torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()])
        train(built)
        found.append((toy.weights(built), built.optimizer.state_dict()["state"], generators))
    for one, other in zip(*found):
        assert_equal(one, other)


# ---------------------------------------------------------------------- what is refused, and what is read


@pytest.mark.parametrize(
    "args, words",
    [
        ("beam=5", "--eval-bleu-args: not a JSON object"),
        ("[5]", r"--eval-bleu-args \[5\]: not a JSON object but a list"),
        ('{"beams": 5, "lenpen": 1}', "--eval-bleu-args: beams is no generation flag; there are beam, "),
        ('{"beam": "many"}', "--eval-bleu-args: beam cannot be 'many'"),
        ('{"beam": 0}', "--eval-bleu-args: --beam must be 1 or larger"),
        ('{"lm_path": "x"}', "--eval-bleu-args: --lm-path is not known to prompted generation"),
        ('{"beam_rules": "mine"}', "--eval-bleu-args: beam_rules cannot be 'mine'"),
    ],
)
def test_args_that_no_generation_has(args, words):
    with pytest.raises(ValueError, match=words):
        Validation(args, GenerationFlags(), Dictionary(), None)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--eval-bleu-args", "{}"], "--eval-bleu-args: --max-len-b: a prompt of .* an output of up to 200 do not fit into the 64"),
        (
            ["--eval-bleu-args", '{"max_len_a": 0.05, "max_len_b": 0}'],
            "--eval-bleu-args: --max-len-b: no room for an output after 1",
        ),
        (["--eval-bleu-inputs", "-1"], "--eval-bleu-inputs must be 0"),
        (["--valid-subset", "train"], "--eval-bleu: .*train.references.jsonl is not there: make the data again"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_before_training(data, flags, words):
    with pytest.raises(ValueError, match=words):
        prompts.trainer(data, *FLAGS, *flags)


def test_flags_of_training_that_do_not_fit(data):
    def check(**settings):
        check_validation(
            Namespace(**{"eval_bleu": True, "best_checkpoint_metric": "loss", "ddp_backend": "legacy_ddp", **settings})
        )

    check(best_checkpoint_metric="bleu", maximize_best_checkpoint_metric=True)
    check(eval_bleu=False, ddp_backend="fully_sharded")
    with pytest.raises(ValueError, match="--best-checkpoint-metric chrf: the larger the better, so --maximize-best-checkpoint"):
        check(best_checkpoint_metric="chrf")
    with pytest.raises(ValueError, match="--eval-bleu: no rank has whole weights .* --ddp-backend fully_sharded"):
        check(ddp_backend="fully_sharded")
    with pytest.raises(ValueError, match="--best-checkpoint-metric bleu: .* with --eval-bleu alone"):
        prompts.trainer(data, "--best-checkpoint-metric", "bleu", "--maximize-best-checkpoint-metric")


def test_a_model_that_cannot_generate(data):
    model = "--arch transformer_lm --decoder-layers 1 --decoder-embed-dim 16 --decoder-attention-heads 2".split()
    with pytest.raises(ValueError, match="--eval-bleu: TransformerLanguageModel is no decoder of this project"):
        prompts.trainer(data, *FLAGS, model=model)


def test_prompts_that_are_too_long_are_left_out_where_their_rows_are(trainer, caplog):
    caplog.set_level("WARNING")
    built = trainer("--tokens-per-sample", "36", "--skip-invalid-size-inputs-valid-test")
    assert "of 6 prompts of valid are too long, and left out" in caplog.text
    kept = [each.prompt for each in built.task.dataset("valid").inputs]
    assert 0 < len(kept) < 6 and prompts.validate(built)["gen_texts"] == len(kept)
    with pytest.raises(ValueError, match="--eval-bleu: no prompt of valid fits into 10 positions"):
        inputs_of(Path(built.task.cfg.data), "valid", [30] * 9, room=10, count=0)


def test_flags_of_the_task_hold_where_the_args_say_nothing():
    flags, more = read_flags('{"beam": 4, "early_stopping": "never"}', GenerationFlags(repetition_penalty=1.5))
    assert (flags.beam, flags.max_len_b, more.early_stopping, more.repetition_penalty) == (4, 200, "never", 1.5)


def test_references_are_kept_and_read(data, backbone, tmp_path):
    found = read_references(data / "valid.references.jsonl", 9)
    assert [(each.prompt, list(each.texts)) for each in found] == VALID
    assert [each.row for each in found] == [0, 1, 3, 4, 6, 7]
    assert [each.row for each in read_references(data / "test.references.jsonl", 5)] == list(range(5))
    # A text that is left out is a reference still, and a prompt without any row is none.
    rows = [("Ann", ["x" * 70, "Ann lives."]), ("B" * 80, ["Bob lives."]), ("Cara", ["Cara."])]
    files = ["--valid", prompts.write_lines(tmp_path / "rows.jsonl", rows), "--too-long", "skip"]
    kept = read_references(prompts.prepare(backbone, tmp_path / "data", *files) / "valid.references.jsonl", 2)
    assert kept == [Reference(0, "Ann", ("x" * 70, "Ann lives.")), Reference(1, "Cara", ("Cara.",))]


@pytest.mark.parametrize(
    "line", ['"x"', '{"prompt": "x"}', '{"prompt": "x", "texts": []}', '{"prompt": "x", "texts": ["y"], "row": 9}']
)
def test_references_that_were_changed(tmp_path, line):
    (tmp_path / "valid.references.jsonl").write_text(f'{{"prompt": "a", "texts": ["b"], "row": 0}}\n{line}\n')
    with pytest.raises(ValueError, match=r"valid.references.jsonl:2: not a prompt with its texts and one of 9 samples"):
        read_references(tmp_path / "valid.references.jsonl", 9)
