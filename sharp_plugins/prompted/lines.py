"""Prompts and texts as lines: what ``fairseq-interactive`` reads, and what it and ``fairseq-generate`` print."""

import re

from sharp_plugins.prompted.encoding import Encoding


class Lines:
    """In the place of fairseq's ``--bpe``: raw prompts to symbols by the format, and symbols to prompts and texts.

    A line break in a text is written as a space: a text is one line of the output.

    Example::

        lines = Lines(encoding)  # of the format lora-gpt2
        lines.encode("A : b : C")  # "A Ġ: Ġb Ġ: ĠC </s>"
        lines.decode("ĠIt Ġis .")  # "It is."
    """

    def __init__(self, encoding: Encoding):
        self.encoding = encoding

    def encode(self, line: str) -> str:
        """The symbols of a raw prompt, start and separator too, with spaces between them."""
        return " ".join(self.encoding.symbols(self.encoding.prompts([line])[0]))

    def decode(self, symbols: str) -> str:
        """The prompt or the text that *symbols*, with spaces between them, stand for."""
        words = symbols.split()
        encoding = self.encoding
        text = encoding.decode_prompt(words) if encoding.is_prompt(words) else encoding.decode_text(words)
        return re.sub(r"\r\n|\n|\r", " ", text)
