"""Find and read the splits of a data-to-text corpus, in whatever form it was published.

A corpus is a directory with the splits ``train``, ``dev`` and ``test``. `NAMES` says how a split's file or directory may be called,
and a file of `sharp_plugins.webnlg.readers` says what each form is.
"""

from pathlib import Path
from typing import Dict, List

from sharp_plugins.files.text import TextError, read_json
from sharp_plugins.webnlg.entry import CorpusError, Entry, NoSplit
from sharp_plugins.webnlg.readers.dart import dart_entries
from sharp_plugins.webnlg.readers.e2e import read_e2e
from sharp_plugins.webnlg.readers.json_lines import read_json_lines
from sharp_plugins.webnlg.readers.official import ENGLISH
from sharp_plugins.webnlg.readers.tofix import list_beside, marked
from sharp_plugins.webnlg.readers.webnlg_json import webnlg_entries
from sharp_plugins.webnlg.readers.webnlg_xml import read_webnlg_xml, xml_files

SPLITS = ("train", "dev", "test")
FORMS = (".jsonl", ".json", ".xml", ".csv")
# Published names; a directory's files with other inputs (unseen categories alone, say) or without references stay where they are.
NAMES = {
    "train": ("trainset.csv", "dart-*-full-train.json", "webnlg_release_*_train.json"),
    "dev": ("devset.csv", "dart-*-full-dev.json", "webnlg_release_*_dev.json"),
    "test": (
        "testset_w_refs.csv",
        "dart-*-full-test.json",
        "webnlg_release_*_test.json",
        "test/testdata_with_lex.xml",
        "test/rdf-to-text-generation-test-data-with-refs-*.xml",
    ),
}


def read_corpus(directory, language: str = ENGLISH) -> Dict[str, List[Entry]]:
    """Return ``{"train": [...], "dev": [...], "test": [...]}``, each in the file's order.

    Args:
        language: as for `read_split`.

    Raises:
        CorpusError: a split is not there, or cannot be read.

    Example::

        corpus = read_corpus("webnlg_challenge_2017")
    """
    directory = Path(directory)
    if not directory.is_dir():
        wanted = "a file, and a directory with train, dev and test is wanted" if directory.is_file() else "no such directory"
        raise CorpusError(f"{directory}: {wanted}")
    # Look for all three before reading any, so that a missing test file does not show only after a long read.
    paths = {split: find_split(directory, split) for split in SPLITS}
    return {split: read_split(path, language) for split, path in paths.items()}


def find_split(directory, split: str) -> Path:
    """The file of a split, or the directory below which its XML files are: the first that is there.

    The project's JSON lines come first, then other forms under the split's name, then published names, then a directory.

    Raises:
        NoSplit: there is none.
        CorpusError: several have the same right to be it.
    """
    directory = Path(directory)
    files = [f"{split}{form}{ending}" for form in FORMS for ending in ("", ".gz")]
    for path in (directory / name for name in files):
        if path.is_file():
            return path
    for name in NAMES.get(split, ()):
        found = sorted(path for ending in ("", ".gz") for path in directory.glob(name + ending) if path.is_file())
        if len(found) > 1:
            raise CorpusError(f"{directory}: {', '.join(path.name for path in found)}: one {split} set is wanted, not several")
        if found:
            return found[0]
    tree = directory / split
    if tree.is_dir() and xml_files(tree):
        return tree
    others = ", ".join([*(f"{split}{form}" for form in FORMS[1:]), *NAMES.get(split, ())])
    raise NoSplit(
        f"{directory}: neither {files[0]} nor {files[1]} is there, nor {others} (each with or without .gz), "
        f"nor a directory {split} with XML files"
    )


def has_xml(directory: Path) -> bool:
    """Whether XML files lie in a directory itself, which is one split then."""
    return any(file.parent == directory for file in xml_files(directory))


def read_split(path, language: str = ENGLISH) -> List[Entry]:
    """Read and check a file, or the XML files below a directory. What a file holds is told by the end of its name.

    Args:
        language: which texts to take where there are several languages, as in release v3.0: ``en`` or ``ru``.

    Raises:
        CorpusError: it cannot be read, or an entry is malformed; names the file, and the line or the entry.
    """
    path = Path(path)
    try:
        entries = _read(path, language)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error}") from error
    except TextError as error:
        raise CorpusError(str(error)) from error
    if not entries:
        raise CorpusError(f"{path}: the file is empty" if path.is_file() else f"{path}: no entries in its XML files")
    return entries


def _read(path: Path, language: str) -> List[Entry]:
    form = Path(path.name.removesuffix(".gz")).suffix
    if form == ".xml" or path.is_dir():
        return read_webnlg_xml(path, language)
    if form == ".csv":
        return read_e2e(path)
    if form == ".json":
        value = read_json(path, (dict, list))
        return webnlg_entries(value, path, language) if isinstance(value, dict) else dart_entries(value, path)
    return marked(read_json_lines(path), path)


def files_of(path: Path) -> List[Path]:
    """All files that `read_split` reads of *path*, for checksums of what data are made of."""
    if path.is_dir():
        return xml_files(path)
    beside = list_beside(path)
    return [path, *([beside] if ".jsonl" in path.suffixes and beside.is_file() else [])]
