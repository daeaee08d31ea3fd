"""Reading what torch.save wrote without running code that the file holds, on every torch from 2.1 on.

torch's own safe loader, ``weights_only=True``, is used from torch 2.6 on; before, files are read by `safe_unpickler.Unpickler`.
Both know tensors, plain values and containers, `argparse.Namespace` and fairseq's `Dictionary`. fairseq keeps settings in
Namespaces, and tasks for speech their vocabulary in a Dictionary; building one runs no code.

No archive is read that unpacks to more than the file, and no tensor that claims more. torch's own loader still makes a
``bytearray`` of as many zeros as a file says.

    state = load("checkpoint.pt", map_location="cpu")
"""

import os
import pickle
import re
from pathlib import Path

import torch

from sharp_plugins.files import safe_unpickler
from sharp_plugins.files import sizes as file_sizes
from sharp_plugins.files.unreadable import ZIP, what_it_is, words_of

# What pickles of Python's own begin with, of protocols that torch.save does not use.
PICKLES = (b"\x80\x03", b"\x80\x04", b"\x80\x05")
# The guide beside this file says what to do with a file that is refused.
ADVICE = "if you trust where it comes from, convert it once, as sharp_plugins/files/README.md ('Files from elsewhere') says"


class Refused(ValueError):
    """A file holds more than can be read without running code; the message says what, and what to do."""


class Unreadable(ValueError):
    """A file is cut off, is none of torch's, or would take more memory than it holds; the message says which.

    Attributes:
        path: the file's name, None where it has none.
    """

    def __init__(self, words: str, path=None):
        super().__init__(words)
        self.path = path


def load(file, map_location=None, mmap=False):
    """Read a file of torch.save's.

    Args:
        file: a path, or a file that is open for reading bytes and can seek.
        map_location: as torch.load's.
        mmap: read tensors when they are used, where the file's format allows it; *file* is a path then.

    Raises:
        Refused: it holds objects of other classes, or code.
        Unreadable: it cannot be read for another reason.
        OSError: it cannot be opened or read, or memory is short.
    """
    if isinstance(file, (str, os.PathLike)):
        path = os.fspath(file)
        with open(path, "rb") as opened:
            return _load(path, opened, path, map_location, mmap)
    name = getattr(file, "name", None)
    return _load(file, file, name if isinstance(name, str) else None, map_location, mmap)


def torch_load(f, map_location=None, pickle_module=None, *, weights_only=None, mmap=None, **pickle_load_args):
    """In torch.load's place: `load`, whatever the caller says of safety."""
    return load(f, map_location, mmap=bool(mmap))


def allow_classes() -> None:
    """Let torch's safe loader build an argparse.Namespace, which fairseq keeps in every checkpoint of a legacy model, and where
    fairseq is imported its Dictionary. torch before 2.6 has no such list."""
    if hasattr(torch.serialization, "add_safe_globals"):
        torch.serialization.add_safe_globals(safe_unpickler.known_classes())


def _load(file, opened, path, map_location, mmap):
    """`load` of a *file*, which is *opened* too, and is called *path*, if anything."""
    beginning = b""
    try:
        size, beginning = _size_and_beginning(opened)
        is_zip = beginning == ZIP
        if is_zip:
            file_sizes.check_archive(opened, size)
        content = _read(file, opened, map_location, mmap and is_zip)
        file_sizes.check_tensors(content, size)
        return content
    except Exception as error:  # zip, pickle and torch raise errors of many types
        name = path or "the file"
        other = _other_kind(path)  # before what torch takes it for: a file of zeros for a tar file, a page for a pickle
        found = _what_is_refused(error, beginning)
        if found is not None and other is None:
            raise Refused(f"{name}: cannot be read safely: it holds {found}, which could run code; {ADVICE}") from None
        if file_sizes.is_want_of_memory(error) or (isinstance(error, OSError) and other is None):
            raise OSError(f"{name}: cannot be read: {words_of(error)}") from error
        words = other or (str(error) if isinstance(error, file_sizes.Oversized) else words_of(error))
        raise Unreadable(f"{name}: cannot be read: {words}", path) from None


def _size_and_beginning(opened):
    """The bytes of an open file, how many and the first ones; it is left where it was."""
    start = opened.tell()
    beginning = opened.read(len(ZIP))
    size = opened.seek(0, os.SEEK_END)
    opened.seek(start)
    return size, beginning


def _read(file, opened, map_location, mmap):
    if torch.__version__ < (2, 6):
        return safe_unpickler.load(file, map_location, mmap)
    how = dict(map_location=map_location, mmap=mmap, weights_only=True)
    allow_classes()
    start = opened.tell()
    try:
        return torch.serialization.load(file, **how)
    except pickle.UnpicklingError as error:
        if _refused_class(error) != ".".join(safe_unpickler.DICTIONARY):
            raise
        safe_unpickler.import_class(*safe_unpickler.DICTIONARY)  # torch allows no class that is not there
    allow_classes()
    opened.seek(start)
    return torch.serialization.load(file, **how)


def _refused_class(error: Exception):
    """The name of the class or function that torch's loader does not know; None where it has ended for another reason."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return found and found[1]


def _other_kind(path):
    """What a file is that has a name and is none of torch's; None where it may be one."""
    try:
        return what_it_is(Path(path)) if path else None
    except OSError:
        return None


def _what_is_refused(error: Exception, beginning: bytes):
    """What a loader found that it does not build; None where the file is not read for another reason."""
    if isinstance(error, safe_unpickler.Forbidden):
        return str(error)
    text = str(error)
    if "TorchScript archive" in text:
        return "a TorchScript program"
    if "legacy .tar format" in text:
        return "the tar format of the first torch versions"
    if not isinstance(error, pickle.UnpicklingError):
        return None
    if "Unsupported operand" in text and beginning.startswith(PICKLES):
        return "a pickle that torch.save did not write"
    if _refused_class(error):
        return f"an object of {_refused_class(error)}"
    words = words_of(error)
    return f"more than values ({words})" if words.startswith(("Can only", "Trying to", "``torch")) else None
