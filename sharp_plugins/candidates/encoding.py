"""A prompt and its candidates as symbols of a model, as MeZO's code makes them (Malladi et al. 2023, large_models/utils.py).

    text of a candidate     prompt + candidate, without spaces at its ends
    its sequence            start, symbols of that text
    its own symbols         the last (symbols of that text) - (symbols of the prompt without spaces at its ends)

Prompt and candidate are tokenised together, and so a symbol may reach from one into the other. It then counts as the prompt's or as
the candidate's, as the difference says. Only spaces are left out at the end of a prompt: a new line stays.
"""

from typing import Iterator, List, NamedTuple, Optional, Sequence

from sharp_plugins.candidates.reader import Example
from sharp_plugins.prompted.encoding import Encoding
from sharp_plugins.prompted.formats import MODELS_OWN, Format, format_of
from sharp_plugins.text.decoder_directory import DecoderDirectory


class Encoded(NamedTuple):
    """An example as symbols.

    Attributes:
        sequences: of each candidate, the dictionary's indices of prompt and candidate together, after the start.
        counted: of each candidate, how many symbols at the end of its sequence are its own: what its score is a mean of.
        cut: whether the prompt's beginning was left out of a sequence.
    """

    sequences: List[List[int]]
    counted: List[int]
    cut: bool


def format_with(start: str = MODELS_OWN) -> Format:
    """The format of a text on its own after *start*: a symbol, ``auto`` or ``none``.

    >>> format_with("none").start
    ''
    """
    return format_of({"start": start}, "--start", Format(text="{text}"))


def bare(text: str) -> str:
    """*text* without spaces at its end, and without any white space at its beginning.

    >>> bare(" Is it true? \\nAnswer:  "), bare("Yes or No?\\n")
    ('Is it true? \\nAnswer:', 'Yes or No?\\n')
    """
    return text.lstrip().rstrip(" ")


def cut(sequence: List[int], most: int, starts: int) -> List[int]:
    """The last symbols of a sequence after its first *starts* ones, *most* together.

    >>> cut([0, 5, 6, 7, 8], most=4, starts=1)
    [0, 6, 7, 8]
    """
    return sequence if len(sequence) <= most else sequence[:starts] + sequence[len(sequence) - most + starts :]


class Encoder:
    """Makes `Encoded` of `Example`.

    Args:
        encoding: of `format_with`.
        backbone: the model's directory.
        most: the most symbols of a sequence, the start among them.

    Raises:
        ValueError: the model does not know the start.

    Example, with a converted GPT-2::

        encoder = Encoder(Encoding(format_with(), backbone.tokenizer, backbone.dictionary, backbone.start), backbone, most=1024)
        example = Example("line 1", "It was", (" terrible", " great"), (1,))
        next(encoder([example])).counted  # [1, 1]
    """

    def __init__(self, encoding: Encoding, backbone: DecoderDirectory, most: int):
        self.encoding, self.most, self.starts = encoding, most, len(encoding.start)
        dictionary = encoding.dictionary
        self.unk, self.dictionary = dictionary.unk(), dictionary
        self.unknown = {dictionary.pad(), *(dictionary.index(symbol) for symbol in backbone.unused)} - {self.unk}
        strange = [symbol for symbol in encoding.start if dictionary.index(symbol) in {self.unk, *self.unknown}]
        if strange:
            raise ValueError(f"--start {strange[0]}: the model does not know this symbol; auto is what it has seen before a text")

    def __call__(self, examples: Sequence[Example]) -> Iterator[Encoded]:
        """
        Raises:
            ValueError: the model cannot read an example or score a candidate; named by file and line.
        """
        prompts = self.encoding.prompts([bare(example.prompt) for example in examples])
        texts = [bare(example.prompt + candidate) for example in examples for candidate in example.candidates]
        wholes = iter(self.encoding.prompts(texts))
        for example, prompt in zip(examples, prompts):
            yield self.encoded(example, prompt, [next(wholes) for _ in example.candidates])

    def encoded(self, example: Example, prompt: List[int], wholes: List[List[int]]) -> Encoded:
        counted = [len(whole) - len(prompt) for whole in wholes]
        if len(prompt) <= self.starts:
            raise ValueError(f"{example.where}: prompt is empty: the tokenizer makes no symbol of it")
        for index, (whole, count) in enumerate(zip(wholes, counted)):
            problem = self.problem(whole, count) or self.same(wholes[:index], whole)
            if problem:
                raise ValueError(f"{example.where}: candidate {index}, {example.candidates[index]!r}: {problem}")
        sequences = [cut(whole, self.most, self.starts) for whole in wholes]
        return Encoded(sequences, counted, any(len(whole) > self.most for whole in wholes))

    def problem(self, whole: List[int], count: int) -> Optional[str]:
        """Why the model cannot score a candidate."""
        if count < 1:
            return "it has no symbol of its own: the tokenizer makes as many symbols of the prompt without it"
        if count + self.starts + 1 > self.most:
            return f"its {count} symbols leave no room for a prompt in {self.most} positions"
        if self.unk in whole:
            return "it or its prompt has a character that the tokenizer does not know"
        found = next((symbol for symbol in whole[self.starts :] if symbol in self.unknown), None)
        return None if found is None else f"it or its prompt has the symbol {self.dictionary[found]}, which the model does not know"

    @staticmethod
    def same(others: List[List[int]], whole: List[int]) -> Optional[str]:
        return f"the tokenizer makes of it what it makes of candidate {others.index(whole)}" if whole in others else None
