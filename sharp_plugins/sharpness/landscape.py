"""The loss of a trained checkpoint around its weights: at w, at w + ε, and its gradient, over the same rows."""

from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from fairseq import utils
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.models.roberta import RobertaModel
from torch import Tensor

from sharp_plugins.files.checkpoint_config import config_of
from sharp_plugins.models.decoder import DecoderModel
from sharp_plugins.models.decoder_check import INSIDE, check_decoder
from sharp_plugins.models.encoder_sizes import check_encoder
from sharp_plugins.models.loading import load_model, read_state
from sharp_plugins.text.parts import evenly

BATCH = 32


class Point(NamedTuple):
    """The loss somewhere.

    Attributes:
        loss: the criterion's, on average over what it counts (sentences, or tokens), in nats.
        accuracy: in percent; None where the criterion does not tell it.
    """

    loss: float
    accuracy: Optional[float]


class Landscape:
    """A checkpoint's criterion on rows of a split, in fp32 and without dropout.

    Args:
        path: the checkpoint.
        data: the task's directory; the one of its training by default.
        split: one of fairseq's.
        rows: how many, evenly spread; all by default.
        device: where to compute; a GPU where there is one by default.

    Raises:
        FileNotFoundError: the checkpoint is not there.
        OSError: it cannot be read now.
        ValueError: it is no checkpoint that can be loaded, the split cannot or has no labels, or a flag does not fit.

    Example::

        land = Landscape("checkpoint_best.pt", split="valid")
        gradient = land.gradient()
        with land.moved(gradient, 0.05 / norm(gradient)):
            land.point().loss - before  # SAM's rise
    """

    def __init__(self, path, data=None, split: str = "valid", rows: int = 0, device: Optional[str] = None, batch: int = BATCH):
        if rows < 0 or batch < 1:
            raise ValueError(f"--rows must be 0 (all) or larger and --batch-size 1 or larger, and they are {rows} and {batch}")
        state = read_state(path)
        data = data or config_of(state, "task").get("data")
        if not isinstance(data, (str, Path)):
            raise ValueError(f"{path}: its config has no data; --data names their directory")
        self.loaded = load_model(path, state, data, _check_sizes, device)
        self.model, task = self.loaded.model, self.loaded.task
        self.criterion = task.build_criterion(self.loaded.cfg.criterion).to(self.loaded.device).eval()
        try:
            task.load_dataset(split)
            dataset = task.dataset(split)
        except (OSError, KeyError, AssertionError) as error:  # which of them depends on the task
            raise ValueError(f"--split {split}: there is none in {data}: {error}") from error
        except ValueError as error:
            words = "the checkpoint's task cannot load it; --split train may be there"
            raise ValueError(f"--split {split}: {words}: {error}") from error
        compares = getattr(self.criterion, "compares_rows", False)
        if compares and batch < 2:
            raise ValueError("--batch-size 1: the loss compares the rows of a batch; 2 or more are needed")
        self.rows = evenly(range(len(dataset)), rows or None)
        self.samples = list(self._batches(dataset, batch, only_full=compares and len(self.rows) > batch))
        try:
            with torch.no_grad():
                self.criterion(self.model, self.samples[0])
        except KeyError as error:
            raise ValueError(f"--split {split}: its rows have no {error}, such as the labels of a published test set") from error
        # What was trained; LoRA's factors alone, for example.
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]

    def _batches(self, dataset, size: int, only_full: bool) -> Iterator[Dict]:
        ordered = sorted(self.rows, key=dataset.num_tokens, reverse=True)  # so that little is padded
        for start in range(0, len(ordered) - (len(ordered) % size if only_full else 0), size):
            sample = dataset.collater([dataset[row] for row in ordered[start : start + size]])
            yield utils.apply_to_sample(lambda tensor: tensor.to(self.loaded.device), sample)

    # ---- at w, or wherever the weights are

    @torch.no_grad()
    def point(self) -> Point:
        """The loss where the weights are."""
        loss, size, right, rows = 0.0, 0, 0, 0
        for sample in self.samples:
            of, count, log = self.criterion(self.model, sample)
            loss, size = loss + float(of), size + float(count)
            if "ncorrect" in log:
                right, rows = right + int(log["ncorrect"]), rows + int(log["nsentences"])
        return Point(loss / size, 100 * right / rows if rows else None)

    def gradient(self) -> List[Tensor]:
        """∇L where the weights are, of `weights`; zeros where the loss does not depend on one."""
        size = 0.0
        self.model.zero_grad(set_to_none=True)
        for sample in self.samples:
            loss, count, _ = self.criterion(self.model, sample)
            loss.backward()
            size += float(count)
        found = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in self.weights]
        self.model.zero_grad(set_to_none=True)
        torch._foreach_div_(found, size)
        return found

    @contextmanager
    def moved(self, direction: Sequence[Tensor], distance: float) -> Iterator[None]:
        """Within, the weights are w + distance · direction; then they are w again, bit for bit."""
        with torch.no_grad():
            there = torch._foreach_add(self.weights, list(direction), alpha=distance)
        with self.replaced(there, self.weights):
            yield

    @contextmanager
    @torch.no_grad()
    def replaced(self, values: Sequence[Tensor], weights: Sequence[Tensor]) -> Iterator[None]:
        """Within, *weights* have other *values*."""
        kept = [weight.detach().clone() for weight in weights]
        torch._foreach_copy_(list(weights), list(values))
        try:
            with torch.enable_grad():
                yield
        finally:
            torch._foreach_copy_(list(weights), kept)

    def product(self, v: Sequence[Tensor], step: float) -> List[Tensor]:
        """H v by a central difference of gradients, *step* away on both sides."""
        with self.moved(v, step):
            above = self.gradient()
        with self.moved(v, -step):
            below = self.gradient()
        return list(torch._foreach_div(torch._foreach_sub(above, below), 2 * step))

    # ---- probabilities of a classifier

    @torch.no_grad()
    def probabilities(self) -> Optional[Tuple[Tensor, Tensor]]:
        """(rows, classes) probabilities and (rows,) targets; None where the checkpoint is no classifier with a head."""
        cfg, heads = self.loaded.cfg.criterion, getattr(self.model, "classification_heads", {})
        name = getattr(cfg, "classification_head_name", None)
        if name not in heads or getattr(cfg, "regression_target", False):
            return None
        outputs: List[Tensor] = []
        watch = heads[name].register_forward_hook(lambda module, inputs, output: outputs.append(output.float()))
        try:
            for sample in self.samples:
                self.criterion(self.model, sample)
        finally:
            watch.remove()
        return torch.cat(outputs).softmax(1), torch.cat([sample["target"].view(-1) for sample in self.samples])


def _check_sizes(path: Path, settings: Dict, weights: Dict[str, Tensor]) -> None:
    """An encoder's or a decoder's; of other architectures the sizes are not looked at."""
    arch = settings.get("_name") or settings.get("arch")
    base = settings.get("base_arch") if arch in INSIDE else arch
    model = ARCH_MODEL_REGISTRY.get(base) if isinstance(base, str) else None
    if model is DecoderModel:
        check_decoder(path, settings, weights)
    elif isinstance(model, type) and issubclass(model, RobertaModel):
        check_encoder(path, settings, weights)
