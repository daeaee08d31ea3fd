"""How often the host waits for the device in a step: an optimizer should add no such time to those of fairseq itself.

Each method is compared with the base optimizer on the same model: SAM and δ-SAM on all weights with Adam, BAR and SAM on
LoRA's with Adam on LoRA's. On a GPU every wait is counted that torch knows of (``torch.cuda.set_sync_debug_mode("warn")``);
on a CPU, where nothing waits, the operations are whose result the host reads.

    python examples/benchmarks/synchronisations.py                   # a tiny model, all precisions
"""

import argparse
import contextlib
import sys
import warnings
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Tuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import machine

machine.quiet()

import measure
import torch
from bar_alone import HostReads
from fairseq.trainer import Trainer
from fairseq_side import LORA, PRECISIONS, build_trainer, random_sample

FULL = ("benchmark_encoder",)
BAR = ("--optimizer", "bar", "--bar-variant")
METHODS: Dict[str, Tuple[Sequence, Sequence, str]] = {  # name: (--arch and its flags, the optimizer's, compared with)
    "adam": (FULL, ("--optimizer", "adam"), "adam"),
    "sam": (FULL, ("--optimizer", "sam"), "adam"),
    "dsam": (FULL, ("--optimizer", "dsam"), "adam"),
    "lora": (LORA, ("--optimizer", "adam"), "lora"),
    "nbar": (LORA, (*BAR, "nbar"), "lora"),
    "obar": (LORA, (*BAR, "obar"), "lora"),
    "lora-sam": (LORA, ("--optimizer", "sam"), "lora"),
    "lora-dsam": (LORA, ("--optimizer", "dsam"), "lora"),
}
WAITS = "called a synchronizing CUDA operation"  # torch's words


@contextlib.contextmanager
def warned_of_waits() -> Iterator[List[warnings.WarningMessage]]:
    """Within, each wait for the GPU adds a warning to the list, and others come between."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            torch.cuda.set_sync_debug_mode(before)


def waits(trainer: Trainer, sample: dict, updates: int) -> int:
    """How often the host waits in *updates* of *trainer*, after two that take memory; the measures are taken in each."""
    trainer.train_step([sample]), trainer.train_step([sample])
    with warned_of_waits() if trainer.cuda else HostReads() as found:
        for _ in range(updates):
            trainer.train_step([sample])
    return sum(WAITS in str(one.message) for one in found) if trainer.cuda else found.count


def trainer_for(method: str, precision: str, size: str, device: str) -> Trainer:
    arch, flags, _ = METHODS[method]
    flags = (*flags, "--lr", "1e-5", "--log-interval", 1, "--clip-norm", 1)
    return build_trainer(size, *flags, precision=precision, device=device, arch=arch)


def count(args) -> Dict[Tuple[str, str], int]:
    """The waits in ``args.rounds`` updates, by method and precision."""
    sample = random_sample(args.size, args.batch, args.tokens, device=args.device)
    return {
        (method, precision): waits(trainer_for(method, precision, args.size, args.device), sample, args.rounds)
        for precision in args.precisions
        for method in METHODS
    }


def table(counts: Dict[Tuple[str, str], int], precisions: Sequence[str], updates: int) -> str:
    rows = []
    for method, (_, _, other) in METHODS.items():
        each = [(counts[method, precision], counts[other, precision]) for precision in precisions]
        cells = [f"{own}" if method == other else f"{own} ({own - base:+d})" for own, base in each]
        rows.append((method, "" if method == other else other, *cells))
    note = f"In {updates} updates; in brackets, more than the method that it is compared with: 0 is the target."
    return f"{note}\n\n{machine.table(('method', 'compared with', *precisions), rows)}"


def main(given=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measure.add_arguments(parser)
    parser.set_defaults(size="tiny", batch=4, tokens=8, rounds=4)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    args = measure.parse(parser, given)
    text = table(count(args), args.precisions, args.rounds)
    machine.report("Times that the host waits for the device", text, args.device, args.out)


if __name__ == "__main__":
    main()
