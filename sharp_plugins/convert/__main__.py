"""The command: ``python -m sharp_plugins.convert DIRECTORY OUT``."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sharp_plugins.command import run_command

if TYPE_CHECKING:
    from sharp_plugins.convert.checkpoint import Converted

# How the stock task puts a sentence or a pair together: [CLS] a [SEP] b [SEP], or <s> a </s></s> b </s>.
TASK = {1: ["--init-token", "0"], 2: ["--init-token", "0", "--separator-token", "2"]}


def message(converted: "Converted", out: Path) -> str:
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
    lines.append("fairseq-train DATA --num-classes N " + shlex.join(flags))
    return "\n".join(lines)


def main(argv=None) -> int:
    """Convert a published encoder (BERT or any of its shape, RoBERTa) to a fairseq checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m sharp_plugins.convert", description=main.__doc__)
    published = "with config.json, model.safetensors or pytorch_model.bin, and the tokenizer's files"
    parser.add_argument("directory", metavar="DIRECTORY", help=f"published checkpoint: a directory {published}")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory to write model.pt, dict.txt and tokenizer to")
    args = parser.parse_args(argv)

    def work() -> str:
        from sharp_plugins.convert.checkpoint import convert  # here, so that --help imports no fairseq

        return message(convert(args.directory, args.out), args.out)

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
