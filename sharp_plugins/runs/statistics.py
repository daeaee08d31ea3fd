"""Statistics of a few seeds: mean and spread, the difference to a baseline paired by seed, its interval and an exact test.

Two methods that were run with the same seed saw the same order of the data and the same new weights. Their difference by seed
varies less than either of them, so all comparisons here are of such pairs.

The test is the exact sign-flip permutation test of the mean difference (Fisher 1935, The Design of Experiments, section 21). If
the two methods do the same, each difference could as well have had the other sign; p is the share of the 2^n choices of signs
whose mean is at least as far from zero. Wilcoxon's signed-rank test has the same least p. We prefer the sign flips for three
reasons: they test the mean, which is what the table shows; they use how large the differences are, and few seeds have few ranks;
and they stay exact with ties and zeros, which accuracies on a small development set have all the time. Student's t gives the
interval. With a handful of seeds the interval rests on normal differences; the test does not.

n seeds can give no p below 2 / 2^n: 0.25 of three, 0.0625 of five, 0.03125 of six. Five seeds or fewer show nothing at 5 %.
"""

import math
from typing import List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
LEVEL = 0.05
# Up to 16 pairs all flips are counted. Of more, so many are drawn, always the same ones.
MOST_FLIPS = 2**16


class Summary(NamedTuple):
    """Of one method's runs.

    Attributes:
        runs: how many.
        mean: of their values; NaN where one of them is.
        std: sample standard deviation (n - 1); None of one run.
        best: the highest value, or the lowest where that is better, of those that are numbers.
    """

    runs: int
    mean: float
    std: Optional[float]
    best: float


class Comparison(NamedTuple):
    """A method beside the baseline, over the seeds that both have.

    Attributes:
        pairs: how many seeds both have.
        better: in how many of them the method is better; a tie is not.
        difference: mean of method minus baseline.
        interval: 95 % confidence interval of that mean; None of one pair, or where all differences are equal.
        p: two-sided, of the sign-flip test; None of one pair, or where all differences are zero.
        corrected: p after Holm's correction for all comparisons of a table; None where p is, or before `correct`.
    """

    pairs: int
    better: int
    difference: float
    interval: Optional[Tuple[float, float]]
    p: Optional[float]
    corrected: Optional[float] = None


def summarize(values: Sequence[float], higher_is_better: bool = True) -> Summary:
    """Summarize one or more values.

    >>> summarize([70.0, 72.0, 77.0])
    Summary(runs=3, mean=73.0, std=3.605551275463989, best=77.0)
    """
    with np.errstate(invalid="ignore"):  # of a run that diverged
        std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    numbers = [value for value in values if not math.isnan(value)] or [math.nan]
    best = max(numbers) if higher_is_better else min(numbers)
    return Summary(len(values), float(np.mean(values)), std, float(best))


def confidence_interval(differences: Sequence[float], confidence: float = CONFIDENCE) -> Optional[Tuple[float, float]]:
    """Student's t interval of the mean difference; None where the differences have no spread that could be measured."""
    if len(differences) < 2 or not np.all(np.isfinite(differences)):
        return None
    # Equal but for the rounding of the subtractions.
    if np.ptp(differences) <= 1e-9 * np.max(np.abs(differences)):
        return None
    low, high = stats.t.interval(confidence, len(differences) - 1, loc=np.mean(differences), scale=stats.sem(differences))
    return float(low), float(high)


def sign_flip_test(differences: Sequence[float]) -> Optional[float]:
    """Two-sided p of the sign-flip test; None of one difference, or where all of them are zero.

    >>> sign_flip_test([1.0, 2.0, 3.0])  # only + + + and - - - are as far from zero: 2 of 8
    0.25
    """
    largest = np.max(np.abs(differences)) if len(differences) > 1 else 0.0
    if largest == 0 or not np.isfinite(largest):
        return None

    def total(flipped, axis):
        # 0.1 + 0.2 is as far from zero as 0.3.
        return np.round(np.sum(flipped, axis=axis), 9)

    test = stats.permutation_test(
        (np.asarray(differences) / largest,),
        total,
        permutation_type="samples",  # of one sample: the signs are flipped
        vectorized=True,
        n_resamples=MOST_FLIPS,
        batch=4096,
        random_state=0,
    )
    return float(test.pvalue)


def least_p(pairs: int) -> float:
    """The smallest p that the test can give: of all signs as they are, and all turned.

    >>> [least_p(n) for n in (3, 5, 6)]
    [0.25, 0.0625, 0.03125]
    """
    return min(1.0, 2.0 / 2**pairs)


def compare(values: Mapping[int, float], baseline: Mapping[int, float], higher_is_better: bool = True) -> Optional[Comparison]:
    """Compare a method's values by seed with the baseline's; None where they share no seed.

    >>> compare({1: 71.0, 2: 73.0, 4: 90.0}, {1: 70.0, 2: 70.0, 3: 70.0})._replace(interval=None)
    Comparison(pairs=2, better=2, difference=2.0, interval=None, p=0.5, corrected=None)
    """
    pairs = [(values[seed], baseline[seed]) for seed in values if seed in baseline]
    if not pairs:
        return None
    # Two means of the same numbers may differ in their last bit: that is no difference.
    differences = [0.0 if math.isclose(one, other, rel_tol=1e-12) else one - other for one, other in pairs]
    better = sum(difference > 0 if higher_is_better else difference < 0 for difference in differences)
    mean = float(np.mean(differences))
    return Comparison(len(pairs), better, mean, confidence_interval(differences), sign_flip_test(differences))


def holm(ps: Sequence[float]) -> List[float]:
    """Correct p-values for their number (Holm 1979, "A simple sequentially rejective multiple test procedure").

    The smallest p is multiplied by their number, the next by one less, and so on; none may fall below one before it. The chance
    that any comparison of methods that do the same falls below the level is then at most the level.
    """
    corrected, least = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = least
    return corrected


def counts(comparison: Comparison) -> bool:
    """Whether a comparison is one of those that p is corrected for."""
    return comparison.p is not None or not math.isfinite(comparison.difference)


def correct(comparisons: Sequence[Optional[Comparison]]) -> List[Optional[Comparison]]:
    """Fill in `Comparison.corrected`, for all comparisons of a table that have a p.

    One of a single seed, or without any difference, could show nothing whatever came out, and does not count. One with a run that
    diverged counts, as nothing shown.
    """
    counted = [one for one in comparisons if one is not None and counts(one)]
    corrected = dict(zip(map(id, counted), holm([1.0 if one.p is None else one.p for one in counted])))
    return [one if one is None or one.p is None else one._replace(corrected=corrected[id(one)]) for one in comparisons]
