"""What every method is tested with: the table of methods, that of precisions, trainers of them, and where an update can fail.

A new method joins with one line in METHODS. Its phases need no list: they are counted in an update that does not fail.
"""

import contextlib
import copy
import functools
import random
from typing import List, NamedTuple

import numpy
import pytest
import torch
import toy
from fairseq.modules import MultiheadAttention
from fairseq.optim import AMPOptimizer, FP16Optimizer
from processes import assert_equal
from torch import nn
from torch.overrides import TorchFunctionMode

from sharp_plugins.core.pairs import declare_pair
from sharp_plugins.host.weights import master_copies, registered_optimizer

# The name is what `--optimizer` takes, as far as its first "-". The size of a perturbation is such that a wrong one shows.
# The update that fails is the second one: with an interval of 2 it is a plain one, between two climbs.
METHODS = {
    "sam": "--sam-rho 0.5",
    "sam-adaptive": "--sam-rho 0.5 --sam-adaptive",
    "sam-interval": "--sam-rho 0.5 --sam-interval 2",
    "dsam": "--sam-rho 0.5",
    "bar": "--bar-alpha 20",
    "bar-lora": "--bar-alpha 20 --bar-variant obar --arch lora --base-arch transformer --lora-rank 2",
}
# These take no other way through the precisions than the method that they vary.
VARIATIONS = ("sam-adaptive", "sam-interval", "bar-lora")
# What says nothing new here: the global scope, which differs from the worker's among several processes only
# (tests/distributed), and δ-SAM's and BAR's other flags, which choose what is computed and not when.

# What the flags of these names set.
PRECISIONS = {
    "fp32": {},
    "fp16": {"fp16": True},
    "fp16-not-flat": {"fp16": True, "fp16_no_flatten_grads": True},
    "bf16": {"bf16": True},
    "memory-efficient-fp16": {"fp16": True, "memory_efficient_fp16": True},
    "memory-efficient-bf16": {"bf16": True, "memory_efficient_bf16": True},
    "amp": {"amp": True},
}
SCALE = 4  # of the loss, to begin with
OF_A_VARIATION = ("fp32", "fp16")

COMBINATIONS = [
    (method, precision) for precision in PRECISIONS for method in METHODS if method not in VARIATIONS or precision in OF_A_VARIATION
]


def everywhere(*precisions):
    """Parametrises a test by method and precision: by all, or some."""
    precisions = precisions or PRECISIONS
    pairs = [(method, precision) for method, precision in COMBINATIONS if precision in precisions]
    return pytest.mark.parametrize("method, precision", pairs, ids=["-in-".join(pair) for pair in pairs])


# ---------------------------------------------------------------------- trainers

# torch 2.3 and later have one for a CPU.
HAS_A_SCALER = toy.DEVICE == "cuda" or hasattr(torch.amp, "GradScaler")

LR = 0.01
BASE = f"--base-optimizer adam --lr {LR} --weight-decay 0.01 --clip-norm 1 --num-workers 1".split()


def _declare(init):
    """Attentions whose queries and keys are pairs, for BAR."""

    def init_and_declare(self, *args, **kwargs):
        init(self, *args, **kwargs)
        declare_pair(self, ["q_proj.weight", "q_proj.bias"], ["k_proj.weight", "k_proj.bias"])

    return init_and_declare


def _with_statistics(build_model):
    """Models with a batch norm after the encoder."""

    def build(*args, **kwargs):
        model = build_model(*args, **kwargs)
        model.encoder.norm = nn.BatchNorm1d(16)

        def normalise(encoder, inputs, output):
            return {**output, "encoder_out": [encoder.norm(x.reshape(-1, 16)).view(x.shape) for x in output["encoder_out"]]}

        model.encoder.register_forward_hook(normalise)
        return model

    return build


@functools.lru_cache(maxsize=None)
def _config(data, method):
    """In fp32. Parsing a command line takes ten times as long as building a trainer."""
    return toy.config(data, "--optimizer", method.split("-")[0], *BASE, *METHODS[method].split())


def build(data, method, precision, directory):
    """A trainer after its first update, so that the optimizer has a state to lose."""
    toy.skip_without_fp16(["--fp16"] if "fp16" in precision else [])
    cfg = copy.deepcopy(_config(data, method))
    cfg.common.update({**PRECISIONS[precision], "fp16_init_scale": SCALE})
    cfg.checkpoint.save_dir = str(directory)
    with pytest.MonkeyPatch.context() as patch:
        if "--arch" not in METHODS[method]:
            patch.setattr(MultiheadAttention, "__init__", _declare(MultiheadAttention.__init__))
        if toy.DEVICE == "cpu":
            # fairseq flattens on the current CUDA device; here that device is the CPU, whose index is None.
            patch.setattr(torch.cuda, "current_device", lambda: None)
            # On a CPU fairseq's own scaler is off, and no update would ever be skipped.
            if HAS_A_SCALER:
                patch.setattr(torch.cuda.amp, "GradScaler", functools.partial(torch.amp.GradScaler, "cpu"))
        patch.setattr(toy.tasks.FairseqTask, "build_model", _with_statistics(toy.tasks.FairseqTask.build_model))
        trainer = toy.trainer_from(cfg)
        if "fp16" in precision:
            assert trainer.optimizer.has_flat_params == (precision == "fp16")
        trainer.train_step(toy.batches(trainer, [4, 4]))
    assert trainer.get_num_updates() == 1
    return trainer


_trainers = {}


def trainer_of(data, method, precision, directory):
    """A trainer that tests share, as none of them is to leave a trace; one that fails has to `forget` it."""
    if (method, precision) not in _trainers:
        _trainers[method, precision] = build(data, method, precision, directory)
    return _trainers[method, precision]


def forget(method, precision) -> None:
    _trainers.pop((method, precision), None)


# ---------------------------------------------------------------------- what may not change


def updated(trainer) -> List[torch.Tensor]:
    """What the base optimizer updates, one tensor for each parameter."""
    if isinstance(trainer.optimizer, FP16Optimizer):
        return master_copies(trainer.optimizer)
    return [p.data for p in trainer.optimizer.params]


def scaler_state(trainer):
    scaler = getattr(trainer.optimizer, "scaler", None)
    if isinstance(trainer.optimizer, AMPOptimizer):
        return scaler.state_dict()
    return None if scaler is None else dict(vars(scaler))


def everything(trainer):
    """All that an update may change: weights and statistics, the optimizer, random numbers."""
    return copy.deepcopy(
        {
            "weights": toy.weights(trainer),
            "updated": updated(trainer),
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": scaler_state(trainer),
            "updates": trainer.get_num_updates(),
            "random": (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state()),
            "cuda": torch.cuda.get_rng_state() if toy.DEVICE == "cuda" else None,
        }
    )


def assert_alike(ours, theirs) -> None:
    """What `everything` says of two trainers that have made the same updates: bit for bit on a CPU. A GPU adds in any order, and
    Adam makes a whole step of a gradient that is rounding alone, as that of a key's bias is."""
    if toy.DEVICE == "cpu":
        assert_equal(ours, theirs)
        return
    assert ours["updates"] == theirs["updates"]
    for one, other in zip(ours["updated"], theirs["updated"]):
        torch.testing.assert_close(one, other, rtol=0, atol=5 * LR)


# ---------------------------------------------------------------------- where an update can fail


class Event(NamedTuple):
    """The end of the *number*-th forward pass of an update, of a backward pass, of the clipping; or the beginning of the
    base optimizer's own update."""

    name: str
    number: int


@contextlib.contextmanager
def watched(trainer, happens):
    """Call *happens*(event) at every event of the updates made inside."""
    counts = {}

    def event(name):
        counts[name] = counts.get(name, 0) + 1
        happens(Event(name, counts[name]))

    def after(name, function):
        def replacement(*args, **kwargs):
            result = function(*args, **kwargs)
            event(name)
            return result

        return replacement

    def before(name, function):
        def replacement(*args, **kwargs):
            event(name)
            return function(*args, **kwargs)

        return replacement

    model, base = trainer.get_model(), registered_optimizer(trainer).base
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "forward", after("forward", model.forward))
        patch.setattr(trainer.optimizer, "backward", after("backward", trainer.optimizer.backward))
        patch.setattr(trainer, "clip_grad_norm", after("clipping", trainer.clip_grad_norm))
        patch.setattr(base, "step", before("base update", base.step))
        yield


@functools.lru_cache(maxsize=None)
def events_of(data, method, directory) -> List[Event]:
    """The events of an update of two micro-batches that does not fail. They are the same in every precision."""
    seen = []
    trainer = build(data, method, "fp32", directory)
    with watched(trainer, seen.append):
        trainer.train_step(toy.batches(trainer, [4, 4]))
    return seen


@contextlib.contextmanager
def failing(trainer, where: Event, fault):
    """Call *fault* at an event of the update made inside; it has to happen. An assertion that fails names the event."""
    fired = []

    def happens(event):
        if event == where and not fired:
            fired.append(event)
            fault()

    try:
        with watched(trainer, happens):
            yield
        assert fired, "has not happened"
    except AssertionError as error:
        raise AssertionError(f"a fault at {where}: {error}") from error


class Calls(TorchFunctionMode):
    """Counts the calls of torch's functions, methods and properties made inside, and raises Ctrl-C's exception at one.

    Not at those with which torch's no_grad comes and goes: interrupted there, it leaves gradients off for good.
    """

    def __init__(self, interrupt_at=None):
        super().__init__()
        self.count, self.interrupt_at = 0, interrupt_at

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not torch._C._set_grad_enabled:
            self.count += 1
            if self.count == self.interrupt_at:
                raise KeyboardInterrupt
        return function(*args, **(kwargs or {}))
