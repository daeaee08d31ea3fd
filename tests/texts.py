"""A tiny language-modelling world for the tests of decoders: lines of words, and fairseq trainers on them in this process."""

import random
from pathlib import Path

import toy
from fairseq import options
from fairseq_cli import preprocess

WORDS = [f"w{i}" for i in range(20)]
# Small models of the three families.
SIZE = "--decoder-layers 2 --decoder-embed-dim 16 --decoder-ffn-embed-dim 32 --decoder-attention-heads 4 --max-target-positions 64"
MODELS = {
    "gpt2": f"--arch sharp_gpt2 {SIZE}".split(),
    "opt-350m": f"--arch sharp_opt_350m {SIZE} --decoder-input-dim 8".split(),
    "llama": f"--arch sharp_smollm2_135m {SIZE} --decoder-kv-heads 2".split(),
}
CRITERION = "--criterion cross_entropy".split()
LINES = "--sample-break-mode eos --tokens-per-sample 64".split()  # one line of text a sample
UNUSED = "<s> <pad> <unk>"  # the specials that no line has


def write_data(directory: Path, sentences: int = 64) -> Path:
    """Lines of 2 to 7 words, binarized by fairseq-preprocess."""
    directory.mkdir(parents=True, exist_ok=True)
    rng, prefixes = random.Random(0), []
    for split, count in (("train", sentences), ("valid", 8), ("test", 8)):
        lines = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(2, 7))) for _ in range(count)]
        (directory / split).write_text("".join(line + "\n" for line in lines))
        prefixes += [f"--{split}pref", str(directory / split)]
    parser = options.get_preprocessing_parser()
    preprocess.main(parser.parse_args(["--only-source", *prefixes, "--destdir", str(directory / "bin"), "--workers", "1"]))
    return directory / "bin"


def config(data, *flags, model="llama", criterion=CRITERION):
    """The fairseq config of a command line, one line of text a sample. *model*: a key of `MODELS`, or flags."""
    model = MODELS[model] if isinstance(model, str) else model
    return toy.config(data, *LINES, *flags, model=model, criterion=criterion, task="language_modeling")


def trainer(data, *flags, **parts):
    """A fairseq trainer, with sgd unless *flags* say otherwise."""
    flags = list(flags) if "--optimizer" in flags else ["--optimizer", "sgd", *toy.SGD, *flags]
    return toy.trainer_from(config(data, *flags, **parts))


def model(data, *flags, **parts):
    """The model alone, in evaluation mode, with random weights that are large enough to matter."""
    import torch

    built = trainer(data, *flags, **parts).get_model().eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for p in built.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return built
