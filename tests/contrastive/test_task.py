"""The task: pairs, batches, refusals, and real trainings."""

import pairs
import pytest
import torch
import toy
from fairseq import tasks
from processes import (
    assert_close,
    assert_ranks_agree,
    assert_same_training,
    last,
    line,
    start,
    start_ranks,
    stats,
    train_ranks,
    weights_of,
)

from sharp_plugins.contrastive.lines import read_texts
from sharp_plugins.host import refusals


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return pairs.write_backbone(tmp_path_factory.mktemp("pairs"))


def test_a_pair_is_a_text_and_its_second_view(backbone):
    trainer = pairs.trainer(backbone, "--pooling", "mean-padded")
    dictionary, dataset = trainer.task.source_dictionary, trainer.task.dataset("train")
    sample = dataset.collater([dataset[0], dataset[7]])
    toy.check_that_it_can_be_pinned(sample)
    first, short, second, short_again = sample["net_input"]["src_tokens"]
    assert first.shape == (20,)  # padded to --max-length
    assert first[0] == dictionary.bos() and first[-1] == dictionary.eos()  # cut
    assert short[:4].tolist() == [dictionary.bos(), dictionary.index("the"), dictionary.index("dog"), dictionary.eos()]
    assert short[4:].eq(dictionary.pad()).all() and torch.equal(short, short_again)
    assert dictionary.index("<mask>") in second and dictionary.index("<mask>") not in first


@pytest.mark.parametrize("mask_text, is_one_symbol", [("[MASK]", False), ("<mask>", True)])
def test_robertas_second_view(tmp_path, mask_text, is_one_symbol):
    """It reads [MASK] as plain text, as in Mirror-BERT's code; <mask> is its own symbol."""
    roberta = pairs.write_backbone(tmp_path, "roberta")
    flags = ["--pooling", "cls", "--mask-text", mask_text, "--optimizer", "sam", "--base-optimizer", "sgd"]
    trainer = pairs.trainer(roberta, *flags, kind="roberta")
    dictionary, sample = trainer.task.source_dictionary, pairs.sample(trainer)
    first, second = sample["net_input"]["src_tokens"].chunk(2)
    mask = dictionary.index("<mask>")
    assert mask != dictionary.unk() and mask not in first and (mask in second) == is_one_symbol
    assert not torch.equal(first, second)
    before = toy.weights(trainer)
    assert trainer.train_step([sample])["loss"] > 0
    assert any(not torch.equal(value, before[name]) for name, value in toy.weights(trainer).items())


def test_each_epoch_has_an_order_and_spans_of_its_own_and_full_batches_alone(backbone):
    dataset = pairs.trainer(backbone).task.dataset("train")
    seen = []
    for epoch in (1, 2, 1):
        dataset.set_epoch(epoch)
        batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=4)
        assert [len(batch) for batch in batches] == [4, 4]  # of ten texts
        seen.append(([list(batch) for batch in batches], dataset[0]["second"]))
    assert seen[0] == seen[2] and seen[0][0] != seen[1][0]
    dataset.multiple = 2
    assert len(dataset.batch_by_size(dataset.ordered_indices(), max_sentences=3)) == 2


def test_a_batch_is_as_large_as_its_flag_says(backbone):
    """fairseq would make it a multiple of 8."""
    dataset = pairs.trainer(backbone).task.dataset("train")
    assert [len(batch) for batch in dataset.batch_by_size(dataset.ordered_indices(), None, 9, 8)] == [9]
    with pytest.raises(ValueError, match="--max-tokens 100 is less than a batch of 9 pairs may have"):
        dataset.batch_by_size(dataset.ordered_indices(), 100, 9, 8)


@pytest.mark.parametrize(
    "size, count, sizes", [(4, 17, [4, 4, 3, 3, 3]), (8, 17, [6, 6, 5]), (2, 5, [3, 2]), (8, 3, [3]), (2, 2, [2])]
)
def test_no_pair_is_alone_in_validation(backbone, tmp_path, size, count, sizes):
    """Alone it has a loss of 0 and is always right; and batches of one size are compared alike. No text is left out."""
    path = tmp_path / "valid.txt"
    path.write_text("".join(f"{text}\n" for text in (pairs.TEXTS * 2)[:count]))
    trainer = pairs.trainer(backbone, "--valid-text", path, "--batch-size-valid", size)
    trainer.task.load_dataset("valid")
    samples = list(trainer.get_valid_iterator("valid").next_epoch_itr(shuffle=False))
    assert [sample["nsentences"] for sample in samples] == sizes
    assert torch.cat([sample["id"] for sample in samples]).tolist() == list(range(count))


@pytest.mark.parametrize(
    "size, text, words", [(1, "a cat\nb dog\n", "--batch-size-valid 1: "), (4, "a cat\n", "one text alone .--valid-text.")]
)
def test_a_validation_of_pairs_alone_is_refused(backbone, tmp_path, size, text, words):
    (tmp_path / "valid.txt").write_text(text)
    trainer = pairs.trainer(backbone, "--valid-text", tmp_path / "valid.txt", "--batch-size-valid", size)
    with pytest.raises(ValueError, match=f"{words}.*a pair is compared with others of its batch"):
        trainer.task.load_dataset("valid")


def test_validation_batches_with_a_limit_of_tokens(backbone, tmp_path):
    """A pair may have 40 tokens."""
    path = tmp_path / "valid.txt"
    path.write_text("".join(f"{text}\n" for text in (pairs.TEXTS * 2)[:10]))
    trainer = pairs.trainer(backbone, "--valid-text", path, "--max-tokens-valid", "130")
    trainer.task.load_dataset("valid")
    data = trainer.task.dataset("valid")
    assert [len(batch) for batch in data.batch_by_size(data.ordered_indices(), 130, None, 8)] == [3, 3, 2, 2]
    with pytest.raises(
        ValueError, match="--max-tokens-valid .fairseq-validate: --max-tokens. 79: a pair may have 40 .--max-length."
    ):
        data.batch_by_size(data.ordered_indices(), 79, None, 8)
    with pytest.raises(ValueError, match="--batch-size-valid .fairseq-validate: --batch-size. 1: a pair is compared"):
        data.batch_by_size(data.ordered_indices(), None, 1, 8)


def test_several_workers_are_told_of_the_head_without_a_gradient(backbone):
    workers = ["--distributed-world-size", "2", "--distributed-no-spawn", "--optimizer", "sgd"]
    with pytest.raises(ValueError, match="--ddp-backend pytorch_ddp: the encoder's language-model head has no gradient"):
        tasks.setup_task(pairs.config(backbone, *toy.SGD, *workers).task)
    for flags in (["--find-unused-parameters"], ["--ddp-backend", "legacy_ddp"]):
        tasks.setup_task(pairs.config(backbone, *toy.SGD, *workers, *flags).task)


@pytest.mark.parametrize("method", ["sam", "dsam"])
def test_an_ascent_of_each_workers_own_is_refused_where_their_texts_are_compared(backbone, method):
    def check(*flags):
        flags = [*toy.SGD, "--distributed-world-size", "2", "--distributed-no-spawn", "--ddp-backend", "legacy_ddp", *flags]
        cfg = pairs.config(backbone, "--optimizer", method, "--base-optimizer", "sgd", *flags)
        refusals.check_scope(cfg, tasks.setup_task(cfg.task).build_criterion(cfg.criterion))

    with pytest.raises(ValueError, match="--sam-scope worker: .* or --own-negatives"):
        check()
    check("--sam-scope", "global")
    check("--own-negatives")


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--batch-size", "11"], "10 texts are fewer than the 11 of a batch"),
        (["--batch-size", "1"], "--batch-size 1: a pair is compared with others"),
        (["--pooling", "mean-padded", "--encoder-layerdrop", "0.1"], "mean-padded does not know --encoder-layerdrop"),
        (["--max-length", "2"], "--max-length must be 3 or larger"),
        (["--max-length", "300"], "the model has 256 positions"),
        (["--span-length", "-1"], "--span-length must be 0 or larger"),
        (["--contrastive-temperature", "0"], "--contrastive-temperature must be"),
        (["--encode-rows", "-1"], "--encode-rows must be 0 or larger"),
        (["--length-groups", "-1"], "--length-groups must be 0"),
    ],
)
def test_a_flag_that_does_not_fit_is_named(backbone, flags, words):
    with pytest.raises(ValueError, match=words):
        pairs.trainer(backbone, *flags)


def test_a_criterion_that_compares_no_pairs_is_refused(backbone):
    with pytest.raises(ValueError, match="--criterion cross_entropy: --task contrastive_sentences has pairs and no labels"):
        pairs.trainer(backbone, criterion="cross_entropy")


def test_texts_that_are_all_the_same_are_refused(backbone, tmp_path):
    (tmp_path / "texts.txt").write_text("the cat\n" * 10)
    with pytest.raises(ValueError, match="texts.txt: all 10 texts are the same"):
        pairs.trainer(backbone, "--text", tmp_path / "texts.txt")


def test_texts_of_the_same_symbols_are_one_text(backbone, tmp_path):
    """BERT's tokenizer knows no capitals and no second space; what is behind the last symbol that is kept makes no difference."""
    long = "the cat sat on the mat, and the dog runs one two three four five six ten times"
    texts = ["the cat", "The  cat", "the cats", f"{long} one", f"{long} two", "a dog"]
    (tmp_path / "texts.txt").write_text("".join(text + "\n" for text in texts))
    trainer = pairs.trainer(backbone, "--text", tmp_path / "texts.txt", "--skip-duplicates")
    dataset = trainer.task.dataset("train")

    def groups(numbers):
        return dataset.collater([dataset[number] for number in numbers])["groups"].tolist()

    first, again, other, cut, also_cut, dog = groups(range(6))
    assert first == again and cut == also_cut and len({first, other, cut, dog}) == 4
    assert groups([5, 0]) == [dog, first]  # in every batch, and so on every worker
    assert 0 <= min(first, other, cut, dog) and max(first, other, cut, dog) < 2**63
    loss = trainer.get_criterion()(trainer.get_model().eval(), dataset.collater([dataset[0], dataset[1]]))[0]
    assert loss.item() == 0  # each has the other one alone, which is no negative


def test_an_empty_line_and_an_empty_file_are_named(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("one\n \ntwo\n")
    with pytest.raises(ValueError, match="texts.txt:2: the line is empty"):
        read_texts(path)
    path.write_text("")
    with pytest.raises(ValueError, match="no text in it"):
        read_texts(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="--valid-text .*texts.txt: cannot be read: No such file"):
        read_texts(path, "--valid-text")


@pytest.mark.slow
def test_an_interrupted_training_goes_on_bit_for_bit(backbone, tmp_path):
    def run(directory, updates):
        flags = pairs.flags(backbone, *"--batch-size 4 --optimizer dsam --base-optimizer adam --lr 0.001 --sam-rho 0.05".split())
        criterion = "--criterion r3f_contrastive --encode-rows 5".split()
        arguments = line(
            backbone,
            directory,
            "--task",
            "contrastive_sentences",
            *flags,
            "--max-update",
            updates,
            model=pairs.arch(),
            criterion=criterion,
        )
        return start(arguments, directory / f"{updates}.log").succeed()

    run(tmp_path / "whole", 5)
    run(tmp_path / "parts", 3)
    run(tmp_path / "parts", 5)
    assert_same_training(tmp_path / "whole", tmp_path / "parts")
    assert "accuracy" in stats((tmp_path / "whole" / "5.log").read_text())[0]
    assert last(tmp_path / "whole")["optimizer_history"][-1]["num_updates"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("ddp", ["--ddp-backend legacy_ddp", "--find-unused-parameters"])
@pytest.mark.parametrize(
    "method, criterion, duplicates",
    [
        ("sgd", "contrastive", []),
        ("dsam --base-optimizer sgd --sam-scope global --sam-rho 0.2 --dsam-beta 1", "contrastive", []),
        # Without noise to speak of, which is drawn batch by batch; its divergence is of two passes all the same.
        ("sgd", "r3f_contrastive --r3f-eps 1e-9", []),
        ("sgd", "contrastive", ["--skip-duplicates"]),
    ],
)
def test_two_ranks_train_as_one_with_their_batches_together(backbone, tmp_path, every_rank, method, criterion, duplicates, ddp):
    """All ten texts are in a batch: the order does not matter then. With duplicates four of them come twice, on whatever rank."""
    texts = [*pairs.TEXTS[:6], *pairs.TEXTS[:4]] if duplicates else pairs.TEXTS
    (tmp_path / "texts.txt").write_text("".join(text + "\n" for text in texts))
    flags = [*pairs.flags(backbone), *f"--optimizer {method} --lr 0.1 --span-length 0 --dropout 0 --attention-dropout 0".split()]
    flags += ["--text", tmp_path / "texts.txt"]
    criterion = f"--criterion {criterion} --contrastive-temperature 0.5".split()
    parts = dict(model=pairs.arch(), criterion=[*criterion, *duplicates], user_dir=every_rank)
    task = ["--task", "contrastive_sentences", "--max-update", "1"]
    train_ranks(backbone, tmp_path / "two", *task, *flags, "--batch-size", "5", *ddp.split(), **parts)
    assert_ranks_agree(tmp_path / "two")
    arguments = line(backbone, tmp_path / "one", *task, *flags, "--batch-size", "10", **parts)
    start(arguments, tmp_path / "one" / "log").succeed()
    assert_close(weights_of(tmp_path / "two", 0), last(tmp_path / "one")["model"], relative=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sgd", "dsam --base-optimizer sgd --sam-rho 0.5 --dsam-beta 1"])
@pytest.mark.parametrize("parts", ["--length-groups 3", "--encode-rows 3"])
def test_encoding_by_parts_is_the_same_in_torchs_ddp(backbone, tmp_path, every_rank, method, parts):
    """A part is a forward pass of its own, and one that is made again runs in the backward pass. Neither changes what the workers
    share, and the ascent of --sam-scope worker is each worker's own."""
    flags = [*pairs.flags(backbone), *f"--optimizer {method} --lr 0.1 --span-length 0 --dropout 0 --attention-dropout 0".split()]
    flags += "--task contrastive_sentences --own-negatives --batch-size 5 --max-update 2 --find-unused-parameters".split()
    criterion = ["--criterion", "contrastive", "--contrastive-temperature", "0.5"]
    runs = dict(model=pairs.arch(), criterion=criterion, user_dir=every_rank)
    for name, how in (("whole", "--length-groups 1"), ("parts", parts)):
        train_ranks(backbone, tmp_path / name, *flags, *how.split(), **runs)
        assert_ranks_agree(tmp_path / name)
    assert_close(weights_of(tmp_path / "parts", 0), weights_of(tmp_path / "whole", 0), relative=1e-4)


OUT_OF_MEMORY = """
import sharp_plugins
from fairseq.distributed import utils

sharp_plugins.register()
from sharp_plugins.contrastive.criterion import Contrastive

vectors = Contrastive.vectors


def fail_once(self, *args):
    if utils.get_data_parallel_rank() == 1 and self.training:
        Contrastive.vectors = vectors
        raise RuntimeError("CUDA out of memory. (a test's)")
    return vectors(self, *args)


Contrastive.vectors = fail_once
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sgd", "dsam --base-optimizer sgd --sam-scope global"])
def test_a_rank_without_memory_ends_the_run(backbone, tmp_path, method):
    """The others wait for its vectors, and it would not come."""
    (tmp_path / "fails").mkdir()
    (tmp_path / "fails" / "__init__.py").write_text(OUT_OF_MEMORY)
    flags = [*pairs.flags(backbone), *f"--batch-size 4 --optimizer {method} --lr 0.1 --task contrastive_sentences".split()]
    parts = dict(model=pairs.arch(), criterion=["--criterion", "contrastive"], user_dir=tmp_path / "fails")
    runs = start_ranks(backbone, tmp_path / "run", *flags, "--max-update", "3", "--ddp-backend", "legacy_ddp", **parts)
    failed = runs[1].fail()
    assert "a worker has no memory left for its batch, which the loss of the other workers needs" in failed
    assert "--encode-rows" in failed and "or --own-negatives" in failed
    runs[0].fail()
