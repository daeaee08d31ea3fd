"""The command ``python -m sharp_plugins.prompted prepare``."""

import argparse
import sys
from pathlib import Path
from typing import Dict

from sharp_plugins.command_line import check_input_files, output_directory, run_command
from sharp_plugins.prompted.formats import FORMATS, Format, find_format, flag_of, format_of

# What the flags of a format say; its names are those of `Format`.
PARTS = {
    "start": "symbol before the prompt; auto: what the model has seen before a text; none (or ''): no symbol",
    "prompt": "text around {prompt}",
    "separator": "symbol between prompt and text; none (or ''): no symbol",
    "text": "text around {text}",
    "end": "symbol after the text",
}


def chosen_format(args) -> Format:
    """The format of ``--format`` with what other flags change in it."""
    changes: Dict = {name: getattr(args, name) for name in PARTS if getattr(args, name) is not None}
    changes.update({"stop": args.stop} if args.stop is not None else {}, **({"spaces": True} if args.spaces else {}))
    return format_of(changes, "the format's flags", find_format(args.format))


def run_prepare(args) -> None:
    from sharp_plugins.prompted.fitting import Limits  # here, so that --help imports no fairseq
    from sharp_plugins.prompted.prepare import Inputs, prepare
    from sharp_plugins.text.decoder_directory import read_decoder_directory

    files = {split: getattr(args, split) for split in ("train", "valid", "test") if getattr(args, split)}
    if not files:
        raise ValueError("nothing to prepare: --train, --valid or --test names files")
    for split, paths in files.items():
        if len(paths) > 2:
            raise ValueError(f"--{split} {' '.join(map(str, paths))}: one file of JSON lines, or one of prompts and one of texts")
        check_input_files(f"--{split}", paths)
    format = chosen_format(args)
    try:
        backbone = read_decoder_directory(args.backbone)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"--backbone {error}") from error
    limits = Limits(backbone.max_positions if args.max_positions is None else args.max_positions, args.room, args.too_long)
    inputs = Inputs(files, args.prompt_field, args.text_field)
    prepare(inputs, backbone, format, args.out, limits, tell=lambda line: print(line, flush=True))


def main(argv=None) -> int:
    """Text after a prompt: make the data for --task prompted_generation."""
    parser = argparse.ArgumentParser(prog="python -m sharp_plugins.prompted", description=main.__doc__)
    commands = parser.add_subparsers(required=True, metavar="prepare")
    words = "Write prompts and texts as --task prompted_generation reads them. Where they are already, nothing is done."
    command = commands.add_parser("prepare", help="make the data", description=words, allow_abbrev=False)
    command.set_defaults(run=run_prepare)
    words = "directory that `python -m sharp_plugins.convert` wrote of a decoder"
    command.add_argument("--backbone", type=Path, required=True, metavar="DIR", help=words)
    for split in ("train", "valid", "test"):
        words = "a file of JSON lines, or a file of prompts and a parallel one of texts; .gz too"
        command.add_argument(f"--{split}", type=Path, nargs="+", metavar="FILE", help=words)
    command.add_argument("--out", type=output_directory, required=True, metavar="DATA", help="directory to write to")
    words = f"{', '.join(FORMATS)}, or a YAML file of a format's settings (default: plain)"
    command.add_argument("--format", default="plain", metavar="NAME", help=words)
    for name, words in PARTS.items():
        command.add_argument(flag_of(name), dest=name, metavar="TEXT" if name in ("prompt", "text") else "SYMBOL", help=words)
    words = "what ends a generated text beside the end: symbols, or texts that are one symbol"
    command.add_argument("--stop", nargs="*", metavar="TEXT", help=words)
    command.add_argument("--spaces", action="store_true", help="write underscores of the prompts as spaces")
    command.add_argument("--prompt-field", default="prompt", metavar="NAME", help="of the JSON lines (default: prompt)")
    words = "of the JSON lines: a text, or a list of texts (default: text, texts or references)"
    command.add_argument("--text-field", metavar="NAME", help=words)
    words = "the most positions of a sequence (default: the model's)"
    command.add_argument("--max-positions", type=int, metavar="N", help=words)
    words = "positions that a prompt leaves for a generated text (default: 1; LoRA's code: 64 of 512)"
    command.add_argument("--room", type=int, default=1, metavar="N", help=words)
    words = "prompts and texts that do not fit: an error, left out, or the prompt's beginning is cut (default: refuse)"
    command.add_argument("--too-long", choices=("refuse", "skip", "cut"), default="refuse", help=words)
    args = parser.parse_args(argv)
    return run_command(lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
