"""A directory of binarized prompts, and the file in it that says what they were made of.

DATA/SPLIT.input.{bin,idx}      the sequences, special symbols too
DATA/SPLIT.label.{bin,idx}      the number of each one's class
DATA/dict.txt                   the model's dictionary
DATA/tokenizer.json ...         its tokenizer
DATA/cloze.json                 what all this was made of
"""

from pathlib import Path
from typing import Dict, List, NamedTuple

from fairseq.data import Dictionary

from sharp_plugins.cloze.layout import MASK, Layout, layout_of
from sharp_plugins.files.text import read_json
from sharp_plugins.files.writing import sha256
from sharp_plugins.text.dictionary import read_dictionary

STAMP = "cloze.json"
# Changed with what is written.
VERSION = 1
COMMAND = "python -m sharp_plugins.cloze prepare"
PARTS = ("input", "label")
DICTIONARY, TOKENIZER = "dict.txt", "tokenizer.json"
TOKENIZER_FILES = (TOKENIZER, "special_tokens_map.json")


class Prepared(NamedTuple):
    """What the stamp of a directory says.

    Attributes:
        source: all that the data were made of.
        facts: numbers of each split.
        arch, max_positions: the model's architecture and its positions.
        words: the dictionary's index of each class's word.
    """

    directory: Path
    source: Dict
    facts: Dict
    arch: str
    max_positions: int
    words: List[int]

    @property
    def layout(self) -> Layout:
        return layout_of(self.source["layout"], str(self.directory / STAMP))

    @property
    def checksums(self) -> Dict[str, str]:
        """Of the model's dictionary and tokenizer: what is compared with checkpoints."""
        return {name: self.source["backbone"][name] for name in (DICTIONARY, TOKENIZER)}

    def dictionary(self) -> Dictionary:
        """The model's, the mask among its symbols."""
        dictionary = read_dictionary(self.directory / DICTIONARY)
        dictionary.add_symbol(MASK)
        return dictionary


def read_prepared(directory) -> Prepared:
    """What `prepare` wrote.

    Raises:
        FileNotFoundError: it did not.
        ValueError: the directory is of another version, or its dictionary or a file of its tokenizer was changed.

    Example::

        prepared = read_prepared("DATA")
        prepared.facts["train"]["rows"]
    """
    directory = Path(directory)
    if not (directory / STAMP).is_file():
        raise FileNotFoundError(f"{directory / STAMP}: not there; `{COMMAND}` writes such a directory")
    stamp = read_json(directory / STAMP)
    try:
        if stamp["version"] != VERSION:
            raise ValueError(f"{directory}: written by another version; make it again with `{COMMAND}`")
        wanted = {"source": dict, "facts": dict, "arch": str, "max_positions": int, "words": list}
        values = {name: stamp[name] for name in wanted}
        if not all(isinstance(values[name], kind) for name, kind in wanted.items()):
            raise TypeError(" or ".join(wanted))
        prepared = Prepared(directory, **values)
        checksums = dict(prepared.source["backbone"])
        rows = len(prepared.layout.words), *(facts["rows"] for facts in prepared.facts.values())
        if rows[0] != len(prepared.words) or not all(type(count) is int for count in (*prepared.words, *rows)):
            raise TypeError("words")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{directory / STAMP}: not what `{COMMAND}` writes: {error}") from None
    for name in dict.fromkeys([DICTIONARY, *TOKENIZER_FILES, *checksums]):
        if not (directory / name).is_file() or sha256(directory / name) != checksums.get(name):
            raise ValueError(
                f"{directory / name}: it is not the one that the data were made with; make them again with `{COMMAND}`"
            )
    if max(prepared.words) >= len(prepared.dictionary()) or min(prepared.words) < 0:
        raise ValueError(f"{directory / STAMP}: its words are not in {DICTIONARY}")
    return prepared
