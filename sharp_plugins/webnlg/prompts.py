"""A corpus as prompts and texts for a published decoder, see `sharp_plugins.prompted`.

OUT/text/{train,dev,test}.jsonl   a prompt and its texts in each line
OUT/inputs/test.jsonl             the inputs that are generated for and scored, with all their texts
OUT/bin/                          what ``--task prompted_generation`` reads
OUT/prepared.json                 what all this was made of
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set

from sharp_plugins.files.writing import sha256, write_text
from sharp_plugins.prompted.formats import find_format
from sharp_plugins.runs.data import make_once
from sharp_plugins.text.parts import evenly
from sharp_plugins.webnlg.corpus import read_corpus
from sharp_plugins.webnlg.entry import CorpusError, Entry, one_line
from sharp_plugins.webnlg.linearise import LINEARISATIONS, linearise
from sharp_plugins.webnlg.readers.json_lines import line_of
from sharp_plugins.webnlg.texts import GOOD, TEXTS, choose_texts, group_by_input

# Changed with what is written, so that data of an earlier version are made anew.
VERSION = 1
OWN = ("text", "inputs", "bin")


class Prompts(NamedTuple):
    """How prompts and texts are made of a corpus.

    Attributes:
        format: a name or file for `sharp_plugins.prompted.formats.find_format`.
        linearise: one of `LINEARISATIONS`.
        texts: `GOOD` or `ALL`: which texts are trained and validated on, see `choose_texts`.
        max_positions: the most positions of a sequence; None: the model's.
        room: positions that a prompt leaves for a generated text.
        too_long: what is done with what does not fit, see `sharp_plugins.prompted.fitting.Limits`.

    >>> Prompts(format="lora-gpt2").check().name
    'lora-gpt2-lora'
    """

    format: str
    linearise: str = "lora"
    texts: str = GOOD
    max_positions: Optional[int] = None
    room: int = 1
    too_long: str = "refuse"

    @property
    def name(self) -> str:
        """Of their directory, where they share it with no others: see `directories`."""
        return f"{Path(self.format).stem}-{self.linearise}"

    def in_full(self) -> Dict:
        """With all settings of the format in the place of its name.

        Raises:
            OSError, ValueError: there is no such format.
        """
        return {**self._asdict(), "format": find_format(self.format).as_dict()}

    def check(self) -> "Prompts":
        """Raise ValueError where a value is none of those that there are, or of another type: a user's file may have any."""
        from sharp_plugins.prompted.fitting import TOO_LONG  # here, so that scoring imports no fairseq

        for name, known in (("linearise", tuple(LINEARISATIONS)), ("texts", TEXTS), ("too_long", TOO_LONG)):
            if getattr(self, name) not in known:
                raise ValueError(f"prompts.{name} {getattr(self, name)!r}: choose one of {', '.join(known)}")
        if not isinstance(self.format, str):
            raise ValueError(f"prompts.format {self.format!r}: the name or the file of a format is wanted")
        for name, value in (("room", self.room), ("max_positions", 1 if self.max_positions is None else self.max_positions)):
            if type(value) is not int or value < 1:
                raise ValueError(f"prompts.{name} {value!r}: a whole number from 1 is wanted")
        return self


def directories(every: Iterable[Prompts]) -> Dict[Prompts, str]:
    """The name of each one's directory. Where several have one name and are not the same in full, a checksum tells them apart.

    >>> list(directories([Prompts("facts")]).values())
    ['facts-lora']
    >>> len(set(directories([Prompts("facts"), Prompts("facts", room=64)]).values()))
    2

    Raises:
        OSError, ValueError: one has a format that is not there.
    """
    checksums_of = {how: hashlib.sha256(json.dumps(how.in_full(), sort_keys=True).encode()).hexdigest()[:8] for how in every}
    sharing: Dict[str, Set[str]] = {}
    for how, checksum in checksums_of.items():
        sharing.setdefault(how.name, set()).add(checksum)
    return {how: how.name if len(sharing[how.name]) == 1 else f"{how.name}-{end}" for how, end in checksums_of.items()}


class Data(NamedTuple):
    """What was made with one `Prompts`.

    Attributes:
        binarized: the directory that ``--task prompted_generation`` reads.
        inputs: the directory with the test inputs.
        samples: of the training set.
        longest: positions of the longest row to learn from and to validate on.
        shortest_test, longest_test: symbols of the shortest and of the longest prompt of the test set.
    """

    binarized: Path
    inputs: Path
    samples: int
    longest: int
    shortest_test: int
    longest_test: int

    def check_room(self, room: int, hint: str = "") -> None:
        """Raise ValueError where a row is longer than *room*, a model's positions."""
        if self.longest_test + 1 > room:
            words = f"a prompt of the test set has {self.longest_test} symbols, and there is room for {room}, with one for the text"
            raise ValueError(f"--data: {words}{hint}")
        if self.longest > room:
            raise ValueError(f"--data: a row to learn from has {self.longest} positions, and there is room for {room}{hint}")


def read_parts(data: Path, most: Mapping[str, Optional[int]]) -> Dict[str, List[Entry]]:
    """A corpus's entries by split: of dev and test, those that are used. A test input that occurs several times is one with all its
    texts, as in LoRA's code.

    Args:
        most: how many of a split; None for all.

    Raises:
        ValueError: the corpus cannot be used.
    """
    try:
        corpus = read_corpus(data)
    except CorpusError as error:
        raise ValueError(f"--data: {error}") from error
    corpus["test"] = group_by_input(corpus["test"])
    return {split: evenly(entries, most.get(split)) for split, entries in corpus.items()}


def prompt_lines(entries: Sequence[Entry], how: str) -> List[str]:
    """A line of JSON for each entry, with its prompt and all of its texts.

    Args:
        how: one of `LINEARISATIONS`.

    >>> prompt_lines([Entry("1", "Food", None, (("Bacon", "partOf", "BLT"),), ("It has bacon.",))], "lora")
    ['{"prompt": "Bacon : partOf : BLT", "texts": ["It has bacon."]}']
    """
    rows = ({"prompt": linearise(entry, how), "texts": [one_line(ref) for ref in entry.refs]} for entry in entries)
    return [json.dumps(row, ensure_ascii=False) for row in rows]


def checksums(parts: Mapping[str, Sequence[Entry]]) -> Dict[str, str]:
    """Of all that training and scoring use of the entries: of no ids, and of no forms of files. Categories, and which are seen,
    are used of the test set alone: its scores are told by them."""
    found = {}
    for split, entries in parts.items():
        content: List[list] = [[entry.triples, entry.refs, entry.good] for entry in entries]
        if split == "test":
            content = [[*one, entry.category, entry.seen] for one, entry in zip(content, entries)]
        found[split] = hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
    return found


def of_the_corpus(words: str, new: Path, chosen: Mapping[str, Sequence[Entry]]) -> str:
    """What the preparation of prompts says of its files and flags, in this command's words: entries of the corpus, and settings.

    >>> entry = Entry("Id7", "Food", None, (("Bacon", "partOf", "BLT"),), ("It has bacon.",))
    >>> of_the_corpus("new/text/dev.jsonl:1: too long; --too-long skip or cut", Path("new"), {"dev": [entry]})
    "--data: dev, entry 'Id7': too long; too_long: skip or cut (in the settings: --configs)"
    """

    def where(match) -> str:
        split, line = match[1], match[2]
        return f"--data: {split}" + (f", entry {chosen[split][int(line) - 1].id!r}" if line else "")

    named = re.sub(rf"{re.escape(str(new / 'text'))}/(\w+)\.jsonl(?::(\d+))?", where, words)
    found = named.replace("--too-long ", "too_long: ").replace("--room", "room").replace("--max-positions", "max_positions")
    return found if found == named else f"{found} (in the settings: --configs)"


def prepare_prompts(
    parts: Mapping[str, Sequence[Entry]], how: Prompts, backbone: Path, out: Path, tell: Callable[[str], None] = print
) -> Data:
    """Make the data in *out*, unless they are there.

    Raises:
        ValueError: an entry does not fit the model, by file and line, or *out* holds something else.
    """
    from sharp_plugins.prompted import prepared  # here and below: these import fairseq
    from sharp_plugins.prompted.prepare import Inputs, Limits, prepare
    from sharp_plugins.text.decoder_directory import DICTIONARY, TOKENIZER, read_decoder_directory

    found = read_decoder_directory(backbone)
    vocabulary = {name: sha256(backbone / name) for name in (DICTIONARY, TOKENIZER)}
    source = {"version": [VERSION, prepared.VERSION], "entries": checksums(parts), "prompts": how.in_full()}
    source.update(backbone=vocabulary, positions=found.max_positions)

    def make(new: Path) -> None:
        files, chosen = {}, choose_texts(dict(parts), how.texts)
        for split, entries in chosen.items():
            path = new / "text" / f"{split}.jsonl"
            write_text(path, "".join(line + "\n" for line in prompt_lines(entries, how.linearise)))
            files["valid" if split == "dev" else split] = [path]
        write_text(new / "inputs" / "test.jsonl", "".join(line_of(entry) + "\n" for entry in parts["test"]))
        limits = Limits(how.max_positions or found.max_positions, how.room, how.too_long)

        def say(line: str) -> None:
            tell(line.replace(str(new), str(out)))

        try:
            prepare(Inputs(files), found, find_format(how.format), new / "bin", limits, say)
        except ValueError as error:
            raise ValueError(of_the_corpus(str(error), new, chosen)) from error
        skipped = len(parts["test"]) - prepared.read_prepared(new / "bin").facts["test"]["samples"]
        if skipped:
            raise ValueError(
                f"--data: test: {skipped} prompts are too long, and all test inputs are scored; too_long: skip is for "
                "training texts alone, so choose cut (in the settings: --configs)"
            )

    if not make_once(out, source, OWN, make):
        tell(f"{out}: all data were there")
    place = out.resolve() / "bin"
    facts = prepared.read_prepared(place).facts
    longest = max(own["longest"] for split, own in facts.items() if split != "test")
    return Data(place, out.resolve() / "inputs", facts["train"]["samples"], longest, *prepared.prompt_lengths(place, "test"))
