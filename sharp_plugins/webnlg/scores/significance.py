"""Whether a difference between two systems could be chance: sacrebleu's paired tests, on the statistics that are there already.

Both tests draw inputs, the same ones for both systems: the paired bootstrap with replacement (Koehn 2004), approximate
randomisation by exchanging the two systems' texts (Riezler and Maxwell 2005). ``sacrebleu.significance.PairedTest`` is given each
input's statistics in the place of its texts. So it serves each way and each measure, LoRA's mean TER too, and nothing is looked
for twice.

One thing differs from sacrebleu. It counts the samples whose difference is larger than the systems'; here those that have just the
same difference count too, as the definition of p has it. Else two systems with the same outputs, whose difference of 0 no sample
exceeds, would have the least p there is, 1/(samples + 1), and seem to differ most surely. So p is sacrebleu's or larger. On few
inputs TER, which counts edits, has many samples with the same difference; BLEU and chrF++ have hardly any.
"""

import os
from contextlib import contextmanager
from typing import Dict, Iterator, Sequence

import numpy as np
from sacrebleu import significance
from sacrebleu.metrics.base import Signature

from sharp_plugins.webnlg.corpus import Entry
from sharp_plugins.webnlg.scores.groups import groups_of
from sharp_plugins.webnlg.scores.system import System
from sharp_plugins.webnlg.scores.ways import MEASURES

# Samples or trials if nothing is said: sacrebleu's.
TESTS = {"bootstrap": ("bs", 1000), "randomisation": ("ar", 10000)}
INTERVAL_SAMPLES = 1000
# In percent: differences that are closer are equal but for the order in which numbers were added up.
EQUAL = 1e-9


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
        good (1 for the same outputs), and ``interval`` and ``other_interval``: the mean over bootstrap samples and half the width
        of their middle 95 %.

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
    with _seed(seed), _ties_counted():
        paired = significance.PairedTest(list(statistics.items()), {"": _Given(metric)}, None, kind, samples, INTERVAL_SAMPLES)
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


@contextmanager
def _ties_counted() -> Iterator[None]:
    """sacrebleu's tests with `p_value` in the place of its own."""
    before = significance._compute_p_value
    significance._compute_p_value = p_value
    try:
        yield
    finally:
        significance._compute_p_value = before


def p_value(samples: np.ndarray, difference: float) -> float:
    """How often chance makes a difference as large as the systems' or larger. That of the systems counts as one more sample.

    Args:
        samples: differences if both systems were equally good; those of the bootstrap with their mean taken off.

    >>> p_value(np.array([0.0, 0.5, 1.0]), 0.5), p_value(np.zeros(3), 0.0)
    (0.75, 1.0)
    """
    return (int(np.sum(samples >= difference - EQUAL)) + 1) / (len(samples) + 1)
