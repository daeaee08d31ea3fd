"""Reading what torch.save wrote without running code that the file holds, on every torch from 2.1 on.

torch's own safe loader, ``weights_only=True``, is used from torch 2.6 on. Before, it let TorchScript archives and the tar files of
the first torch versions past (CVE-2025-32434), and had no way to allow a class whose objects have attributes; there, files are
read by `Unpickler`, which knows tensors, plain values and containers, and `argparse.Namespace`. fairseq keeps settings in
Namespaces; building one runs no code.

    state = load("checkpoint.pt", map_location="cpu")
"""

import argparse
import collections
import contextlib
import os
import pickle
import re
import tarfile
import types
from pathlib import Path

import torch

from sharp_plugins import file_sizes
from sharp_plugins.unreadable import ZIP, what_it_is, words_of

# Where README.md says what to do with a file that is refused.
ADVICE = "if you trust where it comes from, convert it once, as README.md says under 'Files from elsewhere'"
FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


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


def allow_namespaces() -> None:
    """Let torch's safe loader build an argparse.Namespace, which fairseq keeps in every checkpoint of a legacy model. torch
    before 2.6 has no such list."""
    if hasattr(torch.serialization, "add_safe_globals"):
        torch.serialization.add_safe_globals([argparse.Namespace])


def _load(file, opened, path, map_location, mmap):
    """`load` of a *file*, which is *opened* too, and is called *path*, if anything."""
    try:
        size, is_zip = _size_and_kind(opened)
        if is_zip:
            file_sizes.check_archive(opened, size)
        content = _read(file, map_location, mmap and is_zip)
        file_sizes.check_tensors(content, size)
        return content
    except Exception as error:  # zip, pickle and torch raise errors of many types
        name = path or "the file"
        other = _other_kind(path)  # before what torch takes it for: a file of zeros for a tar file, a page for a pickle
        found = _what_is_refused(error)
        if found is not None and other is None:
            raise Refused(f"{name}: cannot be read safely: it holds {found}, which could run code; {ADVICE}") from None
        if file_sizes.is_want_of_memory(error) or (isinstance(error, OSError) and other is None):
            raise OSError(f"{name}: cannot be read: {words_of(error)}") from error
        words = other or (str(error) if isinstance(error, file_sizes.Oversized) else words_of(error))
        raise Unreadable(f"{name}: cannot be read: {words}", path) from None


def _size_and_kind(opened):
    """The bytes of an open file, and whether it is a zip file; it is left where it was."""
    start = opened.tell()
    is_zip = opened.read(len(ZIP)) == ZIP
    size = opened.seek(0, os.SEEK_END)
    opened.seek(start)
    return size, is_zip


def _read(file, map_location, mmap):
    if torch.__version__ >= (2, 6):
        allow_namespaces()
        return torch.serialization.load(file, map_location=map_location, mmap=mmap, weights_only=True)
    _refuse_code(file)
    with _no_loader_forced():
        return torch.serialization.load(file, map_location=map_location, mmap=mmap, weights_only=False, pickle_module=_pickle)


def _other_kind(path):
    """What a file is that has a name and is none of torch's; None where it may be one."""
    try:
        return what_it_is(Path(path)) if path else None
    except OSError:
        return None


def _what_is_refused(error: Exception):
    """What a loader found that it does not build; None where the file is not read for another reason."""
    if isinstance(error, _Forbidden):
        return str(error)
    text = str(error)
    if "TorchScript archive" in text:
        return "a TorchScript program"
    if "legacy .tar format" in text:
        return "the tar format of the first torch versions"
    if not isinstance(error, pickle.UnpicklingError):
        return None
    found = re.search(r"GLOBAL (\S+)", text)
    if found:
        return f"an object of {found[1]}"
    words = words_of(error)
    return f"more than values ({words})" if words.startswith(("Can only", "Trying to", "``torch")) else None


# ---------------------------------------------------------------------- torch before 2.6


class _Forbidden(pickle.UnpicklingError):
    """The message names what is not built."""


@contextlib.contextmanager
def _no_loader_forced():
    """Without the environment variable that has torch load with its own safe loader: torch then refuses any other."""
    forced = os.environ.pop(FORCE, None)
    try:
        yield
    finally:
        if forced is not None:
            os.environ[FORCE] = forced


def _refuse_code(file) -> None:
    """Raise `_Forbidden` for a TorchScript archive and for a tar file, which torch.load reads with other loaders than pickle's."""
    is_path = isinstance(file, str)
    opened = open(file, "rb") if is_path else file
    start = opened.tell()
    try:
        is_zip = opened.read(4) == b"PK\x03\x04"
        opened.seek(start)
        if is_zip:
            # torch's own reader: another one might see other entries in a file that was made for that.
            if "constants.pkl" in torch._C.PyTorchFileReader(opened).get_all_records():
                raise _Forbidden("a TorchScript program")
        elif _is_tar(opened):
            raise _Forbidden("the tar format of the first torch versions")
    finally:
        opened.close() if is_path else opened.seek(start)


def _is_tar(file) -> bool:
    try:
        with tarfile.open(fileobj=file, mode="r:"):
            return True
    except tarfile.TarError:
        return False


def _latin1(text: str, encoding: str) -> bytes:
    """How pickle's protocol 2 writes bytes."""
    if type(text) is not str:
        raise _Forbidden(f"bytes that are made from an object of {type(text).__name__}")
    if encoding not in ("latin1", "latin-1"):
        raise _Forbidden(f"text that is encoded as {encoding!r}")
    return text.encode(encoding)


def _bytearray(content="", encoding: str = "latin1") -> bytearray:
    """How pickle writes bytearrays. Python's own takes a number too, and so much memory."""
    return bytearray(content if isinstance(content, bytes) else _latin1(content, encoding))


def _functions() -> dict:
    """What a file may call, by module and name."""
    calls = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("collections", "Counter"): collections.Counter,
        ("torch", "Size"): torch.Size,
        ("torch", "device"): torch.device,
        ("_codecs", "encode"): _latin1,
    }
    for name, builtin in (("set", set), ("bytearray", _bytearray), ("complex", complex)):
        calls["builtins", name] = calls["__builtin__", name] = builtin
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter"):
        if hasattr(torch._utils, name):
            calls["torch._utils", name] = getattr(torch._utils, name)
    return calls


FUNCTIONS = _functions()
DICTS = (dict, collections.OrderedDict, collections.Counter)
# What torch.save writes, which is pickle's protocol 2, by the names in Python's own unpickler.
OPERATIONS = (
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING "
    "EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 BINGET LONG_BINGET "
    "BINPUT LONG_BINPUT BINPERSID GLOBAL NEWOBJ REDUCE BUILD"
)


class Unpickler(pickle._Unpickler):
    """Python's own unpickler, that calls `FUNCTIONS` alone and changes no object but the containers that it has made."""

    dispatch = {}

    def find_class(self, module: str, name: str):
        if (module, name) in FUNCTIONS:
            return FUNCTIONS[module, name]
        if (module, name) == ("argparse", "Namespace"):
            return argparse.Namespace
        if (module, name) == ("torch.storage", "UntypedStorage"):
            return torch.UntypedStorage
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise _Forbidden(f"an object of {module}.{name}")

    def load(self):
        try:
            return super().load()
        except (KeyError, IndexError, TypeError, AttributeError) as error:  # no operation of `dispatch`, or in no order
            raise pickle.UnpicklingError(f"no file of torch.save's: {error!r}") from error

    def _newobj(self):
        arguments, cls = self.stack.pop(), self.stack.pop()
        if cls is not argparse.Namespace or arguments != ():
            raise _Forbidden(f"an object of {cls}")
        self.append(argparse.Namespace())

    def _reduce(self):
        arguments, function = self.stack.pop(), self.stack.pop()
        if not any(function is known for known in FUNCTIONS.values()):
            raise _Forbidden(f"a call of {function}")
        self.append(function(*arguments))

    def _build(self):
        state = self.stack.pop()
        if type(self.stack[-1]) not in (argparse.Namespace, collections.OrderedDict) or type(state) is not dict:
            raise _Forbidden(f"attributes of {type(self.stack[-1])}")
        vars(self.stack[-1]).update(state)

    def _binpersid(self):
        name = self.stack.pop()
        if type(name) is not tuple or not name or name[0] not in ("storage", b"storage"):
            raise _Forbidden(f"what torch calls {name!r:.50}")
        self.append(self.persistent_load(name))

    def _top(self, *kinds):
        if type(self.stack[-1]) not in kinds:
            raise _Forbidden(f"items of {type(self.stack[-1])}")
        return self.stack[-1]

    def _append(self):
        value = self.stack.pop()
        self._top(list).append(value)

    def _appends(self):
        values = self.pop_mark()
        self._top(list).extend(values)

    def _setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._top(*DICTS)[key] = value

    def _setitems(self):
        items = self.pop_mark()
        into = self._top(*DICTS)
        for key, value in zip(items[::2], items[1::2]):
            into[key] = value


for _name in OPERATIONS.split():
    _code = getattr(pickle, _name)[0]
    _own = getattr(Unpickler, f"_{_name.lower()}", None)
    Unpickler.dispatch[_code] = _own or pickle._Unpickler.dispatch[_code]

# What torch.load takes in the place of the module pickle.
_pickle = types.ModuleType("sharp_plugins_pickle")
_pickle.Unpickler = Unpickler
_pickle.load = lambda file, **how: Unpickler(file, **how).load()
