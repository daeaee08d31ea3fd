"""One figure of all studies: the gain over Adam with its interval, by setting and method.

    python examples/studies/overview.py

It reads the runs' numbers that the studies wrote (few.csv, similarity-3-layers.csv and so on), as far as they are there, and
writes overview.png. A setting with LoRA has LoRA with Adam as its baseline.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import survives
from gains import Gain, draw, gain
from plan import LONGER_EPOCHS, STUDIES
from raw import Row, read_csv

from sharp_plugins.runs.statistics import compare

BASELINE = "Adam"
# A method without "lora-" or "mirror-", which its setting says -> its name in the figure.
METHODS = {"base": BASELINE, "lora": BASELINE, "mirror": BASELINE, "sam": "SAM", "dsam": "δ-SAM", "obar": "oBAR", "nbar": "nBAR"}
METHODS.update({"r3f": "R3F", "rdrop": "R-Drop", "dsam-r3f": "δ-SAM + R3F", "base-longer": f"Adam, {LONGER_EPOCHS} epochs"})
LAYERS = 6  # of MiniLM; a setting with fewer says so
PART = "-3-layers"  # after a study's name, where these are all it has
# The same, where each method has a learning rate of its own (report.py --from), or study.py was given it -> as a setting says it.
RATES = {"-own-rates": ", own rates", "-rate-1e-4": ", rate 1e-4"}
SURVIVORS = {"trained": "", "8 bits": ", rounded to 8 bits", "4 bits": ", rounded to 4 bits"}  # columns, as a setting says them
# A row of a file -> settings, each with the run's score there.
Reader = Callable[[Row], Iterator[Tuple[str, str]]]


class Run(NamedTuple):
    """A fresh run and its score in a setting."""

    setting: str
    method: str
    seed: int
    score: float


def called(method: str) -> str:
    """
    >>> called("mirror-dsam"), called("lora")
    ('δ-SAM', 'Adam')
    """
    return METHODS[method.removeprefix("lora-").removeprefix("mirror-")]


def of_study(row: Row, part: str = "") -> Iterator[Tuple[str, str]]:
    """Of report.py: a row is a run."""
    noise = f", {100 * float(row['noise']):g} % wrong labels" if float(row["noise"]) else ""
    noise += ", also where the epoch is chosen" if int(row["noisy_selection"]) else ""
    layers = f", {row['layers']} layers" if int(row["layers"]) != LAYERS else ""
    lora = ", LoRA" if row["method"].startswith("lora") else ""
    yield f"{row['task']}, {row['rows']} rows{noise}{layers}{lora}{part}", row["value"]


def of_sets(row: Row) -> Iterator[Tuple[str, str]]:
    """Of elsewhere.py: a row is a run on a set."""
    yield f"{STUDIES['elsewhere'].cells[0].task}, tested on {row['set']}", row["accuracy"]


def of_survivors(row: Row) -> Iterator[Tuple[str, str]]:
    """Of survives.py: a row is a run, with all that was measured of it."""
    yield from ((f"SAM in the last quarter{SURVIVORS.get(column, f', {column}')}", row[column]) for column in survives.COLUMNS)


def of_similarity(name: str) -> Reader:
    """Of similarity.py: a row is a run; "base" trained nothing."""

    def reader(row: Row) -> Iterator[Tuple[str, str]]:
        if row["method"] != "base":
            yield f"sentence {name.replace(PART, ', 3 layers')}", row["average"]

    return reader


READERS: Dict[str, Reader] = {
    **dict.fromkeys((study + part for study in STUDIES for part in ("", PART)), of_study),
    **{study + name: partial(of_study, part=words) for name, words in RATES.items() for study in STUDIES},
    "elsewhere-sets": of_sets,
    "survives": of_survivors,
    **{name: of_similarity(name) for name in ("similarity", "similarity" + PART)},
}


def read(directory: Path) -> Iterator[Run]:
    """The runs of the studies' files in a directory."""
    for name, reader in READERS.items():
        for row in read_csv(directory / f"{name}.csv"):
            yield from (Run(where, called(row["method"]), int(row["seed"]), float(score)) for where, score in reader(row))


def gains_of(runs: Sequence[Run]) -> List[Gain]:
    """Of each setting and method, paired by seed with the setting's baseline."""
    scores: Dict[Tuple[str, str], Dict[int, float]] = {}
    for run in runs:
        scores.setdefault((run.setting, run.method), {})[run.seed] = run.score
    others = [(setting, method, own) for (setting, method), own in scores.items() if method != BASELINE]
    gains = [Gain(setting, method, compare(own, scores.get((setting, BASELINE), {}))) for setting, method, own in others]
    return [one for one in gains if one.comparison is not None]


def main(argv: Sequence[str] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--to", type=Path, default=HERE, metavar="DIR", help="read its files, and draw into it (default: beside this script)"
    )
    args = parser.parse_args(argv)
    gains = gains_of(list(read(args.to)))
    if not gains:
        print(
            f"error: --to {args.to}: no study's numbers with a baseline and another method, such as few.csv; report.py writes them",
            file=sys.stderr,
        )
        return 1
    draw(gains, BASELINE, "When do the methods help?", args.to / "overview.png")
    for one in gains:
        print(f"{one.where}, {one.method}: {gain(one.comparison)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
