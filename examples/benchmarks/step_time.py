"""How much longer a step of SAM and δ-SAM takes, and how much more memory: through fairseq's own Trainer.train_step.

    base    one forward, backward and update
    limit   two plain forward+backward passes and one update: what no implementation of SAM can beat
    sam     --optimizer sam
    dsam    --optimizer dsam; one more forward than SAM, so 7/6 of it at best where a backward costs two forwards

    python examples/benchmarks/step_time.py                          # MiniLM's shape, fp32, 16 x 64 tokens
    python examples/benchmarks/step_time.py --size roberta-large --precision bf16 --batch 32
    python examples/benchmarks/step_time.py --profile                # where δ-SAM's time goes

The methods take turns in one process and each turn is compared with the turns beside it, so that a machine that is slower
for a while slows all of them alike; the table gives the median of these ratios and their quartiles. Peak memory is
measured in a process for each method.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import machine  # noqa: E402

machine.quiet()

import torch  # noqa: E402
from fairseq.trainer import Trainer  # noqa: E402
from fairseq_side import PRECISIONS, SIZES, build_trainer, random_sample  # noqa: E402

CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
METHODS = ("base", "limit", "sam", "dsam")
RATIOS = {  # name: (method, compared with, the most it should be on a CPU and on a GPU)
    "SAM / limit": ("sam", "limit", 1.05, 1.05),
    "δ-SAM / SAM": ("dsam", "sam", 1.20, 1.12),
    "SAM / base": ("sam", "base", None, None),
    "δ-SAM / base": ("dsam", "base", None, None),
}


def arguments(given=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    parser.add_argument("--log-interval", type=int, default=100, help="fairseq's; SAM measures its radius then")
    parser.add_argument("--profile", action="store_true", help="time δ-SAM's parts instead")
    parser.add_argument("--out", default="", help="append the tables to this file")
    parser.add_argument("--memory-of", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args(given)
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.clock == "process" and not (args.device == "cpu" and args.threads == 1):
        parser.error("--clock process adds up the time of all threads and knows no GPU: it wants --device cpu --threads 1")
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def trainer_for(method: str, args) -> Trainer:
    flags = ["--optimizer", "adam", "--lr", "1e-5", "--log-interval", args.log_interval]
    if method in ("sam", "dsam"):
        flags += ["--optimizer", method, "--sam-rho", args.rho]
    return build_trainer(
        args.size, *flags, precision=args.precision, dropout=args.dropout, cpu=args.device == "cpu"
    )


def stepper(method: str, trainer: Trainer, sample: dict) -> Callable[[], None]:
    """A function that makes one step and returns when the device has done it."""

    def step():
        if method == "limit":
            trainer.model.train()
            trainer.criterion.train()
            trainer.zero_grad()
            prepared, _ = trainer._prepare_sample(sample)
            trainer.task.train_step(
                prepared, trainer.model, trainer.criterion, trainer.optimizer, trainer.get_num_updates()
            )
        trainer.train_step([sample])
        if trainer.cuda:
            torch.cuda.synchronize()

    return step


# ---------------------------------------------------------------------- time


def measure_time(args) -> Dict[str, List[float]]:
    """Seconds of each step of each method; entry i of all lists is from the same round."""
    sample = random_sample(args.size, args.batch, args.tokens)
    trainers = {"base": trainer_for("base", args), "sam": trainer_for("sam", args), "dsam": trainer_for("dsam", args)}
    trainers["limit"] = trainers["base"]
    steps = {method: stepper(method, trainers[method], sample) for method in METHODS}
    for step in steps.values():  # memory is taken, kernels are chosen
        step(), step()
    clock = CLOCKS[args.clock]
    seconds: Dict[str, List[float]] = {method: [] for method in METHODS}
    for turn in range(args.rounds):
        # No method always follows the same one.
        order = METHODS[turn % 4 :] + METHODS[: turn % 4]
        for method in order if turn % 8 < 4 else reversed(order):
            start = clock()
            steps[method]()
            seconds[method].append(clock() - start)
    return seconds


def time_tables(seconds: Dict[str, List[float]], device: str) -> str:
    times = [
        (method, f"{statistics.median(values) * 1e3:.1f}", f"{min(values) * 1e3:.1f}")
        for method, values in seconds.items()
    ]
    ratios = []
    for name, (method, other, on_cpu, on_gpu) in RATIOS.items():
        target = on_cpu if device == "cpu" else on_gpu
        each = [a / b for a, b in zip(seconds[method], seconds[other])]
        ratios.append((name, machine.quartiles(each), "" if target is None else f"≤ {target:.2f}"))
    return "\n\n".join(
        [
            machine.table(("method", "median ms", "fastest ms"), times),
            machine.table(("ratio", "median (quartiles) of the rounds", "target"), ratios),
        ]
    )


# ---------------------------------------------------------------------- memory


def resident(field: str) -> int:
    """Bytes of physical memory of this process: its present VmRSS, its peak VmHWM. Linux only.

    Not getrusage's ru_maxrss, which a process inherits from the one that started it.
    """
    for line in open("/proc/self/status"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}")


def memory_of(method: str, args) -> dict:
    """Peak and growth of memory over ``args.memory_steps`` steps of one method, in this process, in bytes."""
    trainer = trainer_for(method, args)
    step = stepper(method, trainer, random_sample(args.size, args.batch, args.tokens))
    weights = sum(p.numel() * p.element_size() for p in trainer.model.parameters() if p.requires_grad)
    peaks, after = [], []
    if trainer.cuda:
        reset = torch.cuda.reset_peak_memory_stats  # fairseq calls it in every step

        def note_and_reset(*given):
            peaks.append(torch.cuda.max_memory_allocated())
            reset(*given)

        torch.cuda.reset_peak_memory_stats = note_and_reset
    for _ in range(args.memory_steps):
        step()
        if trainer.cuda:
            peaks.append(torch.cuda.max_memory_allocated())
            after.append(torch.cuda.memory_allocated())
        else:
            peaks.append(resident("VmHWM"))
            after.append(resident("VmRSS"))
    settled = min(4, len(after) - 1)  # Adam's state and the buffer come with the first step
    return {"peak": max(peaks), "growth": after[-1] - after[settled], "weights": weights}


def memory_table(args, given: List[str]) -> str:
    found = {}
    for method in METHODS:
        # Give freed memory back at once, so that the process is as large as what lives in it.
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
        done = subprocess.run(
            [sys.executable, __file__, *given, "--memory-of", method],
            env=environment,
            stdout=subprocess.PIPE,
            check=True,
        )
        found[method] = json.loads(done.stdout.splitlines()[-1])
    mib = 2.0**20
    rows = [
        (
            method,
            f"{of['peak'] / mib:.0f}",
            f"{(of['peak'] - found['limit']['peak']) / mib:+.0f}",
            f"{(of['peak'] - found['limit']['peak']) / of['weights']:+.2f}",
            f"{of['growth'] / mib:+.1f}",
        )
        for method, of in found.items()
    ]
    count = min(5, args.memory_steps)
    head = ("method", "peak MiB", "over limit", "in copies of the weights", f"growth, step {count} to {args.memory_steps}")
    return machine.table(head, rows)


# ---------------------------------------------------------------------- where the time goes


def profile(args) -> str:
    """A table of the milliseconds that the parts of a δ-SAM step take; parts of parts are indented."""
    from sharp_plugins import perturbation
    from sharp_plugins.host import trainer as host
    from sharp_plugins.host.passes import Passes
    from sharp_plugins.perturbation import Perturbation

    clock = CLOCKS[args.clock]
    spent: Dict[str, float] = {}
    rows: Dict[str, List[float]] = {}

    def timed(owner, name: str, label: str) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapper(*given, **named):
            start = clock()
            try:
                return original(*given, **named)
            finally:
                if args.device == "cuda":
                    torch.cuda.synchronize()
                spent[label] = spent.get(label, 0.0) + clock() - start

        setattr(owner, name, wrapper)

    timed(Perturbation, "perturb_randomly", "to a random point")
    timed(perturbation, "fill_normal_", "&nbsp; noise")
    timed(Passes, "sentence_losses_without_grad", "forward there")
    timed(Passes, "sentence_losses", "forward at w")
    timed(Passes, "weighted_backward", "weighted backward")
    timed(Perturbation, "climb", "climb")
    timed(Perturbation, "_write", "&nbsp; writing w + ε, both times")
    timed(host, "climb", "ascent in all")
    trainer = trainer_for("dsam", args)
    step = stepper("dsam", trainer, random_sample(args.size, args.batch, args.tokens))
    step(), step()
    for _ in range(args.rounds):
        spent.clear()
        start = clock()
        step()
        spent["step"] = clock() - start
        spent["descent and update"] = spent["step"] - spent["ascent in all"]
        for label, value in spent.items():
            rows.setdefault(label, []).append(value * 1e3)
    return machine.table(
        ("part", "median ms", "fastest ms"),
        [(label, f"{statistics.median(values):.1f}", f"{min(values):.1f}") for label, values in rows.items()],
    )


def main(given=None) -> None:
    given = sys.argv[1:] if given is None else given
    args = arguments(given)
    if args.memory_of:
        print(json.dumps(memory_of(args.memory_of, args)))
        return
    shape = f"{args.size}, {args.precision}, {args.batch} x {args.tokens} tokens, dropout {args.dropout}"
    if args.profile:
        machine.report(f"Where a δ-SAM step's time goes: {shape}", profile(args), args.device, args.out)
        return
    memory = [memory_table(args, given)] if args.memory_steps else []  # before this process has models of its own
    parts = [time_tables(measure_time(args), args.device), *memory] if args.rounds else memory
    machine.report(f"Step time: {shape}", "\n\n".join(parts), args.device, args.out)


if __name__ == "__main__":
    main()
