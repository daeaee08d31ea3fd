"""The commands: ``python -m sharp_plugins.convert SOURCE OUT``, ``... encode OUT TEXT FILE``, ``... logits OUT < TEXT``."""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, Sequence

from sharp_plugins.command_line import filled_directory, output_file, run_command
from sharp_plugins.files.text import BOM, decode

if TYPE_CHECKING:
    from sharp_plugins.convert.conversion import Converted
    from sharp_plugins.convert.decoder_conversion import ConvertedDecoder
    from sharp_plugins.text.encode import Encoded

# How the stock task puts a sentence or a pair together: [CLS] a [SEP] b [SEP], or <s> a </s></s> b </s>.
TASK = {1: ["--init-token", "0"], 2: ["--init-token", "0", "--separator-token", "2"]}
PROGRAM = "python -m sharp_plugins.convert"
DTYPES = ("fp32", "fp16", "bf16", "published")  # sharp_plugins.convert.decoder_conversion's


def some(names: Sequence[str], most: int = 12) -> str:
    """The first of the names in a file, and how many there are: a file may hold any names, and many.

    >>> some(["score.weight", "two\\nlines"]), some(["a", "b", "c"], most=1)
    ("score.weight, 'two\\\\nlines'", 'a, … (3 in all)')
    """
    shown = [name if name.isprintable() and len(name) <= 120 else repr(name[:120]) for name in names[:most]]
    return ", ".join(shown) + (f", … ({len(names)} in all)" if len(names) > most else "")


def what_is_next(converted: "Converted", out: Path) -> str:
    """What there is now, and how to use it."""
    lines = [
        f"{out}: model.pt ({converted.weights / 1e6:.1f} million weights), dict.txt ({converted.symbols} symbols), "
        "tokenizer.json, special_tokens_map.json"
    ]
    if not converted.has_lm_head:
        lines.append("language-model head: untrained, as the files hold none; --task masked_lm alone uses it")
    if converted.dropped:
        lines.append(f"dropped: the last {converted.dropped} of its layers")
    if converted.redrawn:
        lines.append(f"new random weights: the last {converted.redrawn} of its layers")
    if converted.left_out:
        lines.append(f"left out: {some(converted.left_out)}")
    flags = ["--user-dir", "sharp_plugins", "--task", "sentence_prediction", "--criterion", "sentence_prediction"]
    flags += [*TASK[converted.pairs.separators], *converted.flags, "--restore-file", str(out / "model.pt")]
    flags += ["--reset-optimizer", "--reset-dataloader", "--reset-meters"]
    flags += ["--bpe", "sharp_tokenizer", "--bpe-tokenizer", str(out)]  # for the text that the trained model will be given
    lines.append("fairseq-train DATA --num-classes N " + shlex.join(flags))
    return "\n".join(lines)


def what_is_next_for_a_decoder(converted: "ConvertedDecoder", out: Path) -> str:
    """What there is now, and how to use it: data of prompts and texts, and training on them."""
    unused = f", of which the published model has no {' '.join(converted.unused)}" if converted.unused else ""
    lines = [
        f"{out}: model.pt ({converted.weights / 1e6:.1f} million weights in {' and '.join(converted.dtypes)}, up to "
        f"{converted.positions} tokens), dict.txt ({converted.symbols} symbols{unused}), tokenizer.json, special_tokens_map.json, "
        "decoder.json",
        f"before a text on its own: {converted.start or 'nothing'}",
    ]
    if converted.further_ends:
        stops = shlex.quote(" ".join(converted.further_ends))
        lines.append(f"by its published configs these end a text too: fairseq-generate --stop-symbols {stops}")
    if converted.left_out:
        lines.append(f"left out: {some(converted.left_out)}")
    prepare = ["python", "-m", "sharp_plugins.prompted", "prepare", "--backbone", str(out)]
    lines.append(f"{shlex.join(prepare)} --train FILE --valid FILE --out DATA")
    flags = ["--user-dir", "sharp_plugins", "--task", "prompted_generation", "--criterion", "cross_entropy", *converted.flags]
    flags += ["--finetune-from-model", str(out / "model.pt"), "--bpe", "sharp_tokenizer", "--bpe-tokenizer", str(out)]
    lines.append("fairseq-train DATA " + shlex.join(flags))
    return "\n".join(lines)


def what_was_written(encoded: "Encoded", directory: Path, out: Path) -> str:
    """What was written, and what to do with it."""
    share = encoded.unknown / max(1, encoded.symbols)
    dictionary = shlex.quote(str(directory / "dict.txt"))
    return (
        f"{out}: {encoded.lines} lines, {encoded.symbols} symbols, {share:.2%} of them unknown\n"
        f"fairseq-preprocess --only-source --srcdict {dictionary} --trainpref {shlex.quote(str(out))} --destdir DATA"
    )


def parse_encode(arguments) -> argparse.Namespace:
    words = "Write a text file in the symbols of a converted model, as fairseq-preprocess takes it."
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} encode", description=words)
    parser.add_argument("directory", metavar="OUT", type=Path, help="directory with the converted model")
    parser.add_argument("text", metavar="TEXT", type=Path, help="text to encode: one sentence a line, in UTF-8")
    parser.add_argument("out", metavar="FILE", type=output_file, help="file to write: the symbols, one line for each line")
    return parser.parse_args(arguments)


def parse_logits(arguments) -> argparse.Namespace:
    words = (
        "Read texts from standard input, one a line in UTF-8, and print for each a line of JSON: its published ids, and the "
        "maximum, mean, minimum and log-sum-exp of the logits after its last token, over the published vocabulary. For comparison "
        "with another implementation."
    )
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} logits", description=words)
    parser.add_argument("directory", metavar="OUT", type=Path, help="directory with the converted decoder")
    words = (
        "token before each text, or none (default: what the published tokenizer puts there, as OPT's </s> and Llama's <s>; else "
        "<|endoftext|>, which stands between documents, as with GPT-2 and SmolLM2; else none)"
    )
    parser.add_argument("--start", metavar="SYMBOL", help=words)
    return parser.parse_args(arguments)


def parse_convert(arguments) -> argparse.Namespace:
    epilog = f"{PROGRAM} encode OUT TEXT FILE encodes a text for it. {PROGRAM} logits OUT < TEXT tells a decoder's logits."
    parser = argparse.ArgumentParser(prog=PROGRAM, description=main.__doc__, epilog=epilog)
    published = "with config.json, weights (safetensors or .bin; of decoders shards too) and the tokenizer's files"
    words = f"published checkpoint: a directory {published}; or a GGUF file of a decoder"
    parser.add_argument("source", metavar="SOURCE", help=words)
    parser.add_argument("out", metavar="OUT", type=filled_directory, help="directory to write model.pt, dict.txt and tokenizer to")
    words = (
        "numbers of a decoder's weights in model.pt: fp32 (default), fp16, bf16, or as published, which halves the file of most "
        "large models. Training and generation choose their own precision, whatever the file has"
    )
    parser.add_argument("--dtype", choices=DTYPES, help=words)
    words = (
        "give the last N layers of an encoder new random weights, the same each time: for fine-tuning on few examples, and to undo "
        "a part of what a published model was trained for (default: 0)"
    )
    parser.add_argument("--redraw-layers", type=int, default=0, metavar="N", help=words)
    words = "make a smaller encoder of the first N layers, for quick experiments (default: all layers)"
    parser.add_argument("--keep-layers", type=int, metavar="N", help=words)
    return parser.parse_args(arguments)


def run_encode(args) -> str:
    from sharp_plugins.text.encode import encode_file

    return what_was_written(encode_file(args.directory, args.text, args.out), args.directory, args.out)


def run_logits(args) -> None:
    from sharp_plugins.convert.logits import logits_of

    try:
        for found in logits_of(args.directory, standard_input(), args.start):
            print(json.dumps(found, allow_nan=False), flush=True)
    except BrokenPipeError:  # whoever reads, such as `head -1`, wants no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes at its end


def standard_input() -> Iterator[str]:
    """Its lines, as those of a text file are read."""
    for number, line in enumerate(sys.stdin.buffer, start=1):
        yield decode(line.removeprefix(BOM) if number == 1 else line, f"standard input:{number}")


def run_convert(args) -> str:
    from sharp_plugins.convert.conversion import convert
    from sharp_plugins.convert.decoder_conversion import convert_decoder, is_decoder

    if is_decoder(args.source):
        if args.redraw_layers:
            raise ValueError(f"--redraw-layers {args.redraw_layers}: only an encoder's layers are drawn anew; leave it out")
        if args.keep_layers is not None:
            raise ValueError(f"--keep-layers {args.keep_layers}: only an encoder's layers are dropped; leave it out")
        return what_is_next_for_a_decoder(convert_decoder(args.source, args.out, args.dtype or "fp32"), args.out)
    if args.dtype:
        raise ValueError(f"--dtype {args.dtype}: only decoders are written in another format than fp32; leave it out")
    return what_is_next(convert(args.source, args.out, args.redraw_layers, args.keep_layers), args.out)


def main(argv=None) -> int:
    """Convert a published model to a fairseq checkpoint: an encoder (BERT or any of its shape, RoBERTa) or a decoder (GPT-2, OPT,
    Llama and what has its shape)."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    commands = {"encode": (parse_encode, run_encode), "logits": (parse_logits, run_logits)}
    if arguments and arguments[0] in commands:
        parse, run = commands[arguments.pop(0)]
    else:
        parse, run = parse_convert, run_convert
    args = parse(arguments)
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
