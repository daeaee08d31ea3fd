"""The commands: ``python -m sharp_plugins.convert DIRECTORY OUT``, and ``... convert encode OUT TEXT FILE``."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sharp_plugins.command_line import run_command

if TYPE_CHECKING:
    from sharp_plugins.convert.conversion import Converted
    from sharp_plugins.text.encode import Encoded

# How the stock task puts a sentence or a pair together: [CLS] a [SEP] b [SEP], or <s> a </s></s> b </s>.
TASK = {1: ["--init-token", "0"], 2: ["--init-token", "0", "--separator-token", "2"]}


def what_is_next(converted: "Converted", out: Path) -> str:
    """What there is now, and how to use it."""
    lines = [
        f"{out}: model.pt ({converted.weights / 1e6:.1f} million weights), dict.txt ({converted.symbols} symbols), "
        "tokenizer.json, special_tokens_map.json"
    ]
    if not converted.has_lm_head:
        lines.append("language-model head: untrained, as the files hold none; --task masked_lm alone uses it")
    if converted.left_out:
        lines.append(f"left out: {', '.join(converted.left_out)}")
    flags = ["--user-dir", "sharp_plugins", "--task", "sentence_prediction", "--criterion", "sentence_prediction"]
    flags += [*TASK[converted.pairs.separators], *converted.flags, "--restore-file", str(out / "model.pt")]
    flags += ["--reset-optimizer", "--reset-dataloader", "--reset-meters"]
    flags += ["--bpe", "sharp_tokenizer", "--bpe-tokenizer", str(out)]  # for the text that the trained model will be given
    lines.append("fairseq-train DATA --num-classes N " + shlex.join(flags))
    return "\n".join(lines)


def what_was_written(encoded: "Encoded", directory: Path, out: Path) -> str:
    """What was written, and what to do with it."""
    share = encoded.unknown / max(1, encoded.symbols)
    dictionary = shlex.quote(str(directory / "dict.txt"))
    return (
        f"{out}: {encoded.lines} lines, {encoded.symbols} symbols, {share:.2%} of them unknown\n"
        f"fairseq-preprocess --only-source --srcdict {dictionary} --trainpref {shlex.quote(str(out))} --destdir DATA"
    )


def parse_arguments(arguments) -> argparse.Namespace:
    program = "python -m sharp_plugins.convert"
    if arguments[:1] == ["encode"]:
        words = "Write a text file in the symbols of a converted encoder, as fairseq-preprocess takes it."
        parser = argparse.ArgumentParser(prog=f"{program} encode", description=words)
        parser.add_argument("directory", metavar="OUT", type=Path, help="directory with the converted encoder")
        parser.add_argument("text", metavar="TEXT", type=Path, help="text to encode: one sentence a line, in UTF-8")
        parser.add_argument("out", metavar="FILE", type=Path, help="file to write: the symbols, one line for each line")
        return parser.parse_args(arguments[1:])
    epilog = f"{program} encode OUT TEXT FILE encodes a text for it."
    parser = argparse.ArgumentParser(prog=program, description=main.__doc__, epilog=epilog)
    published = "with config.json, model.safetensors or pytorch_model.bin, and the tokenizer's files"
    parser.add_argument("directory", metavar="DIRECTORY", help=f"published checkpoint: a directory {published}")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory to write model.pt, dict.txt and tokenizer to")
    return parser.parse_args(arguments)


def main(argv=None) -> int:
    """Convert a published encoder (BERT or any of its shape, RoBERTa) to a fairseq checkpoint."""
    args = parse_arguments(sys.argv[1:] if argv is None else argv)

    def work() -> str:  # imports here, so that --help imports no fairseq
        if "text" in args:
            from sharp_plugins.text.encode import encode_file

            return what_was_written(encode_file(args.directory, args.text, args.out), args.directory, args.out)
        from sharp_plugins.convert.conversion import convert

        return what_is_next(convert(args.directory, args.out), args.out)

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
