"""A directory with a task's data, and a stamp in it that says what they were made of: made once, and whole or not there."""

from pathlib import Path
from typing import Callable, Collection, Dict, List, Mapping, NamedTuple

from sharp_plugins.files.text import read_json
from sharp_plugins.runs import data
from sharp_plugins.runs.data import STAMP

# A task -> fairseq's names of its splits.
Splits = Mapping[str, Collection[str]]


class Prepared(NamedTuple):
    """A directory with a task's data.

    Attributes:
        source: all that they were made of, such as checksums, and with which settings; with the "task".
        rows: of each split.
        files: names of the files that they came from, by split.
        stand_ins: the splits whose file only stands for the published one.
        shortened: how many rows of each split were too long.
        warnings: what a user should know of the files.
        done_before: whether it had all been there already.
    """

    directory: Path
    source: Dict
    rows: Dict[str, int]
    files: Dict[str, str]
    stand_ins: List[str]
    shortened: Dict[str, int]
    warnings: List[str]
    done_before: bool = False

    @property
    def task(self) -> str:
        return self.source["task"]

    @property
    def in_words(self) -> str:
        """What was done, for the user."""
        lines = [f"warning: {warning}" for warning in self.warnings]
        for split, rows in self.rows.items():
            notes = [f"shortened {self.shortened[split]}"] if self.shortened[split] else []
            notes += ["not the published file"] if split in self.stand_ins else []
            lines.append(f"{split}: {rows} rows of {self.files[split]}" + "".join(f", {note}" for note in notes))
        done = "nothing to do, all was there" if self.done_before else "written"
        return "\n".join([*lines, f"{self.directory}: {done}"])


FACTS = tuple(name for name in Prepared._fields if name not in ("directory", "source", "done_before"))


def make_once(
    out: Path, source: Dict, write: Callable[[Path], Dict], own: Collection[str], splits: Splits, replaces: bool = True
) -> Prepared:
    """Write data into the directory *out*, unless it holds those of the same source. It appears when all of it is there.

    Two calls may do so at the same time.

    Args:
        source: of `Prepared`, in JSON's types.
        write: writes the data into an empty directory that it is given, and returns the `FACTS` of `Prepared`.
        own: names of what may be in the directory beside the stamp; with anything else in it, it is not replaced.
        replaces: whether data of another source are replaced.

    Raises:
        ValueError: *out* holds something else, or data that are not replaced.

    >>> import tempfile
    >>> from sharp_plugins.files.writing import write_text
    >>> def write(directory):
    ...     write_text(directory / "train.txt", "the cat\\n")
    ...     of = {"rows": {"train": 1}, "files": {"train": "train.tsv"}, "shortened": {"train": 0}}
    ...     return {**of, "stand_ins": [], "warnings": []}
    >>> how = {"task": "RTE"}, write, ["train.txt"], {"RTE": ["train", "valid"]}
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     [make_once(Path(directory, "data"), *how).done_before for _ in range(2)]
    [False, True]
    """
    read_stamp(out, splits)  # which refuses what is something else
    made = data.make_once(out, source, own, write, lambda stamp: _is_stamp(stamp, splits), replaces)
    return Prepared(out, **read_stamp(out, splits), done_before=not made)


def read_prepared(directory, splits: Splits, version: int, command: str) -> Prepared:
    """What `make_once` returned when it wrote *directory*.

    Args:
        splits: of all tasks.
        version: what the source's "format" must be.
        command: what makes such a directory, for the message.

    Raises:
        FileNotFoundError: the directory is not there, or not made so.
        ValueError: it is of another version.
    """
    stamp = read_stamp(Path(directory), splits)
    if not stamp:
        raise FileNotFoundError(f"{directory}: not there, or not written by `{command}`")
    if stamp["source"].get("format") != version:
        raise ValueError(f"{directory}: written by another version; make it again with `{command}`")
    return Prepared(Path(directory), **stamp)


def read_stamp(directory: Path, splits: Splits) -> Dict:
    """Empty where there is none, or another's.

    Raises:
        ValueError: the directory holds something else.
    """
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return {}
    try:
        stamp = read_json(directory / STAMP)
    except (OSError, ValueError) as error:
        raise ValueError(f"{directory}: holds something else than a task's data ({error}); choose another place") from error
    return stamp if _is_stamp(stamp, splits) else {}


def _is_stamp(stamp: Dict, splits: Splits) -> bool:
    """Whether it is what `make_once` writes. Names of splits become names of files: only the task's own are taken."""
    try:
        own = set(splits[stamp["source"]["task"]])
        named = [stamp[name] for name in ("rows", "files", "shortened", "stand_ins")]
        kinds = {"rows": int, "files": str, "shortened": int}
        are_right = [isinstance(stamp[name], dict) and _all(kind, stamp[name].values()) for name, kind in kinds.items()]
        are_right += [isinstance(stamp[name], list) and _all(str, stamp[name]) for name in ("stand_ins", "warnings")]
        return stamp.keys() == {"source", *FACTS} and all(are_right) and all(own >= set(part) for part in named)
    except (KeyError, TypeError):
        return False


def _all(kind: type, values) -> bool:
    return all(isinstance(value, kind) for value in values)
