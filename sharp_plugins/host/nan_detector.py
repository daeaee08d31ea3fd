"""Gradients that are no finite numbers, in fp32 or bf16: fairseq ends the run, and looks for the module at fault.

For that it makes the passes again, with hooks on each module. Its hooks on the backward pass are of a kind that torch can put only
on a module that returns a tensor, or tensors in lists. With one whose output is a dict of lists, as of every Transformer's encoder,
the search itself fails (StopIteration), and what the user sees is that error. Here the gradients of the tensors themselves are
looked at, wherever they are in the output.
"""

import logging
from contextlib import contextmanager
from typing import Dict, Iterator

from fairseq import utils
from fairseq.nan_detector import NanDetector
from torch import Tensor

from sharp_plugins.host.patching import wrap

logger = logging.getLogger(__name__)


def _wrap_add_hooks(add_hooks):
    def add_hooks_to_tensors(self, module):
        backward, self.backward = self.backward, False
        try:
            add_hooks(self, module)
        finally:
            self.backward = backward
        if backward:
            self.fhooks.append(module.register_forward_hook(lambda module, _, output: _watch(self, module, output)))

    return add_hooks_to_tensors


def _watch(detector: NanDetector, module, output) -> None:
    """Have the detector look at the gradients of a module's output."""

    def watch(tensor):
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: detector.bhook_fn(module, None, gradient))
        return tensor

    utils.apply_to_sample(watch, output)


@contextmanager
def advised_of_the_radius(measured: Dict[str, Tensor], is_alone: bool) -> Iterator[None]:
    """Around fairseq's own update at w + ε: fairseq's error says nothing of the perturbation, which may be what was too large.

    Args:
        measured: by the ascent, whose own gradient is that at w.
        is_alone: whether no other worker climbs by a gradient of its own, which may be what was Nan/Inf.
    """
    try:
        yield
    except FloatingPointError as error:
        if "Nan/Inf" in str(error):
            if measured["sam_grad_norm"].isfinite():
                others = "" if is_alone else "unless another worker says that its own are not, "
                logger.error(
                    "the gradients at the perturbed weights are Nan/Inf, and this worker's are finite without the perturbation: "
                    f"{others}a smaller --sam-rho may help, or a smaller --lr. fairseq looks for the module without it, and may "
                    "name none"
                )
            else:
                logger.error(
                    "the gradients are Nan/Inf without the perturbation, too: --sam-rho is not why; a smaller --lr may help"
                )
        raise


def install() -> None:
    wrap(NanDetector, "add_hooks", _wrap_add_hooks)
