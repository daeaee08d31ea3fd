"""Made-up optimizers: one that keeps every promise, and for each promise one that breaks it. All are registered with fairseq."""

import re
from pathlib import Path

import plain
import torch
from every_method import CRITERIONS, METHODS, SAM, Method
from fairseq.optim import register_optimizer

import sharp_plugins
from sharp_plugins.optim import SAM as SAMOptimizer
from sharp_plugins.optim import SAMConfig
from sharp_plugins.optim.base import WrappingOptimizer


def joins(name, twin=METHODS["sam"].twin):
    """Registers a variation of SAM; returns what would be its line in METHODS."""

    def register(cls):
        register_optimizer(name, dataclass=SAMConfig)(cls)
        return Method(f"{name} --sam-rho 0.5", "--sam-rho 0", twin, SAM, varies=True)

    return register


def of_the_guide(name):
    """Registers the optimizer in the guide to the optimizers, as its reader does."""
    guide = (Path(sharp_plugins.__file__).parent / "optim" / "README.md").read_text(encoding="utf-8")
    exec(re.search(rf"^```python\n(# {name}/.*?)^```", guide, re.M | re.S)[1], {"__name__": name})


class SignedAscent(SAMOptimizer):
    """Multiplies the loss of the ascent's backward passes by `sign_of` their number."""

    passes = None

    def direction(self, passes):
        self.passes = 0
        try:
            return super().direction(passes)
        finally:
            self.passes = None

    def backward(self, loss):
        if self.passes is not None:
            self.passes += 1
            loss = loss * self.sign_of(self.passes)
        super().backward(loss)


of_the_guide("downhill")
# It takes the gradient at w − ε: a method of its own, and a right one. This is its line in METHODS.
DOWNHILL = Method("downhill --sam-rho 0.5", off="--sam-rho 0", twin=lambda: plain.SAM(-0.5), logs=SAM)


@joins("half_blind")
class HALF_BLIND(SignedAscent):
    """Climbs for the first micro-batch alone."""

    def sign_of(self, number):
        return float(number == 1)


@joins("stays_above")
class STAYS_ABOVE(SAMOptimizer):
    """Forgets to come back to w before the base optimizer updates."""

    def step(self, *args, **kwargs):
        WrappingOptimizer.step(self, *args, **kwargs)


@joins("short_cut")
class SHORT_CUT(SAMOptimizer):
    """Knows when there is nothing to climb."""

    def is_due(self, num_updates):
        return self.cfg.sam_rho > 0 and super().is_due(num_updates)


@joins("draws")
class DRAWS(SAMOptimizer):
    """Uses a random number in each update."""

    def step(self, *args, **kwargs):
        torch.rand(1)
        super().step(*args, **kwargs)


@joins("counts_alone")
class COUNTS_ALONE(SAMOptimizer):
    """Climbs in the first two updates of its process only, made or not."""

    asked = 0

    def is_due(self, num_updates):
        self.asked += 1
        return self.asked <= 2


@joins("unclipped")
class UNCLIPPED(SAMOptimizer):
    """Measures the gradient, and does not clip it."""

    def clip_grad_norm(self, max_norm, aggregate_norm_fn=None):
        return super().clip_grad_norm(0, aggregate_norm_fn)


@joins("talks")
class TALKS(SAMOptimizer):
    """Logs what it has not promised."""

    def direction(self, passes):
        return {**super().direction(passes), "sam_secret": torch.ones(())}


@joins("takes_anything")
class TAKES_ANYTHING(SAMOptimizer):
    """Does not look whose state it loads."""

    def load_state_dict(self, state_dict, optimizer_overrides=None):
        self.base.load_state_dict({key: state_dict[key] for key in ("state", "param_groups")}, optimizer_overrides)


@joins("forgets")
class FORGETS(SAMOptimizer):
    """Loads nothing."""

    def load_state_dict(self, state_dict, optimizer_overrides=None):
        self.restored_state = {}


@joins("moves_w")
class MOVES_W(SAMOptimizer):
    """Changes w itself before the climb, and takes it back in its own step only."""

    moved = None

    def direction(self, passes):
        self.moved = next(p.data for p in passes.trainer.get_model().parameters())
        self.moved.add_(1)
        return super().direction(passes)

    def step(self, *args, **kwargs):
        self.moved.sub_(1)
        super().step(*args, **kwargs)


@joins("saves_loudly")
class SAVES_LOUDLY(SAMOptimizer):
    """Uses a random number for each checkpoint."""

    def state_dict(self):
        torch.rand(1)
        return super().state_dict()


@joins("settles_early")
class SETTLES_EARLY(SAMOptimizer):
    """Lowers the learning rate before it knows whether there will be an update."""

    def direction(self, passes):
        self.set_lr(0.9 * self.get_lr())
        return super().direction(passes)


R3F = CRITERIONS["r3f"]._replace(off="--r3f-lambda 1")  # which does not switch it off
NEVER_OFF = METHODS["sam"].base()._replace(criterion=R3F)
