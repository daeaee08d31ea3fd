"""A published decoder as ``python -m sharp_plugins.convert`` leaves it: what data, runs and commands need to know of it."""

from pathlib import Path
from typing import Any, Dict, List

from fairseq import checkpoint_utils

from sharp_plugins.convert.decoder_flags import closest, decoder_flags
from sharp_plugins.models import decoder  # noqa: F401  sharp_decoder
from sharp_plugins.models.decoder import DecoderModel
from sharp_plugins.models.decoder_config import DEFAULTS
from sharp_plugins.models.decoder_sizes import SIZES
from sharp_plugins.text.decoder_directory import MODEL, DecoderDirectory, read_decoder_directory


class DecoderBackbone(DecoderDirectory):
    """What such a directory holds, and how a model is made that takes its weights.

    Example::

        backbone = load_decoder("smollm2")
        backbone.flags  # ["--arch", "sharp_smollm2_135m", "--unused-symbols", "<pad> <unk>"]
    """

    @property
    def flags(self) -> List[str]:
        """Of ``fairseq-train``; ``--arch`` is the first."""
        return decoder_flags(self._model(), self.family)

    @property
    def arch(self) -> str:
        """The value of ``--arch``."""
        return closest(self._model(), self.family)[0]

    @property
    def settings(self) -> Dict[str, Any]:
        """Of the model in a config, in full: fairseq does not look up a named architecture's there."""
        arch, settings = closest(self._model(), self.family)
        return {**SIZES[arch], **settings}

    def _model(self) -> Dict[str, Any]:
        return {name: self.model[name] for name in DEFAULTS if name in self.model}

    @property
    def family(self) -> str:
        """gpt2, llama or opt."""
        return self.tokenizer.family


def load_decoder(directory) -> DecoderBackbone:
    """Read a converted decoder; its weights are not read.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: the directory holds an encoder, or its files do not fit together.
        ImportError: tokenizers is not installed.

    Example::

        load_decoder("smollm2").start  # "<|endoftext|>"
    """
    found = DecoderBackbone(*read_decoder_directory(directory))
    try:
        _ = found.flags  # can they be made?
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{found.directory / MODEL}: not a converted decoder: {type(error).__name__}: {error}") from error
    return found


def load_decoder_model(directory) -> DecoderModel:
    """The model of a converted decoder, in fp32, for evaluation.

    Raises: as `load_decoder`.
    """
    path = str(Path(directory) / MODEL)
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([path], arg_overrides={"data": str(directory)})
    return model.float().eval()
