"""Find and read the splits of a data-to-text corpus.

A corpus is a directory with ``train``, ``dev`` and ``test``, each as ``.jsonl`` or ``.jsonl.gz``, see
`sharp_plugins.webnlg.readers.json_lines`.
"""

from pathlib import Path
from typing import Dict, List

from sharp_plugins.files.text import TextError
from sharp_plugins.webnlg.entry import CorpusError, Entry
from sharp_plugins.webnlg.readers.json_lines import read_json_lines

SPLITS = ("train", "dev", "test")


def read_corpus(directory) -> Dict[str, List[Entry]]:
    """Return ``{"train": [...], "dev": [...], "test": [...]}``, each in the file's order."""
    directory = Path(directory)
    if not directory.is_dir():
        raise CorpusError(f"{directory}: no such directory")
    # Look for all three before reading any, so that a missing test file does not show only after a long read.
    paths = {split: find_split(directory, split) for split in SPLITS}
    return {split: read_split(path) for split, path in paths.items()}


def find_split(directory, split: str) -> Path:
    """Return the path of one split's file, compressed or not."""
    candidates = [Path(directory) / f"{split}.jsonl", Path(directory) / f"{split}.jsonl.gz"]
    for path in candidates:
        if path.is_file():
            return path
    raise CorpusError(f"{directory}: neither {candidates[0].name} nor {candidates[1].name} is there")


def read_split(path) -> List[Entry]:
    """Read and check one ``.jsonl`` or ``.jsonl.gz`` file."""
    path = Path(path)
    try:
        entries = read_json_lines(path)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error}") from error
    except TextError as error:
        raise CorpusError(str(error)) from error
    if not entries:
        raise CorpusError(f"{path}: the file is empty")
    return entries
