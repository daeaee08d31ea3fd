"""The three ways to score a system: what is done to the texts, which references count, and how each number is made of them.

==============  ==========================  =========================================  ==================================
                sacrebleu                   challenge2017                              lora
==============  ==========================  =========================================  ==================================
text            as it is                    lower case, ASCII, split at non-words      lower case, split at non-words
references      all                         the first three; BLEU takes a missing one  the first six
                                            as an empty text, as multi-bleu does
BLEU            its default (13a, exp)      multi-bleu.perl: words between spaces      multi-bleu-detok.perl: 13a on that
TER             its default (tercom's)      tercom's on that text                      pyter3's: mean over the inputs
chrF++          its default, word order 2   the same on that text                      the same on that text
==============  ==========================  =========================================  ==================================

The two scripts know no smoothing: where no n-gram of some length is found at all, their BLEU is 0.
"""

from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Score

from sharp_plugins.webnlg.scores.normalisation import challenge_hypothesis, challenge_reference, lora_text
from sharp_plugins.webnlg.scores.pyter import least_rate
from sharp_plugins.webnlg.scores.tercom import QuickTER

MEASURES = ("bleu", "chrf", "ter")


class MeanTER:
    """LoRA's TER: over the inputs the mean of the lowest rate over an input's references (`sharp_plugins.webnlg.scores.pyter`), in
    percent. It has those of the methods of a metric of sacrebleu that are called here.

    >>> metric = MeanTER()
    >>> rows = metric._extract_corpus_statistics(["a b", "c"], [["a b", "d"], ["b", None]])
    >>> rows, metric._aggregate_and_compute(rows).score
    ([[0.0, 1], [1.0, 1]], 50.0)
    """

    def _extract_corpus_statistics(self, hypotheses, streams) -> List[List[float]]:
        return [
            [least_rate(text.split(), [one.split() for one in references if one is not None]), 1]
            for text, *references in zip(hypotheses, *streams)
        ]

    def _compute_score_from_stats(self, stats) -> Score:
        return Score("TER", 100 * float(stats[0] / stats[1]))

    def _aggregate_and_compute(self, rows) -> Score:
        return self._compute_score_from_stats([sum(column) for column in zip(*rows)])

    def get_signature(self) -> str:
        return "ter:pyter|mean:inputs|reference:best"


@dataclass(frozen=True)
class Way:
    """A way to score.

    Args:
        hypothesis, reference: what is done to a text.
        most: how many references of an input count at most; None: all.
        has_empty: whether BLEU sees an empty text in the place of each reference that another input of the group has more.
        metrics: makes the metrics of `MEASURES`.

    >>> way = WAYS["challenge2017"]
    >>> way.hypothesis("Bacon is in it."), way.references(["It's a BLT.", "Two.", "Three.", "Four."])
    ('bacon is in it .', ["it ' s a blt .", 'two .', 'three .'])
    """

    name: str
    hypothesis: Callable[[str], str]
    reference: Callable[[str], str]
    most: Optional[int]
    has_empty: bool
    metrics: Callable[[], Dict[str, object]]

    def references(self, given: Sequence[str]) -> List[str]:
        """Those of an input's references that count, prepared."""
        return [self.reference(text) for text in given[: self.most]]


def _metrics(tokenize: str, smooth_method: str, ter=QuickTER) -> Callable[[], Dict[str, object]]:
    return lambda: {
        "bleu": BLEU(tokenize=tokenize, smooth_method=smooth_method, force=True),
        "chrf": CHRF(word_order=2),
        "ter": ter(),
    }


WAYS: Dict[str, Way] = {
    way.name: way
    for way in (
        Way("sacrebleu", str, str, None, False, _metrics("13a", "exp")),
        Way("challenge2017", challenge_hypothesis, challenge_reference, 3, True, _metrics("none", "none")),
        # What is missing LoRA fills up with the first reference, which changes none of the three numbers.
        Way("lora", lora_text, lora_text, 6, False, _metrics("13a", "none", MeanTER)),
    )
}
