"""The quickstart's last step: score every method, draw the training curves, write and print the table."""

import argparse
import json
import logging
import sys
from pathlib import Path

from sharp_plugins.runs.curves import draw, elapsed_seconds, read_run
from sharp_plugins.runs.table import markdown_table
from sharp_plugins.webnlg.corpus import CorpusError, find_split, read_split
from sharp_plugins.webnlg.scorer import ScoringError, read_generated, score

TITLES = {
    "untrained": "untrained",
    "adam": "Adam",
    "sam": "SAM",
    "dsam": "delta-SAM",
    "lora": "Adam, then LoRA",
    "lora-sam": "Adam, then LoRA-SAM",
    "lora-nbar": "Adam, then LoRA-nBAR",
    "lora-obar": "Adam, then LoRA-oBAR",
}
GROUPS = ("overall", "seen", "unseen")
MEASURES = (("bleu", "BLEU"), ("chrf", "chrF++"), ("ter", "TER"))


def row(method: str, result: dict, groups) -> list:
    """One line of the table."""
    cells = [TITLES[method]]
    for group in groups:
        scores = result["scores"][group]
        cells += [scores[name] for name, _ in MEASURES]
    return cells + [result["updates"], result["train_seconds"]]


def main(argv=None) -> int:
    """Write results.json, results.md and curves.png to the run's directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="the corpus")
    parser.add_argument("--out", required=True, help="the run's directory")
    parser.add_argument("--methods", nargs="+", required=True, choices=list(TITLES))
    args = parser.parse_args(argv)
    out = Path(args.out)
    # With fairseq imported, other libraries' debug messages would be printed too.
    logging.getLogger().setLevel(logging.WARNING)

    try:
        test = read_split(find_split(args.data, "test"))
        results, runs = {}, {}
        for method in args.methods:
            hypotheses = read_generated(out / method / "generated.txt", len(test))
            scores = score(hypotheses, [entry.refs for entry in test], [entry.seen for entry in test])
            run = read_run(out / method / "tensorboard")
            updates = max((step for points in run.values() for step, _ in points), default=0)
            if method == "untrained":
                updates = 0  # its one update had a learning rate of 0
            else:
                runs[TITLES[method]] = run
            results[method] = {"scores": scores.as_dict(), "updates": updates, "train_seconds": elapsed_seconds(run)}
    except (CorpusError, ScoringError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1

    # A corpus need not tell seen from unseen.
    groups = [group for group in GROUPS if results[args.methods[0]]["scores"][group]]
    heads = ["method"] + [f"{name} {group}" for group in groups for _, name in MEASURES] + ["updates", "training, s"]
    table = markdown_table(heads, [row(method, results[method], groups) for method in args.methods])
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (out / "results.md").write_text(table, encoding="utf-8")
    if runs:
        draw(runs, out / "curves.png")
    print(table)
    print(f"The table, its numbers and the curves: {out}/results.md, results.json, curves.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
