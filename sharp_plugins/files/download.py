"""Published files, fetched from where they are published: resumed after a stop, and used only with the right checksum.

The code is our own: the library pooch (1.9) begins a broken download anew, and takes any number of bytes.
"""

import http.client
import shutil
import urllib.request
import zipfile
from pathlib import Path
from typing import Callable, List, NamedTuple, Optional, Sequence

from sharp_plugins.files.writing import replacing, sha256

# A server that sends nothing for that long is given up.
SECONDS = 60
BLOCK = 1 << 16


class Source(NamedTuple):
    """A published file.

    Attributes:
        base: the beginning of its address.
        name: the rest of the address, and of the file.
        size: in bytes.
        sha256: its checksum, in hexadecimal.

    >>> Source("https://example.org/data/", "RTE.zip", 697150, "6bf86de1...").url
    'https://example.org/data/RTE.zip'
    """

    base: str
    name: str
    size: int
    sha256: str

    @property
    def url(self) -> str:
        return self.base + self.name


def fetch_missing(sources: Sequence[Source], directory: Path, show: Callable[[str], None] = print) -> List[Path]:
    """Fetch the files that are not in a directory yet; returns the paths of all.

    Args:
        show: is given a line for the user on each file that is fetched.

    Raises:
        OSError, ValueError: as `fetch`.
    """
    paths = [directory / source.name for source in sources]
    for source, path in zip(sources, paths):
        if not path.is_file():
            show(f"fetching {source.url} ({source.size / 1e6:.1f} MB)")
            fetch(source, path)
    return paths


def fetch(source: Source, path: Path) -> None:
    """Download a file, or the rest of it; it appears at *path* when its checksum is right.

    Raises:
        OSError: the connection failed; another call goes on where this one stopped.
        ValueError: what came is not what was published.
    """
    part = path.with_name(f"{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    there = part.stat().st_size if part.exists() else 0
    if there < source.size:
        request = urllib.request.Request(source.url, headers={"Range": f"bytes={there}-"} if there else {})
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                whole = _whole_size(answer)
                if whole not in (None, source.size):
                    part.unlink(missing_ok=True)
                    raise ValueError(f"{source.url}: not the published file: it has {whole} bytes, and published are {source.size}")
                # A server may ignore the range and send all of it.
                with open(part, "ab" if answer.status == 206 else "wb") as file:
                    _copy(answer, file, source.size + 1 - file.tell())
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "code", None) == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink()  # the server's file ends before ours
                raise OSError(f"{source.url}: {error}; what was there was deleted; run this again") from error
            raise OSError(f"{source.url}: {error}; run this again to go on") from error
    size = part.stat().st_size
    if size < source.size:
        raise OSError(f"{source.url}: the connection ended at byte {size} of {source.size}; run this again to go on")
    found = sha256(part)
    if found != source.sha256:
        part.unlink()
        raise ValueError(
            f"{source.url}: not the published file ({size} bytes, published are {source.size}): its SHA-256 is {found} "
            f"and should be {source.sha256}; it was deleted"
        )
    part.rename(path)


def _copy(answer, file, most: int) -> None:
    """Copy no more than *most* bytes: a server that does not say how many there are could fill the disk."""
    while most > 0 and (block := answer.read(min(BLOCK, most))):
        file.write(block)
        most -= len(block)


def _whole_size(answer) -> Optional[int]:
    """The size of the whole file, as the server says; None where it does not."""
    part = answer.headers.get("Content-Range", "").rpartition("/")[2]
    size = part if answer.status == 206 else answer.headers.get("Content-Length", "")
    return int(size) if size.isdigit() else None


def extract(archive: zipfile.ZipFile, member: str, path: Path) -> None:
    """Take one file out of an archive; it appears at *path* when it is whole, wherever its name in the archive points."""
    with archive.open(member) as packed, replacing(path) as new, open(new, "wb") as file:
        shutil.copyfileobj(packed, file, BLOCK)
