"""What LoRA and BAR cost: steps and memory, through fairseq's own Trainer.train_step.

    full      all weights are trained, --optimizer adam
    lora      --arch lora on the query and value projections, rank 8, --optimizer adam
    nbar      the same, --optimizer bar --bar-variant nbar
    obar      the same, --optimizer bar --bar-variant obar
    lora-sam  the same, --optimizer sam
    peft      PEFT's LoRA on the same layers of the same model, --optimizer adam; where PEFT is installed

    python examples/benchmarks/adapters.py                           # MiniLM's shape, fp32, 16 x 64 tokens
    python examples/benchmarks/adapters.py --precision fp16 --methods lora nbar obar lora-sam
    python examples/benchmarks/adapters.py --size roberta-large --precision bf16 --batch 32
    python examples/benchmarks/adapters.py --bar-alone               # BAR's own code: its time, and does the host wait?

`measure.py` says how time and memory are measured.
"""

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import machine

machine.quiet()

import bar_alone
import measure
import peft_side
import torch
from fairseq.trainer import Trainer
from fairseq_side import LORA, build_trainer, random_sample
from measure import CLOCKS, Ratio

BAR = ("--optimizer", "bar", "--bar-alpha", 0.5)
METHODS: Dict[str, Tuple[Sequence, Sequence]] = {  # name: (--arch and its flags, the optimizer's)
    "full": (("benchmark_encoder",), ("--optimizer", "adam")),
    "lora": (LORA, ("--optimizer", "adam")),
    "nbar": (LORA, (*BAR, "--bar-variant", "nbar")),
    "obar": (LORA, (*BAR, "--bar-variant", "obar")),
    "lora-sam": (LORA, ("--optimizer", "sam")),
    "peft": (peft_side.ARCH, ("--optimizer", "adam")),
}
RATIOS = (
    Ratio("nBAR / LoRA", "nbar", "lora", 1.02, 1.01),
    Ratio("oBAR / LoRA", "obar", "lora", 1.02, 1.01),
    Ratio("LoRA-SAM / LoRA", "lora-sam", "lora", 2.1, 2.1),
    Ratio("LoRA / full", "lora", "full"),
    Ratio("LoRA / PEFT's LoRA", "lora", "peft", 1.0, 1.0),
)


def arguments(given=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measure.add_arguments(parser)
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: all; peft where it is installed")
    parser.add_argument("--bar-alone", action="store_true", help="look at BAR's own code alone instead")
    parser.add_argument("--memory-of", choices=METHODS, help=argparse.SUPPRESS)
    args = measure.parse(parser, given)
    measure.choose_methods(parser, args, METHODS, of_peft="peft")
    return args


def trainer_for(method: str, args) -> Trainer:
    arch, flags = METHODS[method]
    flags = [*flags, "--lr", "1e-5", "--log-interval", args.log_interval]
    if method == "lora-sam":
        flags += ["--sam-rho", args.rho]
    return build_trainer(args.size, *flags, precision=args.precision, dropout=args.dropout, device=args.device, arch=arch)


def losses_with_the_same_updates(args) -> Tuple[float, float]:
    """The mean losses of our LoRA and of PEFT's, with the same random A and B, in fp32 and without dropout."""
    sample, models = random_sample(args.size, args.batch, args.tokens, device=args.device), []
    for method in ("lora", "peft"):
        arch, flags = METHODS[method]
        models.append(build_trainer(args.size, *flags, "--lr", "1e-5", device=args.device, arch=arch).get_model().eval())
    peft_side.draw_the_same_updates(*models)
    with torch.no_grad():
        logits = [model(**sample["net_input"])[0] for model in models]
    return tuple(torch.nn.functional.cross_entropy(one, sample["target"]).item() for one in logits)


def measure_time(args) -> Dict[str, List[float]]:
    """Seconds of each step of each method; entry i of all lists is from the same round."""
    sample = random_sample(args.size, args.batch, args.tokens, device=args.device)
    steps = {method: measure.stepper(trainer_for(method, args), sample) for method in args.methods}
    return measure.in_turns(steps, args.rounds, CLOCKS[args.clock])


def time_tables(seconds: Dict[str, List[float]], device: str) -> str:
    rows = measure.ratio_rows(seconds, RATIOS, device)
    for variant, name in (("nbar", "nBAR"), ("obar", "oBAR")):
        if {variant, "lora", "lora-sam"} <= set(seconds):
            rounds = zip(seconds[variant], seconds["lora"], seconds["lora-sam"])
            each = [(bar - lora) / (sam - lora) for bar, lora, sam in rounds]
            rows.append((f"what {name} adds / what SAM adds", machine.quartiles(each), "≤ 0.05"))
    return f"{measure.time_table(seconds)}\n\n{measure.ratio_table(rows)}"


def memory_of(method: str, args) -> Dict[str, int]:
    """Memory of this process over the steps of one method, in bytes."""
    if find_spec("peft") is not None:
        import peft  # noqa: F401  for every method, so that its code is in none's share

    def make():
        trainer = trainer_for(method, args)
        return trainer, measure.stepper(trainer, random_sample(args.size, args.batch, args.tokens, device=args.device))

    return measure.memory_of(make, args.memory_steps, args.device)


def memory_table(args, given: Sequence[str]) -> str:
    found = measure.memory_of_each(args.methods, lambda method: memory_of(method, args), args.device, __file__, given)
    mib = 2.0**20
    taken = {method: of["peak"] - of["start"] for method, of in found.items()}
    rows = []
    for method, of in found.items():
        compared = [f"{taken[method] / taken[other]:.3f}" if other in taken else "" for other in ("full", "peft")]
        rest = (f"{of['weights'] / mib:.2f}", f"{of['growth'] / mib:+.1f}")
        rows.append((method, f"{taken[method] / mib:.0f}", *compared, *rest))
    count = min(5, args.memory_steps)
    growth = f"growth, step {count} to {args.memory_steps}"
    return machine.table(("method", "MiB taken", "of full's", "of PEFT's", "trained weights, MiB", growth), rows)


def bar_alone_table(args) -> str:
    """What BAR's own code costs in an update, and whether it makes the host wait."""
    sample, rows = random_sample(args.size, args.batch, args.tokens, device=args.device), []
    for method in ("nbar", "obar"):
        args.log_interval = 10**6  # not within these updates
        plain = bar_alone.own_seconds(trainer_for(method, args), sample, args.rounds)
        args.log_interval = 1
        logged = bar_alone.own_seconds(trainer_for(method, args), sample, args.rounds)
        reads = bar_alone.host_reads(trainer_for(method, args), sample, 3)
        rows.append((method, *(machine.quartiles([1e3 * s for s in seconds]) for seconds in (plain, logged)), reads))
    head = ("method", "ms an update", "ms a logged update", "times that the host waits, in 3 updates")
    return machine.table(head, rows)


def main(given=None) -> None:
    given = sys.argv[1:] if given is None else given
    args = arguments(given)
    if args.memory_of:
        print(json.dumps(memory_of(args.memory_of, args)))
        return
    if args.bar_alone:
        machine.report(f"BAR's own code: {measure.shape(args)}", bar_alone_table(args), args.device, args.out)
        return
    parts = [memory_table(args, given)] if args.memory_steps else []  # before this process has models of its own
    if {"lora", "peft"} <= set(args.methods):
        ours, peft = losses_with_the_same_updates(args)
        if abs(ours - peft) > (1e-5 if args.device == "cpu" else 1e-4) * peft:  # a GPU's products differ more
            raise SystemExit(f"with the same A and B our loss is {ours} and PEFT's is {peft}: these are two models")
        parts.append(f"Loss with the same A and B: ours {ours:.6f}, PEFT's {peft:.6f}.")
    if args.rounds:
        parts.insert(0, time_tables(measure_time(args), args.device))
    machine.report(f"Adapters: {measure.shape(args)}", "\n\n".join(parts), args.device, args.out)


if __name__ == "__main__":
    main()
