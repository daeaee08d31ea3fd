"""A training step of our decoder and of transformers' on the same weights: forward, backward, AdamW; time and memory.

    ours, theirs              all weights are trained
    ours-lora, theirs-lora    LoRA of rank 8 on queries and values, ours and PEFT's; where PEFT is installed

    python examples/benchmarks/decoder_step.py                                     # SmolLM2's shape, fp32, 8 x 128 tokens
    python examples/benchmarks/decoder_step.py --shape gpt2-medium --precision bf16
    python examples/benchmarks/decoder_step.py --layers 4 --rounds 6               # of fewer layers
    python examples/benchmarks/decoder_step.py --profile ours                      # where a step's time goes

Without fairseq, whose part of a step is the same for any model. `measure.py` says how time and memory are measured.
"""

import argparse
import copy
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, Dict, List, Sequence

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import machine

machine.quiet()

import decoder_side
import measure
import torch
import torch.nn.functional as F
from measure import CLOCKS, Ratio
from torch import Tensor, nn

METHODS = ("ours", "theirs", "ours-lora", "theirs-lora")
RATIOS = (
    Ratio("ours / theirs", "ours", "theirs", 1.0, 1.0),
    Ratio("our LoRA / theirs with PEFT's", "ours-lora", "theirs-lora", 1.0, 1.0),
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def arguments(given=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=decoder_side.SHAPES, default="smollm2-135m")
    parser.add_argument("--layers", type=int, default=0, help="of the model (default: all)")
    parser.add_argument("--tiny", action="store_true", help="small widths, to try this script itself")
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="of weights, gradients and AdamW's state")
    parser.add_argument("--batch", type=int, default=8, help="rows in a step (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=128, help="tokens in a row (default: %(default)s)")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=12, help="turns of every method; 0: none (default: %(default)s)")
    parser.add_argument("--memory-steps", type=int, default=6, help="steps that memory is watched for; 0: none")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    clock_help = "process: CPU time, which other processes disturb less; only with --device cpu --threads 1"
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help=clock_help)
    parser.add_argument("--out", default="", help="append the tables to this file")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: all; theirs-lora where PEFT is installed")
    parser.add_argument("--profile", choices=METHODS, help="show the operations of a step of this method instead")
    parser.add_argument("--memory-of", choices=METHODS, help=argparse.SUPPRESS)
    args = measure.parse(parser, given)
    measure.choose_methods(parser, args, METHODS, of_peft="theirs-lora")
    return args


# ---------------------------------------------------------------------- the methods


def model_of(method: str, args) -> nn.Module:
    settings = decoder_side.settings_of(args.shape, args.layers, args.dropout, args.tiny)
    model = decoder_side.theirs_of(settings)
    return adapted(method, decoder_side.ours_of(settings, model) if method.startswith("ours") else model, args)


def adapted(method: str, model: nn.Module, args) -> nn.Module:
    if method == "ours-lora":
        decoder_side.add_our_lora(model)
    elif method == "theirs-lora":
        model = decoder_side.add_pefts_lora(model)
    return model.to(args.device, DTYPES[args.precision]).train()


def models_of(args) -> Dict[str, nn.Module]:
    """The model of each method. To draw a large one's weights takes seconds: it is done once, and all but one are copies."""
    settings = decoder_side.settings_of(args.shape, args.layers, args.dropout, args.tiny)
    theirs = decoder_side.theirs_of(settings)
    drawn = {"ours": decoder_side.ours_of(settings, theirs), "theirs": theirs}
    return {method: adapted(method, copy.deepcopy(drawn[method.split("-")[0]]), args) for method in args.methods}


def loss_of(method: str, model: nn.Module, tokens: Tensor) -> Tensor:
    """The mean loss of all tokens but each row's first."""
    if method.startswith("theirs"):
        return model(input_ids=tokens, labels=tokens).loss
    scores = model(tokens)
    targets = F.pad(tokens[:, 1:], (0, 1), value=-100)  # as theirs: the last token has no target
    return F.cross_entropy(scores.view(-1, scores.size(-1)).float(), targets.reshape(-1))


def stepper(method: str, model: nn.Module, args) -> Callable[[], None]:
    """A function that makes one step of *model* and returns when the device has done it."""
    tokens = tokens_of(args)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)

    def step():
        loss_of(method, model, tokens).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if args.device == "cuda":
            torch.cuda.synchronize()

    return step


def tokens_of(args) -> Tensor:
    words = decoder_side.settings_of(args.shape, args.layers, 0.0, args.tiny).vocabulary
    generator = torch.Generator().manual_seed(1)
    return torch.randint(words, (args.batch, args.tokens), generator=generator).to(args.device)


@torch.no_grad()
def losses(models: Dict[str, nn.Module], args) -> Dict[str, float]:
    """The loss of each method before the first step, without dropout."""
    found = {method: loss_of(method, model.eval(), tokens_of(args)).item() for method, model in models.items()}
    for model in models.values():
        model.train()
    return found


# ---------------------------------------------------------------------- time and memory


def measure_time(models: Dict[str, nn.Module], args) -> Dict[str, List[float]]:
    """Seconds of each step of each method; entry i of all lists is from the same round."""
    steps = {method: stepper(method, model, args) for method, model in models.items()}
    return measure.in_turns(steps, args.rounds, CLOCKS[args.clock])


def time_tables(seconds: Dict[str, List[float]], device: str) -> str:
    return f"{measure.time_table(seconds)}\n\n{measure.ratio_table(measure.ratio_rows(seconds, RATIOS, device))}"


def memory_of(method: str, args) -> Dict[str, int]:
    """Memory of this process over the steps of one method, in bytes. The libraries are loaded before, for all."""
    import transformers  # noqa: F401

    if find_spec("peft") is not None:
        import peft  # noqa: F401

    def make():
        model = model_of(method, args)
        return SimpleNamespace(model=model, cuda=args.device == "cuda"), stepper(method, model, args)

    return measure.memory_of(make, args.memory_steps, args.device)


def memory_table(args, given: Sequence[str]) -> str:
    found = measure.memory_of_each(args.methods, lambda method: memory_of(method, args), args.device, __file__, given)
    taken = {method: of["peak"] - of["start"] for method, of in found.items()}
    rows = []
    for method, bytes_taken in taken.items():
        other = taken.get(method.replace("ours", "theirs"))
        ratio = f"{bytes_taken / other:.3f}" if other and method.startswith("ours") else ""
        rows.append((method, f"{bytes_taken / 2**20:.0f}", ratio))
    return machine.table(("method", "MiB taken", "of theirs"), rows)


def profile(method: str, args) -> str:
    step = stepper(method, model_of(method, args), args)
    step(), step()
    on = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=on + [torch.profiler.ProfilerActivity.CUDA] * (args.device == "cuda")) as found:
        for _ in range(3):
            step()
    return found.key_averages().table(sort_by=f"self_{args.device}_time_total", row_limit=25, max_name_column_width=45)


def main(given=None) -> None:
    given = sys.argv[1:] if given is None else given
    args = arguments(given)
    if args.memory_of:
        print(json.dumps(memory_of(args.memory_of, args)))
        return
    if args.profile:
        print(profile(args.profile, args))
        return
    parts = [memory_table(args, given)] if args.memory_steps else []  # before this process has models of its own
    models = models_of(args)
    before = losses(models, args)
    if max(before.values()) - min(before.values()) > {"fp32": 1e-4, "bf16": 3e-2}[args.precision]:
        raise SystemExit(f"with the same weights the losses are {before}: these are two models")
    parts.append("Loss before the first step: " + ", ".join(f"{method} {loss:.5f}" for method, loss in before.items()) + ".")
    if args.rounds:
        parts.insert(0, time_tables(measure_time(models, args), args.device))
    layers = f", {args.layers} layers" if args.layers else ""
    title = f"Decoder: {args.shape}{layers}, {args.precision}, {args.batch} x {args.tokens} tokens, dropout {args.dropout}"
    machine.report(title, "\n\n".join(parts), args.device, args.out)


if __name__ == "__main__":
    main()
