"""The most memory that a process held. The process itself writes it at its end.

This file imports nothing of the package: a training process runs it before fairseq is imported.
"""

import atexit
import json
import os
import resource
import sys

# What ru_maxrss counts in.
UNIT = 1 if sys.platform == "darwin" else 1024


def remember(path: str) -> None:
    """Have this process write the most bytes that it held into *path*, at its end; of a run's processes the most stays.

    A process that is killed writes nothing.
    """
    atexit.register(_write, path)


def peak() -> int:
    """The most bytes that this process has held until now: on the GPU where it has used one, else of main memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return _high_water() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def _high_water():
    """Linux's count for this program alone; None elsewhere. ``ru_maxrss`` begins with what the process held that started it."""
    try:
        with open("/proc/self/status") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:")), None)
    except OSError:
        return None


def _write(path: str) -> None:
    most = max(read(path) or 0, peak())
    with open(f"{path}.new", "w") as file:
        json.dump({"bytes": most}, file)
    os.replace(f"{path}.new", path)


def read(path):
    """The bytes that a file of `remember`'s holds; None where there is none that can be read."""
    try:
        with open(path) as file:
            value = json.load(file)["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, int) and value > 0 else None
