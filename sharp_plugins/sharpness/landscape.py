"""The loss of a trained checkpoint around its weights: at w, at w + ε, and its gradient, over the same rows."""

from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.models.roberta import RobertaModel
from fairseq.modules.checkpoint_activations import unwrap_checkpoint
from torch import Tensor

from sharp_plugins.files.checkpoint_config import config_of
from sharp_plugins.models.base_arch import wrapper_of
from sharp_plugins.models.bert import BertModel
from sharp_plugins.models.decoder import DecoderModel
from sharp_plugins.models.decoder_check import INSIDE, check_decoder
from sharp_plugins.models.encoder_sizes import check_encoder
from sharp_plugins.models.loading import load_model, read_state
from sharp_plugins.sharpness.second_derivatives import ran_out_of_memory, refuse_functions
from sharp_plugins.text.parts import evenly

BATCH = 32
# How far the two gradients of a difference are from w; the weights' norm is around 100.
STEP = 0.01
# What criterions log: how many are right, and of how many.
COUNTS = (("ncorrect", "nsentences"), ("n_correct", "total"), ("correct", "anchors"), ("correct", "count"))


class Point(NamedTuple):
    """The loss somewhere.

    Attributes:
        loss: the criterion's, on average over what it counts (sentences, or tokens), in `Landscape.unit`.
        accuracy: in percent of what the criterion counts there; None where it does not tell it.
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

    Attributes:
        weights: what was trained; LoRA's factors alone, for example.
        rows: the numbers of the rows.
        unit: of the loss.
        about: what is measured, in JSON's types.
        products: how `product` makes them.

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
        if data is None:
            data = config_of(state, "task").get("data")
            if not isinstance(data, (str, Path)) or not utils.split_paths(str(data)):
                raise ValueError(f"{path}: its config has no data; --data names their directory")
            if not Path(utils.split_paths(str(data))[0]).exists():
                raise ValueError(f"{path}: the data of its training are not in {data}; --data names another directory")
        self.loaded = load_model(path, state, data, _check_sizes, device)
        self.model, cfg, task, device = self.loaded
        unwrap_checkpoint(self.model)  # what a checkpointed layer computes again cannot be differentiated twice
        wrapper = wrapper_of(cfg.model)
        if wrapper is not None:  # as training does: a task's head, which came after the rest was frozen, may be frozen too
            wrapper.finish(self.model, cfg.model)
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.criterion = task.build_criterion(cfg.criterion).to(device).eval()
        self.unit = "squared error" if getattr(self.criterion, "regression_target", False) else "nats"
        self.products = "exact"

        dataset, fitting = self._load(split, data)
        count, compares = min(rows or len(fitting), len(fitting)), getattr(self.criterion, "compares_rows", False)
        if compares and min(batch, count) < 2:
            few = "--batch-size 1" if batch < 2 else f"--rows {rows}" if rows == 1 else f"--split {split}: it has one row"
            raise ValueError(f"{few}: the loss compares the rows of a batch; 2 or more are needed")
        if compares and count > batch:
            count -= count % batch  # a smaller batch would have another loss
        self.rows = evenly(fitting, count)
        self.samples = list(self._batches(dataset, batch))
        self._try(split, needs_targets=not compares)
        self.about: Dict[str, Any] = {"checkpoint": str(path), "data": str(data), "split": split}
        shards = len(utils.split_paths(str(data)))
        if shards > 1 and split == cfg.dataset.train_subset:  # tasks read one of them an epoch; other splits are in the first
            self.about["shard"] = f"1 of {shards}"
        self.about.update(batch_size=batch, device=device, rows_left_out=len(dataset) - len(fitting))

    def _load(self, split: str, data) -> Tuple[Any, List[int]]:
        """The data set, and the numbers of its rows that are no longer than the model, as fairseq's validation takes them."""
        task = self.loaded.task
        try:
            task.load_dataset(split)
            dataset = task.dataset(split)
        except (OSError, KeyError, AssertionError) as error:  # which of them depends on the task
            raise ValueError(f"--split {split}: there is none in {data}: {error}") from error
        except ValueError as error:
            words = "the checkpoint's task cannot load it; --split train may be there"
            raise ValueError(f"--split {split}: {words}: {error}") from error
        most, rows = utils.resolve_max_positions(task.max_positions(), self.model.max_positions()), np.arange(len(dataset))
        if most is not None:
            rows = task.filter_indices_by_size(rows, dataset, most, ignore_invalid_inputs=True)
        if not len(rows):
            why = f"none of its {len(dataset)} rows fits into {most} positions" if len(dataset) else "it has no rows"
            raise ValueError(f"--split {split}: {why}")
        return dataset, rows.tolist()

    def _batches(self, dataset, size: int) -> Iterator[Dict]:
        ordered = sorted(self.rows, key=dataset.num_tokens, reverse=True)  # so that little is padded
        for start in range(0, len(ordered), size):
            sample = dataset.collater([dataset[row] for row in ordered[start : start + size]])
            yield utils.apply_to_sample(lambda tensor: tensor.to(self.loaded.device), sample)

    @torch.no_grad()
    def _try(self, split: str, needs_targets: bool) -> None:
        """Raise ValueError where the criterion has no loss for want of targets, or takes no such samples."""
        if "net_input" not in self.samples[0]:
            raise ValueError(f"--split {split}: a sample of this task is none of one data set, and only such are measured")
        try:
            self.criterion(self.model, self.samples[0])
        except (KeyError, AttributeError, TypeError) as error:  # which of them depends on the criterion
            if not needs_targets or self.samples[0].get("target") is not None:
                raise
            raise ValueError(f"--split {split}: its rows have no targets, such as the labels of a published test set") from error

    # ---- at w, or wherever the weights are

    @torch.no_grad()
    def point(self) -> Point:
        """The loss where the weights are."""
        loss, size, right, counted = 0.0, 0.0, 0, 0
        for sample in self.samples:
            of, count, log = self.criterion(self.model, sample)
            loss, size = loss + float(of), size + float(count)
            for hits, among in COUNTS:
                if hits in log and among in log:
                    right, counted = right + int(log[hits]), counted + int(log[among])
        if not size:
            raise ValueError("the criterion finds nothing to predict in these rows: give more --rows")
        return Point(loss / size, 100 * right / counted if counted else None)

    def gradient(self) -> List[Tensor]:
        """∇L where the weights are, of `weights`; zeros where the loss does not depend on one."""
        size = 0.0
        self.model.zero_grad(set_to_none=True)
        for sample in self.samples:
            with torch.backends.cudnn.flags(enabled=False):  # cuDNN's recurrent layers have gradients in training mode alone
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

    # ---- products with the Hessian

    def product(self, v: Sequence[Tensor]) -> List[Tensor]:
        """H v: exact, or `difference` where an operation has no second derivative; then `products` says so."""
        if self.products == "exact":
            try:
                return self.exact(v)
            except (RuntimeError, ImportError) as error:  # an older torch has no choice of attentions
                if ran_out_of_memory(error):
                    raise
                self.products = f"differences of step {STEP}"
        return self.difference(v, STEP)

    def exact(self, v: Sequence[Tensor]) -> List[Tensor]:
        """H v by differentiating twice, with the graph of one batch at a time.

        Raises:
            RuntimeError: an operation has no second derivative.
        """
        found, size = [torch.zeros_like(weight) for weight in self.weights], 0.0
        for sample in self.samples:
            size += self._add_exact(found, v, sample)
        torch._foreach_div_(found, size)
        return found

    def _add_exact(self, found: Sequence[Tensor], v: Sequence[Tensor], sample: Dict) -> float:
        """Add a batch's part to *found*, and return what it counts; its graph goes with the call."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        # The fused attentions and cuDNN's recurrent layers have no second derivative.
        with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
            loss, count, _ = self.criterion(self.model, sample)
            refuse_functions(loss)
            first = torch.autograd.grad(loss, self.weights, create_graph=True, allow_unused=True)
            curved = [(part, along) for part, along in zip(first, v) if part is not None and part.requires_grad]
            if curved:
                parts, directions = zip(*curved)
                for total, part in zip(found, torch.autograd.grad(parts, self.weights, directions, allow_unused=True)):
                    if part is not None:
                        total += part
        return float(count)

    def difference(self, v: Sequence[Tensor], step: float) -> List[Tensor]:
        """H v by a central difference of gradients, *step* away on both sides."""
        with self.moved(v, step):
            above = self.gradient()
        with self.moved(v, -step):
            below = self.gradient()
        return list(torch._foreach_div(torch._foreach_sub(above, below), 2 * step))

    # ---- probabilities of a classifier

    @torch.no_grad()
    def probabilities(self) -> Optional[Tuple[Tensor, Tensor]]:
        """(rows, classes) probabilities and (rows,) targets; None where neither the criterion nor a head is a classifier."""
        found = list(self._probabilities())
        if not found:
            return None
        most = max(part.size(1) for part, _ in found)  # examples may have fewer candidates
        return torch.cat([F.pad(part, (0, most - part.size(1))) for part, _ in found]), torch.cat([right for _, right in found])

    def _probabilities(self) -> Iterator[Tuple[Tensor, Tensor]]:
        if hasattr(self.criterion, "probabilities"):
            yield from (self.criterion.probabilities(self.model, sample) for sample in self.samples)
            return
        cfg, heads = self.loaded.cfg.criterion, getattr(self.model, "classification_heads", {})
        name = getattr(cfg, "classification_head_name", None)
        if name not in heads or getattr(cfg, "regression_target", False):
            return
        outputs: List[Tensor] = []
        watch = heads[name].register_forward_hook(lambda module, inputs, output: outputs.append(output.float()))
        try:
            for sample in self.samples:
                self.criterion(self.model, sample)
                yield outputs.pop().softmax(1), sample["target"].view(-1)
        finally:
            watch.remove()


def _check_sizes(path: Path, settings: Dict, weights: Dict[str, Tensor]) -> None:
    """An encoder's or a decoder's; of other architectures the sizes are not looked at."""
    arch = settings.get("_name") or settings.get("arch")
    base = settings.get("base_arch") if arch in INSIDE else arch
    model = ARCH_MODEL_REGISTRY.get(base) if isinstance(base, str) else None
    if model is DecoderModel:
        check_decoder(path, settings, weights)
    elif model in (BertModel, RobertaModel):
        check_encoder(path, settings, weights)
