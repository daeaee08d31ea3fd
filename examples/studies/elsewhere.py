"""Do the methods help on data of another kind? The models of the study `elsewhere`, trained on MNLI, are tested on SNLI and RTE.

    python examples/studies/study.py elsewhere --backbone backbones/minilm --data GLUE --out runs/studies --cpu --jobs 2
    python examples/studies/elsewhere.py --backbone backbones/minilm --snli SNLI/test.tsv --rte GLUE/RTE/dev.tsv --out runs/studies

The other sets are given MNLI's names and read as MNLI's. RTE has two classes: there neutral and contradiction are one. It writes
elsewhere-sets.csv, elsewhere-sets.md and elsewhere-sets.png into --to, beside what report.py writes of MNLI itself. Called again it
measures what is not measured.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from gains import Gain, about_p, draw, gain, ps, rows_of
from plan import STUDIES
from raw import digits, refuse_lost, write_csv
from study import place

from sharp_plugins.command_line import run_command
from sharp_plugins.files.text import read_json
from sharp_plugins.files.writing import sha256, unfinished_in, write_text
from sharp_plugins.glue.reader import read
from sharp_plugins.glue.tasks import TASKS
from sharp_plugins.runs.checkpoints import BEST
from sharp_plugins.runs.statistics import Comparison, compare, correct, summarize
from sharp_plugins.runs.store import directory_of, load_results
from sharp_plugins.runs.tables import mean_and_std

STUDY = STUDIES["elsewhere"]
LONGEST = 512  # of an input, as GLUE's runs have it
ENTAILMENT, OTHER = "entailment", "not_entailment"
UNDECIDED = "-"  # of SNLI, whose annotators did not agree
MEASURED = "elsewhere.json"  # in a run's directory


class Value(NamedTuple):
    """Accuracy of a run on one of the sets, in percent."""

    set: str
    method: str
    seed: int
    accuracy: float


def prepare(path: Path, name: str, backbone: Path, out: Path):
    """A set's file as MNLI's data, as its "valid"."""
    from sharp_plugins.glue.binarize import prepare
    from sharp_plugins.text.encoder_directory import load_backbone

    task = TASKS["RTE"] if name == "RTE" else TASKS["MNLI"]._replace(classes=(*TASKS["MNLI"].classes, UNDECIDED))
    rows = read(path, task, "valid")
    kept = [row for row in rows.rows if row.label != UNDECIDED]
    left = f", {len(rows.rows) - len(kept)} without an agreed label left out" if len(kept) < len(rows.rows) else ""
    print("\n".join([*rows.warnings, f"{path}: {len(kept)} rows{left}"]), flush=True)
    with unfinished_in(out) as unfinished:
        (unfinished / "MNLI").mkdir()
        lines = ["sentence1\tsentence2\tlabel"]
        for row in kept:
            label = "neutral" if row.label == OTHER else row.label
            lines.append("\t".join([*row.sentences, label]))
        write_text(unfinished / "MNLI" / "dev_matched.tsv", "\n".join(lines) + "\n")
        shutil.copy(unfinished / "MNLI" / "dev_matched.tsv", unfinished / "MNLI" / "train.tsv")  # none is trained on
        encoder = load_backbone(backbone)
        return prepare(unfinished, encoder, TASKS["MNLI"], out / name, min(LONGEST, encoder.max_positions))


def accuracy(predicted: Sequence[str], right: Sequence[str], name: str) -> float:
    """In percent; RTE's of entailment or not.

    >>> accuracy(["entailment", "contradiction"], ["neutral", "neutral"], "RTE")
    50.0
    """
    if name == "RTE":
        predicted, right = ([label == ENTAILMENT for label in labels] for labels in (predicted, right))
    return 100 * sum(a == b for a, b in zip(predicted, right)) / len(right)


def finished(out: Path) -> Iterator[Tuple[str, int, Path]]:
    """Method, seed and directory of the runs that there are."""
    for cell in STUDY.cells:
        for method in STUDY.methods:
            final = place(out, cell, method, "final")
            for result in sorted(load_results(final, "glue"), key=lambda result: result.record.seed):
                yield method, result.record.seed, directory_of(final, result.record)


def measure(args, sets: Dict[str, Path]) -> List[Value]:
    runs = list(finished(args.out))
    if not runs:
        raise ValueError(f"--out {args.out}: no finished run; study.py elsewhere trains them")
    for name, path in sets.items():
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not there; --{name.lower()} wants a file")
    there = {(name, method, str(seed)) for name in sets for method, seed, _ in runs}
    refuse_lost(args.to / f"{args.name}.csv", there, ("set", "method", "seed"))
    prepared = {name: prepare(path, name, args.backbone, args.out / "sets") for name, path in sets.items()}
    values: List[Value] = []
    for method, seed, directory in runs:
        for name, path in sets.items():
            values.append(Value(name, method, seed, measured(directory, name, sha256(path), prepared[name], args.device)))
            print(f"{method}, seed {seed}, {name}: {values[-1].accuracy:.2f}", flush=True)
    return values


def measured(directory: Path, name: str, checksum: str, data, device: Optional[str]) -> float:
    """The accuracy of a run's model, which its directory keeps: a call that was stopped goes on, and another machine, to which the
    models were not copied, has it.

    Args:
        checksum: of the set's file.
    """
    from sharp_plugins.glue.evaluate import Checkpoint

    file, model = directory / MEASURED, directory / BEST
    known = read_json(file) if file.is_file() else {}
    of = {"file": checksum, "model": sha256(model) if model.is_file() else known.get(name, {}).get("model")}
    if name not in known or {key: known[name][key] for key in of} != of:
        found = Checkpoint(model, data, device).predict("valid")
        known[name] = {**of, "accuracy": accuracy(found.values, found.targets, name)}
        write_text(file, json.dumps(known, indent=1) + "\n")
    return known[name]["accuracy"]


def compared(values: Sequence[Value]) -> Dict[Tuple[str, str], Optional[Comparison]]:
    """Of each set and method with the baseline, corrected for all (Holm)."""
    baseline = STUDY.methods[0]
    names = dict.fromkeys(one.set for one in values)
    pairs = [(name, method) for name in names for method in STUDY.methods if of(values, name, method)]
    others = [(name, method) if method != baseline else None for name, method in pairs]
    found = [pair and compare(of(values, *pair), of(values, pair[0], baseline)) for pair in others]
    return dict(zip(pairs, correct(found)))


def of(values: Sequence[Value], name: str, method: str) -> Dict[int, float]:
    """Accuracies by seed."""
    return {one.seed: one.accuracy for one in values if (one.set, one.method) == (name, method)}


def table(values: Sequence[Value], found: Dict[Tuple[str, str], Optional[Comparison]]) -> str:
    """Means, and paired gains over the baseline."""
    rows = [["tested on", "method", "seeds", "mean ± std", f"gain over {STUDY.methods[0]} (95 % interval)", "p", "p, corrected"]]
    for (name, method), comparison in found.items():
        own = list(of(values, name, method).values())
        rows.append([name, method, str(len(own)), mean_and_std(summarize(own)), gain(comparison), *ps(comparison)])
    most = max((comparison.pairs for comparison in found.values() if comparison), default=0)
    note = f"Accuracy in percent. {about_p(most)}; Holm's correction is for all rows."
    return f"{note}\n\n{rows_of(rows)}"


def report(args, values: Sequence[Value]) -> str:
    args.to.mkdir(parents=True, exist_ok=True)
    rows = [one._replace(accuracy=digits(one.accuracy)) for one in values]
    write_csv(args.to / f"{args.name}.csv", Value._fields, rows)
    found = compared(values)
    text = table(values, found)
    write_text(args.to / f"{args.name}.md", f"## {STUDY.title}\n\n{text}\n")
    gains = [Gain(name, method, comparison) for (name, method), comparison in found.items()]
    draw(gains, STUDY.methods[0], STUDY.title, args.to / f"{args.name}.png")
    return text


def main(argv: Sequence[str] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--backbone", required=True, type=Path, metavar="DIR", help="the one that study.py was given")
    parser.add_argument("--snli", type=Path, metavar="FILE", help="SNLI's test set: sentence1, sentence2, label (.tsv or .tsv.gz)")
    parser.add_argument("--rte", type=Path, metavar="FILE", help="RTE's development set, as GLUE's")
    parser.add_argument("--out", type=Path, default=Path("runs/studies"), metavar="OUT", help="of study.py (default: %(default)s)")
    parser.add_argument("--name", default="elsewhere-sets", help="of the files that are written (default: %(default)s)")
    parser.add_argument("--to", type=Path, metavar="DIR", help="where the files go (default: --out)")
    parser.add_argument("--device", metavar="DEVICE", help="cpu or cuda (default: cuda where there is a GPU)")
    args = parser.parse_args(argv)
    sets = {name: path for name, path in (("SNLI", args.snli), ("RTE", args.rte)) if path}
    if not sets:
        parser.error("--snli or --rte: a file is needed")
    args.to = args.to or args.out
    return run_command(lambda: report(args, measure(args, sets)))


if __name__ == "__main__":
    sys.exit(main())
