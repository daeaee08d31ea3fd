"""Reading what torch.save wrote without running code that the file holds, on every torch from 2.1 on.

torch's own safe loader, ``weights_only=True``, is used from torch 2.6 on. Before, it let TorchScript archives and the tar files of
the first torch versions past (CVE-2025-32434), and had no way to allow a class whose objects have attributes; there, files are
read by `Unpickler`, which knows tensors, plain values and containers, and `argparse.Namespace`. fairseq keeps settings in
Namespaces; building one runs no code.

    state = load("checkpoint.pt", map_location="cpu")
"""

import argparse
import collections
import os
import pickle
import re
import tarfile
import types

import torch

# Where README.md says what to do with a file that is refused.
ADVICE = "if you trust where it comes from, convert it once, as README.md says under 'Files from elsewhere'"


class Refused(ValueError):
    """A file holds more than can be read without running code; the message says what, and what to do."""


def load(file, map_location=None, mmap=False):
    """Read a file of torch.save's.

    Args:
        file: a path, or a file that is open for reading bytes and can seek.
        map_location, mmap: as torch.load's.

    Raises:
        Refused: it holds objects of other classes, or code.
        Exception: it cannot be read for another reason; zip, pickle and torch raise errors of many types.
    """
    file = os.fspath(file) if isinstance(file, os.PathLike) else file
    try:
        if torch.__version__ >= (2, 6):
            torch.serialization.add_safe_globals([argparse.Namespace])
            return torch.serialization.load(file, map_location=map_location, mmap=mmap, weights_only=True)
        _refuse_code(file)
        return torch.serialization.load(file, map_location=map_location, mmap=mmap, weights_only=False, pickle_module=_pickle)
    except Exception as error:
        found = _what_is_refused(error)
        if found is not None:
            name = file if isinstance(file, str) else getattr(file, "name", "the file")
            raise Refused(f"{name}: cannot be read safely: it holds {found}, which could run code; {ADVICE}") from None
        if isinstance(error, pickle.UnpicklingError):
            raise pickle.UnpicklingError(_without_advice(str(error))) from None
        raise


def torch_load(f, map_location=None, pickle_module=None, *, weights_only=None, mmap=None, **pickle_load_args):
    """In torch.load's place: `load`, whatever the caller says of safety."""
    return load(f, map_location, mmap=bool(mmap))


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
    words = _without_advice(text)
    return f"more than values ({words})" if words.startswith(("Can only", "Trying to", "``torch")) else None


def _without_advice(text: str) -> str:
    """What torch's safe loader says of a file, without its advice to switch safe loading off, before and behind it."""
    text = text.split("WeightsUnpickler error:")[-1].split("Check the documentation of torch.load")[0]
    text = text.replace(getattr(torch.serialization, "UNSAFE_MESSAGE", ""), "").replace("Weights only load failed.", "")
    return " ".join(text.split())[:300]


# ---------------------------------------------------------------------- torch before 2.6


class _Forbidden(pickle.UnpicklingError):
    """The message names what is not built."""


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
    if encoding != "latin1":
        raise _Forbidden(f"text that is encoded as {encoding!r}")
    return text.encode(encoding)


def _functions() -> dict:
    """What a file may call, by module and name."""
    calls = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("collections", "Counter"): collections.Counter,
        ("torch", "Size"): torch.Size,
        ("torch", "device"): torch.device,
        ("_codecs", "encode"): _latin1,
    }
    for builtin in (set, bytearray, complex):
        calls["builtins", builtin.__name__] = calls["__builtin__", builtin.__name__] = builtin
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
