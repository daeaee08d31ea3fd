"""Text after prompts: tokens a second of our generator and of transformers' `generate`, with the same weights and prompts.

    ours, theirs              fp32
    ours-lookup, theirs-lookup    the same with tokens that are guessed from what was read before; greedy search of one prompt alone
    ours-bf16, theirs-bf16    the same in bf16
    ours-lora, ours-merged    LoRA of rank 8 on queries and values, apart from the weights and merged into them

    python examples/benchmarks/generation.py --model OUT              # OUT: SmolLM2 by python -m sharp_plugins.convert
    python examples/benchmarks/generation.py --shape gpt2-medium      # random weights
    python examples/benchmarks/generation.py --model OUT --webnlg test.jsonl    # WebNLG's inputs as prompts; else made-up ones
    python examples/benchmarks/generation.py --quick                  # a small model, to try the script itself
    python examples/benchmarks/generation.py --profile ours --beams 5 --batches 16

The methods take turns at each batch, in one process; a ratio is of two methods' times at the same batch. The prompts are sorted
by length, as fairseq-generate sorts them. Both have the same outputs, which is checked: the share of those that are equal is told.
All methods but the two guess nothing, though --lookup-tokens has another default than transformers has.
"""

import argparse
import copy
import json
import statistics
import sys
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import machine

machine.quiet()

import decoder_side
import measure
import torch
from measure import CLOCKS
from torch import Tensor, nn

from sharp_plugins.generation import Generator, SearchSettings
from sharp_plugins.generation.lookup import ON_A_PROCESSOR
from sharp_plugins.networks.low_rank import LoRALinear

METHODS = ("ours", "theirs", "ours-lookup", "theirs-lookup", "ours-bf16", "theirs-bf16", "ours-lora", "ours-merged")
# Times of the second over the first: how many times as fast the first is. On a CPU, the target.
RATIOS = (
    ("ours", "theirs", "≥ 1.50"),
    ("ours-lookup", "theirs", "≥ 1.50"),
    ("ours-lookup", "theirs-lookup", ""),
    ("ours-lookup", "ours", ""),
    ("ours-bf16", "theirs-bf16", "≥ 1.50"),
    ("ours-bf16", "ours", "≥ 1.00"),
    ("ours-lora", "ours-merged", "≥ 0.90"),
)
PAD = 1  # of made-up dictionaries
GUESSES = ON_A_PROCESSOR  # at a time; our default
NEWLINE = "Ċ"  # in byte-level BPE


def arguments(given=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="directory of a converted SmolLM2; else random weights of --shape")
    parser.add_argument("--shape", choices=decoder_side.SHAPES, default="smollm2-135m")
    parser.add_argument("--webnlg", default="", help="JSON lines with triples, of which the prompts are made; with --model")
    parser.add_argument("--inputs", type=int, default=100, help="prompts (default: %(default)s)")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="prompts in a batch (default: 1 and 16)")
    parser.add_argument("--rounds", type=int, default=0, help="batches of a case at most, of all lengths (default: all there are)")
    parser.add_argument("--max-len", type=int, default=64, help="tokens of an output at most (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["ours", "theirs"])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    clock_help = "process: CPU time, which other processes disturb less; only with --device cpu --threads 1"
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help=clock_help)
    parser.add_argument("--quick", action="store_true", help="8 prompts of a model with 2 layers and small widths")
    parser.add_argument("--profile", choices=METHODS, help="show the operations of one batch of this method instead")
    parser.add_argument("--out", default="", help="append the tables to this file")
    args = measure.parse(parser, given)
    if args.webnlg and not args.model:
        parser.error("--webnlg has texts, and a model with random weights has no tokenizer: it goes with --model")
    if args.quick:
        args.inputs, args.max_len = min(args.inputs, 8), min(args.max_len, 8)
    return args


# ---------------------------------------------------------------------- what is generated


class Words:
    """As much of a dictionary as a generator needs, for random weights."""

    def __init__(self, size: int):
        self.size = size

    def pad(self) -> int:
        return PAD

    def eos(self) -> int:
        return 2

    def __len__(self) -> int:
        return self.size


class LanguageModel(nn.Module):
    """A decoder as a generator takes it."""

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder

    def max_positions(self) -> int:
        return self.decoder.settings.max_positions


class World(NamedTuple):
    """Models, prompts and what ends an output. *ids* has transformers' id of each of our symbols."""

    models: Dict[str, nn.Module]
    dictionary: object
    ids: Tensor
    prompts: List[List[int]]
    stops: Tuple[int, ...]
    min_len: int
    max_len: int


def world_of(args) -> World:
    if args.model:
        from sharp_plugins.convert.decoder_backbone import load_decoder, load_decoder_model

        backbone, ours = load_decoder(args.model), load_decoder_model(args.model)
        dictionary, ids = backbone.dictionary, torch.tensor(backbone.tokenizer.published_ids)
        theirs = theirs_with(ours.decoder, ids)
        lines = backbone.tokenizer.encode_many(texts(args))
        prompts = [[dictionary.index(symbol) for symbol in line] for line in lines]
        stops, min_len = (dictionary.eos(), dictionary.index(NEWLINE)), 1
    else:
        settings = decoder_side.settings_of(args.shape, 2 if args.quick else 0, 0.0, args.quick)
        theirs = decoder_side.theirs_of(settings)
        ours, dictionary = LanguageModel(decoder_side.ours_of(settings, theirs)), Words(settings.vocabulary)
        ids, generator = torch.arange(settings.vocabulary), torch.Generator().manual_seed(1)
        lengths = torch.randint(20, 70, (args.inputs,), generator=generator).tolist()
        prompts = [torch.randint(4, settings.vocabulary, (length,), generator=generator).tolist() for length in lengths]
        stops, min_len = (2,), args.max_len
    theirs.config.use_cache = theirs.generation_config.use_cache = True
    models = {}
    for method in dict.fromkeys([*args.methods, *([args.profile] if args.profile else [])]):
        models[method] = model_of(method, ours, theirs).to(args.device).eval()
    prompts.sort(key=len)
    return World(models, dictionary, ids, prompts, stops, min_len, args.max_len)


def model_of(method: str, ours: nn.Module, theirs: nn.Module) -> nn.Module:
    base = theirs if method.startswith("theirs") else ours
    if method.endswith("bf16"):
        return copy.deepcopy(base).bfloat16()
    if method in ("ours", "theirs", "ours-lookup", "theirs-lookup"):
        return base
    model = copy.deepcopy(base)
    torch.manual_seed(0)
    decoder_side.add_our_lora(model.decoder)
    for layer in [module for module in model.modules() if isinstance(module, LoRALinear)]:
        nn.init.normal_(layer.lora_B, std=1e-3)
        if method == "ours-merged":
            weight = layer.weight.plain().detach()
            layer.__class__ = nn.Linear
            layer.weight.data = weight
            del layer.lora_A, layer.lora_B
    return model


def theirs_with(decoder: nn.Module, ids: Tensor) -> nn.Module:
    """transformers' Llama with the weights of *decoder*, whose symbols have the ids *ids* there; −1: none."""
    settings = copy.copy(decoder.settings)
    object.__setattr__(settings, "vocabulary", int(ids.max()) + 1)
    model = decoder_side.theirs_of(settings)
    ours, state = decoder.state_dict(), model.state_dict()
    for name, value in state.items():
        [(own, _)] = decoder_side.state_for_ours({name: value}, decoder.settings).items()
        found = ours[own]
        if found.size(0) == len(ids):  # of words
            value[ids[ids >= 0]] = found[ids >= 0]
        else:
            value.copy_(found)
    return model


def texts(args) -> List[str]:
    """Facts, in the words that suit SmolLM2 best; the first inputs of WebNLG, or made-up ones of like lengths."""
    if args.webnlg:
        with open(args.webnlg, encoding="utf-8") as file:
            sets = [json.loads(line)["triples"] for line in file]
        sets = sets[:: max(len(sets) // args.inputs, 1)][: args.inputs]
    else:
        places = ("Aarhus", "Abilene, Texas", "Ajoblanco", "Alan Shepard", "Antwerp", "Batchoy", "Bionico", "Buzz Aldrin")
        verbs = ("city served", "country", "is part of", "birth place", "leader", "ingredient", "operator")
        sets = [
            [[places[(n + k) % 8], verbs[(3 * n + k) % 7], places[(5 * n + 2 * k + 1) % 8]] for k in range(1 + n % 5)]
            for n in range(args.inputs)
        ]
    facts = [" | ".join(" : ".join(part.replace("_", " ") for part in triple) for triple in triples) for triples in sets]
    return [f"Facts: {each}\nText:" for each in facts]


# ---------------------------------------------------------------------- the two ways


def guesses_of(method: str) -> int:
    return GUESSES if method.endswith("lookup") else 0


def generator_of(method: str, world: World, beam: int) -> Generator:
    settings = SearchSettings(
        stops=world.stops, never=(world.dictionary.pad(),), beam=beam, max_len_b=world.max_len, min_len=world.min_len,
        lookup_tokens=guesses_of(method),
    )  # fmt: skip
    return Generator([world.models[method]], world.dictionary, settings)


def ours_on(model: nn.Module, world: World, prompts: List[List[int]], generator: Generator, device: str) -> List[List[int]]:
    rows = torch.full((len(prompts), max(map(len, prompts))), world.dictionary.pad())
    for row, prompt in zip(rows, prompts):
        row[: len(prompt)] = torch.tensor(prompt)
    found = generator.generate([model], {"net_input": {"src_tokens": rows.to(device)}})
    return [world.ids[hypotheses[0]["tokens"]].tolist() for hypotheses in found]


def theirs_on(
    model: nn.Module, world: World, prompts: List[List[int]], beam: int, device: str, guesses: int = 0
) -> List[List[int]]:
    longest = max(map(len, prompts))
    stops = world.ids[list(world.stops)].tolist()
    rows, mask = torch.full((len(prompts), longest), stops[0]), torch.zeros(len(prompts), longest, dtype=torch.int64)
    for row, seen, prompt in zip(rows, mask, prompts):
        row[longest - len(prompt) :] = world.ids[prompt]
        seen[longest - len(prompt) :] = 1
    ways = {"num_beams": beam, "early_stopping": True} if beam > 1 else {}
    if guesses:
        ways["prompt_lookup_num_tokens"] = guesses
    pad = world.ids[world.dictionary.pad()].item()
    out = model.generate(
        rows.to(device), attention_mask=mask.to(device), max_new_tokens=world.max_len, min_new_tokens=world.min_len,
        eos_token_id=stops, pad_token_id=stops[0], do_sample=False, suppress_tokens=[pad] if pad >= 0 else None, **ways,
    )  # fmt: skip
    outputs = []
    for tokens in out[:, longest:].tolist():
        ends = [place for place, token in enumerate(tokens) if token in stops]
        outputs.append(tokens[: ends[0] + 1] if ends else tokens)
    return outputs


def run_of(
    method: str, world: World, prompts: List[List[int]], beam: int, device: str, generator: Optional[Generator] = None
) -> Callable[[], List[List[int]]]:
    """What is timed; ours with a *generator* that has written before, or else with a new one."""
    model = world.models[method]
    if generator is None and not method.startswith("theirs"):
        generator = generator_of(method, world, beam)

    def run():
        if generator is None:
            found = theirs_on(model, world, prompts, beam, device, guesses_of(method))
        else:
            found = ours_on(model, world, prompts, generator, device)
        if device == "cuda":
            torch.cuda.synchronize()
        return found

    return run


# ---------------------------------------------------------------------- time


def measure_case(world: World, methods: List[str], batch: int, beam: int, args) -> Tuple[Dict[str, List[float]], Dict[str, list]]:
    """Seconds and outputs of each method at each batch."""
    clock = CLOCKS[args.clock]
    batches = [world.prompts[start : start + batch] for start in range(0, len(world.prompts), batch)]
    if args.rounds:
        batches = batches[:: max(len(batches) // args.rounds, 1)][: args.rounds]
    seconds: Dict[str, List[float]] = {method: [] for method in methods}
    outputs: Dict[str, list] = {method: [] for method in methods}
    for method in methods:  # kernels are chosen
        run_of(method, world, batches[0], beam, args.device)()
    # Guesses are looked up in earlier outputs too, as in one fairseq-generate; those of the warm-up are not among them.
    generators = {method: generator_of(method, world, beam) for method in methods if not method.startswith("theirs")}
    for turn, prompts in enumerate(batches):
        for index in measure.order(len(methods), turn):
            run = run_of(methods[index], world, prompts, beam, args.device, generators.get(methods[index]))
            start = clock()
            found = run()
            seconds[methods[index]].append(clock() - start)
            outputs[methods[index]].append(found)
    return seconds, outputs


def methods_of(beam: int, batch: int, args) -> List[str]:
    """Those that can be measured so."""
    return [method for method in args.methods if (beam, batch) == (1, 1) or not method.endswith("lookup")]


def tokens_of(outputs: list) -> int:
    return sum(len(output) for batch in outputs for output in batch)


def equal_share(one: list, other: list) -> str:
    pairs = [pair for batches in zip(one, other) for pair in zip(*batches)]
    return f"{sum(a == b for a, b in pairs)} of {len(pairs)}"


def tables(world: World, args) -> str:
    speeds, ratios = [], []
    for beam in args.beams:
        for batch in args.batches:
            methods = methods_of(beam, batch, args)
            if not methods:
                continue
            seconds, outputs = measure_case(world, methods, batch, beam, args)
            of_all = {method: f"{tokens_of(outputs[method]) / sum(seconds[method]):.1f}" for method in methods}
            speed = [of_all.get(method, "") for method in args.methods]
            lengths = [len(output) for found in outputs[methods[0]] for output in found]
            speeds.append((f"beam {beam}, batch {batch}", f"{statistics.mean(lengths):.1f}", *speed))
            for fast, slow, target in RATIOS:
                if fast in methods and slow in methods:
                    each = [b / a for a, b in zip(seconds[fast], seconds[slow])]
                    # Where the outputs are not the same, in bf16 above all, tokens a second are compared.
                    whole = sum(seconds[slow]) / tokens_of(outputs[slow]) / (sum(seconds[fast]) / tokens_of(outputs[fast]))
                    case = (f"beam {beam}, batch {batch}", f"{fast} / {slow}", f"{whole:.2f}", machine.quartiles(each))
                    ratios.append((*case, target if args.device == "cpu" else "", equal_share(outputs[fast], outputs[slow])))
    head = ("case", "tokens an output", *(f"{method}, tokens/s" for method in args.methods))
    ratio_head = ("case", "speed", "tokens/s, whole", "time at a batch: median (quartiles)", "target", "equal outputs")
    return f"{machine.table(head, speeds)}\n\n{machine.table(ratio_head, ratios)}" if ratios else machine.table(head, speeds)


def profile(world: World, args) -> str:
    prompts = world.prompts[: args.batches[0]]
    run = run_of(args.profile, world, prompts, args.beams[0], args.device)
    run()
    on = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=on + [torch.profiler.ProfilerActivity.CUDA] * (args.device == "cuda")) as found:
        run()
    return found.key_averages().table(sort_by=f"self_{args.device}_time_total", row_limit=25, max_name_column_width=45)


def main(given=None) -> None:
    args = arguments(given)
    world = world_of(args)
    if args.profile:
        print(profile(world, args))
        return
    what = "SmolLM2-135M-Instruct" if args.model else f"{args.shape}, random"
    title = f"Generation: {what}, {len(world.prompts)} prompts, outputs of up to {args.max_len} tokens"
    machine.report(title, tables(world, args), args.device, args.out)


if __name__ == "__main__":
    main()
