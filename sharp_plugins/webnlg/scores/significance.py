"""Whether a difference between two systems could be chance: sacrebleu's paired tests, on the statistics that are there already.

Both tests draw inputs, the same ones for both systems: the paired bootstrap with replacement (Koehn 2004), approximate
randomisation by exchanging the two systems' texts (Riezler and Maxwell 2005). ``sacrebleu.significance.PairedTest`` is given each
input's statistics in the place of its texts. So it serves each way and each measure, LoRA's mean TER too, and nothing is looked
for twice.
"""

import os
from contextlib import contextmanager
from typing import Dict, Iterator, Sequence

from sacrebleu.metrics.base import Signature
from sacrebleu.significance import PairedTest

from sharp_plugins.webnlg.corpus import Entry
from sharp_plugins.webnlg.scores.groups import groups_of
from sharp_plugins.webnlg.scores.system import System
from sharp_plugins.webnlg.scores.ways import MEASURES

# Samples or trials if nothing is said: sacrebleu's.
TESTS = {"bootstrap": ("bs", 1000), "randomisation": ("ar", 10000)}
INTERVAL_SAMPLES = 1000


def compare(
    named: Dict[str, Dict[str, System]], entries: Sequence[Entry], test: str, samples: int = 0, seed: int = 12345
) -> Dict[str, object]:
    """Compare the first of some systems with each other one.

    Args:
        named: the systems by name, each in each way, as `sharp_plugins.webnlg.scores.evaluation.systems` returns them.
        test: one of `TESTS`.
        samples: of the bootstrap, or trials of the randomisation; 0: as in `TESTS`.
        seed: of the random numbers, from 1.

    Returns:
        ``{"test", "samples", "seed", "system", "against": {name: {way: {group: {measure: result}}}}}``. A result has ``score`` and
        ``other``, ``difference`` (score - other), the probability ``p`` of one at least as large if the two systems were equally
        good, and ``interval`` and ``other_interval``: the mean over bootstrap samples and half the width of their middle 95 %.

    Raises:
        ValueError: *samples* or *seed* is out of range.
    """
    check_numbers(samples, seed)
    kind, usual = TESTS[test]
    (name, first), *others = named.items()
    against: Dict[str, Dict] = {other: {} for other, _ in others}
    for way, system in first.items():
        for group, rows in groups_of(entries).items():
            for measure in MEASURES:
                statistics = {other: given[way].rows(measure, rows) for other, given in named.items()}
                results = _paired(statistics, system.metrics[measure], kind, samples or usual, seed)
                for other, _ in others:
                    found = _result(results[name], results[other])
                    against[other].setdefault(way, {}).setdefault(group, {})[measure] = found
    return {"test": test, "samples": samples or usual, "seed": seed, "system": name, "against": against}


def check_numbers(samples: int, seed: int) -> None:
    """Raises ValueError as `compare` does."""
    if samples < 0:
        raise ValueError(f"--samples {samples}: should be at least 1, or 0 for sacrebleu's number")
    if not 1 <= seed < 2**32:
        raise ValueError(f"--seed {seed}: should be from 1 to 2^32 - 1; sacrebleu takes 0 for no seed")


def _paired(statistics: Dict[str, list], metric, kind: str, samples: int, seed: int) -> Dict:
    """sacrebleu's result for each system, by name; the first is what the others are compared with."""
    with _seed(seed):
        paired = PairedTest(list(statistics.items()), {"": _Given(metric)}, None, kind, samples, INTERVAL_SAMPLES)
        _, results = paired()
    (found,) = (values for name, values in results.items() if name != "System")
    return dict(zip(statistics, found))


def _result(first, other) -> Dict:
    return {
        "score": float(first.score),
        "other": float(other.score),
        "difference": float(first.score - other.score),
        "p": float(other.p_value),
        "interval": [float(first.mean), float(first.ci)],
        "other_interval": [float(other.mean), float(other.ci)],
    }


class _Given:
    """A metric of sacrebleu to which an input's statistics stand for its text."""

    def __init__(self, metric):
        self._aggregate_and_compute = metric._aggregate_and_compute
        self._compute_score_from_stats = metric._compute_score_from_stats

    def _extract_corpus_statistics(self, hypotheses, references):
        return hypotheses

    def get_signature(self) -> Signature:
        return Signature({"num_refs": -1})


@contextmanager
def _seed(seed: int) -> Iterator[None]:
    """sacrebleu reads its seed from the environment."""
    before = os.environ.get("SACREBLEU_SEED")
    os.environ["SACREBLEU_SEED"] = str(seed)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SACREBLEU_SEED"]
        else:
            os.environ["SACREBLEU_SEED"] = before
