"""The validations of a run, from the log that its training processes wrote one after the other."""

import re
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

from sharp_plugins.runs.processes import parse
from sharp_plugins.runs.record import Validation

# What fairseq says at the start of each process: the updates that it goes on from, if it goes on.
START = re.compile(r"(?:Loaded checkpoint .* @ (\d+) updates\)|No existing checkpoint found .*)\n?")
STARTS = "starts after"
# What fairseq adds to a validation's metrics: where training is, and how fast.
NOT_METRICS = ("num_updates", "wall", "epoch", "wps", "ups", "wpb", "bsz", "gb_free")


def read_ends(path: Path, begin: str) -> Dict[str, Tuple[float, float]]:
    """The first and the last value of each metric of the updates whose name begins with *begin*; none where there is no log.

    Example::

        read_ends(Path("train.log"), "balancedness_")["balancedness_decoder.layers.0.self_attn.q_proj"]  # (2.66, 1.97)
    """
    found: Dict[str, Tuple[float, float]] = {}
    for entry in _entries(path):
        for name in (name for name in entry if name.startswith(begin)):
            value = _number(entry[name])
            if value is not None:
                found[name] = (found.get(name, (value,))[0], value)
    return found


def read_trained_weights(path: Path) -> Optional[int]:
    """How many weights train, as fairseq says when it begins; None where it does not."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    told = re.findall(r"num\. (?:shared|expert) model params: .*\(num\. trained: ([\d,]+)\)", text)
    # Shared weights are told first, and those of experts after them; a run that was resumed tells both again.
    return sum(int(number.replace(",", "")) for number in told[-2:]) if told else None


def read_validations(path: Path) -> List[Validation]:
    """The validations that are told in a log, in the order of their updates; none where there is no log.

    A run that was interrupted repeats the updates after its last checkpoint: of two validations at the same update the later one
    counts. Of several validation sets fairseq's first one, ``valid``, is told.
    """
    entries = _entries(path)
    found: Dict[int, Validation] = {}
    clock = _Clock()
    for number, entry in enumerate(entries):
        clock.look(entry)
        update = _number(entry.get("valid_num_updates"))
        if update is not None:
            # fairseq tells the time of an epoch's end right after its validation.
            following = entries[number + 1] if number + 1 < len(entries) else {}
            if _number(following.get("train_num_updates")) == update:
                clock.look(following)
            found[int(update)] = Validation(int(update), clock.minutes, _metrics(entry))
    return [found[update] for update in sorted(found)]


def _entries(path: Path) -> List[Dict]:
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", errors="replace") as file:
        return [entry for entry in map(_entry, file) if entry is not None]


def _entry(line: str) -> Optional[Dict]:
    """An entry of the log, or that a process starts after so many updates."""
    start = START.fullmatch(line)
    return {STARTS: int(start[1] or 0)} if start else parse(line)


def _metrics(entry: Dict) -> Dict[str, float]:
    values = ((name[len("valid_") :], _number(value)) for name, value in entry.items() if name.startswith("valid_"))
    return {name: value for name, value in values if value is not None and name not in NOT_METRICS and not name.startswith("best_")}


class _Clock:
    """fairseq's clock begins at 0 again in each process; this one goes on from the update that the process resumed at."""

    def __init__(self):
        self.before, self.wall, self.points = 0.0, 0.0, [(0, 0.0)]

    @property
    def minutes(self) -> float:
        return (self.before + self.wall) / 60

    def look(self, entry: Dict) -> None:
        if STARTS in entry:
            self.points = [(at, time) for at, time in self.points if at <= entry[STARTS]]
            self.before, self.wall = max(time for _, time in self.points), 0.0
        for update, wall in _times(entry):
            self.wall = wall
            self.points.append((int(update), self.before + wall))


def _times(entry: Dict) -> Iterator[Tuple[float, float]]:
    for before in ("", "train_"):
        update, wall = _number(entry.get(f"{before}num_updates")), _number(entry.get(f"{before}wall"))
        # In the entry of a whole epoch, "train_wall" is the clock; in the others it is the time without validations.
        if update is not None and wall is not None:
            yield update, wall


def _number(value) -> Optional[float]:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number == number and abs(number) != float("inf") else None
