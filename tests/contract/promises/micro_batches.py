"""An update's sentences in one batch, or in any micro-batches: the same w + ε, and the same update."""

import toy
from every_method import promise
from state import assert_moved_alike
from trainers import build

from promises.twins import RATE, base_of

SPLITS = ([3, 3, 3, 3], [1, 8, 3], [1] * 12)
# As shares of ε, and of the update. What fp32's sums lose in another order; δ-SAM's weights are differences of losses.
TOLERANCE = 1e-3


def seen_and_left(world, method, precision, sizes):
    """The weights before an update, those that its last pass sees, and those after it."""
    trainer = build(world, method, precision, base=base_of(method), flags=RATE, statistics=False, begun=False)
    start = toy.weights(trainer)
    seen = toy.perturbed_weights(trainer, toy.batches(trainer, sizes))
    assert trainer.get_num_updates() == 1
    return start, seen, toy.weights(trainer)


@promise("fp32")
def micro_batches_make_the_update_of_the_whole_batch(world, method, precision):
    start, seen, left = seen_and_left(world, method, precision, [12])
    for sizes in SPLITS:
        _, seen_here, left_here = seen_and_left(world, method, precision, sizes)
        if "sam_radius" in method.logs:
            assert_moved_alike(start, seen_here, seen, TOLERANCE)
        else:
            toy.assert_same(seen_here, start)
        assert_moved_alike(start, left_here, left, TOLERANCE)
