"""fairseq trainers of the toy world on a GPU, and what an update may change in them."""

import copy
import random

import pytest
import torch
import toy
from fairseq import utils

from sharp_plugins.host.weights import registered_optimizer
from sharp_plugins.optim import SAM

DEVICE = "cuda"
# A loss times this has gradients that no fp16 number holds.
LARGER = 2.0**40


def needs_gpu(why: str):
    """Skip a file's tests where there is no GPU."""
    return pytest.mark.skipif(not torch.cuda.is_available(), reason=f"needs a GPU: {why}")


# By default fairseq flattens fp16's weights into one tensor.
PRECISIONS = {
    "fp32": [],
    "fp16": ["--fp16", "--fp16-init-scale", "4"],
    "fp16-not-flat": ["--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale", "4"],
    "bf16": ["--bf16"],
    "amp": ["--amp", "--fp16-init-scale", "4"],
    "memory-efficient-fp16": ["--memory-efficient-fp16", "--fp16-init-scale", "4"],
    "memory-efficient-bf16": ["--memory-efficient-bf16"],
}
LORA = ["--arch", "lora", "--base-arch", *toy.MODEL[1:], "--lora-rank", "2", "--lora-alpha", "4"]
METHODS = {  # name: (the model's flags, the optimizer's)
    "adam": (toy.MODEL, ["--optimizer", "adam"]),
    "sam": (toy.MODEL, ["--optimizer", "sam", "--sam-rho", "0.5"]),
    "dsam": (toy.MODEL, ["--optimizer", "dsam", "--sam-rho", "0.5"]),
    "lora": (LORA, ["--optimizer", "adam"]),
    "bar": (LORA, ["--optimizer", "bar", "--bar-alpha", "0.5"]),
}
CLIMBING = ["sam", "dsam"]
OURS = ["sam", "dsam", "bar"]


def build(data, method: str, precision: str, *flags):
    """A trainer on the GPU; with Adam and dropout unless *flags* say otherwise."""
    model, optimizer = METHODS[method]
    parts = ["--lr", "0.01", "--clip-norm", "1", "--dropout", "0.1", *optimizer, *PRECISIONS[precision], *flags]
    cfg = toy.config(data, *parts, model=model)
    cfg.common.cpu = DEVICE == "cpu"
    return toy.trainer_from(cfg)


def ball(trainer):
    """The trainer's `Perturbation`."""
    return registered_optimizer(trainer).perturbation


def updates(trainer, count: int, sizes=(4, 3)):
    """Samples of *count* updates, each of other sentences, with as many sentences in the micro-batches as *sizes* says."""
    batches = toy.batches(trainer, list(sizes) * count)
    return [batches[i : i + len(sizes)] for i in range(0, len(batches), len(sizes))]


def on_device(samples):
    """Copies of *samples* where the weights are."""
    return [utils.apply_to_sample(lambda x: x.to(DEVICE), sample) for sample in samples]


def everything(trainer):
    """All that an update may change, but for the loss scale; the random numbers where they are the plugin's to keep."""
    optimizer = trainer.optimizer.state_dict()
    optimizer.pop("loss_scale", None)
    masters = getattr(trainer.optimizer, "fp32_params", [])
    masters = masters.values() if isinstance(masters, dict) else masters
    gpu = torch.cuda.get_rng_state() if DEVICE == "cuda" else None
    state = {
        "weights": toy.weights(trainer),
        "optimizer": optimizer,
        "masters": [p.detach() for p in masters],
        "updates": trainer.get_num_updates(),
    }
    if isinstance(registered_optimizer(trainer), SAM):  # fairseq itself draws, and leaves it there
        state["random"] = (random.getstate(), toy.numpy_state(), torch.get_rng_state(), gpu)
    return copy.deepcopy(state)


def scale_of(trainer) -> float:
    """The loss scale."""
    scaler = trainer.optimizer.scaler
    return scaler.get_scale() if hasattr(scaler, "get_scale") else scaler.loss_scale
