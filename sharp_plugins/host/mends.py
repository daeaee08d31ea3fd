"""Repairs of fairseq (0.12.2, its last commit, ve-fairseq 0.12.3, fairseq-fixed 0.12.3.1) on today's torch and NumPy.

Each does nothing where fairseq is already right. One more is where it has to be: ``--bf16`` (`sharp_plugins.host.flags`). The last
two here are put in place by `sharp_plugins.host.update` and `sharp_plugins.host.state`, which wrap the same functions.
"""

import inspect
import types

import numpy
import torch
from fairseq import utils
from fairseq.data import data_utils, language_pair_dataset, token_block_dataset
from fairseq.logging import metrics
from fairseq.models import distributed_fairseq_model
from fairseq.models.ema.ema import EMA
from fairseq.modules import dynamic_crf_layer
from fairseq.optim import AMPOptimizer, fp16_optimizer
from fairseq.tasks import FairseqTask
from omegaconf import open_dict

from sharp_plugins.files import safe_load
from sharp_plugins.host.patching import View, wrap


def let_pytorch_ddp_run_on_cpu() -> None:
    """``--ddp-backend pytorch_ddp`` passes ``device_ids=[0]``, which torch refuses for a module on a CPU."""

    def make(init):
        def __init__(self, module, device_ids=None, output_device=None, **kwargs):
            if all(p.device.type == "cpu" for p in module.parameters()):
                device_ids = output_device = None
            init(self, module, device_ids=device_ids, output_device=output_device, **kwargs)

        return __init__

    # A subclass that fairseq alone sees: torch's own class stays as it is for everybody else.
    stock = distributed_fairseq_model.DistributedDataParallel
    if not getattr(stock.__init__, "_sharp_plugins", False):
        patched = type("DistributedDataParallel", (stock,), {})
        wrap(patched, "__init__", make)
        distributed_fairseq_model.DistributedDataParallel = patched


def restore_numpy_aliases() -> None:
    """Four modules of fairseq use ``np.int``, ``np.float`` and ``np.compat.long``. They get them; numpy itself stays as it is."""
    if "int" not in vars(numpy):
        aliases = View(numpy, int=int, float=float, compat=types.SimpleNamespace(long=int))
        for module in (data_utils, dynamic_crf_layer, language_pair_dataset, token_block_dataset):
            if module.np is numpy:
                module.np = aliases


def keep_batches_when_resuming() -> None:
    """fairseq groups sentences into batches once a process, with ``--seed`` plus the epoch as the seed: a run that resumes in a
    later epoch gets other batches than one that never stopped, repeats some sentences and leaves others out. Here they are
    always those of the first epoch, as without a stop. Tasks that make new batches every epoch keep doing so."""

    def make(get_batch_iterator):
        def with_first_epochs_batches(self, dataset, *args, **kwargs):
            arguments = inspect.signature(get_batch_iterator).bind(self, dataset, *args, **kwargs).arguments
            epoch = arguments.get("epoch", 1)
            once = self.can_reuse_epoch_itr(dataset) and not (
                arguments.get("disable_iterator_cache", False)
                or arguments.get("update_epoch_batch_itr", False)
                or getattr(self.cfg, "rebuild_batches", False)
            )
            if not once or epoch <= 1 or dataset in self.dataset_to_epoch_iter:
                return get_batch_iterator(self, dataset, *args, **kwargs)
            arguments.update(epoch=1, seed=arguments.get("seed", 1) - getattr(self, "_sharp_added_to_seed", 0))
            iterator = get_batch_iterator(**arguments)
            dataset.set_epoch(epoch)
            iterator.epoch = epoch
            return iterator

        return with_first_epochs_batches

    wrap(FairseqTask, "get_batch_iterator", make)


def keep_the_last_batch() -> None:
    """fairseq after 0.12.2 (ve-fairseq and fairseq-fixed too) drops the last batch where its size is no multiple of
    ``--required-batch-size-multiple`` (8 by default), from training, validation and generation alike: fairseq-generate returns
    fewer sentences than it was given, and the shortest data sets vanish. fairseq 0.12.2 keeps it, as is done here."""

    def make(batch_by_size):
        def batch_by_size_with_the_last(indices, *args, **kwargs):
            if not isinstance(indices, numpy.ndarray):
                indices = numpy.fromiter(indices, dtype=numpy.int64)
            if not len(indices):  # all rows were too long: fairseq looks at the last batch, and ends in an IndexError
                return []
            batches = list(batch_by_size(indices, *args, **kwargs))
            batched = sum(len(batch) for batch in batches)  # in the order of the indices
            if batched < len(indices) and kwargs.get("fixed_shapes") is None:
                batches.append(indices[batched:])
            return batches

        return batch_by_size_with_the_last

    wrap(data_utils, "batch_by_size", make)


def average_tied_weights_once() -> None:
    """``--store-ema`` goes through the weights by name, and makes a step for each name of a weight that modules share, as the word
    embeddings and the output layer of most models do: their average moves twice as fast as the others."""

    def make(step):
        def step_once(self, new_model, updates=None):
            averages = self.fp32_params if self.config.ema_fp32 else self.model.state_dict()
            state, done = {}, set()
            for name, weight in new_model.state_dict().items():
                average = averages.get(name)
                if torch.is_tensor(average) and average.numel():
                    place = (average.data_ptr(), average.shape)
                    if place in done:
                        continue
                    done.add(place)
                state[name] = weight
            step(self, types.SimpleNamespace(state_dict=lambda: state), updates)

        return step_once

    wrap(EMA, "_step_internal", make)


def unscale_gradients_once_with_amp() -> None:
    """``--amp`` divides the gradients by the loss scale twice. torch's GradScaler remembers for each optimizer object that it has
    unscaled that object's gradients. fairseq hands it two objects for the same parameters: the torch optimizer in
    `AMPOptimizer.clip_grad_norm`, and its own optimizer in `AMPOptimizer.step`. SGD then trains at its learning rate over the
    scale. Here it is fairseq's own optimizer both times.

    On a CPU there is no scale. fairseq wants to lower it all the same where a gradient is not finite, and fails with an
    AttributeError; here such a run ends as one in fp32."""

    def make(clip_grad_norm):
        def clip_unscaled_once(self, *args, **kwargs):
            if not self.scaler.is_enabled():
                norm = self.fp32_optimizer.clip_grad_norm(*args, **kwargs)
                if not torch.isfinite(norm).all():
                    raise FloatingPointError("gradients are Nan/Inf")
                return norm
            unscale = self.scaler.unscale_
            self.scaler.unscale_ = lambda optimizer: unscale(self.fp32_optimizer)
            try:
                return clip_grad_norm(self, *args, **kwargs)
            finally:
                del self.scaler.unscale_  # the method is there again

        return clip_unscaled_once

    wrap(AMPOptimizer, "clip_grad_norm", make)


def clip_on_the_cpu_beside_a_gpu() -> None:
    """``--cpu`` on a machine that has a GPU: fairseq takes the norm of the gradients on the GPU because there is one, and torch
    refuses to scale gradients on the CPU by it. Every update fails, with any optimizer. Here the norm stays where they are."""

    def make(clip_grad_norm_):
        def clip_where_gradients_are(params, max_norm, aggregate_norm_fn=None):
            params = [params] if isinstance(params, torch.Tensor) else list(params)
            if not torch.cuda.is_available() or any(p is not None and p.device.type != "cpu" for p in params):
                return clip_grad_norm_(params, max_norm, aggregate_norm_fn)
            stock = utils.torch
            utils.torch = View(stock, cuda=View(stock.cuda, is_available=lambda: False))
            try:
                return clip_grad_norm_(params, max_norm, aggregate_norm_fn)
            finally:
                utils.torch = stock

        return clip_where_gradients_are

    wrap(utils, "clip_grad_norm_", make)


def flatten_where_the_weights_are() -> None:
    """``--fp16`` puts the fp32 copies into one tensor of the current GPU, and fails without one, with any optimizer."""

    def make(build):
        def build_fp32_params(args, params, flatten=True):  # fairseq calls it on the class alone
            stock = fp16_optimizer.torch
            if all(p.device.type == "cpu" for p in params):
                fp16_optimizer.torch = View(stock, cuda=View(stock.cuda, current_device=lambda: None))  # a CPU's index
            try:
                return build(args, params, flatten)
            finally:
                fp16_optimizer.torch = stock

        return build_fp32_params

    wrap(fp16_optimizer.FP16Optimizer, "build_fp32_params", make)


def mend_overflow_on_cpu(train_step):
    """fairseq's branch for an overflow under --fp16 calls ``torch.tensor(0.0).cuda()``, which fails without a GPU. The rest of that
    branch is done here instead: the update is skipped and training goes on. For every optimizer."""

    def mended(self, samples, raise_oom=False):
        try:
            return train_step(self, samples, raise_oom)
        except (AssertionError, RuntimeError) as error:
            if self.cuda or not isinstance(error.__context__, OverflowError):
                raise
        self.zero_grad()
        with metrics.aggregate("train"):
            metrics.log_scalar("loss_scale", self.optimizer.scaler.loss_scale, priority=700, round=4, weight=0)
            metrics.log_stop_time("train_wall")
        return None

    return mended


def start_averages_from_a_plain_checkpoint(load_checkpoint):
    """``--store-ema`` with a checkpoint that has no averages, a pretrained one say: fairseq wants to start them from
    weights that it has dropped by then, and fails with KeyError 'model'. Here they start as a copy of the model, as without a
    checkpoint."""

    def load_with_averages(self, *args, **kwargs):
        try:
            return load_checkpoint(self, *args, **kwargs)
        except KeyError as error:
            if not (self.cfg.ema.store_ema and error.args == ("model",)):
                raise
        with open_dict(self.cfg):
            self.cfg.ema.store_ema = False
        try:
            return load_checkpoint(self, *args, **kwargs)
        finally:
            with open_dict(self.cfg):
                self.cfg.ema.store_ema = True
            self._ema = None  # fairseq makes them on first use

    return load_with_averages


def install() -> None:
    safe_load.allow_classes()  # for whoever reads fairseq's checkpoints with torch's own loader beside the plugin
    let_pytorch_ddp_run_on_cpu()
    restore_numpy_aliases()
    keep_batches_when_resuming()
    keep_the_last_batch()
    average_tied_weights_once()
    unscale_gradients_once_with_amp()
    clip_on_the_cpu_beside_a_gpu()
    flatten_where_the_weights_are()
