"""A published decoder as ``python -m sharp_plugins.convert`` leaves it: what data, runs and commands need to know of it."""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from fairseq import checkpoint_utils
from fairseq.data import Dictionary

from sharp_plugins.convert.decoder_flags import closest, decoder_flags
from sharp_plugins.models import decoder  # noqa: F401  sharp_decoder
from sharp_plugins.models.decoder import DecoderModel
from sharp_plugins.models.decoder_config import DEFAULTS
from sharp_plugins.models.decoder_sizes import SIZES
from sharp_plugins.text.decoder_directory import MODEL, read_decoder_directory
from sharp_plugins.text.decoder_tokenizer import DecoderTokenizer


class DecoderBackbone(NamedTuple):
    """What such a directory holds.

    arch: fairseq's architecture, the first of the *flags*' values.
    flags: of ``fairseq-train``, for a model that takes the weights.
    settings: of the model in a config, in full: fairseq does not look up a named architecture's there.
    family: "gpt2", "llama" or "opt".
    max_positions: longest sequence in tokens.
    start: the symbol before a text on its own, None for none.
    """

    directory: Path
    arch: str
    flags: List[str]
    settings: Dict[str, Any]
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
    found = read_decoder_directory(directory)
    try:
        model = {name: found.model[name] for name in DEFAULTS if name in found.model}
        arch, settings = closest(model, found.tokenizer.family)
        flags = decoder_flags(model, found.tokenizer.family)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{found.directory / MODEL}: not a converted decoder: {type(error).__name__}: {error}") from error
    return DecoderBackbone(
        directory=found.directory,
        arch=arch,
        flags=flags,
        settings={**SIZES[arch], **settings},
        family=found.tokenizer.family,
        max_positions=found.max_positions,
        start=found.start,
        dictionary=found.dictionary,
        tokenizer=found.tokenizer,
    )


def load_decoder_model(directory) -> DecoderModel:
    """The model of a converted decoder, in fp32, for evaluation.

    Raises: as `load_decoder`.
    """
    path = str(Path(directory) / MODEL)
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([path], arg_overrides={"data": str(directory)})
    return model.float().eval()
