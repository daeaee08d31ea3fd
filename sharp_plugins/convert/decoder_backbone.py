"""A published decoder as ``python -m sharp_plugins.convert`` leaves it: what data, runs and commands need to know of it."""

from pathlib import Path
from typing import List, NamedTuple, Optional

from fairseq import checkpoint_utils
from fairseq.data import Dictionary

from sharp_plugins.convert.decoder_flags import DEFAULTS, decoder_flags
from sharp_plugins.files.checkpoint_config import config_of
from sharp_plugins.files.tensors import read_torch
from sharp_plugins.models import decoder  # noqa: F401  sharp_decoder
from sharp_plugins.models.decoder import DecoderModel
from sharp_plugins.text.decoder_tokenizer import FILE, DecoderTokenizer
from sharp_plugins.text.dictionary import read_dictionary

FILES = ("model.pt", "dict.txt", "tokenizer.json", FILE)
WORDS = "decoder.embed_tokens.weight"


class DecoderBackbone(NamedTuple):
    """What a directory of `FILES` holds.

    arch: fairseq's architecture, the first of the *flags*' values.
    flags: of ``fairseq-train``, for a model that takes the weights.
    family: "gpt2", "llama" or "opt".
    max_positions: longest sequence in tokens.
    start: the symbol before a text on its own, None for none.
    """

    directory: Path
    arch: str
    flags: List[str]
    family: str
    max_positions: int
    start: Optional[str]
    dictionary: Dictionary
    tokenizer: DecoderTokenizer


def load_decoder(directory) -> DecoderBackbone:
    """Read a converted decoder; its weights are not read.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: the directory holds an encoder, or its files do not fit together.
        ImportError: tokenizers is not installed.

    Example::

        load_decoder("smollm2").start  # "<|endoftext|>"
    """
    directory = Path(directory)
    for name in FILES:
        if not (directory / name).is_file():
            what = "not there; wanted is what `python -m sharp_plugins.convert` wrote of a decoder (GPT-2, OPT, Llama)"
            if name == FILE:
                what = f"{what}, and this seems to be an encoder"
            raise FileNotFoundError(f"{directory / name}: {what}")
    tokenizer, dictionary = DecoderTokenizer.load(directory), read_dictionary(directory / "dict.txt")
    path = directory / "model.pt"
    state = read_torch(path, mmap=True)
    try:
        args = config_of(state, "model")
        flags = decoder_flags({name: args[name] for name in DEFAULTS if name in args}, tokenizer.family)
        positions, rows = int(args["max_target_positions"]), len(state["model"][WORDS])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a converted decoder: {type(error).__name__}: {error}") from error
    if dictionary.symbols != tokenizer.symbols or rows != len(dictionary):
        raise ValueError(
            f"{directory}: its files do not fit together: the tokenizer has {len(tokenizer.symbols)} symbols, dict.txt "
            f"{len(dictionary)}, and model.pt {rows} rows, and they should be the same"
        )
    return DecoderBackbone(
        directory=directory,
        arch=flags[1],
        flags=flags,
        family=tokenizer.family,
        max_positions=positions,
        start=tokenizer.start,
        dictionary=dictionary,
        tokenizer=tokenizer,
    )


def load_decoder_model(directory) -> DecoderModel:
    """The model of a converted decoder, in fp32, for evaluation.

    Raises: as `load_decoder`.
    """
    path = str(Path(directory) / "model.pt")
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([path], arg_overrides={"data": str(directory)})
    return model.float().eval()
