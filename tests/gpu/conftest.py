import os
import sys
from pathlib import Path

import pytest
import torch

# cuBLAS repeats itself bit for bit only with a workspace of its own; read when it is first used.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def deterministic():
    """torch's deterministic operations where there are any; new memory is filled with NaN then."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
