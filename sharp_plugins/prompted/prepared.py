"""A directory of binarized prompts and texts, and the file in it that says what they were made of.

DATA/SPLIT.prompt.{bin,idx}     what stands before each text, start and separator too
DATA/SPLIT.text.{bin,idx}       the texts, each with its end
DATA/SPLIT.references.jsonl     of validation and test sets: each prompt with all its texts
DATA/dict.txt                   the model's dictionary
DATA/tokenizer.json ...         its tokenizer
DATA/prompted.json              what all this was made of
"""

from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

from fairseq.data import Dictionary

from sharp_plugins.files.text import read_json
from sharp_plugins.files.writing import sha256
from sharp_plugins.prompted.encoding import Encoding
from sharp_plugins.prompted.formats import format_of
from sharp_plugins.text.decoder_directory import DICTIONARY, TOKENIZER, TOKENIZER_FILES, check_symbols
from sharp_plugins.text.decoder_tokenizer import DecoderTokenizer
from sharp_plugins.text.dictionary import read_dictionary

STAMP = "prompted.json"
# Changed with what is written.
VERSION = 3
COMMAND = "python -m sharp_plugins.prompted prepare"
PARTS = ("prompt", "text")


class Prepared(NamedTuple):
    """What the stamp of a directory says.

    Attributes:
        source: all that the data were made of.
        facts: numbers of each split.
        arch, max_positions, start, stop: the model's architecture, its positions, the start and the stop symbols.
    """

    directory: Path
    source: Dict
    facts: Dict
    arch: str
    max_positions: int
    start: Optional[str]
    stop: List[str]

    @property
    def checksums(self) -> Dict[str, str]:
        """Of the model's dictionary and tokenizer: what is compared with checkpoints."""
        return {name: self.source["backbone"].get(name) for name in (DICTIONARY, TOKENIZER)}

    @property
    def format(self) -> Dict:
        """The settings of the format."""
        return self.source["format"]

    def dictionary(self) -> Dictionary:
        return read_dictionary(self.directory / DICTIONARY)

    def encoding(self, dictionary: Dictionary) -> Encoding:
        """
        Raises:
            ValueError: the tokenizer is not of *dictionary*.
        """
        format, tokenizer = format_of(self.format, str(self.directory / STAMP)), DecoderTokenizer.load(self.directory)
        check_symbols(self.directory, dictionary, tokenizer)
        return Encoding(format, tokenizer, dictionary, self.start)


def read_prepared(directory, file: str = STAMP, version: int = VERSION, command: str = COMMAND) -> Prepared:
    """What `prepare` wrote, or another *command* that leaves a stamp of this kind, of its own name and version.

    Raises:
        FileNotFoundError: it did not.
        ValueError: the directory is of another version, or its dictionary or a file of its tokenizer was changed.

    Example::

        prepared = read_prepared("DATA")
        prepared.facts["train"]["samples"]
    """
    directory = Path(directory)
    if not (directory / file).is_file():
        raise FileNotFoundError(f"{directory / file}: not there; `{command}` writes such a directory")
    stamp = read_json(directory / file)
    try:
        if stamp["version"] != version:
            raise ValueError(f"{directory}: written by another version; make it again with `{command}`")
        wanted = {"source": dict, "facts": dict, "arch": str, "max_positions": int, "start": (str, type(None)), "stop": list}
        values = {name: stamp[name] for name in wanted}
        if not all(isinstance(values[name], kind) for name, kind in wanted.items()):
            raise TypeError(" or ".join(wanted))
        prepared = Prepared(directory, **values)
        checksums, _ = dict(prepared.source["backbone"]), format_of(prepared.format, str(directory / file))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{directory / file}: not what `{command}` writes: {error}") from None
    there = [name for name in (DICTIONARY, *TOKENIZER_FILES) if (directory / name).is_file()]
    for name in dict.fromkeys([DICTIONARY, TOKENIZER, *checksums, *there]):
        if name not in there or sha256(directory / name) != checksums.get(name):
            raise ValueError(
                f"{directory / name}: it is not the one that the data were made with; make them again with `{command}`"
            )
    return prepared


def prompt_lengths(directory, split: str) -> Tuple[int, int]:
    """Symbols of the shortest and of the longest prompt of a split that `prepare` wrote."""
    from fairseq.data import data_utils

    prepared = read_prepared(directory)
    rows = data_utils.load_indexed_dataset(str(prepared.directory / f"{split}.{PARTS[0]}"), prepared.dictionary(), "mmap")
    return int(min(rows.sizes)), int(max(rows.sizes))
