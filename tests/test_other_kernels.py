"""Bit-for-bit equality must not hang on the kernels that torch happens to choose on this processor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Comparisons of a model with another in which torch may choose other kernels for the same product.
COMPARISONS = [
    "models/test_lora.py::test_begins_as_the_base_bit_for_bit_and_the_update_is_seen",
    "models/test_adapter.py::test_the_model_begins_as_it_was_and_trains_its_adapters",
    "lora/test_peft.py::test_a_head_may_be_the_adapters_alone",
    "examples/test_adapters_benchmark.py::test_all_methods_start_from_the_same_model",
]


@pytest.mark.slow
def test_on_a_processor_without_intels_vector_instructions():
    """As on AMD's: there MKL's product of a batch of matrices rounds differently from its product of one."""
    tests = Path(__file__).resolve().parent
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
        *(tests / name for name in COMPARISONS),
    ]
    kernels = {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tests.parent, env={**os.environ, **kernels}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
