"""A corpus as the parallel text files that fairseq's ``translation`` task is trained on."""

import argparse
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

from sharp_plugins.command_line import output_directory, run_command
from sharp_plugins.webnlg.corpus import read_corpus
from sharp_plugins.webnlg.entry import CorpusError, Entry, one_line
from sharp_plugins.webnlg.linearise import linearise


def training_pairs(entries: List[Entry]) -> Iterator[Tuple[str, str]]:
    """Yield (source line, target line), one pair for each reference of each input."""
    for entry in entries:
        source = linearise(entry, "markup")
        for ref in entry.refs:
            yield source, one_line(ref)


def evaluation_pairs(entries: List[Entry]) -> Iterator[Tuple[str, str]]:
    """Yield one pair for each input, with its first reference; scores use all references, from the entries."""
    for entry in entries:
        yield linearise(entry, "markup"), one_line(entry.refs[0])


def write_parallel(corpus: Dict[str, List[Entry]], directory) -> Dict[str, int]:
    """Write ``{train,dev,test}.{src,tgt}`` and return the number of lines of each split."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    counts = {}
    for split, entries in corpus.items():
        pairs = list(training_pairs(entries) if split == "train" else evaluation_pairs(entries))
        for side, name in enumerate(("src", "tgt")):
            text = "".join(pair[side] + "\n" for pair in pairs)
            (directory / f"{split}.{name}").write_text(text, encoding="utf-8", newline="\n")
        counts[split] = len(pairs)
    return counts


def main(argv=None) -> int:
    """Command line: check a corpus and write its parallel text files."""
    parser = argparse.ArgumentParser(prog="python -m sharp_plugins.webnlg.parallel", description=main.__doc__)
    parser.add_argument("--data", required=True, help="directory with train, dev and test")
    words = "directory to write {train,dev,test}.{src,tgt} to"
    parser.add_argument("--out", required=True, type=output_directory, help=words)
    args = parser.parse_args(argv)
    return run_command(lambda: _convert(args.data, args.out))


def _convert(data, out: Path) -> str:
    """Do what the command line asks for; returns what it tells."""
    try:
        corpus = read_corpus(data)
    except CorpusError as error:
        raise ValueError(f"--data: {error}") from error
    counts = write_parallel(corpus, out)
    return "\n".join(f"{split}: {len(corpus[split])} inputs, {count} lines" for split, count in counts.items())


if __name__ == "__main__":
    sys.exit(main())
