"""Scores as tables for a terminal, in Markdown."""

from typing import Dict, List

from sharp_plugins.runs.table import markdown_table
from sharp_plugins.webnlg.scores.ways import MEASURES, WAYS

HEADINGS = {"bleu": "BLEU", "chrf": "chrF++", "ter": "TER"}


def scores_table(scores: Dict) -> str:
    """A line for each way, with the groups beside each other; METEOR where it was asked for."""
    groups = list(scores["counts"])
    meteor = scores.get("meteor")
    heads = ["", *(f"{HEADINGS[measure]} {group}" for group in groups for measure in MEASURES)]
    rows: List[list] = [[way, *(scores[way][group][measure] for group in groups for measure in MEASURES)] for way in WAYS]
    if meteor:
        heads += [f"METEOR {group}" for group in groups]
        rows = [row + [meteor[row[0]][group] for group in groups] for row in rows]
    return markdown_table(heads, rows)


def breakdown_tables(breakdown: Dict) -> str:
    """A table for categories and one for numbers of triples, with the ways beside each other."""
    tables = []
    for part in next(iter(breakdown.values())):
        heads = [part, "inputs", *(f"{HEADINGS[measure]} {way}" for way in breakdown for measure in MEASURES)]
        counts = {name: values["count"] for name, values in next(iter(breakdown.values()))[part].items()}
        rows = [
            [name, count, *(breakdown[way][part][name][measure] for way in breakdown for measure in MEASURES)]
            for name, count in counts.items()
        ]
        tables.append(markdown_table(heads, rows))
    return "\n".join(tables)


def significance_tables(found: Dict) -> str:
    """A table for each system that the first was compared with."""
    tables = []
    for other, ways in found["against"].items():
        heads = [f"against {other}", "score ± interval", "other ± interval", "difference", "p"]
        rows = [
            [
                f"{way}, {group}, {HEADINGS[measure]}",
                *(f"{one[score]:.2f} ± {one[interval][1]:.2f}" for score, interval in PAIRS),
                one["difference"],
                f"{one['p']:.4f}",
            ]
            for way, groups in ways.items()
            for group, measures in groups.items()
            for measure, one in measures.items()
        ]
        tables.append(markdown_table(heads, rows))
    return "\n".join(tables)


PAIRS = (("score", "interval"), ("other", "other_interval"))
