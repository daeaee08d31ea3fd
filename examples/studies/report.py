"""The tables, the figure and the numbers of a study, of all runs that are finished.

    python examples/studies/report.py few --out runs/studies --to examples/studies

writes few.csv (each fresh run), few-search.csv (each pilot's), few.md (means, gains over the baseline with intervals and tests,
what was chosen, and what the searches saw) and few.png. What few.csv has of a method in a cell and --out has not, such as runs
of another machine, stays in all four.
Runs with another backbone have an --out and a --name of their own, as few-3-layers.

A method can be compared with a baseline that has other settings, as where each has the learning rate that is best for it. Its runs
are taken from another --out then: `--from dsam runs/studies-rate-1e-4`.
"""

import argparse
import sys
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Collection, Dict, List, Mapping, NamedTuple, Optional, Sequence

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import searches
from gains import Gain, about_p, draw, gain, ps, rows_of
from plan import LONGER, LONGER_EPOCHS, PILOT_SEEDS, SELECTION_ROWS, STUDIES, Cell, Study
from raw import ALL, COLUMNS, WHERE, Row, digits, joined, read_csv, where_of, write_csv
from study import place, selected

from sharp_plugins.files.writing import write_text
from sharp_plugins.glue.tasks import LABELS, TASKS
from sharp_plugins.runs.statistics import Comparison, compare, correct, summarize
from sharp_plugins.runs.store import load_results
from sharp_plugins.runs.tables import mean_and_std


class Line(NamedTuple):
    """A method in a cell.

    Attributes:
        layers: of the encoder.
        chosen: by the pilots, as --set has them.
        values: on the development set, in percent, by seed.
        minutes: of a run, the median.
    """

    cell: Cell
    method: str
    layers: int
    chosen: List[str]
    values: Dict[int, float]
    minutes: float


def names_of(lines: Sequence[Line]) -> List[str]:
    """Of each line its cell's, with the layers where the lines are of several encoders."""
    several = len({line.layers for line in lines}) > 1
    return [f"{line.cell.name}, {line.layers} layers" if several else line.cell.name for line in lines]


def collect(study: Study, outs: Mapping[str, Path]) -> List[Row]:
    """The finished fresh runs by `COLUMNS`; *outs* says of each method where they are."""
    rows = []
    for cell in study.cells:
        for method in study.methods:
            final, metric = place(outs[method], cell, method, "final"), TASKS[cell.task].selected
            for result in sorted(load_results(final, "glue"), key=lambda result: result.record.seed):
                config = searches.config_of(final, result)
                settings = " ".join(settings_of(config, study.searched(method)))
                where = [config["model"]["encoder_layers"], *where_of(cell)]
                scores = [digits(selected(result, split)) for split in ("dev", "valid")]
                row = [*where, method, settings, result.record.seed, metric, *scores, f"{result.minutes:.2f}"]
                rows.append(dict(zip(COLUMNS, map(str, row))))
    return rows


def lines_of(study: Study, rows: Sequence[Row]) -> List[Line]:
    """Cells by methods, as far as there are runs; the lines of a cell stand together."""
    lines = []
    for layers in sorted({int(row["layers"]) for row in rows}, reverse=True):
        for cell in study.cells:
            for method in study.methods:
                where = [str(layers), *where_of(cell), method]
                own = [row for row in rows if [row[name] for name in (*WHERE, "method")] == where]
                if own:
                    values = {int(row["seed"]): float(row["value"]) for row in own}
                    minutes = median(float(row["minutes"]) for row in own)
                    lines.append(Line(cell, method, layers, own[0]["settings"].split(), values, minutes))
    return lines


def pilot_of(out: Path, cell: Cell, method: str, search: str, number: int = 1) -> searches.Pilot:
    """What a search saw, which is the method's *number*th. It has the values of *search*, and others that study.py was given."""
    there = place(out, cell, method, f"pilot{number}")
    return searches.read(there, "glue", cell.name, method, search, lambda one: selected(one, "valid"), PILOT_SEEDS, others=True)


def pilots_of(study: Study, outs: Mapping[str, Path]) -> List[searches.Pilot]:
    """The searches of all cells and methods that were begun."""
    found = [
        pilot_of(outs[method], cell, method, search, number)
        for cell in study.cells
        for method in study.methods
        for number, search in enumerate(study.searches(method), 1)
    ]
    return [pilot for pilot in found if any(pilot.found.values())]


def given(lines: Sequence[Line], pilots: Sequence[searches.Pilot], study: Study, others: Collection[str]) -> str:
    """A sentence about the settings that no search chose. The methods *others* have not what the baseline's search chose."""
    searched = {(pilot.layers, pilot.cell, pilot.method, pilot.setting) for pilot in pilots}
    found = []
    for line, where in zip(lines, names_of(lines)):
        own_searches = study.searched(line.method) if line.method in others else study.searches(line.method)
        names = [search.split("=")[0] for search in own_searches]
        names = [name for name in names if (line.layers, line.cell.name, line.method, name) not in searched]
        own = [setting for setting in line.chosen if setting.split("=")[0] in names]
        found += [f"{where}, {line.method}: {searches.words_of(own)}"] if own else []
    return f"\n\nGiven, and not searched: {'; '.join(found)}." if found else ""


def settings_of(config: Dict, searched: Sequence[str]) -> List[str]:
    """What the pilots chose in the searches, as a run's config has it."""
    names = [search.split("=")[0] for search in searched]

    def value(name: str):
        part, key = name.split(".")
        found = config[part][key]
        return found[0] if isinstance(found, list) else found

    return [f"{name}={value(name):g}" for name in names]


def seen(pilots: Sequence[searches.Pilot]) -> str:
    """The table of searches."""
    return "What the searches saw:\n\n" + rows_of(searches.table_rows(pilots, f"mean of the {SELECTION_ROWS} rows"))


def comparisons(lines: Sequence[Line], study: Study) -> List[Optional[Comparison]]:
    """Of each line with its cell's baseline, corrected for the methods of the cell (Holm)."""
    baseline = {(line.layers, line.cell): line.values for line in lines if line.method == study.methods[0]}
    found: List[Optional[Comparison]] = []
    for where, own in groupby(lines, lambda line: (line.layers, line.cell)):
        others = [line if line.method != study.methods[0] and where in baseline else None for line in own]
        found += correct([line and compare(line.values, baseline[where]) for line in others])
    return found


def beside_longer(lines: Sequence[Line], study: Study) -> str:
    """A sentence for each baseline with δ-SAM's time, about the methods that took as long or less."""
    found = []
    for longer, where in ((line, where) for line, where in zip(lines, names_of(lines)) if line.method.endswith(LONGER)):
        there = [line for line in lines if (line.layers, line.cell) == (longer.layers, longer.cell)]
        for line in (line for line in there if line.method not in (longer.method, study.methods[0])):
            comparison = compare(line.values, longer.values)
            if comparison is not None:
                what = f"{where}, {line.method} over {longer.method}"
                found.append(f"{what}: {gain(comparison)}, p {ps(comparison)[0]}, not corrected")
    return f"\n\nWith {LONGER_EPOCHS} passes for the baseline, which take δ-SAM's time: {'; '.join(found)}." if found else ""


def table(lines: Sequence[Line], found: Sequence[Optional[Comparison]], study: Study) -> str:
    head = ["layers", "task", "rows", "method", "seeds", "mean ± std", f"gain over {study.methods[0]} (95 % interval)", "better in"]
    head += ["p", "p, corrected", "chosen", "minutes"]
    rows = [head]
    for line, comparison in zip(lines, found):
        cell = line.cell
        noise = f", {100 * cell.noise:g} % wrong" if cell.noise else ""
        noise += ", also where the epoch is chosen" if cell.noisy_selection else ""
        cells = [str(line.layers), f"{cell.task}, {LABELS[TASKS[cell.task].selected]}", f"{cell.rows or ALL}{noise}"]
        cells += [line.method, str(len(line.values))]
        cells += [mean_and_std(summarize(list(line.values.values()))), gain(comparison)]
        cells += ["" if comparison is None else f"{comparison.better} of {comparison.pairs}", *ps(comparison)]
        rows.append([*cells, searches.words_of(line.chosen), f"{line.minutes:.1f}"])
    most = max((comparison.pairs for comparison in found if comparison), default=0)
    note = (
        f"Values are of the development set, in percent, at the epoch that {SELECTION_ROWS} other rows of the training set choose. "
    )
    note += f"The searches are of seeds {' and '.join(map(str, PILOT_SEEDS))}, which are not among these. "
    note += f"{about_p(most)}; Holm's correction is for the methods of a cell. "
    note += "Intervals are over seeds, given this development set. "
    note += "Minutes are the median of the runs, which may have shared the machine with other work."
    return f"{note}\n\n{rows_of(rows)}"


def main(argv: Sequence[str] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--out", type=Path, default=Path("runs/studies"), metavar="OUT", help="of study.py (default: %(default)s)")
    parser.add_argument("--to", type=Path, default=HERE, metavar="DIR", help="where the files go (default: beside this script)")
    parser.add_argument("--name", help="of the files (default: the study's)")
    words = "take a method's runs from this --out of study.py; its settings need not be the baseline's"
    parser.add_argument("--from", nargs=2, action="append", default=[], metavar=("METHOD", "OUT"), dest="others", help=words)
    args = parser.parse_args(argv)
    study, name = STUDIES[args.study], args.name or args.study
    others = {method: Path(out) for method, out in args.others}
    for method in others:
        if method not in study.methods[1:]:
            parser.error(f"--from {method}: the methods are {', '.join(study.methods[1:])}")
    outs = {method: others.get(method, args.out) for method in study.methods}
    new = collect(study, outs)
    there = {row["method"] for row in new}
    empty = [f"--from {method} {out}" for method, out in others.items() if method not in there]
    empty += [f"--out {args.out}"] if there <= set(others) else []
    if empty:
        print(f"error: {empty[0]}: no finished run of {args.study}; study.py trains them", file=sys.stderr)
        return 1
    runs, searched = (args.to / f"{name}{what}.csv" for what in ("", "-search"))
    trained = {
        (int(row["layers"]), cell.name, row["method"])
        for row in new
        for cell in study.cells
        if where_of(cell) == [row[name] for name in WHERE[1:]]
    }
    path = runs
    try:
        rows = joined(read_csv(runs), new, study.methods[0], lambda method: () if method in others else study.bases(method))
        path = searched
        pilots = searches.joined(searches.from_rows(read_csv(searched)), pilots_of(study, outs), trained)
    except ValueError as error:
        print(f"error: {path}: {error}", file=sys.stderr)
        return 1
    lines = lines_of(study, rows)
    found = comparisons(lines, study)
    args.to.mkdir(parents=True, exist_ok=True)
    write_csv(runs, COLUMNS, ([row[name] for name in COLUMNS] for row in rows))
    text = f"{table(lines, found, study)}{beside_longer(lines, study)}{given(lines, pilots, study, others)}"
    if pilots:
        write_csv(searched, searches.COLUMNS, searches.csv_rows(pilots))
        text = f"{text}\n\n{seen(pilots)}"
    write_text(args.to / f"{name}.md", f"## {study.title}\n\n{text}\n")
    gains = [Gain(where, line.method, one) for line, where, one in zip(lines, names_of(lines), found)]
    draw(gains, study.methods[0], study.title, args.to / f"{name}.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
