"""When do the methods help? Run a study: search with pilot seeds, then train with fresh ones.

    python examples/studies/study.py few --backbone backbones/minilm --data GLUE --out runs/studies --cpu --jobs 2

The studies and the search are in plan.py. Called again it goes on where it stopped; Ctrl-C and a time limit lose no finished
run. A value whose runs fail is not chosen, and a cell that cannot be finished ends no other. `report.py` writes the tables and the
figure, also of what is there so far.

With --known examples/studies/few.csv, what that file has whole of a cell's methods is not trained again: a cell that was begun on
another machine goes on here, and a method that is new in plan.py is compared with runs that are there.
"""

import argparse
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from calls import Unfinished, guarded, run_program
from plan import LONGER, PILOT_SEEDS, SEEDS, STUDIES, Cell, Study
from raw import COLUMNS, WHERE, read_csv, where_of

from sharp_plugins.glue.tasks import LABELS, TASKS
from sharp_plugins.runs.command import INTERRUPTED, RUNS_FAILED
from sharp_plugins.runs.record import Measure, Result
from sharp_plugins.runs.selection import choose
from sharp_plugins.runs.store import load_results
from sharp_plugins.runs.sweep import read_sweeps

FP32 = {"glue": "common.fp16=false", "sts": "common.amp=false"}


def main(argv: Sequence[str] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--backbone", required=True, metavar="DIR", help="what `python -m sharp_plugins.convert` wrote of MiniLM")
    parser.add_argument("--data", required=True, metavar="DIR", help="directory with GLUE's files")
    parser.add_argument("--out", type=Path, default=Path("runs/studies"), metavar="OUT", help="default: %(default)s")
    parser.add_argument("--cells", nargs="+", metavar="NAME", help="only these, such as SST-2-300 (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="N", help="fresh ones (default: 1 to 8)")
    words = "only these, and the baseline (default: all)"
    parser.add_argument("--methods", nargs="+", metavar="NAME", help=words)
    words = "search fewer values for a method; one is taken without a search (example: base optimization.lr=1e-4)"
    parser.add_argument("--search", nargs=2, action="append", default=[], metavar=("METHOD", "SWEEP"), help=words)
    words = "do not train what this file has whole, such as report.py's few.csv; it must be of the same backbone"
    parser.add_argument("--known", type=Path, metavar="FILE", help=words)
    parser.add_argument("--jobs", default="1", metavar="N", help="runs side by side (default: 1)")
    add_device_arguments(parser)
    args = parser.parse_args(argv)
    check_seeds(parser, args.seeds)
    study = STUDIES[args.study]
    args.searches = searches_of(parser, args.search, {method: study.searches(method) for method in study.methods})
    args.methods = methods_of(parser, args.methods, study)
    if args.known:
        check_known(parser, args.known, study)
    names = [cell.name for cell in study.cells]
    unknown = sorted(set(args.cells or ()) - set(names))
    if unknown:
        parser.error(f"--cells {' '.join(unknown)}: there are {', '.join(names)}")
    return guarded(lambda: run_cells(args, study, [cell for cell in study.cells if not args.cells or cell.name in args.cells]))


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cpu", action="store_true", help="train on the CPU (default: where there is no GPU)")
    words = "GPUs that the runs share, as the engine has them; without a GPU nothing is trained then (default: what is there)"
    parser.add_argument("--devices", metavar="0,1,...", help=words)


def run_cells(args, study: Study, cells: Sequence[Cell]) -> int:
    failed = []
    for cell in cells:
        try:
            run_cell(args, study, cell)
        except Unfinished as error:
            print(f"error: {cell.name}: {error}", file=sys.stderr)
            failed.append(cell.name)
    if failed:
        print(f"error: {len(failed)} of {len(cells)} cells are not finished: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def check_seeds(parser: argparse.ArgumentParser, seeds: Sequence[int]) -> None:
    """End the program where a fresh seed is a pilot seed."""
    if set(seeds) & set(PILOT_SEEDS):
        parser.error(f"--seeds: {', '.join(map(str, PILOT_SEEDS))} are the pilot seeds, which choose and are not used again")


def searches_of(
    parser: argparse.ArgumentParser, given: Sequence[Sequence[str]], whole: Mapping[str, Sequence[str]]
) -> Dict[str, Tuple[str, ...]]:
    """*whole*, with those of --search in the place of the same method's and setting's. Where there is none the program ends."""
    found = {method: tuple(searches) for method, searches in whole.items()}
    for method, sweep in given:
        name, _, values = sweep.partition("=")
        if name not in [own.split("=")[0] for own in found.get(method, ())]:
            searched = ", ".join(f"{method} {own.split('=')[0]}" for method, sweeps in whole.items() for own in sweeps)
            parser.error(f"--search {method} {sweep}: the searches are {searched}")
        if not all(map(is_number, values.split(","))):
            parser.error(
                f"--search {method} {sweep}: should be part.name=number, or numbers with commas, such as optimization.lr=1e-4"
            )
        found[method] = tuple(sweep if own.split("=")[0] == name else own for own in found[method])
    return found


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def methods_of(parser: argparse.ArgumentParser, names: Optional[Sequence[str]], study: Study) -> List[str]:
    """The study's baseline and what --methods names, in the study's order. Where it names others the program ends."""
    taken = [method for method in study.methods if names is None or method in (study.methods[0], *names)]
    lacking = [name for method in taken for name in study.bases(method) if name not in taken]
    wrong = [name for name in names or () if name not in study.methods]
    if wrong or lacking:
        why = f"the methods are {', '.join(study.methods)}" if wrong else f"{', '.join(lacking)} must be there, too"
        parser.error(f"--methods {' '.join(names or ())}: {why}")
    return taken


def check_known(parser: argparse.ArgumentParser, known: Path, study: Study) -> None:
    """End the program where the file is none of a study's runs, or their models will be wanted."""
    if study.keeps_checkpoints:
        parser.error("--known: the models of this study are measured on other data, too, and no file has them")
    if not known.is_file():
        parser.error(f"--known {known}: there is no such file")
    rows = read_csv(known)
    if not rows or not set(COLUMNS) <= set(rows[0]):
        parser.error(f"--known {known}: not the runs of a study that report.py wrote, such as few.csv")


def run_cell(args, study: Study, cell: Cell) -> None:
    """Search and train in one cell. Each search has a directory of its own, and so has what it found."""
    chosen = known_of(args, study, cell)
    for method in args.methods:
        if method in chosen:
            print(f"{cell.name}, {method}: {' '.join(chosen[method])}, as {args.known} has it", flush=True)
            continue
        settings = taken(chosen, study.bases(method))
        for number, search in enumerate(args.searches[method], 1):
            settings.append(search_for(args, cell, method, settings, search, number) if "," in search else search)
        chosen[method] = settings
        keep = ["--keep-checkpoints"] if study.keeps_checkpoints else []
        if not call(args, cell, place(args.out, cell, method, "final"), method, args.seeds, settings, keep):
            raise Unfinished(f"{method}: not all fresh runs are finished; run the same command again")


def known_of(args, study: Study, cell: Cell) -> Dict[str, List[str]]:
    """What was chosen for the methods that the file --known has all seeds of, and --out none.

    With other settings of the methods that it has its own from, a method would not be the same: those must be known, too.
    """
    if args.known is None:
        return {}
    from sharp_plugins.text.encoder_directory import load_backbone  # here, so that --help imports no fairseq

    where = [str(load_backbone(args.backbone).sizes["encoder_layers"]), *where_of(cell)]
    rows = [row for row in read_csv(args.known) if [row[name] for name in WHERE] == where]
    known: Dict[str, List[str]] = {}
    for method in study.methods:
        own = {int(row["seed"]): row["settings"] for row in rows if row["method"] == method}
        bases = [base for base in study.bases(method) if base != method]
        here = place(args.out, cell, method, "final")
        if set(args.seeds) <= set(own) and set(bases) <= set(known) and not load_results(here, "glue"):
            settings = own[args.seeds[0]].split()
            if all(has(settings, search) for search in args.searches[method]):
                known[method] = settings
    print(f"{cell.name}, {where[0]} layers: {args.known} has {' '.join(known) or 'no method'} whole", flush=True)
    return known


def has(settings: Sequence[str], search: str) -> bool:
    """Whether settings have one of a search's values.

    >>> has(["optimization.lr=0.0001"], "optimization.lr=5e-5,1e-4")
    True
    """
    name, values = search.split("=")
    return float(dict(one.split("=") for one in settings)[name]) in map(float, values.split(","))


def search_for(args, cell: Cell, method: str, settings: Sequence[str], search: str, number: int = 1) -> str:
    """Search a setting with the pilot seeds, and return what is chosen; *number* is the search's among the method's own."""
    pilot = place(args.out, cell, method, f"pilot{number}")
    done = call(args, cell, pilot, method, PILOT_SEEDS, settings, ["--sweep", search])
    chosen = best(pilot, search, done)
    print(f"{cell.name}, {method}: {chosen} is chosen", flush=True)
    return chosen


def taken(chosen: Dict[str, List[str]], methods: Sequence[str]) -> List[str]:
    """What was chosen for the methods that a method has settings from; nothing of those that are still to come.

    >>> taken({"base": ["optimization.lr=1e-4"], "r3f": ["optimization.lr=1e-4", "criterion.r3f_lambda=1"]}, ("base", "r3f"))
    ['optimization.lr=1e-4', 'criterion.r3f_lambda=1']
    """
    return list(dict.fromkeys(setting for method in methods for setting in chosen.get(method, ())))


def place(out: Path, cell: Cell, method: str, what: str) -> Path:
    return out / cell.name / method / what


def call(args, cell: Cell, out: Path, method: str, seeds: Sequence[int], settings: Sequence[str], more: Sequence[str] = ()) -> bool:
    return engine(args, "glue", out, method.removesuffix(LONGER), seeds, settings, [*cell.flags(method), *more])


def engine(
    args, benchmark: str, out: Path, method: str, seeds: Sequence[int], settings: Sequence[str], more: Sequence[str]
) -> bool:
    """Call the engine of runs; see `finished`."""
    line = engine_line(args, benchmark, out, method, seeds, settings, more)
    return finished(run_program(line), line)


def finished(code: int, line: Sequence[str]) -> bool:
    """Whether a call of the engine that ended with *code* has finished all runs: False where some failed, and all others are done.

    Raises:
        Unfinished: it ended otherwise, as where another process is at a run: what is missing has not failed.
    """
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    told = f"ended with {code}: {' '.join(line)}"
    if code not in (0, RUNS_FAILED):
        raise Unfinished(told)
    if code:
        print(f"error: {told}", file=sys.stderr)
    return code == 0


def engine_line(
    args, benchmark: str, out: Path, method: str, seeds: Sequence[int], settings: Sequence[str], more: Sequence[str]
) -> List[str]:
    """A call of the engine of runs."""
    line = [sys.executable, "-m", f"sharp_plugins.{benchmark}", "run", "--backbone", args.backbone, "--data", args.data]
    line += ["--out", str(out), "--methods", method, "--seeds", *map(str, seeds), "--jobs", str(args.jobs), *more]
    # Some settings have half precision, for GPUs: the studies are in fp32 on every machine.
    line += [word for setting in (FP32[benchmark], *settings) for word in ("--set", setting)]
    line += ["--devices", args.devices] if args.devices else []
    return line + (["--cpu"] if args.cpu else [])


def best(pilot: Path, search: str, done: bool = True) -> str:
    """What --sweep chooses of a pilot's runs on GLUE, as --set has it."""

    def measure(task: str) -> Measure:
        return Measure("valid", TASKS[task].selected, LABELS[TASKS[task].selected])

    return best_of(pilot, "glue", search, measure, done=done)


def best_of(
    pilot: Path,
    benchmark: str,
    search: str,
    measure: Callable[[str], Measure],
    seeds: Sequence[int] = PILOT_SEEDS,
    done: bool = True,
) -> str:
    """What --sweep chooses: the value with the best mean of *measure* over the pilot *seeds*, as --set has it.

    An earlier search there may have had more seeds and values.

    Args:
        done: False where runs of the search failed, as with a ρ so large that a run diverges. Their values are not chosen.

    Raises:
        Unfinished: a run is missing and none failed, or no value has all of its runs.
    """
    name, texts = search.split("=")
    values = {float(text) for text in texts.split(",")}
    results = [one for one in load_results(pilot, benchmark) if one.record.seed in seeds and one.record.axes[name] in values]
    runs = Counter(one.record.axes[name] for one in results)
    whole = [text for text in texts.split(",") if runs[float(text)] == len(seeds)]
    lost = [text for text in texts.split(",") if text not in whole]
    if lost and (done or not whole):
        raise Unfinished(f"{pilot}: not all runs of the search are finished")
    if lost:
        print(f"{name}: not chosen, as a run failed: {', '.join(lost)}", flush=True)
    if len(whole) == 1:
        return f"{name}={whole[0]}"
    kept = [one for one in results if runs[one.record.axes[name]] == len(seeds)]
    found = choose(kept, read_sweeps([f"{name}={','.join(whole)}"], ()), measure)
    [chosen] = [dict(one.value)[name] for one in found.candidates if one.chosen]
    return f"{name}={next(text for text in whole if float(text) == chosen)}"


def selected(result: Result, split: str) -> float:
    """The task's main metric in percent: on "valid", which chooses, or "dev", which is reported."""
    return result.metrics[split][TASKS[result.record.task].selected]


if __name__ == "__main__":
    sys.exit(main())
