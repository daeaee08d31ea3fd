"""Runs side by side: one a GPU, or some on the CPU with its threads divided."""

import os
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

from sharp_plugins.runs.processes import Stop
from sharp_plugins.runs.store import Run, key
from sharp_plugins.runs.threads import usable_cores


class Slot(NamedTuple):
    """A place for a run.

    Attributes:
        device: the GPU, as CUDA_VISIBLE_DEVICES names it; None for what the process finds.
        share: how many CPU threads a run gets; None: as many as are free.
    """

    device: Optional[str] = None
    share: Optional[int] = None


def gpus(count: int, environment: Mapping[str, str] = os.environ) -> List[str]:
    """The GPUs that torch sees, as CUDA_VISIBLE_DEVICES names them.

    Args:
        count: how many there are, from ``torch.cuda.device_count()``.

    >>> gpus(2, {}), gpus(2, {"CUDA_VISIBLE_DEVICES": "4,7"})
    (['0', '1'], ['4', '7'])
    """
    visible = [name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return visible[:count] if len(visible) >= count else [str(number) for number in range(count)]


def slots(jobs: Optional[int], devices: Optional[str], there: Optional[Sequence[str]] = None) -> List[Slot]:
    """The places of ``--jobs`` and ``--devices``.

    Args:
        there: from `gpus`; a device is a number in this list, as torch counts. None: they are not known.

    >>> [slot.device for slot in slots(None, "0,3")]
    ['0', '3']

    Raises:
        ValueError: a flag's value is none.
    """
    numbers = [] if devices is None else [number.strip() for number in devices.split(",")]
    if devices is not None and (not all(numbers) or len(set(numbers)) != len(numbers)):
        raise ValueError(f"--devices {devices}: should be different GPUs, as 0,1,2,3")
    if there is not None:
        for number in numbers:
            if not (number.isascii() and number.isdigit() and int(number) < len(there)):
                raise ValueError(f"--devices {devices}: there is no GPU {number}; they are {','.join(map(str, range(len(there))))}")
        numbers = [there[int(number)] for number in numbers]
    count = jobs if jobs is not None else len(numbers) or 1
    if count < 1:
        raise ValueError(f"--jobs {jobs}: should be at least 1")
    if count < len(numbers):
        raise ValueError(f"--jobs {jobs}: there are {len(numbers)} --devices; give fewer of them, or more jobs")
    share = None if count == 1 else max(1, len(usable_cores()) // count)
    return [Slot(numbers[i % len(numbers)] if numbers else None, share) for i in range(count)]


def check_workers(runs: Sequence[Run], there: int, flag: str = "--configs") -> None:
    """Raise ValueError where a run has more workers than GPUs: fairseq trains one on each, and refuses more only as it starts.

    Args:
        there: the GPUs that each run sees; on the CPU 0, and a run has one worker.
        flag: which names the files of settings, for the message.
    """
    for run in runs:
        workers = run.config["distributed_training"]["distributed_world_size"]
        if workers > max(there, 1):
            setting = f"distributed_training.distributed_world_size is {workers}"
            raise ValueError(
                f"{run.name}: {setting}, and GPUs that a run has here: {there}; see --set, {flag}, --devices and --cpu"
            )


def side_by_side(
    runs: Sequence[Run],
    work: Callable[[Run, Slot], None],
    places: Sequence[Slot],
    stop: Stop,
    cannot: Callable[[Run], None] = lambda run: None,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Call *work* for each run, in a thread of each place, and begin in the order of *runs*; a run waits for the one that it needs.

    Args:
        work: does not raise where a run failed.
        after: is called when runs are over, well or not, while others are at work, or else before the next begins; not after the
            last one.
        cannot: is called for each run that is not begun, as the run that it needs is not finished.

    Raises:
        BaseException: what *work* raised, or a KeyboardInterrupt; the other runs have been stopped and have ended.
    """
    waiting, free, is_new = list(runs), list(places), False
    active: Dict[Future, tuple] = {}
    with ThreadPoolExecutor(len(places)) as pool:
        try:
            while waiting or active:
                if is_new and waiting and not active:
                    # Alone: the next run looks how many cores are free when it begins, and is not to find this process at work.
                    after()
                    is_new = False
                _drop(waiting, [run for run, _ in active.values()], cannot)
                for run in [run for run in waiting if run.needs is None or run.needs.is_finished][: len(free)]:
                    waiting.remove(run)
                    slot = free.pop(0)
                    active[pool.submit(work, run, slot)] = (run, slot)
                if is_new and active:
                    after()
                is_new = bool(active)
                for future in wait(active, return_when=FIRST_COMPLETED).done:
                    free.append(active.pop(future)[1])
                    future.result()
        except BaseException:
            _end(stop, active)
            raise


def _drop(waiting: List[Run], active: Sequence[Run], cannot: Callable[[Run], None]) -> None:
    """Take those out of *waiting* whose need will not be finished any more."""
    while True:
        coming = {key(run.record) for run in (*waiting, *active)}
        lost = [run for run in waiting if run.needs and not run.needs.is_finished and key(run.needs.record) not in coming]
        if not lost:
            return
        for run in lost:
            waiting.remove(run)
            cannot(run)


def _end(stop: Stop, active) -> None:
    """Stop what is at work; a second Ctrl-C kills it."""
    stop.ask()
    while active:
        try:
            wait(active)
            return
        except KeyboardInterrupt:
            stop.ask()
