"""Extra passes over an update's samples, made as fairseq makes its own.

Same modes, same seed and so the same dropout masks, same buffers at the start, same autocast and loss scaling, dummy batches
joined but weightless, out-of-memory errors handled micro-batch by micro-batch. Backward passes run without DDP's
synchronisation: what is to be shared between workers is reduced here, so that a worker that lost a micro-batch still meets the
others.
"""

import contextlib
from typing import Callable, List, Optional, Sequence, TypeVar

import torch
from fairseq import utils
from fairseq.distributed import utils as distributed_utils
from fairseq.optim import AMPOptimizer
from torch import Tensor

from sharp_plugins.core.noise import mix
from sharp_plugins.core.tape import Tape
from sharp_plugins.criterions.instances import sentence_losses_of
from sharp_plugins.host.randomness import HostRandomState
from sharp_plugins.host.weights import loss_scale, registered_optimizer

T = TypeVar("T")
# Elements reduced between workers at a time.
_BUCKET = 2**25


class LostToMemory(Exception):
    """The device ran out of memory in an extra pass of a run on one device; the update is given up, as fairseq does."""


class Passes:
    """The samples of one update of *trainer*, ready for passes over them.

    Attributes:
        samples: what `Trainer.train_step` takes, already on the device.
        has_data: whether any of them is this worker's own; if not, all are dummies, which let it meet the others.
        seed: depends on ``--seed`` and the number of the update alone; the same on all workers.
        out_of_memory: how many micro-batches were lost.

    Example, of SAM's ascent::

        passes = Passes(trainer, samples, is_global=False, raise_oom=False)
        loss = passes.forward_backward()  # the gradient is in .grad
    """

    def __init__(self, trainer, samples, is_global: bool, raise_oom: bool):
        self.trainer, self.is_global, self.raise_oom = trainer, is_global, raise_oom
        self.device = trainer.device
        self.seed = mix(trainer.cfg.common.seed, trainer.get_num_updates())
        self.out_of_memory = 0
        self.tape, self.host_random = Tape(), HostRandomState(trainer.cfg)
        prepared = [trainer._prepare_sample(sample) for sample in samples]
        self.batches = [sample for sample, _ in prepared]
        self.is_dummy = [dummy for _, dummy in prepared]
        # fairseq's own pass finds the dummies by their emptiness, and moves nothing to the device a second time.
        self.samples = [given if dummy else sample for given, (sample, dummy) in zip(samples, prepared)]
        self.has_data = not all(self.is_dummy)
        self.world_size = trainer.data_parallel_world_size
        self.extra = {}
        if trainer.cfg.ema.store_ema and getattr(trainer.task, "uses_ema", False):
            # As in fairseq's own pass; being built on first use, it becomes a copy of w here and not of w + ε there.
            self.extra["ema_model"] = trainer.ema.get_model()
        trainer.model.train()
        trainer.criterion.train()
        trainer.zero_grad()

    # ------------------------------------------------------------------ passes

    def forward_backward(self) -> Tensor:
        """fairseq's own forward and backward over all micro-batches; the gradient of the summed losses adds up in ``.grad``.

        Returns:
            the sum of the losses, 0-dimensional fp32, without the dummies.
        """
        self._begin_as_before()
        total = torch.zeros((), device=self.device)
        for i, dummy in enumerate(self.is_dummy):
            self._surviving_oom(lambda i=i, dummy=dummy: self._add_forward_backward(i, dummy, total))
        self._share_gradients()
        return total

    def _add_forward_backward(self, i: int, is_dummy: bool, total: Tensor) -> None:
        trainer = self.trainer
        loss, _, _ = trainer.task.train_step(
            sample=self._sample(i),
            model=trainer.model,
            criterion=trainer.criterion,
            optimizer=trainer.optimizer,
            update_num=trainer.get_num_updates(),
            ignore_grad=is_dummy,
            **self.extra,
        )
        if not is_dummy:
            # Some tasks (multilingual_translation) return a plain number.
            total += loss.detach().float().sum() if torch.is_tensor(loss) else loss

    @torch.no_grad()
    def instance_losses_without_grad(self, independent_dropout: bool = False) -> List[Optional[Tensor]]:
        """The losses of the instances, which are sentences, of each micro-batch, each (N_i,); None for what was lost to memory."""
        self._begin_as_before()
        if independent_dropout:
            utils.set_torch_seed(mix(self.seed, 1) % 2**32)
            return [self._losses(i) for i in range(len(self.batches))]
        # On a GPU masks cost nothing; those of many micro-batches would cost memory.
        if self.device.type != "cpu" or len(self.batches) > 1:
            return [self._losses(i) for i in range(len(self.batches))]
        with self.tape.record():
            return [self._losses(0)]

    def instance_losses(self) -> List[Optional[Tensor]]:
        """As above, and with the graph of the last micro-batch."""
        self._begin_as_before()
        if self.tape.draws:
            with self.tape.replay():
                losses = [self._losses(0)]
            self.tape.draws.clear()  # the descent comes next, and wants the memory
            return losses
        losses = []
        for i in range(len(self.batches)):
            with torch.set_grad_enabled(i == len(self.batches) - 1):
                losses.append(self._losses(i))
        return losses

    def weighted_backward(self, losses: List[Optional[Tensor]], weights: Sequence[Tensor]) -> None:
        """Add the gradient of Σ_i weights_i · losses_i to ``.grad``.

        Args:
            losses: of `instance_losses`; those without a graph are computed again, with the same masks. The last one loses its own.
            weights: as many tensors, each (N_i,); an empty one stands for zeros.
        """
        last, graph = len(losses) - 1, losses[-1:]
        losses[last] = None if graph[0] is None else graph[0].detach()
        self._weighted_backward(graph, weights[last])
        if last > 0:
            self._begin_as_before()
            for i in range(last):
                self._weighted_backward([self._losses(i)], weights[i])
        self._share_gradients()

    def _weighted_backward(self, losses: List[Optional[Tensor]], weights: Tensor) -> None:
        """Of the one tensor in a list, which is taken out: where memory runs out, nothing else is to keep its graph."""

        def backward() -> None:
            own = losses.pop().float()
            # A dummy's backward runs too, at weight 0: a layer of the model may meet the other workers in it.
            self.trainer.optimizer.backward(((weights.detach() if weights.numel() else torch.zeros_like(own)) * own).sum())

        if losses[0] is not None:
            self._surviving_oom(backward)  # without DDP's sharing, too: a criterion may encode again here (--encode-rows)

    def _begin_as_before(self) -> None:
        """Each pass draws what the others draw, and what fairseq's own will, and finds the buffers as these do."""
        self.trainer._set_seed()
        self.host_random.restore()
        beginning = getattr(self.trainer, "_sharp_beginning", None)
        if beginning is not None:
            beginning.restore_buffers()

    def _sample(self, i: int):
        """A copy of a micro-batch: what a task or a criterion writes into it is not for the passes that follow."""
        return utils.apply_to_sample(torch.clone, self.batches[i])

    def _losses(self, i: int) -> Optional[Tensor]:
        return self._surviving_oom(lambda: self._forward(i))

    def _forward(self, i: int) -> Tensor:
        trainer = self.trainer
        trainer.model.set_num_updates(trainer.get_num_updates())
        with torch.autocast("cuda", enabled=isinstance(trainer.optimizer, AMPOptimizer) and trainer.cuda):
            return sentence_losses_of(trainer.get_criterion())(trainer.model, self._sample(i))

    # ------------------------------------------------------------------ between workers

    def sum_over_scope(self, values: Tensor) -> Tensor:
        """*values* summed over the workers that share one ε; with worker scope, *values*."""
        return self._reduce(values, "sum")

    def max_over_scope(self, values: Tensor) -> Tensor:
        """The largest of the values of the workers that share one ε; with worker scope, *values*."""
        return self._reduce(values, "max")

    def _reduce(self, values: Tensor, op: str) -> Tensor:
        if self.is_global and self.world_size > 1:
            values = values.clone()
            distributed_utils.all_reduce(values, group=self.trainer.data_parallel_process_group, op=op)
        return values

    def unscaled(self, grad_norm: Tensor) -> Tensor:
        """The norm of the gradient of the summed losses over the scope, from that of what is in ``.grad``."""
        # With global scope .grad is the mean over the workers, each with its share of the sum.
        shares = self.world_size if self.is_global else 1
        return grad_norm * shares / loss_scale(self.trainer)

    def _share_gradients(self) -> None:
        """With global scope: replace the gradients by their mean over the workers (DDP's convention)."""
        if not (self.is_global and self.world_size > 1):
            return
        params = getattr(self.trainer.optimizer, "fp16_params", None) or list(registered_optimizer(self.trainer).params)
        kinds = {}
        for p in params:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            kinds.setdefault((p.grad.device, p.grad.dtype), []).append(p.grad)
        for grads in kinds.values():
            bucket, filled = [], 0
            for grad in grads:
                if bucket and filled + grad.numel() > _BUCKET:
                    self._average(bucket)
                    bucket, filled = [], 0
                bucket.append(grad)
                filled += grad.numel()
            self._average(bucket)

    def _average(self, grads: List[Tensor]) -> None:
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        flat.div_(self.world_size)  # before the sum, which fp16 may not hold
        distributed_utils.all_reduce(flat, group=self.trainer.data_parallel_process_group)
        parts = flat.split([grad.numel() for grad in grads])
        torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(parts, grads)])

    # ------------------------------------------------------------------ faults

    @contextlib.contextmanager
    def _no_sync(self):
        """No sharing of gradients by DDP; a criterion with parameters has one of its own."""
        with contextlib.ExitStack() as stack:
            for module in (self.trainer.model, self.trainer.criterion) if self.world_size > 1 else ():
                stack.enter_context(getattr(module, "no_sync", contextlib.nullcontext)())
            yield

    def _surviving_oom(self, part: Callable[[], T]) -> Optional[T]:
        """What a part of a pass returns; None where memory ran out: the ascent's gradients so far are given up, as fairseq's."""
        try:
            with self._no_sync():
                return part()
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            self.trainer._log_oom(error)
            if self.raise_oom:
                raise
            self.out_of_memory += 1
        self.trainer.zero_grad()  # outside the handler, whose exception keeps the failed pass's tensors alive
        if self.trainer.cuda:
            torch.cuda.empty_cache()
        if self.trainer.cfg.distributed_training.distributed_world_size == 1:
            raise LostToMemory
        return None
