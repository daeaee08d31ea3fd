"""The commands: ``python -m sharp_plugins.lora save | load | merge``."""

import argparse
import shlex
import sys
from pathlib import Path

import torch

from sharp_plugins.command_line import filled_directory, output_file, run_command
from sharp_plugins.lora import commands, peft
from sharp_plugins.lora.config import is_fairseqs

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# A smaller share of an update that is left after rounding gets a word of advice.
LOST = 0.9


def save(args) -> str:
    done = commands.save_adapter(args.checkpoint, args.directory, args.names)
    files = f"{args.directory}: {peft.WEIGHTS} ({done.size / 1e6:.2f} MB), {peft.CONFIG}\n"
    if isinstance(done, commands.SavedPrefix):
        return f"{files}a prefix of {done.tokens} tokens, without the network that computed it in training"
    along = f", and {', '.join(done.modules)}" if done.modules else ""
    return f"{files}updates of rank {done.rank} for {done.layers} layers{along}" + (f"\n{done.said}" if done.said else "")


def load(args) -> str:
    done = commands.load_adapter(args.directory, args.plain, args.out)
    return f"{args.out}: {done.what}; to train on, with the architecture's own flags:\n" + shlex.join(
        ["fairseq-train", "DATA", "--user-dir", "sharp_plugins", *done.flags]
    )


def merge(args) -> str:
    done = commands.merge_checkpoints(args.checkpoints, args.out, DTYPES.get(args.dtype))
    agreement, (least, most) = done.agreement, done.agreement.survived
    lines = [
        f"{args.out}: {done.base_arch}, {agreement.layers} layers merged ({', '.join(done.dtypes)})"
        + (f", the mean of {done.averaged} checkpoints" if done.averaged > 1 else ""),
        f"outputs differ from the unmerged layers' by at most {agreement.difference:.1e} of their norm "
        f"({agreement.name}; tolerance {agreement.tolerance:.1e}); {least:.1%} to {most:.1%} of the updates "
        "survived rounding",
    ]
    if least < LOST:
        lines.append("rounding loses part of the update: --dtype fp32 keeps it")
    if done.left_out:
        lines.append(f"left out: {', '.join(done.left_out)}")
    if done.has_namespace and is_fairseqs(done.base_arch):
        lines.append(
            f"its flags stay in an argparse.Namespace, as in fairseq's own checkpoints of {done.base_arch}: to load it "
            "without the plugin, torch 2.6 and later need torch.serialization.add_safe_globals([argparse.Namespace])"
        )
    if done.own_task and is_fairseqs(done.base_arch):
        lines.append(f"its task is {done.own_task}, of this plugin: to load the file, fairseq needs --user-dir sharp_plugins")
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sharp_plugins.lora", description=main.__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="save | load | merge")

    def command(run, words, description):
        added = subparsers.add_parser(run.__name__, help=words, description=description)
        added.set_defaults(run=run)
        return added

    trained = dict(metavar="CHECKPOINT.pt", type=Path, help="of a model that was trained with --arch lora")

    description = f"Write the updates of a LoRA checkpoint, or a trained prefix, alone, as {peft.WEIGHTS} and {peft.CONFIG}."
    added = command(save, "a checkpoint's LoRA updates, or its prefix, alone, as PEFT's files", description)
    words = "of a model that was trained with --arch lora or --arch prefix"
    added.add_argument("checkpoint", metavar="CHECKPOINT.pt", type=Path, help=words)
    added.add_argument("directory", metavar="DIR", type=filled_directory, help="directory to write to")
    words = "names of modules: fairseq's own, or transformers', for a published model that was converted (default: fairseq)"
    added.add_argument("--names", choices=("fairseq", "transformers"), default="fairseq", help=words)

    description = "Write a checkpoint with LoRA or a prefix from a plain one and an adapter: to train on from, to generate with."
    added = command(load, "PEFT's files and a plain checkpoint as one with LoRA or a prefix", description)
    words = "adapter, written by save or by PEFT, of a fairseq model or of the published one that it was converted from"
    added.add_argument("directory", metavar="DIR", type=Path, help=words)
    added.add_argument("plain", metavar="PLAIN.pt", type=Path, help="fairseq checkpoint of the adapter's base model")
    added.add_argument("out", metavar="OUT.pt", type=output_file, help="checkpoint to write")

    description = (
        "Write a plain fairseq checkpoint with W + (alpha/r) B A as its weights. It needs no plugin, but for sharp_... "
        "architectures and the plugin's own tasks. Sums are computed in fp64 and rounded once. On random inputs each merged layer "
        "must agree with the unmerged one up to the dtype's epsilon (1.2e-07, 9.8e-04 and 7.8e-03 in fp32, fp16 and bf16), twice "
        "the largest change by rounding. Of several checkpoints it writes the mean of these weights, not what the averages of A "
        "and of B make."
    )
    added = command(merge, "a LoRA checkpoint, or the mean of several, as a plain one", description)
    added.add_argument("checkpoints", nargs="+", **trained)
    added.add_argument("out", metavar="OUT.pt", type=output_file, help="plain checkpoint to write")
    added.add_argument("--dtype", choices=DTYPES, help="of all weights that are written (default: each weight's own)")
    return parser


def main(argv=None) -> int:
    """LoRA's updates in fairseq checkpoints: save them alone, in Hugging Face PEFT's files, load them, merge them."""
    args = build_parser().parse_args(argv)
    return run_command(lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
