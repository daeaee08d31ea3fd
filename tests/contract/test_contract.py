"""Every method and criterion keeps every promise: ``pytest tests/contract -k "resuming and dsam and fp16"`` tries some."""

import promises  # noqa: F401  (fills PROMISES)
import pytest
import toy
from every_method import PROMISES

# With SHARP_TEST_DEVICE=cuda: the others compare bit for bit, or with what a CPU computes; tests/gpu does so on its own terms.
ON_A_GPU = ("promises.faults", "promises.overflow")

COMBINATIONS = {
    f"{name}[{method_name}-in-{precision}]": (promise.check, method, precision)
    for name, promise in PROMISES.items()
    if toy.DEVICE == "cpu" or promise.check.__module__ in ON_A_GPU
    for method_name, method, precision in promise.combinations()
}


@pytest.mark.parametrize("promise, method, precision", COMBINATIONS.values(), ids=list(COMBINATIONS))
def test_promise(world, promise, method, precision):
    promise(world, method, precision)
