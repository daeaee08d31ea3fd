"""Every method and criterion keeps every promise: ``pytest tests/contract -k "resuming and dsam and fp16"`` tries some."""

import promises  # noqa: F401  (fills PROMISES)
import pytest
from every_method import PROMISES

COMBINATIONS = {
    f"{name}[{method_name}-in-{precision}]": (promise.check, method, precision)
    for name, promise in PROMISES.items()
    for method_name, method, precision in promise.combinations()
}


@pytest.mark.parametrize("promise, method, precision", COMBINATIONS.values(), ids=list(COMBINATIONS))
def test_promise(world, promise, method, precision):
    promise(world, method, precision)
