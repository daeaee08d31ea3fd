"""How many CPU threads a run gets, and how they wait for each other, on a machine that also does other work.

torch's OpenMP threads meet at the end of each operation, and the early ones wait by spinning. That is the fastest way on a
quiet machine. Where another program wants a core, the late thread is often the one that has been put aside, and the others
burn their own time meanwhile: on two cores with one busy neighbour a small model trains 3 to 40 times slower than on a quiet
machine. Two settings help, and are made here for the processes that the runs start:

- ``OMP_NUM_THREADS``: no more threads than there are idle cores when the run is started;
- ``GOMP_SPINCOUNT`` (GNU's OpenMP, in torch's Linux wheels) and ``KMP_BLOCKTIME`` (LLVM's and Intel's): spin for a short while
  only, and sleep then, should the neighbour come later. `examples/benchmarks/busy_machine.py` measures them.

What the user has set stays. A run keeps the settings of its first start, as the number of threads changes the order in which
sums are rounded: it would not go on bit for bit with another one.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Dict, Mapping, Optional, Sequence

from sharp_plugins.files.writing import write_text
from sharp_plugins.runs.progress import say

# Measured (examples/benchmarks/README.md): more spins lose more beside a busy neighbour, fewer lose time on a quiet machine.
SPIN = {"GOMP_SPINCOUNT": "4000", "KMP_BLOCKTIME": "1"}
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
THREADS = "OMP_NUM_THREADS"
# Seconds for which the cores are watched.
LOOK = 0.4
# A core that is idle for so much of that time is free: a browser's ticking is no neighbour.
FREE = 0.7


def usable_cores() -> Sequence[int]:
    """The numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)


def _ticks(text: str) -> Dict[int, Sequence[int]]:
    """By core: the idle and all ticks so far, from ``/proc/stat``."""
    found = {}
    for line in text.splitlines():
        name, *numbers = line.split()
        if name.startswith("cpu") and name[3:].isdigit():
            ticks = [int(number) for number in numbers[:8]]  # what follows, guests' time, is in the first ones already
            found[int(name[3:])] = (ticks[3] + ticks[4], sum(ticks))
    return found


def idle_shares(before: str, after: str, cores: Sequence[int]) -> Sequence[float]:
    """For each of *cores*, the share of the time between two readings of ``/proc/stat`` in which it did nothing."""
    first, second = _ticks(before), _ticks(after)
    shares = []
    for core in cores:
        if core in first and core in second:
            idle, every = (second[core][i] - first[core][i] for i in (0, 1))
            shares.append(idle / every if every > 0 else 1.0)
    return shares


def free_cores(cores: Sequence[int]) -> int:
    """How many of *cores* other programs leave free now; at least 1. All of them where the system does not tell."""
    try:
        before = Path("/proc/stat").read_text()
        time.sleep(LOOK)
        shares = idle_shares(before, Path("/proc/stat").read_text(), cores)
    except (OSError, ValueError, IndexError):
        return len(cores)
    # The scheduler moves a lone neighbour about: two cores that are half busy are one that is free.
    return max(1, min(len(cores), int(sum(shares) + 1 - FREE))) if shares else len(cores)


def chosen(environment: Mapping[str, str]) -> Dict[str, str]:
    """The settings for a process that is started now, without those that *environment* makes already.

    >>> chosen({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"})
    {}
    """
    settings = {} if any(name in environment for name in WAITING) else dict(SPIN)
    if THREADS not in environment:
        cores = usable_cores()
        free = free_cores(cores)
        if free < len(cores):
            settings[THREADS] = str(free)
            words = f"other programs are busy on the rest ({THREADS} chooses otherwise)"
            say(f"{free} of {len(cores)} CPU threads: {words}", sys.stderr)
    return settings


def for_run(path: Path, environment: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """`chosen` at a run's first start, and the same at every later one.

    Args:
        path: the run's file that remembers them.
        environment: default: this process's.

    Raises:
        ValueError: the file holds something else.
    """
    environment = os.environ if environment is None else environment
    if not path.is_file():
        first = chosen(environment)
        number = environment.get(THREADS) or first.get(THREADS) or str(len(usable_cores()))
        write_text(path, json.dumps({**first, THREADS: number} if number.isdigit() else first) + "\n")
    known = (THREADS, *SPIN)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        right = all(name in known and value.isascii() and value.isdigit() for name, value in settings.items())
    except (ValueError, AttributeError):
        right = False
    if not right:
        raise ValueError(f"{path}: is to hold whole numbers for {', '.join(known)} in JSON; delete it")
    waits = any(name in environment for name in WAITING)
    return {k: v for k, v in settings.items() if k not in environment and not (waits and k in SPIN)}
