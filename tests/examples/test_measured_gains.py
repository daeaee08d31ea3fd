"""The intervals that the README and the studies' guide tell are those of the runs that lie beside the guide, rounded once."""

import importlib
import re

import pytest
from study_engine import ROOT, STUDIES

from sharp_plugins.runs.statistics import compare

SIGNED = r"(?:[+-]\d+\.\d+|0\.0)"
TOLD = re.compile(rf"(?:(?<![\d.])([+-]?\d+\.\d+)\*{{0,2}} \((?:95 % interval )?)?({SIGNED})\s+to\s+({SIGNED})")
# Compared across the files, or with another method than the baseline: (file, wrong labels, method) of both.
OTHERS = [
    (("noise-own-rates", "0.2", "dsam"), ("noise-own-rates", "0.2", "base-longer")),
    (("noise-own-rates", "0.4", "sam"), ("noise-own-rates", "0.4", "base-longer")),
    (("noise-own-rates", "0.4", "dsam"), ("noise-own-rates", "0.4", "base-longer")),
    (("noise-rate-1e-4", "0.2", "dsam"), ("noise", "0.2", "base")),
    (("noise", "0.2", "base"), ("noise-rate-1e-4", "0.2", "base")),
    (("noise", "0.4", "base"), ("noise-rate-1e-4", "0.4", "base")),
    (("noise-rate-1e-4", "0.4", "dsam"), ("noise", "0.4", "base")),
    (("few", "0", "base"), ("few-lora", "0", "lora")),
]


@pytest.fixture
def comparisons(monkeypatch):
    """All that the files can be asked for."""
    monkeypatch.syspath_prepend(str(STUDIES))
    overview = importlib.import_module("overview")

    def values(name, noise, method):
        rows, key = overview.read_csv(STUDIES / f"{name}.csv"), ("task", "rows", "noise", "method", "noisy_selection")
        own = [row for row in rows if [row[part] for part in key] == ["SST-2", "1000", noise, method, "0"]]
        return {int(row["seed"]): float(row["value"]) for row in own}

    def first_five(method):
        rows = overview.read_csv(STUDIES / "survives.csv")
        return {int(row["seed"]): float(row["4 bits"]) for row in rows if row["method"] == method and int(row["seed"]) <= 5}

    def of_similarity(average):
        own = {}
        for row in overview.read_csv(ROOT / "examples" / "sts" / "measured.csv"):
            if row["seed"]:
                own.setdefault((row["encoder"], row["method"]), {})[int(row["seed"])] = average(row)
        others = [(encoder, values) for (encoder, method), values in own.items() if method != "mirror" and len(values) > 1]
        return [compare(values, own[encoder, "mirror"]) for encoder, values in others]

    found = [one.comparison for one in overview.gains_of(list(overview.read(STUDIES)))]
    found += [compare(values(*method), values(*other)) for method, other in OTHERS]
    # That file has two digits: an interval's last one may be that of either.
    sets = ("STS12", "STS13", "STS14", "STS15", "STS16", "STS-B", "SICK-R")
    found += of_similarity(lambda row: float(row["average"])) + of_similarity(lambda row: sum(float(row[one]) for one in sets) / 7)
    return [*found, compare(first_five("sam"), first_five("base"))]


@pytest.mark.parametrize("guide", ["README.md", "examples/studies/README.md", "examples/sts/README.md"])
def test_the_intervals_of_the_guides_are_those_of_the_runs(comparisons, guide):
    told, wrong = TOLD.findall((ROOT / guide).read_text()), []
    assert len(told) >= 5
    for mean, low, high in told:
        digits = len(low.split(".")[1])
        mean = mean if mean and abs(float(mean)) < 30 else ""  # else it is the baseline's score

        def same(comparison):
            ends = [float(f"{end:.{digits}f}") for end in comparison.interval]
            difference = float(f"{comparison.difference:.{digits}f}")
            middle = not mean or float(mean) == (difference if mean[0] in "+-" else abs(difference))  # "0.4 less"
            return middle and ends == [float(low), float(high)]

        wrong += [] if any(map(same, comparisons)) else [f"{mean} ({low} to {high})"]
    assert wrong == []
