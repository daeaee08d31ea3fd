"""Which label word a checkpoint finds the likeliest at each mask, and how often it is the right one."""

import json
import math
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional

import torch
import torch.nn.functional as F

from sharp_plugins.cloze.checks import check_checkpoint
from sharp_plugins.cloze.dataset import load_split
from sharp_plugins.cloze.prepared import Prepared
from sharp_plugins.models.encoder_sizes import check_encoder
from sharp_plugins.models.loading import by_length, load_model, read_state


class Predictions(NamedTuple):
    """Of one split, in the order of its rows.

    Attributes:
        logits: (rows, classes), fp32, on the CPU: the scores of the label words.
        targets: (rows,) numbers of the right classes.
    """

    logits: torch.Tensor
    targets: torch.Tensor

    def scores(self) -> Dict[str, float]:
        """The accuracy in percent, the mean loss to base 2 as fairseq logs it, and how many rows."""
        correct = int((self.logits.argmax(dim=1) == self.targets).sum())
        loss = F.cross_entropy(self.logits.double(), self.targets)
        return {"accuracy": 100.0 * correct / len(self.targets), "loss": float(loss) / math.log(2), "examples": len(self.targets)}


class Checkpoint:
    """A trained model, or a backbone as it was published, on prepared data; computes in fp32.

    Args:
        device: where to compute; a GPU where there is one by default.
        warn: is told where the checkpoint was trained with another layout.
        tell: is given a line about the progress now and then.

    Raises:
        FileNotFoundError: the checkpoint is not there.
        OSError: it cannot be read now, for want of memory, say.
        ValueError: it is cut off, cannot be read safely, has no masked-language-model head, or another vocabulary.

    Example::

        checkpoint = Checkpoint("backbones/roberta/model.pt", read_prepared("DATA"))
        checkpoint.predict("test").scores()["accuracy"]  # zero-shot
    """

    def __init__(
        self,
        path,
        prepared: Prepared,
        device: Optional[str] = None,
        warn: Callable[[str], None] = lambda line: None,
        tell: Callable[[str], None] = lambda line: None,
    ):
        self.tell = tell
        state = read_state(path)
        check_checkpoint(Path(path), state, prepared, warn)
        self.prepared, self.dictionary = prepared, prepared.dictionary()
        self.loaded = load_model(path, state, prepared.directory, check_encoder, device)
        rows = self.loaded.model.encoder.sentence_encoder.embed_tokens.num_embeddings
        if rows != len(self.dictionary):
            raise ValueError(f"{path}: its table has {rows} words, and {prepared.directory} {len(self.dictionary)} symbols")

    def check_lengths(self, split: str) -> None:
        """Raise ValueError where a row of *split* is longer than the model."""
        longest, room = self.prepared.facts[split]["longest"], self.loaded.model.max_positions()
        if longest > room:
            raise ValueError(
                f"{self.prepared.directory}: the longest row of {split} has {longest} tokens, and the model {room} positions; "
                f"prepare the data again with `--max-length {room}`"
            )

    @torch.no_grad()
    def predict(self, split: str, batch: int = 64) -> Predictions:
        """Predict for all rows of a split, *batch* rows at a time.

        Raises:
            ValueError: an output is NaN or infinite, or a row is longer than the model.
        """
        self.check_lengths(split)
        dataset, model = load_split(self.prepared, self.dictionary, split), self.loaded.model
        logits = torch.empty(len(dataset), len(self.prepared.words))
        for rows, sample in by_length(dataset, batch, self.loaded.device, lambda words: self.tell(f"{split}: {words}")):
            logits[rows] = model(**sample["net_input"])[0][:, self.prepared.words].float().cpu()
        if not logits.isfinite().all():
            raise ValueError(f"{split}: the model's outputs are no finite numbers; its training diverged")
        return Predictions(logits, torch.cat([dataset.labels[row] for row in range(len(dataset))]).long())


def as_json_lines(predictions: Dict[str, Predictions], classes: List[str]) -> Iterator[str]:
    """A line for each row of each split: its number from 0, the right class, the predicted one, and the scores of all."""
    for split, found in predictions.items():
        for number, (logits, target) in enumerate(zip(found.logits.tolist(), found.targets.tolist())):
            prediction = max(range(len(classes)), key=logits.__getitem__)
            row = {"split": split, "row": number, "label": classes[target], "prediction": classes[prediction]}
            yield json.dumps({**row, "logits": dict(zip(classes, logits))}, ensure_ascii=False) + "\n"
