"""Time and memory of the steps of several methods, as `step_time.py` and `adapters.py` measure them.

Time: the methods take turns in one process and each turn is compared with the turns beside it, so that a machine that
is slower for a while slows all of them alike; the tables give the median of these ratios and their quartiles. The order
of the turns is a Williams square: each method follows each other one equally often.

Memory: its peak. A CPU's is counted by process, so each method gets one; a GPU's is counted by torch, here.
"""

import argparse
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import machine
import torch
from fairseq.trainer import Trainer
from fairseq_side import PRECISIONS, SIZES

CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
Step = Callable[[], None]


class Ratio(NamedTuple):
    """A method's time over another's, and the most that it should be."""

    name: str
    method: str
    other: str
    on_cpu: Optional[float] = None
    on_gpu: Optional[float] = None


# ---------------------------------------------------------------------- the command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the model's shape, of the machine and of the measurement."""
    parser.add_argument("--size", choices=SIZES, default="minilm")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--batch", type=int, default=16, help="sentences in a step (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens in a sentence (default: %(default)s)")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--rho", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=20, help="turns of every method; 0: none (default: %(default)s)")
    parser.add_argument("--memory-steps", type=int, default=30, help="steps that memory is watched for; 0: none")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="process: CPU time, which other processes disturb less; only with --device cpu --threads 1",
    )
    parser.add_argument("--log-interval", type=int, default=100, help="fairseq's; the plugin's measures are taken then")
    parser.add_argument("--out", default="", help="append the tables to this file")


def parse(parser: argparse.ArgumentParser, given=None) -> argparse.Namespace:
    """The arguments, with the device and the threads settled."""
    args = parser.parse_args(given)
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.clock == "process" and not (args.device == "cpu" and args.threads == 1):
        parser.error("--clock process adds up all threads' time and knows no GPU: it wants --device cpu --threads 1")
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def choose_methods(parser: argparse.ArgumentParser, args: argparse.Namespace, known: Iterable[str], of_peft: str) -> None:
    """Without --methods all *known* ones; but *of_peft*, the one that is PEFT's, only where PEFT is installed."""
    has_peft = find_spec("peft") is not None
    if args.methods is None:
        args.methods = [method for method in known if method != of_peft or has_peft]
    if of_peft in args.methods and not has_peft:
        parser.error(f"--methods {of_peft} needs PEFT: pip install peft")


def shape(args) -> str:
    return f"{args.size}, {args.precision}, {args.batch} x {args.tokens} tokens, dropout {args.dropout}"


# ---------------------------------------------------------------------- time


def stepper(trainer: Trainer, sample: dict) -> Step:
    """A function that makes one step and returns when the device has done it."""

    def step():
        trainer.train_step([sample])
        if trainer.cuda:
            torch.cuda.synchronize()

    return step


def order(count: int, turn: int) -> List[int]:
    """Who goes when in a turn, a permutation of ``range(count)``.

    In *count* turns (twice as many where *count* is odd) each follows each other one equally often (Williams 1949).
    """
    row = [((k + 1) // 2 * (1 if k % 2 else -1) + turn) % count for k in range(count)]
    return row[::-1] if count % 2 and turn // count % 2 else row


def in_turns(steps: Dict[str, Step], rounds: int, clock: Callable[[], float]) -> Dict[str, List[float]]:
    """Seconds of each step of each method; entry i of all lists is from the same round."""
    for step in steps.values():  # memory is taken, kernels are chosen
        step(), step()
    names = list(steps)
    seconds: Dict[str, List[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for index in order(len(names), turn):
            start = clock()
            steps[names[index]]()
            seconds[names[index]].append(clock() - start)
    return seconds


def time_table(seconds: Dict[str, List[float]]) -> str:
    rows = [(method, f"{statistics.median(values) * 1e3:.1f}", f"{min(values) * 1e3:.1f}") for method, values in seconds.items()]
    return machine.table(("method", "median ms", "fastest ms"), rows)


def ratio_rows(seconds: Dict[str, List[float]], ratios: Iterable[Ratio], device: str) -> List[Tuple[str, str, str]]:
    """Rows of `ratio_table` for those of *ratios* whose methods were measured."""
    rows = []
    for name, method, other, on_cpu, on_gpu in ratios:
        if method in seconds and other in seconds:
            target = on_cpu if device == "cpu" else on_gpu
            each = [a / b for a, b in zip(seconds[method], seconds[other])]
            rows.append((name, machine.quartiles(each), "" if target is None else f"≤ {target:.2f}"))
    return rows


def ratio_table(rows: Sequence[Tuple[str, str, str]]) -> str:
    return machine.table(("ratio", "median (quartiles) of the rounds", "target"), rows)


# ---------------------------------------------------------------------- memory


def resident(field: str) -> int:
    """Bytes of physical memory of this process: its present VmRSS, its peak VmHWM. Linux only.

    Not getrusage's ru_maxrss, which a process inherits from the one that started it.
    """
    for line in open("/proc/self/status"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}")


def memory_of(make: Callable[[], Tuple[Trainer, Step]], steps: int, device: str) -> Dict[str, int]:
    """Memory of this process over *steps* steps of what *make* makes, in bytes.

    Returns:
        start: what was taken before. peak: the most that was taken.
        growth: what was taken after the last step and not after the fifth.
        weights: those that are trained.
    """
    start = resident("VmRSS") if device == "cpu" else torch.cuda.memory_allocated()
    trainer, step = make()
    weights = sum(p.numel() * p.element_size() for p in trainer.model.parameters() if p.requires_grad)
    peaks, after = [], []
    with contextlib.ExitStack() as stack:
        if trainer.cuda:
            stack.enter_context(_peaks_before_resets(peaks))
        for _ in range(steps):
            step()
            if trainer.cuda:
                peaks.append(torch.cuda.max_memory_allocated())
                after.append(torch.cuda.memory_allocated())
            else:
                peaks.append(resident("VmHWM"))
                after.append(resident("VmRSS"))
    settled = min(4, len(after) - 1)  # Adam's state and the buffer come with the first step
    return {"start": start, "peak": max(peaks), "growth": after[-1] - after[settled], "weights": weights}


@contextlib.contextmanager
def _peaks_before_resets(peaks: List[int]):
    """Note in *peaks* what fairseq forgets in every step, when it resets torch's peak of the GPU's memory."""
    reset = torch.cuda.reset_peak_memory_stats
    reset()

    def note_and_reset(*given):
        peaks.append(torch.cuda.max_memory_allocated())
        reset(*given)

    torch.cuda.reset_peak_memory_stats = note_and_reset
    try:
        yield
    finally:
        torch.cuda.reset_peak_memory_stats = reset


def memory_of_each(
    methods: Iterable[str], memory_of_method: Callable[[str], Dict[str, int]], device: str, script: str, given: Sequence[str]
) -> Dict[str, Dict[str, int]]:
    """What `memory_of` finds for each method: on a CPU in a process for each (`memory_in_processes`), on a GPU here, one after
    the other, where what an earlier method left behind is not counted."""
    if device == "cpu":
        return memory_in_processes(script, given, methods)
    found = {}
    for method in methods:
        of = memory_of_method(method)
        found[method] = {**of, "start": 0, "peak": of["peak"] - of["start"]}
        gc.collect()  # fairseq's trainer and its optimizer hold each other
        torch.cuda.empty_cache()
    return found


def memory_in_processes(script: str, given: Sequence[str], methods: Iterable[str]) -> Dict[str, Dict[str, int]]:
    """What *script* prints with ``--memory-of METHOD`` for each method, in a process for each."""
    # Give freed memory back at once, so that the process is as large as what lives in it.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    found = {}
    for method in methods:
        command = [sys.executable, script, *given, "--memory-of", method]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        found[method] = json.loads(done.stdout.splitlines()[-1])
    return found
