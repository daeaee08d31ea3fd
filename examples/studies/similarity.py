"""Do the methods help sentence similarity? They are searched on STS-B's development set, and compared on the seven test sets.

    python examples/studies/similarity.py --backbone backbones/minilm --data STS --text sentences.txt --cpu --jobs 2

    1. the pilot seeds of plan.py search, as in all studies: Mirror-BERT's learning rate, which all methods then have; SAM's and
       δ-SAM's ρ, then δ-SAM's β; R3F's ε, in the δ-SAM paper's grid. δ-SAM with R3F has what was chosen for each of the two
    2. fresh seeds train each method with what was chosen, and are scored on the test sets

Called again it goes on where it stopped. It writes NAME.csv, NAME.md and NAME.png into --to, also of the methods that are there
so far, and what the searches saw into NAME-search.csv. Runs of another machine in such files are not written over.
"""

import argparse
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import searches
import study
from calls import Unfinished, guarded
from gains import Gain, about_p, draw, gain, ps, rows_of
from plan import BETAS, PILOT_SEEDS, RHOS, SEEDS
from raw import KEY, digits, losing, read_csv, refuse, refuse_lost, write_csv

from sharp_plugins.files.writing import write_text
from sharp_plugins.runs.record import Measure, Result
from sharp_plugins.runs.statistics import compare, correct, summarize
from sharp_plugins.runs.store import load_results
from sharp_plugins.runs.tables import mean_and_std
from sharp_plugins.sts.sets import DEV, SETS

UNTRAINED, BASELINE = "base", "mirror"
CHOOSES = Measure("valid", DEV, "STS-B, dev")
RATES = "optimization.lr=1e-5,2e-5,5e-5,1e-4"
EPSILONS = "criterion.r3f_eps=1e-5,1e-4,1e-3,1e-2,5e-2,1e-1"  # of the δ-SAM paper, appendix A
# A method -> its searches, one after the other; and a method that joins others, which it has its settings from.
SEARCHES: Dict[str, Tuple[str, ...]] = {
    "mirror": (RATES,),
    "mirror-sam": (RHOS,),
    "mirror-dsam": (RHOS, BETAS),
    "mirror-r3f": (EPSILONS,),
    "mirror-dsam-r3f": (),
}
JOINS = {"mirror-dsam-r3f": ("mirror-dsam", "mirror-r3f")}
COLUMNS = (*SETS, "average")


class Line(NamedTuple):
    """A method, what the pilots chose for it, and its fresh runs by seed."""

    method: str
    chosen: List[str]
    results: Dict[int, Result]

    def values(self, name: str) -> Dict[int, float]:
        return {seed: result.metrics["test"][name] for seed, result in self.results.items()}


def call(args, out: Path, method: str, seeds: Sequence[int], settings: Sequence[str], more: Sequence[str] = ()) -> bool:
    return study.engine(args, "sts", out, method, seeds, settings, ["--text", args.text, *more])


def search(args, method: str, chosen: Dict[str, List[str]]) -> List[str]:
    """The settings of a method; *chosen* has those of the methods before it."""
    own = study.taken(chosen, (BASELINE, *JOINS.get(method, ())))
    for number, sweep in enumerate(args.searches[method], 1):
        if "," not in sweep:  # one value is no search
            own.append(sweep)
            continue
        pilot = args.out / method / f"pilot{number}"
        done = call(args, pilot, method, args.pilot_seeds, own, ["--sweep", sweep, "--sets", DEV])
        own.append(study.best_of(pilot, "sts", sweep, lambda task: CHOOSES, args.pilot_seeds, done))
        print(f"{method}: {own[-1]} is chosen", flush=True)
    return own


def whole_search(method: str, sweep: str) -> str:
    """Of `SEARCHES`, the one of the same setting."""
    return next(own for own in SEARCHES[method] if own.split("=")[0] == sweep.split("=")[0])


def pilots_of(args) -> List[searches.Pilot]:
    return [
        searches.read(args.out / method / f"pilot{number}", "sts", "sentences", method, sweep, CHOOSES.of, args.pilot_seeds)
        for method, sweeps in args.searches.items()
        for number, sweep in enumerate(sweeps, 1)
        if "," in sweep
    ]


def train(args, method: str, own: List[str]) -> Line:
    """The fresh runs of a method with the settings *own*."""
    # What trains nothing is the same with each seed.
    if not call(args, args.out / method / "final", method, args.seeds[:1] if method == UNTRAINED else args.seeds, own):
        raise Unfinished(f"{method}: not all fresh runs are finished; run the same command again")
    results = {result.record.seed: result for result in load_results(args.out / method / "final", "sts")}
    return Line(method, own, {seed: result for seed, result in results.items() if seed in args.seeds})


def table(lines: Sequence[Line], args, layers: int) -> str:
    """Means of each set, and the paired gains of the average."""
    [baseline] = [line.values("average") for line in lines if line.method == BASELINE]
    found = correct([compare(line.values("average"), baseline) if line.method in list(SEARCHES)[1:] else None for line in lines])
    rows = [["method", "seeds", *SETS, "average", f"gain over {BASELINE} (95 % interval)", "p", "p, corrected", "chosen"]]
    for line, comparison in zip(lines, found):
        sets = [f"{summarize(list(line.values(name).values())).mean:.2f}" for name in SETS]
        average = mean_and_std(summarize(list(line.values("average").values())))
        rows.append(
            [line.method, str(len(line.results)), *sets, average, gain(comparison), *ps(comparison), searches.words_of(line.chosen)]
        )
    most = max((comparison.pairs for comparison in found if comparison), default=0)
    note = f"An encoder of {layers} layers; 100 times Spearman's correlation, means of seeds. The search, on STS-B's development "
    note += f"set, was of seed {' and '.join(map(str, args.pilot_seeds))}. {about_p(most)}; Holm's correction is for all rows."
    for method, own in args.searches.items():
        for sweep in own:
            values, whole = (text.split("=")[1].split(",") for text in (sweep, whole_search(method, sweep)))
            missing = [value for value in whole if value not in values]
            if len(values) == 1:
                note += f" Of {method}, {searches.words_of([sweep])} was not searched."
            elif missing:
                note += f" Not tried of {method}: {searches.words_of([sweep.split('=')[0]])} {', '.join(missing)}."
    return f"{note}\n\n{rows_of(rows)}"


def runs_of(lines: Sequence[Line]) -> Iterator[List]:
    """The fresh runs, each with its scores."""
    for line in lines:
        for seed, result in sorted(line.results.items()):
            scores = [*(result.metrics["test"][name] for name in COLUMNS), result.metrics["valid"][DEV]]
            yield [line.method, " ".join(line.chosen), seed, *map(digits, scores), f"{result.minutes:.2f}"]


def gains_of(lines: Sequence[Line]) -> Iterator[Gain]:
    """Over the baseline, on each set and on average."""
    [baseline] = [line for line in lines if line.method == BASELINE]
    for name in COLUMNS:
        for line in lines:
            if line.method not in (UNTRAINED, BASELINE):
                yield Gain(name, line.method, compare(line.values(name), baseline.values(name)))


def report(args, lines: Sequence[Line]) -> str:
    args.to.mkdir(parents=True, exist_ok=True)
    write_csv(args.to / f"{args.name}.csv", ["method", "settings", "seed", *COLUMNS, DEV, "minutes"], runs_of(lines))
    pilots = pilots_of(args)
    write_csv(args.to / f"{args.name}-search.csv", searches.COLUMNS, searches.csv_rows(pilots))
    [baseline] = [line for line in lines if line.method == BASELINE]
    any_run = next(iter(baseline.results.values()))
    layers = searches.layers_of(args.out / BASELINE / "final", any_run)
    text = f"{table(lines, args, layers)}\n\n{rows_of(searches.table_rows(pilots, CHOOSES.heading))}"
    write_text(args.to / f"{args.name}.md", f"## Sentence similarity\n\n{text}\n")
    draw(list(gains_of(lines)), BASELINE, f"Sentence similarity, {layers} layers", args.to / f"{args.name}.png")
    return text


def main(argv: Sequence[str] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--backbone", required=True, metavar="DIR", help="what `python -m sharp_plugins.convert` wrote of MiniLM")
    parser.add_argument("--data", required=True, metavar="DIR", help="directory with the test sets")
    parser.add_argument("--text", required=True, metavar="FILE", help="training sentences, one a line")
    parser.add_argument("--name", default="similarity", help="of the files that are written (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/studies/similarity"), metavar="OUT", help="default: %(default)s")
    parser.add_argument("--to", type=Path, metavar="DIR", help="where the table goes (default: --out)")
    seeds, words = list(PILOT_SEEDS), "seeds that search; one is half the work, and may choose by luck (default: 101 and 102)"
    parser.add_argument("--pilot-seeds", nargs="+", type=int, choices=seeds, default=seeds, metavar="N", help=words)
    words = "search fewer values for a method; one is taken without a search (example: mirror optimization.lr=2e-5)"
    parser.add_argument("--search", nargs=2, action="append", default=[], metavar=("METHOD", "SWEEP"), help=words)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="N", help="fresh ones (default: 1 to 8)")
    parser.add_argument("--jobs", default="1", metavar="N", help="runs side by side (default: 1)")
    study.add_device_arguments(parser)
    args = parser.parse_args(argv)
    study.check_seeds(parser, args.seeds)
    args.searches = study.searches_of(parser, args.search, SEARCHES)
    args.to = args.to or args.out
    return guarded(lambda: search_and_train(args))


def check_searches(args) -> None:
    """Raise ValueError where the file of searches has runs that are not in --out: they would be written over."""
    there = {
        (method, setting, float(value), result.record.seed)
        for method, sweeps in SEARCHES.items()
        for number in range(1, len(sweeps) + 1)
        for result in load_results(args.out / method / f"pilot{number}", "sts")
        for setting, value in result.record.axes.items()
    }
    path, names = args.to / f"{args.name}-search.csv", ("method", "setting", "value", "seed")
    rows = [(row["method"], row["setting"], float(row["value"]), int(row["seed"])) for row in read_csv(path) if row["seed"]]
    try:
        refuse([row for row in rows if row not in there], names)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def search_and_train(args) -> int:
    found = [load_results(args.out / method / "final", "sts") for method in (UNTRAINED, *SEARCHES)]
    there = {(one.record.method, str(one.record.seed)) for results in found for one in results}
    path = args.to / f"{args.name}.csv"
    refuse_lost(path, there, KEY)
    check_searches(args)
    chosen: Dict[str, List[str]] = {}
    for method in SEARCHES:
        chosen[method] = search(args, method, chosen)
    lines = [train(args, UNTRAINED, [])]
    for method in SEARCHES:
        lines.append(train(args, method, chosen[method]))
        is_last = method == list(SEARCHES)[-1]
        # Before, only as far as the file loses no method that is still to come.
        if is_last or not losing(path, {(line.method, str(seed)) for line in lines for seed in line.results}, KEY):
            text = report(args, lines)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
