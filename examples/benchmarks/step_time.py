"""How much longer a step of SAM and δ-SAM takes, and how much more memory: through fairseq's own Trainer.train_step.

    base    one forward, backward and update
    limit   two plain forward+backward passes and one update: what no implementation of SAM can beat
    sam     --optimizer sam
    dsam    --optimizer dsam; one more forward than SAM, so 7/6 of it at best where a backward costs two forwards

    python examples/benchmarks/step_time.py                          # MiniLM's shape, fp32, 16 x 64 tokens
    python examples/benchmarks/step_time.py --size roberta-large --precision bf16 --batch 32
    python examples/benchmarks/step_time.py --profile                # where δ-SAM's time goes

`measure.py` says how time and memory are measured.
"""

import argparse
import functools
import json
import statistics
import sys
from pathlib import Path
from typing import Dict, List

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import machine

machine.quiet()

import measure
import torch
from fairseq.trainer import Trainer
from fairseq_side import build_trainer, random_sample
from measure import CLOCKS, Ratio

METHODS = ("base", "limit", "sam", "dsam")
RATIOS = (
    Ratio("SAM / limit", "sam", "limit", 1.05, 1.05),
    Ratio("δ-SAM / SAM", "dsam", "sam", 1.20, 1.12),
    Ratio("SAM / base", "sam", "base"),
    Ratio("δ-SAM / base", "dsam", "base"),
)


def arguments(given=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measure.add_arguments(parser)
    parser.add_argument("--profile", action="store_true", help="time δ-SAM's parts instead")
    parser.add_argument("--memory-of", choices=METHODS, help=argparse.SUPPRESS)
    return measure.parse(parser, given)


def trainer_for(method: str, args) -> Trainer:
    flags = ["--optimizer", "adam", "--lr", "1e-5", "--log-interval", args.log_interval]
    if method in ("sam", "dsam"):
        flags += ["--optimizer", method, "--sam-rho", args.rho]
    return build_trainer(args.size, *flags, precision=args.precision, dropout=args.dropout, device=args.device)


def stepper(method: str, trainer: Trainer, sample: dict) -> measure.Step:
    """A function that makes one step and returns when the device has done it."""
    step = measure.stepper(trainer, sample)
    if method != "limit":
        return step

    def two_passes():
        trainer.model.train()
        trainer.criterion.train()
        trainer.zero_grad()
        prepared, _ = trainer._prepare_sample(sample)
        trainer.task.train_step(prepared, trainer.model, trainer.criterion, trainer.optimizer, trainer.get_num_updates())
        step()

    return two_passes


def measure_time(args) -> Dict[str, List[float]]:
    """Seconds of each step of each method; entry i of all lists is from the same round."""
    sample = random_sample(args.size, args.batch, args.tokens, device=args.device)
    trainers = {"base": trainer_for("base", args), "sam": trainer_for("sam", args), "dsam": trainer_for("dsam", args)}
    trainers["limit"] = trainers["base"]
    steps = {method: stepper(method, trainers[method], sample) for method in METHODS}
    return measure.in_turns(steps, args.rounds, CLOCKS[args.clock])


def time_tables(seconds: Dict[str, List[float]], device: str) -> str:
    return f"{measure.time_table(seconds)}\n\n{measure.ratio_table(measure.ratio_rows(seconds, RATIOS, device))}"


def memory_of(method: str, args) -> Dict[str, int]:
    """Memory of this process over the steps of one method, in bytes."""

    def make():
        trainer = trainer_for(method, args)
        return trainer, stepper(method, trainer, random_sample(args.size, args.batch, args.tokens, device=args.device))

    return measure.memory_of(make, args.memory_steps, args.device)


def memory_table(args, given: List[str]) -> str:
    found = measure.memory_of_each(METHODS, lambda method: memory_of(method, args), args.device, __file__, given)
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
    growth = f"growth, step {count} to {args.memory_steps}"
    return machine.table(("method", "peak MiB", "over limit", "in copies of the weights", growth), rows)


# ---------------------------------------------------------------------- where the time goes


def profile(args) -> str:
    """A table of the milliseconds that the parts of a δ-SAM step take; parts of parts are indented."""
    from sharp_plugins.core import perturbation
    from sharp_plugins.core.perturbation import Perturbation
    from sharp_plugins.host.passes import Passes
    from sharp_plugins.optim.sam import SAM

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
    timed(Passes, "instance_losses_without_grad", "forward there")
    timed(Passes, "instance_losses", "forward at w")
    timed(Passes, "weighted_backward", "weighted backward")
    timed(Perturbation, "climb", "climb")
    timed(Perturbation, "_write", "&nbsp; writing w + ε, both times")
    timed(SAM, "ascend", "ascent in all")
    trainer = trainer_for("dsam", args)
    step = stepper("dsam", trainer, random_sample(args.size, args.batch, args.tokens, device=args.device))
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
    if args.profile:
        machine.report(f"Where a δ-SAM step's time goes: {measure.shape(args)}", profile(args), args.device, args.out)
        return
    memory = [memory_table(args, given)] if args.memory_steps else []  # before this process has models of its own
    parts = [time_tables(measure_time(args), args.device), *memory] if args.rounds else memory
    machine.report(f"Step time: {measure.shape(args)}", "\n\n".join(parts), args.device, args.out)


if __name__ == "__main__":
    main()
