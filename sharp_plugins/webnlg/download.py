"""Fetch a published corpus; no split of it appears before all of its files are there."""

import os
import shutil
from pathlib import Path
from typing import Callable, List, Sequence

from sharp_plugins.files.download import Source, fetch_missing
from sharp_plugins.files.writing import one_at_a_time
from sharp_plugins.webnlg.corpus import SPLITS, CorpusError, files_of, find_split
from sharp_plugins.webnlg.published import CORPORA, sources

# Where the files are until all of them are there.
DOWNLOADS = ".downloads"
# Of more files than that one line tells.
FEW = 10


def download(name: str, data, show: Callable[[str], None] = print, files: Sequence[Source] = ()) -> bool:
    """Make sure that all of a corpus's published files are in the directory *data*; files that are there stay as they are. Of
    two calls at once one waits for the other.

    Args:
        name: one of `CORPORA`.
        show: is given lines for the user.
        files: instead of the published ones.

    Returns:
        whether anything had to be fetched.

    Raises:
        OSError: the connection failed; another call goes on where this one stopped.
        ValueError: there is no such corpus, what came is not what was published, or another corpus is in *data*.

    Example::

        download("webnlg2017", "corpora/webnlg2017")
    """
    if name not in CORPORA:
        raise ValueError(f"--download {name}: there is no such corpus; there are {', '.join(CORPORA)}")
    data, files = Path(data), files or sources()[name]
    _check_alone(data, {data / source.name for source in files})
    if not _missing(data, files):
        return False
    data.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(data / f"{DOWNLOADS}.lock"):
        return _fetch(name, data, files, show)


def _missing(data: Path, files: Sequence[Source]) -> List[Source]:
    return [source for source in files if not (data / source.name).is_file()]


def _fetch(name: str, data: Path, files: Sequence[Source], show: Callable[[str], None]) -> bool:
    missing = _missing(data, files)
    if not missing:  # another call has fetched them meanwhile
        return False
    downloads = data / DOWNLOADS / name
    if len(missing) > FEW:
        show(f"fetching {len(missing)} files ({sum(source.size for source in missing) / 1e6:.1f} MB) from {files[0].base}")
    fetch_missing(missing, downloads, show if len(missing) <= FEW else lambda line: None)
    for part in sorted(downloads.iterdir()):
        _move(part, data / part.name)
    shutil.rmtree(data / DOWNLOADS)
    return True


def _check_alone(data: Path, own) -> None:
    """A file that would be read in the place of a fetched one is of another corpus."""
    for split in SPLITS:
        try:
            others = [path for path in files_of(find_split(data, split)) if path not in own]
        except CorpusError:  # no such split yet
            continue
        if others:
            raise ValueError(
                f"--data {data}: {others[0].relative_to(data)} is of another corpus; choose an empty directory to fetch into"
            )


def _move(part: Path, place: Path) -> None:
    """A directory or file goes to its place in one step; into a directory that is there, its files go one by one."""
    if part.is_dir() and place.is_dir():
        for inner in sorted(part.iterdir()):
            _move(inner, place / inner.name)
    else:
        os.replace(part, place)
