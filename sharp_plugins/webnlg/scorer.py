"""Score generated texts against all their references with sacrebleu: BLEU, chrF++ and TER."""

from dataclasses import asdict, dataclass
from typing import List, Optional, Sequence

from sacrebleu.metrics import BLEU, CHRF, TER

from sharp_plugins.text.references import reference_streams


class ScoringError(ValueError):
    """Hypotheses and references do not fit together; the message says where."""


@dataclass(frozen=True)
class Score:
    """Corpus scores of one group of inputs. BLEU and chrF++: higher is better; TER: lower is better.

    >>> score(["the cat sat here"], [["the cat sat here"]]).overall.ter
    0.0
    """

    bleu: float
    chrf: float
    ter: float
    count: int


@dataclass(frozen=True)
class Scores:
    """Scores over all inputs, and over those of seen and unseen categories (None where there are none).

    >>> scores = score(["the cat sat here", "a dog"], [["the cat sat here"], ["one dog"]], [True, None])
    >>> scores.overall.count, scores.seen.count, scores.unseen
    (2, 1, None)
    """

    overall: Score
    seen: Optional[Score]
    unseen: Optional[Score]

    def as_dict(self) -> dict:
        """Return plain dictionaries, as for JSON."""
        return asdict(self)


def score(
    hypotheses: Sequence[str], references_per_input: Sequence[Sequence[str]], seen_flags: Optional[Sequence[Optional[bool]]] = None
) -> Scores:
    """Score one hypothesis per input against all references of that input.

    ``seen_flags`` holds True, False or None (unknown: counts in ``overall`` only) for each input.
    """
    if seen_flags is None:
        seen_flags = [None] * len(references_per_input)
    if len(hypotheses) != len(references_per_input):
        raise ScoringError(f"{len(hypotheses)} hypotheses for {len(references_per_input)} inputs")
    if len(seen_flags) != len(references_per_input):
        raise ScoringError(f"{len(seen_flags)} seen flags for {len(references_per_input)} inputs")
    if not hypotheses:
        raise ScoringError("there is nothing to score")
    for number, references in enumerate(references_per_input, start=1):
        # A lone string is a sequence too: of one-letter references.
        if isinstance(references, str) or not references:
            raise ScoringError(f"input {number}: a list with at least one reference is expected, got {references!r}")
        for which, text in enumerate(references, start=1):
            # One without words would count: TER divides by the references' mean length.
            if not isinstance(text, str) or not text.strip():
                raise ScoringError(f"input {number}, reference {which}: a text that is not empty is expected, got {text!r}")

    # TER takes most of the time, and a corpus's TER is a ratio of sums over its inputs: one pass serves all groups.
    ter = TER()
    edits = [ter.sentence_score(text, list(refs)) for text, refs in zip(hypotheses, references_per_input)]

    def of(rows: List[int]) -> Optional[Score]:
        if not rows:
            return None
        texts = [hypotheses[row] for row in rows]
        streams = reference_streams([references_per_input[row] for row in rows])
        return Score(
            bleu=BLEU().corpus_score(texts, streams).score,
            chrf=CHRF(word_order=2).corpus_score(texts, streams).score,
            ter=100 * sum(edits[row].num_edits for row in rows) / sum(edits[row].ref_length for row in rows),
            count=len(rows),
        )

    every = list(range(len(hypotheses)))
    return Scores(
        overall=of(every),
        seen=of([row for row in every if seen_flags[row] is True]),
        unseen=of([row for row in every if seen_flags[row] is False]),
    )
