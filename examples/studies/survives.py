"""What survives of a fine-tuning? A task is learnt with Adam, or with SAM in the last quarter. Then its accuracy is measured again:
after another task was learnt with Adam, and after the weights were rounded to 8 and 4 bits.

    python examples/studies/survives.py --backbone backbones/minilm --data GLUE --out runs/studies/survives --cpu --jobs 2

    1. the learning rate of both methods and then SAM's ρ are searched with the pilot seeds of plan.py, as in all studies; and the
       second task's learning rate, from the published encoder
    2. fresh seeds train the first task with both methods, on the same rows
    3. from each of their encoders, of the last epoch, the second task is trained, with Adam and the same seed; --jobs of these runs
       side by side
    4. the first task is measured on its development set, before and after 3; after it with its own classifier on the encoder
       that 3 left

Called again it goes on where it stopped. It writes survives.csv, survives-search.csv, survives.md and survives.png into --to, after
each run. Each run of the first task keeps a checkpoint of MiniLM (the weights and Adam's state, 270 MB).
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import searches
import study
import torch
from calls import Unfinished, guarded, run_programs
from gains import Gain, about_p, draw, gain, ps, rows_of
from plan import BATCH, EPOCHS, FULL_RATES, PILOT_SEEDS, RHOS, Cell
from raw import KEY, digits, losing, refuse_lost, write_csv
from report import pilot_of, seen

from sharp_plugins.files.tensors import read_torch
from sharp_plugins.files.text import read_json
from sharp_plugins.files.writing import filling, sha256, write_text
from sharp_plugins.files.yaml import read_yaml
from sharp_plugins.glue.tasks import TASKS
from sharp_plugins.runs.checkpoints import BEST, LAST
from sharp_plugins.runs.statistics import Comparison, compare, correct, summarize
from sharp_plugins.runs.store import directory_of, load_results
from sharp_plugins.runs.tables import mean_and_std
from sharp_plugins.runs.threads import THREADS, usable_cores

HEAD = "classification_heads."
KEEP = "--keep-checkpoints"
LAST_QUARTER = "optimizer.sam_start=0.75"
# The weights of the last epoch, for both methods and in the search: SAM's first epochs are Adam's, and must not be chosen.
LAST_EPOCH = f"dataset.validate_interval={EPOCHS}"
BITS = (8, 4)
METHODS = ("base", "sam")  # the baseline first
COLUMNS = ("trained", "8 bits", "4 bits", "after the second task")
SECOND = "the second task"  # its own score
LOST = "lost: "  # before a column: what is missing in it of what was trained
SCORES = "scores.json"
FILES = ("dict.txt", "tokenizer.json", "special_tokens_map.json")  # of a backbone, beside model.pt


class Value(NamedTuple):
    """What was measured of one run, in percent, by `COLUMNS` and `SECOND`."""

    method: str
    seed: int
    scores: Dict[str, float]


# ---------------------------------------------------------------------- weights


def rounded_state(state: Dict[str, Any], bits: int) -> Dict[str, Any]:
    """The checkpoint with its matrices in integers of *bits* bits."""
    from sharp_plugins.core.sharpness import rounded

    return {**state, "model": {name: rounded(weight, bits) for name, weight in state["model"].items()}}


def with_head_of(state: Dict[str, Any], other: Dict[str, Any]) -> Dict[str, Any]:
    """*state*'s encoder under *other*'s classifier."""
    model = {name: weight for name, weight in state["model"].items() if HEAD not in name}
    return {**other, "model": {**model, **{name: weight for name, weight in other["model"].items() if HEAD in name}}}


def write_backbone(directory: Path, published: Path, trained: Dict[str, Any]) -> None:
    """The converted encoder in *published* with *trained*'s weights, without its classifier."""
    with filling(directory, "model.pt") as unfinished:
        for name in FILES:
            if (published / name).is_file():
                shutil.copy(published / name, unfinished / name)
        state = read_torch(published / "model.pt")
        # The language-model head and the pooler are no part of a classifier: they stay as they are.
        left = [name for name in state["model"] if "sentence_encoder" in name and name not in trained["model"]]
        if left:
            sys.exit(f"error: the trained checkpoint has no {left[0]}")
        model = {name: trained["model"].get(name, weight) for name, weight in state["model"].items()}
        torch.save({**state, "model": model}, unfinished / "model.pt")


def measure(state: Dict[str, Any], data: Path, work: Path, metric: str, device: Optional[str]) -> float:
    """In percent, on the development set."""
    from sharp_plugins.glue.binarize import read_prepared
    from sharp_plugins.glue.evaluate import Checkpoint

    path = work / "measured.pt"
    try:
        torch.save({key: part for key, part in state.items() if key != "last_optimizer_state"}, path)
        return Checkpoint(path, read_prepared(data), device).score()["dev"][metric]
    finally:
        path.unlink(missing_ok=True)


# ---------------------------------------------------------------------- runs


def place_of(out: Path) -> Dict[int, Path]:
    """The directories of a call's runs, by seed."""
    return {result.record.seed: directory_of(out, result.record) for result in load_results(out, "glue")}


def train(args, cell: Cell, out: Path, method: str, seeds: Sequence[int], settings: List[str]) -> Dict[int, Path]:
    """Fresh runs; returns their directories by seed."""
    if not study.call(args, cell, out, method, seeds, settings, [KEEP]):
        raise Unfinished(f"{cell.name}, {method}: not all fresh runs are finished; run the same command again")
    return kept(out)


def kept(out: Path) -> Dict[int, Path]:
    """The directories of a call's runs, by seed. Of each the last epoch's checkpoint is the best one, too: one is kept."""
    found = place_of(out)
    for directory in found.values():
        (directory / LAST).unlink(missing_ok=True)
    return found


def go_on(args, second: Cell, homes: Mapping[int, Path], trained: Mapping[int, Path], settings: List[str]) -> None:
    """Train the second task from encoders of runs, side by side. Each has a backbone, and so a call of the engine, of its own."""
    lines = []
    for seed, home in homes.items():
        backbone = home / "backbone"
        if not (backbone / "model.pt").is_file():
            write_backbone(backbone, Path(args.backbone), read_torch(trained[seed] / BEST))
        own = argparse.Namespace(**{**vars(args), "backbone": str(backbone), "jobs": "1"})
        lines.append(study.engine_line(own, "glue", home / "runs", METHODS[0], [seed], settings, [*second.flags(METHODS[0]), KEEP]))
    share = max(1, len(usable_cores()) // max(1, len(lines)))
    codes = run_programs(lines, {THREADS: os.environ.get(THREADS, str(share))})
    finished = [study.finished(code, line) for code, line in zip(codes, lines)]  # of each that failed is told
    if not all(finished):
        raise Unfinished(f"{second.name}: not all fresh runs are finished; run the same command again")


def check_origin(home: Path, trained: Path, first: Cell) -> None:
    """
    Raises:
        ValueError: what is there is of another training of the first task.
    """
    origin = home / "trained.sha256"
    if (trained / BEST).is_file():  # it may not have been copied to this machine
        checksum = sha256(trained / BEST)
        if origin.is_file() and origin.read_text(encoding="utf-8") != checksum:
            raise ValueError(f"{home}: is of another training of {first.name}; delete it, and it is made again")
        write_text(origin, checksum)


def look(args, home: Path, first: Cell, method: str, seed: int, trained: Path) -> Value:
    """All that is measured of a run, of which the second task is trained; what was measured before is read."""
    found = home / SCORES
    if not found.is_file():
        [after] = kept(home / "runs").values()
        metric, data = TASKS[first.task].selected, Path(read_yaml(trained / "run.yaml")["task"]["data"])
        state = read_torch(trained / BEST)
        states = [state, *(rounded_state(state, bits) for bits in BITS), with_head_of(read_torch(after / BEST), state)]
        scores = {name: measure(one, data, home, metric, "cpu" if args.cpu else None) for name, one in zip(COLUMNS, states)}
        [result] = load_results(home / "runs", "glue")
        write_text(found, json.dumps({**scores, SECOND: study.selected(result, "dev")}, indent=1) + "\n")
        (after / BEST).unlink(missing_ok=True)
        shutil.rmtree(home / "backbone")
    value = Value(method, seed, read_json(found))
    print(f"{method}, seed {seed}: " + ", ".join(f"{name} {score:.2f}" for name, score in value.scores.items()), flush=True)
    return value


# ---------------------------------------------------------------------- the table


def of(values: Sequence[Value], method: str, column: str) -> Dict[int, float]:
    """By seed: a column, or "lost: COLUMN", what is missing in it."""
    name = column.removeprefix(LOST)
    own = {one.seed: one.scores for one in values if one.method == method}
    lost = column.startswith(LOST)
    return {seed: scores[COLUMNS[0]] - scores[name] if lost else scores[name] for seed, scores in own.items()}


def compared(values: Sequence[Value]) -> Dict[str, Comparison]:
    """The second method with the first by column, also of what was lost; corrected for all (Holm)."""
    columns = [*COLUMNS, *(LOST + name for name in COLUMNS[1:]), SECOND]
    return dict(zip(columns, correct([compare(of(values, METHODS[1], name), of(values, METHODS[0], name)) for name in columns])))


def table(values: Sequence[Value], found: Dict[str, Comparison]) -> str:
    """Means by method, and the paired differences to the first one, in percentage points."""
    rows = [["", *METHODS, f"{METHODS[1]} - {METHODS[0]} (95 % interval)", "p", "p, corrected"]]
    for column, comparison in found.items():
        means = [mean_and_std(summarize(list(of(values, method, column).values()))) for method in METHODS]
        rows.append([column, *means, gain(comparison), *ps(comparison)])
    return rows_of(rows)


def report(
    values: Sequence[Value], args, first: Cell, second: Cell, chosen: Sequence[str], pilots: Sequence[searches.Pilot]
) -> str:
    """Write what there is; returns the tables, or nothing where only the first method has runs."""
    args.to.mkdir(parents=True, exist_ok=True)
    columns = [*COLUMNS, SECOND]
    rows = [[one.method, one.seed, *(digits(one.scores[name]) for name in columns)] for one in values]
    write_csv(args.to / f"{args.name}.csv", ["method", "seed", *columns], rows)
    write_csv(args.to / f"{args.name}-search.csv", searches.COLUMNS, searches.csv_rows(pilots))
    seeds = sum(one.method == METHODS[1] for one in values)
    if not seeds:
        return ""
    note = (
        f"{first.task} is learnt from {first.rows} rows, then {second.task} from {second.rows}. `sam`: SAM in the last quarter. "
        f"Seeds {' and '.join(map(str, PILOT_SEEDS))} chose {', '.join(chosen)}. Values are of {first.task}'s development set, in "
        f"percent; `lost` is what is missing to `trained`, and `{SECOND}` is {second.task}'s own score. {about_p(seeds)}; "
        "Holm's correction is for all rows."
    )
    found = compared(values)
    text = f"{note}\n\n{table(values, found)}\n\n{seen(pilots)}"
    write_text(args.to / f"{args.name}.md", f"## What survives\n\n{text}\n")
    gains = [Gain(column, METHODS[1], comparison) for column, comparison in found.items() if column in COLUMNS]
    draw(gains, METHODS[0], "What survives", args.to / f"{args.name}.png")
    return text


def main(argv: Sequence[str] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--backbone", required=True, metavar="DIR", help="what `python -m sharp_plugins.convert` wrote of MiniLM")
    parser.add_argument("--data", required=True, metavar="DIR", help="directory with GLUE's files")
    parser.add_argument("--out", type=Path, default=Path("runs/studies/survives"), metavar="OUT", help="default: %(default)s")
    parser.add_argument("--name", default="survives", help="of the files that are written (default: %(default)s)")
    parser.add_argument("--to", type=Path, metavar="DIR", help="where the table goes (default: --out)")
    parser.add_argument("--first", default="SST-2", choices=BATCH, help="task (default: %(default)s)")
    parser.add_argument("--second", default="MRPC", choices=BATCH, help="task (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=1000, metavar="N", help="of each task (default: %(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5], metavar="N", help="fresh ones (default: 1 to 5)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side (default: 1)")
    study.add_device_arguments(parser)
    args = parser.parse_args(argv)
    study.check_seeds(parser, args.seeds)
    if args.first == args.second:
        parser.error("--second: it is the first task, too")
    args.to = args.to or args.out
    return guarded(lambda: search_and_train(args))


def search_and_train(args) -> int:
    first, second = Cell(args.first, args.rows), Cell(args.second, args.rows)
    home = args.out / f"{first.name}+{second.name}"  # where all is that comes after the first task
    files = [file for seed in args.seeds for file in home.glob(f"*/seed{seed}/{SCORES}")]
    there = {(file.parts[-3], file.parent.name.removeprefix("seed")) for file in files}
    path = args.to / f"{args.name}.csv"
    refuse_lost(path, there, KEY)
    pilots: List[searches.Pilot] = []

    def searched(cell: Cell, method: str, settings: List[str], search: str) -> str:
        found = study.search_for(args, cell, method, settings, search)
        pilots.append(pilot_of(args.out, cell, method, search))
        return found

    then = [LAST_EPOCH, searched(second, METHODS[0], [LAST_EPOCH], FULL_RATES)]
    values: List[Value] = []
    chosen: List[str] = []  # the learning rate, and then ρ
    for method, own, search in zip(METHODS, ([LAST_EPOCH], [LAST_EPOCH, LAST_QUARTER]), (FULL_RATES, RHOS)):
        own = [*own, *chosen]
        chosen.append(searched(first, method, own, search))
        trained = train(args, first, study.place(args.out, first, method, "final"), method, args.seeds, [*own, chosen[-1]])
        homes = {seed: home / method / f"seed{seed}" for seed in args.seeds}
        for seed in args.seeds:
            check_origin(homes[seed], trained[seed], first)
        todo = [seed for seed in args.seeds if not (homes[seed] / SCORES).is_file()]
        batches = {todo[start]: todo[start : start + args.jobs] for start in range(0, len(todo), args.jobs)}
        for seed in args.seeds:
            if seed in batches:
                go_on(args, second, {each: homes[each] for each in batches[seed]}, trained, then)
            values.append(look(args, homes[seed], first, method, seed, trained[seed]))
            if losing(path, {(one.method, str(one.seed)) for one in values}, KEY):
                continue  # not before what the file has is there again
            text = report(values, args, first, second, [*chosen, f"{then[-1]} for {second.task}"], pilots)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
