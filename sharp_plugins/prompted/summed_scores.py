"""BLEU and chrF++ of a corpus from numbers that are summed over its texts, and so over batches and ranks.

Both are ratios of sums over the corpus: of n-grams of all lengths, found, in the texts and in the references (Papineni et al. 2002;
Popović 2017). The definitions are sacrebleu's, with its defaults: the scores equal those of its ``corpus_score`` on the same texts.
"""

from typing import Dict, Sequence

import torch
from sacrebleu.metrics import BLEU, CHRF
from torch import Tensor

from sharp_plugins.text.references import reference_streams

# chrF++ is chrF with words and pairs of words (Popović 2017).
METRICS = {"bleu": BLEU(), "chrf": CHRF(word_order=2)}
# How many numbers. BLEU: lengths of texts and references, found n-grams and all of 4 sizes. chrF++: n-grams of texts, of
# references and of both, of 6 + 2 sizes.
SIZES = {"bleu": 10, "chrf": 24}


def statistics(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Tensor:
    """The numbers of *texts*, each with references of its own: (34,), whole numbers in float64, to be added to those of others.

    >>> statistics(["a dog"], [["one dog", "a cat"]])[:4]  # words; those of the nearest reference; found words; found pairs
    tensor([2., 2., 2., 0.], dtype=torch.float64)
    """
    streams = reference_streams(references)
    # sacrebleu's own bootstrap reads the numbers of each text by this method; no public one returns those of chrF.
    found = [metric._extract_corpus_statistics(texts, streams) for metric in METRICS.values()]
    return torch.cat([torch.tensor(numbers, dtype=torch.float64).sum(0) for numbers in found])


def scores(sums: Tensor) -> Dict[str, float]:
    """The scores, from 0 to 100, of all texts whose numbers were added up to *sums* (34,).

    >>> one, other = statistics(["a dog is here"], [["a dog is here"]]), statistics(["no"], [["yes", "no"]])
    >>> {name: round(score) for name, score in scores(one + other).items()}
    {'bleu': 100, 'chrf': 100}
    """
    parts = sums.split(list(SIZES.values()))
    return {name: METRICS[name]._compute_score_from_stats([int(n) for n in part]).score for name, part in zip(SIZES, parts)}
