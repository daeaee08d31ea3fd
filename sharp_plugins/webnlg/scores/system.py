"""A system's texts in one way: each measure's statistics input by input, of which the score of any group is made.

All three scores of a corpus are made of sums over its inputs. So the slow part, to find the n-grams and the edits, is done once,
and serves all inputs, seen and unseen ones, each category, and the thousands of samples of a test of significance.
"""

from typing import Dict, List, Sequence

from sharp_plugins.text.references import reference_streams
from sharp_plugins.webnlg.scores.ways import MEASURES, Way


class System:
    """One system's texts in one way.

    >>> from sharp_plugins.webnlg.scores.ways import WAYS
    >>> system = System(WAYS["sacrebleu"], ["the cat sat here", "a dog"], [["the cat sat here"], ["one dog"]])
    >>> {measure: round(score, 2) for measure, score in system.scores([0]).items()}
    {'bleu': 100.0, 'chrf': 100.0, 'ter': 0.0}
    >>> round(system.score("ter", [0, 1]), 2)  # an edit, to six words of references
    16.67
    """

    def __init__(self, way: Way, hypotheses: Sequence[str], references: Sequence[Sequence[str]]):
        self.way, self.metrics = way, way.metrics()
        self.hypotheses = [way.hypothesis(text) for text in hypotheses]
        self.references = [way.references(given) for given in references]
        self._rows: Dict[tuple, List[list]] = {}
        # How each number is made, as sacrebleu says it of the first group that is scored, and whose preparation the texts have.
        self.signatures: Dict[str, str] = {}

    def rows(self, measure: str, group: Sequence[int]) -> List[list]:
        """The statistics of a group's inputs.

        Args:
            group: the inputs' numbers, from 0.
        """
        # The challenge fills references up to the most of the group that is scored. Only its BLEU asks for it.
        width = max(len(self.references[row]) for row in group) if self.way.has_empty and measure == "bleu" else 0
        if (measure, width) not in self._rows:
            streams = reference_streams([one + [""] * (width - len(one)) for one in self.references])
            self._rows[measure, width] = self.metrics[measure]._extract_corpus_statistics(self.hypotheses, streams)
            signature = str(self.metrics[measure].get_signature())
            prepared = "" if self.way.hypothesis is str else f"|prep:{self.way.name}"
            self.signatures.setdefault(measure, signature + prepared)
        return [self._rows[measure, width][row] for row in group]

    def score(self, measure: str, group: Sequence[int]) -> float:
        """A group's score, not rounded, in percent."""
        return float(self.metrics[measure]._aggregate_and_compute(self.rows(measure, group)).score)

    def scores(self, group: Sequence[int]) -> Dict[str, float]:
        """All three."""
        return {measure: self.score(measure, group) for measure in MEASURES}
