"""The tokenizer of a directory that ``python -m sharp_plugins.convert`` wrote, whether of an encoder or of a decoder."""

from pathlib import Path

from sharp_plugins.text.decoder_tokenizer import FILE, DecoderTokenizer
from sharp_plugins.text.tokenizer import Tokenizer


def load_tokenizer(directory) -> Tokenizer:
    """Read a converted model's tokenizer.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file cannot be read, or they do not fit together.
        ImportError: tokenizers is not installed.

    Example::

        load_tokenizer("OUT").encode("The cat sat.")
    """
    is_decoder = (Path(directory) / FILE).is_file()
    return DecoderTokenizer.load(directory) if is_decoder else Tokenizer.load(directory)
