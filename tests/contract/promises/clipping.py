"""``--clip-norm`` bounds the gradient at w + ε, with which the base optimizer updates, and not the ascent."""

import pytest
import toy
from every_method import promise
from state import updated
from trainers import build

from promises.twins import RATE, SGD, base_of, decay_of

CLIP = 1e-3


@promise("fp32 fp16 fp16-not-flat bf16 amp", of_criterions="fp32")
def clipping_does_not_touch_the_ascent(world, method, precision):
    """Also under a loss scale. BAR moves weights by itself, and so is tried without its strength."""
    method = method.switched_off() if "bar_alpha" in method.logs else method
    points, lengths = [], []
    for clip in (0, CLIP):
        flags = f"{RATE} --clip-norm {clip}"
        trainer = build(world, method, precision, base=base_of(method), flags=flags, statistics=False, begun=False)
        samples = toy.batches(trainer, [4, 4])
        trainer.optimizer  # which makes the master copies
        before = [w.float().clone() for w in updated(trainer)]
        points.append(toy.perturbed_weights(trainer, samples))
        decayed = 1 - SGD["lr"] * decay_of(method)
        moves = [w.float() - decayed * was for w, was in zip(updated(trainer), before)]
        lengths.append(sum(move.square().sum() for move in moves).sqrt().item())
    toy.assert_same(*points)
    assert lengths[1] == pytest.approx(SGD["lr"] * CLIP, rel=1e-2) and lengths[0] > 2 * lengths[1]
