"""A tiny world for the tests: data sets of a few sentences, and fairseq trainers on them in this process."""

import os
import random
from contextlib import contextmanager
from pathlib import Path

import numpy
import plain
import pytest
import torch
from fairseq import options, tasks
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from fairseq_cli import preprocess
from quick_config import convert_namespace_to_omegaconf

import sharp_plugins

sharp_plugins.register()  # which fairseq-train does when it loads --user-dir

# Where trainers of `config` train: "cpu", or "cuda" with SHARP_TEST_DEVICE=cuda in the environment.
DEVICE = os.environ.get("SHARP_TEST_DEVICE", "cpu")
if DEVICE not in ("cpu", "cuda") or (DEVICE == "cuda" and not torch.cuda.is_available()):
    raise RuntimeError(f"SHARP_TEST_DEVICE={DEVICE}: it is cpu, or cuda where torch.cuda.is_available()")

PLUGIN = str(Path(__file__).resolve().parents[1] / "sharp_plugins")

MODEL = (
    "--arch transformer --encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 16 --decoder-embed-dim 16 "
    "--encoder-ffn-embed-dim 32 --decoder-ffn-embed-dim 32 --encoder-attention-heads 2 --decoder-attention-heads 2 "
    "--share-decoder-input-output-embed"
).split()
LSTM = (
    "--arch lstm --encoder-embed-dim 16 --encoder-hidden-size 16 --decoder-embed-dim 16 --decoder-hidden-size 16 "
    "--decoder-out-embed-dim 16"
).split()
CRITERION = "--criterion label_smoothed_cross_entropy --label-smoothing 0.1".split()
SGD = "--lr 0.1 --clip-norm 0".split()


def write_translation_data(directory: Path, sentences: int = 64) -> Path:
    """Sentences and their mirror images, binarized by fairseq-preprocess."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    words = [f"w{i}" for i in range(20)]
    for split, count in (("train", sentences), ("valid", 8), ("test", 8)):
        lines = [[rng.choice(words) for _ in range(rng.randint(2, 7))] for _ in range(count)]
        (directory / f"{split}.src").write_text("".join(" ".join(line) + "\n" for line in lines))
        (directory / f"{split}.tgt").write_text("".join(" ".join(line[::-1]) + "\n" for line in lines))
    parser = options.get_preprocessing_parser()
    prefixes = [part for split in ("train", "valid", "test") for part in (f"--{split}pref", str(directory / split))]
    args = parser.parse_args(["-s", "src", "-t", "tgt", *prefixes, "--joined-dictionary", "--destdir", str(directory / "bin")])
    preprocess.main(args)
    return directory / "bin"


def skip_without_fp16(flags) -> None:
    """torch learnt fp16 on a CPU with 2.3."""
    if DEVICE == "cpu" and {"--fp16", "--memory-efficient-fp16"} & set(flags):
        try:
            torch.nn.LayerNorm(2).half()(torch.zeros(1, 2).half())
        except RuntimeError as error:
            pytest.skip(f"this torch has no fp16 on a CPU: {error}")


def config(data, *flags, model=MODEL, criterion=CRITERION, task="translation"):
    """The fairseq config of a command line."""
    flags = [str(flag) for flag in flags]
    skip_without_fp16(flags)
    if "--update-freq" not in flags:
        flags += ["--update-freq", "1"]
    save = [] if "--save-dir" in flags else ["--save-dir", str(Path(data).parent / "checkpoints")]
    place = ["--cpu"] if DEVICE == "cpu" else []
    line = [str(data), "--user-dir", PLUGIN, "--task", task, *model, *criterion, *place, "--log-interval", "1"]
    line += ["--required-batch-size-multiple", "1", "--seed", "7", *save, *flags]
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, line)
    return convert_namespace_to_omegaconf(args)


def trainer_from(cfg) -> Trainer:
    """A fairseq trainer as `fairseq_cli.train.main` makes it."""
    metrics.reset()
    torch.manual_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    criterion = task.build_criterion(cfg.criterion)
    trainer = Trainer(cfg, task, model, criterion)
    task.load_dataset(cfg.dataset.train_subset)
    return trainer


def build_trainer(data, *flags, **parts) -> Trainer:
    return trainer_from(config(data, *flags, **parts))


def batches(trainer: Trainer, sizes):
    """Batches of consecutive training sentences: a list of samples, with as many sentences as *sizes* says."""
    dataset = trainer.task.dataset("train")
    samples, start = [], 0
    for size in sizes:
        samples.append(dataset.collater([dataset[i] for i in range(start, start + size)]))
        check_that_it_can_be_pinned(samples[-1])
        start += size
    trainer.reset_dummy_batch(samples[0])
    return samples


def check_that_it_can_be_pinned(sample) -> None:
    """On a GPU torch's loader copies each tensor of a batch into one with its strides, and refuses one that overlaps itself."""
    if isinstance(sample, torch.Tensor):
        torch.empty_strided(sample.size(), sample.stride(), dtype=sample.dtype).copy_(sample)
    elif isinstance(sample, (dict, list, tuple)):
        for part in sample.values() if isinstance(sample, dict) else sample:
            check_that_it_can_be_pinned(part)


def weights(trainer: Trainer):
    """Copies of all entries of the model's state; but for a buffer that fairseq 0.12.2 never initialises."""
    state = trainer.get_model().state_dict()
    return {name: value.clone() for name, value in state.items() if not name.endswith("_float_tensor")}


def freeze_alike(base, model):
    """Freeze in *base* what is frozen in *model*, which has all of *base*'s parameters under their names; returns *base*.

    Where the input is not contiguous, torch multiplies with a frozen weight by another kernel than with one that trains, and the
    two may round differently. A wrapped model equals its base bit for bit only where the same weights are frozen in both.
    """
    named = dict(model.named_parameters())
    for name, p in base.named_parameters():
        p.requires_grad_(named[name].requires_grad)
    return base


def assert_same(first, second):
    """Bit for bit."""
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def assert_same_but_for_rounding(first, second):
    """fp16 weights after the same updates of one flat fp32 tensor and of many. Only w + α g may differ, which torch computes with
    one rounding or two, as the entry falls into a vector or behind the last whole one: the next fp16 number, at most."""
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=2**-10, atol=1e-6, msg=name)


def assert_close(trainer, expected, tolerance=2e-5):
    """The trainer's weights, up to rounding."""
    for name, value in trainer.get_model().state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=tolerance, atol=tolerance, msg=name)


def perturbed_weights(trainer, samples):
    """The weights that fairseq's own pass sees."""
    seen = {}
    forward = trainer.get_criterion().forward

    def spy(model, sample, reduce=True):
        seen.update(weights(trainer))  # the last pass is the descent's
        return forward(model, sample, reduce)

    trainer.get_criterion().forward = spy
    trainer.train_step(samples)
    trainer.get_criterion().forward = forward
    return seen


@contextmanager
def random_points(trainer, points):
    """Add to *points* where the first forward pass of each update is made inside: its weights minus those before the update."""
    model, train_step, before = trainer.get_model(), trainer.train_step, []

    def start(*args, **kwargs):
        before[:] = [p.detach().clone() for p in plain.trainable(model)]
        return train_step(*args, **kwargs)

    def note(*args):
        if before:
            points.append([p.detach() - w for p, w in zip(plain.trainable(model), before)])
            before.clear()

    hook = model.register_forward_pre_hook(note)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "train_step", start)
        yield
    hook.remove()


def numpy_state():
    """Of NumPy's generator: its keys, and how many of them are used. A draw moves that number, and the keys but once in 624."""
    _, keys, *rest = numpy.random.get_state()
    return keys.tolist(), *rest
