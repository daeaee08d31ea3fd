"""Prompts and texts as lines: what ``fairseq-interactive`` reads, and what it and ``fairseq-generate`` print."""

import re
from typing import Callable, Collection, List, Sequence

from fairseq.data import Dictionary
from torch import Tensor

from sharp_plugins.prompted.encoding import Encoding


class PromptLine(str):
    """Symbols of a prompt, with spaces between them.

    `Lines` knows prompts by it. A text may look like a prompt, and loses nothing for that.

    Example::

        >>> PromptLine("A Ġ: ĠB").split()
        ['A', 'Ġ:', 'ĠB']
    """


class PromptDictionary(Dictionary):
    """A dictionary that writes symbols as a `PromptLine`. As a task's source dictionary it writes the prompts, and nothing else.

    Example::

        >>> dictionary = PromptDictionary(Dictionary())
        >>> line = dictionary.string([3, 3])
        >>> line, isinstance(line, PromptLine), dictionary == Dictionary()
        ('<unk> <unk>', True, True)
    """

    def __init__(self, dictionary: Dictionary):
        vars(self).update(vars(dictionary))  # the same symbols, not copies of them

    def string(self, *args, **kwargs) -> str:
        return PromptLine(super().string(*args, **kwargs))


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
        return PromptLine(" ".join(self.encoding.symbols(self.encoding.prompts([line])[0])))

    def decode(self, symbols: str) -> str:
        """The text that *symbols*, with spaces between them, stand for; the prompt, if they are a `PromptLine`."""
        decode = self.encoding.decode_prompt if isinstance(symbols, PromptLine) else self.encoding.decode_text
        text = decode(symbols.split())
        return re.sub(r"\r\n|\n|\r", " ", text)


def encode_lines(
    lines: Sequence[str],
    encode: Callable[[str], str],
    dictionary: Dictionary,
    check: Callable[[int], None],
    unknown: Collection[int] = (),
    first: int = 1,
) -> List[Tensor]:
    """Typed prompts as indices of *dictionary*, int64, by *encode*, which is `Lines.encode`.

    Args:
        check: raises ValueError for a prompt of so many symbols.
        unknown: symbols that no prompt may have.
        first: the number of the first line, for errors.

    Raises:
        ValueError: a line is empty, is not UTF-8, has too many symbols, or one of the unknown; its number and text are named.

    >>> encode_lines(["<unk>"], str, Dictionary(), check=lambda length: None)
    [tensor([3])]
    """
    rows = []
    for number, line in enumerate(lines, first):
        where = f"line {number} of the input, {line[:60]!r}"
        if not line.strip():
            raise ValueError(f"{where}: a prompt is empty")
        try:
            line.encode("utf-8")
        except UnicodeEncodeError:  # as Python reads such bytes of its standard input
            raise ValueError(f"{where}: it is not UTF-8") from None
        symbols = dictionary.encode_line(encode(line), append_eos=False, add_if_not_exist=False).long()
        strange = [symbol for symbol in symbols.tolist() if symbol in unknown]
        if strange:
            raise ValueError(f"{where}: a prompt has the symbol {dictionary[strange[0]]}, which the model does not know")
        try:
            check(len(symbols))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        rows.append(symbols)
    return rows
