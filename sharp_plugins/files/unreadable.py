"""Why a file from elsewhere cannot be read, in words that a user can act on.

A file often is not what its name says: a git-lfs pointer, a web page, half of a download. Its first bytes tell that better than
the reader's error. Where the file is what it should be, the reader's words are used, but for torch's advice to switch its safe
loader off, and never cut at their front, where the cause stands behind that advice.
"""

import json
import re
import zipfile
from pathlib import Path
from typing import Optional

# What other kinds of files begin with.
BEGINNINGS = {
    b"version https://git-lfs": "it is a git-lfs pointer, which only names the real file; `git lfs pull` fetches that",
    b"/annex/objects/": "it is a git-annex pointer, which only names the real file; `git annex get` fetches that",
    b"\x1f\x8b": "it is compressed with gzip; unpack it first",
    b"BZh": "it is compressed with bzip2; unpack it first",
    b"\xfd7zXZ": "it is compressed with xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "it is compressed with zstd; unpack it first",
    b"7z\xbc\xaf": "it is a 7z archive; unpack it first",
    b"Rar!": "it is a rar archive; unpack it first",
    b"\x89HDF": "it is an HDF5 file, as Keras writes them; weights for PyTorch are expected",
    b"%PDF": "it is a PDF document",
}
WEB_PAGE = re.compile(rb"<(!doctype html|html|head|body)[\s>]", re.IGNORECASE)
ZIP = b"PK\x03\x04"
# The most of a reader's words that are shown; longer ones lose their end.
WORDS = 300

ADVICE = re.compile(r"weights[_ ]only|safe_globals|allowlist|trust|torch\.load|documentation|file an issue", re.IGNORECASE)

# What torch's loader may build beside its own classes, within a sentence that names what it has found.
ALLOWED = re.compile(r" or (types|classes) allowlisted via `?add_safe_globals`?,?")


def cause(path, error: Exception, is_text: bool = False) -> str:
    """Why *path* cannot be read: what it is instead, or else what its reader says.

    Args:
        error: the reader's.
        is_text: whether the file should be a text.

    Example::

        raise ValueError(f"{path}: cannot be read: {cause(path, error)}") from None
    """
    return what_it_is(Path(path), is_text) or words_of(error)


def what_it_is(path: Path, is_text: bool = False) -> Optional[str]:
    """What a file is, by its bytes, where it is none of a kind that is read here; None where it may be.

    Raises:
        OSError: it cannot be opened.
    """
    with open(path, "rb") as file:
        beginning = file.read(512)
    if not beginning:
        return "it is empty"
    for mark, words in BEGINNINGS.items():
        if beginning.startswith(mark):
            return words
    start = beginning.removeprefix(b"\xef\xbb\xbf").lstrip()
    if WEB_PAGE.match(start):
        return "it is a web page (HTML): a page about the file, or a server's answer instead of it; fetch the file itself"
    if start.startswith(b"<?xml"):
        return f"it is an XML text, such as a server's answer instead of the file: {_shown(start)}"
    if is_text:
        return "it holds zeros, as a file does that was not written to its end" if not beginning.strip(b"\0") else None
    if beginning.startswith(ZIP):
        return _zip(path)
    if beginning[8:9] == b"{":
        return _safetensors(path)
    if not beginning.strip(b"\0"):
        return "it begins with zeros, as a file does that was not written to its end"
    if _is_printable(beginning):
        return f"it is a text, and weights are expected: {_shown(beginning)}"
    return None


def words_of(error: Exception) -> str:
    """The words of an error of torch's, safetensors' or Python's that tell its cause, on one line."""
    text = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split()).rpartition("WeightsUnpickler error:")[2].strip()
    text = ALLOWED.sub("", text)
    kept = " ".join(part for part in re.split(r"(?<=[.!?])\s+", text) if not ADVICE.search(part))
    if isinstance(error, EOFError):
        return f"it is cut off {f'({kept})' if kept else ''}".strip()
    kept = kept or type(error).__name__
    return kept if len(kept) <= WORDS else kept[: WORDS - 1].rstrip() + "…"


def _zip(path: Path) -> Optional[str]:
    if not zipfile.is_zipfile(path):
        return f"it is cut off: the end of a zip file is missing ({path.stat().st_size} bytes are there)"
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        return f"it is damaged: {error}"
    if "constants.pkl" in names:
        return "it is a TorchScript program, and weights are expected: torch.save(model.state_dict(), FILE)"
    if "data.pkl" not in names:
        return "it is a zip archive of something else; unpack it first"
    return None


def _safetensors(path: Path) -> Optional[str]:
    """Whether it holds what its header describes, and has the name of its kind."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            return f"it is cut off, or no safetensors file: by its first 8 bytes a header of {length} bytes follows"
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            end = 8 + length + max(ends, default=0)
        except (ValueError, RecursionError, TypeError, AttributeError, LookupError):
            return None
    if end > size:
        return f"it is cut off: its header describes {end} bytes, and {size} are there"
    if path.suffix != ".safetensors":
        return "it is a safetensors file; give it a name that ends in .safetensors"
    return None


def _is_printable(beginning: bytes) -> bool:
    try:
        text = beginning.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(beginning) - 3:  # else the last character may be cut in two
            return False
        text = beginning[: error.start].decode("utf-8")
    return all(c.isprintable() or c.isspace() for c in text)


def _shown(beginning: bytes) -> str:
    return repr(" ".join(beginning.decode("utf-8", errors="replace").split())[:60])
