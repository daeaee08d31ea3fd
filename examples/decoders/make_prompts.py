"""Write a corpus in WebNLG's shape as prompts and texts: JSON lines for ``python -m sharp_plugins.prompted prepare``.

    python examples/decoders/make_prompts.py --corpus CORPUS --out OUT              # train, dev and test of a corpus
    python examples/decoders/make_prompts.py --file inputs.jsonl --out OUT          # one file

A prompt is the input as in the code of LoRA's paper (Hu et al. 2022, examples/NLG): ``subject : property : object``, and `` | ``
between two triples. For example, `[["Mont_Blanc", "location", "Alps"]]` is ``Mont_Blanc : location : Alps``.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from sharp_plugins.command_line import run_command
from sharp_plugins.files.writing import write_text
from sharp_plugins.webnlg.corpus import read_corpus, read_split
from sharp_plugins.webnlg.linearise import linearise


def write_prompts(entries, path: Path) -> str:
    """Write a line for each entry and return a message."""
    lines = (json.dumps({"prompt": linearise(entry, "lora"), "texts": list(entry.refs)}, ensure_ascii=False) for entry in entries)
    write_text(path, "".join(f"{line}\n" for line in lines))
    return f"{path}: {len(entries)} prompts, {sum(len(entry.refs) for entry in entries)} texts"


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--corpus", type=Path, metavar="DIR", help="train, dev and test as .jsonl or .jsonl.gz")
    source.add_argument("--file", type=Path, metavar="FILE", help="one .jsonl")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="directory to write to")
    args = parser.parse_args(argv)

    def work() -> str:
        if args.file:
            splits = {args.file.name.split(".")[0]: read_split(args.file)}
        else:
            splits = read_corpus(args.corpus)
        args.out.mkdir(parents=True, exist_ok=True)
        return "\n".join(write_prompts(entries, args.out / f"{split}.jsonl") for split, entries in splits.items())

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
