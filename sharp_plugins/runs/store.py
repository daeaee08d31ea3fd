"""A run's directory: what is written there, and how it is read back.

RUN/record.json       which run it is (`Record`); the directory's path is only a print of it
RUN/run.yaml          the whole config; also by hand: cd RUN; fairseq-hydra-train --config-dir . --config-name run
RUN/made_of.json      checksums of what it is made of, such as the data
RUN/threads.json      how many CPU threads it has, and how they wait, see `sharp_plugins.runs.threads`
RUN/stages.json       which stages are done
RUN/STAGE.log         what each stage printed
RUN/memory.json       the most memory that training held
RUN/checkpoint_*.pt   until the run is finished, unless they are to be kept
RUN/result.json       when it is finished
"""

import json
import os
import textwrap
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import quote

from omegaconf import OmegaConf

from sharp_plugins.files.text import read_json
from sharp_plugins.files.writing import write_text
from sharp_plugins.files.yaml import read_yaml
from sharp_plugins.runs.configs import differences, flat
from sharp_plugins.runs.methods import Method
from sharp_plugins.runs.record import Record, Result, Validation

RECORD, CONFIG, MADE_OF, RESULT = "record.json", "run.yaml", "made_of.json", "result.json"
THREADS, MEMORY = "threads.json", "memory.json"


class Run(NamedTuple):
    """A run that is to be done, or was.

    Attributes:
        record: which run it is.
        method: the record's.
        directory: where all of it is.
        config: for ``fairseq-hydra-train``.
        made_of: checksums and the like by part, such as {"data": ...}: a run of other ones is another run.
        needs: the run that must be finished before this one begins; None if there is none.
    """

    record: Record
    method: Method
    directory: Path
    config: Dict
    made_of: Dict
    needs: Optional["Run"] = None

    @property
    def name(self) -> str:
        return name_of(self.record)

    @property
    def is_finished(self) -> bool:
        return (self.directory / RESULT).is_file()


def key(record: Record) -> Tuple:
    """What two records of the same run have in common, for a dict."""
    return (*record[:4], tuple(sorted(record.axes.items())))


def name_of(record: Record) -> str:
    """For people.

    >>> name_of(Record("glue", "RTE", "sam", 1, {"optimizer.sam_rho": 0.01}))
    'RTE sam optimizer.sam_rho=0.01 seed 1'
    """
    return " ".join([record.task, record.method, *(f"{k}={v}" for k, v in record.axes.items()), f"seed {record.seed}"])


def directory_of(out: Path, record: Record) -> Path:
    """Where a run is put.

    >>> str(directory_of(Path("out"), Record("glue", "RTE", "sam", 1, {"examples": 16})))
    'out/RTE/sam/examples=16/seed1'
    """
    axes = [quote(f"{name}={value}", safe="=[], +-") for name, value in record.axes.items()]
    return Path(out, record.task, record.method, *axes, f"seed{record.seed}")


def begin(run: Run) -> None:
    """Write what the run is, before anything is done."""
    write_record(run)
    write_text(run.directory / MADE_OF, json.dumps(run.made_of, indent=2) + "\n")
    write_text(run.directory / CONFIG, "# @package _group_\n" + OmegaConf.to_yaml(OmegaConf.create(run.config)))


def write_record(run: Run) -> None:
    """Write which run it is. A directory with a record alone is one of a run that is planned."""
    write_text(run.directory / RECORD, json.dumps(run.record._asdict(), indent=2) + "\n")


def stored(out: Path, benchmark: str) -> List[Tuple[Path, Record]]:
    """The runs below *out*, finished or not.

    Raises:
        ValueError: a record cannot be read or is another benchmark's, two directories hold the same run, or one is in the place
            of a run and has no record.
    """
    found: Dict[Tuple, Tuple[Path, Record]] = {}
    for path, is_older in _below(out):
        if is_older:
            raise ValueError(f"{path.parent}: a run without a {RECORD}, as older versions left it; move it away")
        record = read_record(path)
        if record.benchmark != benchmark:
            raise ValueError(f"{path}: a run of {record.benchmark!r}, not of {benchmark!r}; choose another --out")
        other = found.setdefault(key(record), (path.parent, record))[0]
        if other != path.parent:
            raise ValueError(f"{other} and {path.parent} both hold {name_of(record)}; delete one of them")
    return list(found.values())


def _below(out: Path) -> List[Tuple[Path, bool]]:
    """The runs' records below *out*, and last the configs without one, with whether it is such a config. What begins with a dot
    holds what a process has not finished writing, or was killed at; a directory that goes meanwhile has none. A task may have been
    moved to another disk, and a link be in its place; a link to what is below *out* leads to no other runs."""
    found, root, linked = [], Path(out).resolve(), set()

    def leads_on(path: Path) -> bool:
        if not path.is_symlink():
            return True
        real = path.resolve()
        is_new = real not in linked and not real.is_relative_to(root)
        linked.add(real)
        return is_new

    for place, directories, files in os.walk(out, followlinks=True):
        directories[:] = [one for one in directories if not one.startswith(".") and leads_on(Path(place, one))]
        if RECORD in files or CONFIG in files:
            found.append((Path(place, RECORD if RECORD in files else CONFIG), RECORD not in files))
    return sorted(found, key=lambda one: (one[1], one[0]))


def read_record(path: Path) -> Record:
    """A record.

    Raises:
        ValueError: the file holds none.
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; delete {path.parent} to run it again") from error
    try:
        return _record(content)
    except (TypeError, KeyError, AttributeError):
        raise ValueError(f"{path}: not a run's record; delete {path.parent} to run it again") from None


def _record(content: Dict) -> Record:
    record = Record(**content)
    names = all(isinstance(name, str) and name for name in (*record[:3], *record.axes))
    values = all(isinstance(value, (str, int, float)) for value in record.axes.values())
    if not (names and values and type(record.seed) is int):
        raise TypeError
    return record


def check(run: Run) -> None:
    """Raise ValueError where *run*'s directory holds a run of something else, finished or not."""
    check_made_of(run.directory, run.made_of)
    path = run.directory / CONFIG
    if path.is_file():
        try:
            before = read_yaml(path)
        except ValueError as error:
            raise ValueError(f"{error}; delete {run.directory} to run it again") from error
        _refuse(run.directory, [_two_values(name, before, run.config) for name in differences(before, run.config)])


def _two_values(name: str, before: Dict, now: Dict) -> str:
    """A setting with its value in two configs.

    >>> _two_values("optimization.lr", {"optimization": {"lr": [0.1]}}, {})
    'optimization.lr (there [0.1], now not set)'
    """
    there, here = (textwrap.shorten(str(flat(one).get(name, "not set")), 60) for one in (before, now))
    return f"{name} (there {there}, now {here})"


def check_made_of(directory: Path, now: Dict) -> None:
    """Raise ValueError where the run in *directory* was made of something else than *now*, in a part that *now* names."""
    path = directory / MADE_OF
    if path.is_file():
        try:
            before = read_json(path)
        except ValueError as error:
            raise ValueError(f"{error}; delete {directory} to run it again") from error
        now = json.loads(json.dumps(now))  # tuples as JSON has them
        _refuse(directory, [f"the {part}" for part in now if before.get(part) != now[part]])


def _refuse(directory: Path, different: Sequence[str]) -> None:
    if different:
        raise ValueError(
            f"{directory}: holds a run that differs in {', '.join(different)}, and would be in one table with these; "
            "use the same settings, choose another --out, or delete it"
        )


def save_result(directory: Path, result: Result, checkpoints: str) -> None:
    """Write a finished run's result.

    Args:
        checkpoints: "kept", or "deleted", which may be interrupted.
    """
    validations = [validation._asdict() for validation in result.validations]
    content = {**result._asdict(), "record": result.record._asdict(), "validations": validations, "checkpoints": checkpoints}
    write_text(directory / RESULT, json.dumps(content, indent=2) + "\n")


def read_result(path: Path) -> Result:
    """A finished run's result.

    Raises:
        ValueError: the file holds none.
    """
    again = "delete it to run it again"
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; {again}") from error
    content.pop("checkpoints", None)
    try:
        result = Result(**content)
        result = result._replace(record=_record(result.record), validations=[Validation(**one) for one in result.validations])
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not a run's result: {error}; {again}") from error
    if not has_numbers(result):
        raise ValueError(f"{path}: not a run's result: its metrics are no numbers by split and name; {again}")
    return result


def has_numbers(result: Result) -> bool:
    """Whether what is to be numbers, by split and name where it is metrics, is so; a result of any origin is looked at."""
    splits = [*result.metrics.values()] if isinstance(result.metrics, dict) else [None]
    splits += [validation.metrics for validation in result.validations]
    numbers = [value for split in splits for value in (split.values() if isinstance(split, dict) else [None])]
    numbers += [result.minutes, result.updates, *(n for one in result.validations for n in (one.update, one.minutes))]
    numbers += [number for number in (result.best_update, result.memory) if number is not None]
    return all(isinstance(value, (int, float)) for value in numbers) and isinstance(result.notes, dict)


def load_results(out: Path, benchmark: str, tasks: Sequence[str] = ()) -> List[Result]:
    """All finished runs below *out*, tasks in the order of *tasks* and seeds in theirs.

    Raises:
        ValueError: a file cannot be read, or is not its run's.
    """
    results = []
    for directory, record in stored(out, benchmark):
        path = directory / RESULT
        if path.is_file():
            results.append(read_result(path))
            if key(results[-1].record) != key(record):
                raise ValueError(f"{path}: not its run's: {name_of(results[-1].record)}; delete it to run it again")
    order = {task: number for number, task in enumerate(tasks)}

    def place(result: Result):
        record = result.record
        axes = [(name, str(type(value)), value) for name, value in sorted(record.axes.items())]
        return order.get(record.task, len(order)), record.task, record.method, axes, record.seed

    return sorted(results, key=place)
