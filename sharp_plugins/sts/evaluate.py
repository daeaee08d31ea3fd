"""How well the cosines of an encoder's sentence vectors order pairs of sentences: Spearman's correlation with people's scores.

The correlation is over all pairs of a year together ("all"), as in SentEval, SimCSE and Mirror-BERT; the mean over a year's subsets
is another number, and is given on request.
"""

from pathlib import Path
from statistics import fmean
from typing import Dict, List, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sharp_plugins.contrastive.dataset import rows_of
from sharp_plugins.contrastive.pooling import sentence_vectors
from sharp_plugins.contrastive.task import ContrastiveSentences, ContrastiveSentencesConfig
from sharp_plugins.files.checkpoint_config import config_of
from sharp_plugins.models.encoder_sizes import check_encoder
from sharp_plugins.models.loading import load_model, read_state
from sharp_plugins.runs.metrics import scores
from sharp_plugins.sts.sets import SETS, YEARS, PairSet

BATCH = 64
# Mirror-BERT's tests cut at 64 symbols, or pad to them: with padding in the mean the length is a part of the model. Sentence
# encoders with the mean over a sentence's own symbols are tested with 256.
LENGTHS = {"cls": 64, "mean-padded": 64, "mean": 256}
DEFAULT_POOLING = "mean"


class SentenceEncoder:
    """A checkpoint of an encoder, and what turns sentences into vectors. It computes in fp32.

    Args:
        path: any checkpoint of a BERT or RoBERTa of fairseq's: converted, fine-tuned, with LoRA or adapters.
        pooling: one of `sharp_plugins.contrastive.pooling.POOLINGS`; by default the one that it was trained with, or else mean.
        length: the most symbols of a sentence; more are cut off.
        tokenizer: directory with its tokenizer and dict.txt; by default the checkpoint's own directory, or where its config says.
        device: where to compute; a GPU where there is one by default.

    Raises:
        FileNotFoundError: the checkpoint or its tokenizer is not there.
        ValueError: it cannot be read, is no encoder, or has fewer positions than *length*.

    Example::

        SentenceEncoder("backbones/minilm/model.pt").vectors(["A man sings.", "He sings."])  # (2, 384)
    """

    def __init__(
        self,
        path,
        pooling: Optional[str] = None,
        length: Optional[int] = None,
        tokenizer: Optional[Path] = None,
        device: Optional[str] = None,
    ):
        state = read_state(path)
        trained = config_of(state, "task")
        own = trained.get("pooling") if trained.get("_name") == "contrastive_sentences" else None
        self.pooling = pooling or own or DEFAULT_POOLING
        directory = find_tokenizer(Path(path), state, tokenizer)
        most = config_of(state, "model").get("max_positions")
        if length is None:
            length = LENGTHS[self.pooling]
            length = min(length, most) if isinstance(most, int) else length
        if isinstance(most, int) and length > most:
            raise ValueError(f"--max-length {length}: {path} has {most} positions")
        self.length = length
        self.task = ContrastiveSentences(
            ContrastiveSentencesConfig(data=str(directory), pooling=self.pooling, max_length=length, seed=1)
        )
        self.loaded = load_model(path, state, directory, check_encoder, device, self.task)
        # Of the test sets' sentences a third are repetitions, in one set or in several.
        self.known: Dict[str, Tensor] = {}

    @torch.no_grad()
    def vectors(self, sentences: Sequence[str]) -> Tensor:
        """(B, D) vectors in fp32, on the CPU. A sentence is encoded once, and kept for later calls.

        Raises:
            ValueError: one is NaN or infinite.
        """
        # By length, so that little is padded.
        new = sorted({text: None for text in sentences if text not in self.known}, key=len, reverse=True)
        dictionary = self.task.source_dictionary
        for start in range(0, len(new), BATCH):
            texts = new[start : start + BATCH]
            tokens = rows_of(texts, self.task.tokenizer, dictionary, self.length, self.pooling == "mean-padded")
            tokens = tokens.to(self.loaded.device)
            found = sentence_vectors(self.loaded.model, tokens, dictionary.pad(), self.pooling).cpu()
            if not found.isfinite().all():
                raise ValueError("a sentence's vector is no finite numbers; the training diverged")
            self.known.update(zip(texts, found))
        return torch.stack([self.known[text] for text in sentences])


def find_tokenizer(path: Path, state: Dict, given: Optional[Path]) -> Path:
    """The directory with a checkpoint's ``dict.txt`` and tokenizer.

    Raises:
        FileNotFoundError: there is none.
    """
    places = [config_of(state, "task").get("data"), config_of(state, "bpe").get("bpe_tokenizer")]
    places = [given] if given else [path.parent, *(Path(place) for place in places if isinstance(place, str) and place)]
    for place in places:
        if (place / "dict.txt").is_file() and (place / "tokenizer.json").is_file():
            return place
    raise FileNotFoundError(
        f"{path}: no dict.txt and tokenizer.json in {' or '.join(map(str, places))}; "
        "--tokenizer names the converted encoder's directory"
    )


def correlations(
    encoder: SentenceEncoder, sets: Dict[str, PairSet], by_subset: bool = False, tell=lambda line: None
) -> Dict[str, float]:
    """100 times Spearman's correlation, by set, and the ``average`` of the seven test sets where all are there.

    Args:
        by_subset: the mean over a set's subsets, in the place of one correlation over all of its pairs.
        tell: is given a line for each set.

    Raises:
        ValueError: with *by_subset*, a year has no subsets, or one has no two different scores, and so no correlation.
    """
    found: Dict[str, float] = {}
    for name, (pairs, _) in sets.items() if by_subset else ():
        if name in YEARS and not any(pair.subset for pair in pairs):
            raise ValueError(f"--subsets: the file of {name} has no column subset, which says where each pair is from")
        for subset in dict.fromkeys(pair.subset for pair in pairs):
            if len({pair.score for pair in pairs if pair.subset == subset}) < 2:
                raise ValueError(f"--subsets: {name}: the pairs of {subset!r} have no two different scores, and so no correlation")
    for name, (pairs, _) in sets.items():
        vectors = encoder.vectors([pair.first for pair in pairs] + [pair.second for pair in pairs])
        cosines = F.cosine_similarity(*vectors.double().chunk(2)).tolist()
        targets, subsets = [pair.score for pair in pairs], [pair.subset if by_subset else "" for pair in pairs]
        found[name] = fmean(_spearman(cosines, targets, subsets, one) for one in dict.fromkeys(subsets))
        tell(f"{name}: {found[name]:.2f} ({len(pairs)} pairs)")
    if SETS.keys() <= found.keys():
        found["average"] = fmean(found[name] for name in SETS)
    return found


def _spearman(cosines: List[float], targets: List[float], subsets: List[str], subset: str) -> float:
    rows = [row for row, own in enumerate(subsets) if own == subset]
    return scores(["spearman"], [cosines[row] for row in rows], [targets[row] for row in rows])["spearman"]
