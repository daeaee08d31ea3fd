"""torch.save's files on torch before 2.6, whose own safe loader lets TorchScript archives and tar files past (CVE-2025-32434),
and has no way to allow a class whose objects have attributes. `sharp_plugins.files.safe_load` uses this there."""

import collections
import contextlib
import importlib
import os
import pickle
import sys
import tarfile
import types

import torch

FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def load(file, map_location, mmap: bool):
    """Read a file, as `safe_load.load` does.

    Raises:
        Forbidden: it holds more than is built here.
        Exception: it cannot be read for another reason.
    """
    refuse_code(file)
    with no_loader_forced():
        how = dict(map_location=map_location, mmap=mmap)
        return torch.serialization.load(file, weights_only=False, pickle_module=pickle_module, **how)


class Forbidden(pickle.UnpicklingError):
    """The message names what is not built."""


@contextlib.contextmanager
def no_loader_forced():
    """Without the environment variable that has torch load with its own safe loader: torch then refuses any other."""
    forced = os.environ.pop(FORCE, None)
    try:
        yield
    finally:
        if forced is not None:
            os.environ[FORCE] = forced


def refuse_code(file) -> None:
    """Raise `Forbidden` for a TorchScript archive and for a tar file, which torch.load reads with other loaders than pickle's."""
    is_path = isinstance(file, str)
    opened = open(file, "rb") if is_path else file
    start = opened.tell()
    try:
        is_zip = opened.read(4) == b"PK\x03\x04"
        opened.seek(start)
        if is_zip:
            # torch's own reader: another one might see other entries in a file that was made for that.
            if "constants.pkl" in torch._C.PyTorchFileReader(opened).get_all_records():
                raise Forbidden("a TorchScript program")
        elif _is_tar(opened):
            raise Forbidden("the tar format of the first torch versions")
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
        raise Forbidden(f"bytes that are made from an object of {type(text).__name__}")
    if encoding not in ("latin1", "latin-1"):
        raise Forbidden(f"text that is encoded as {encoding!r}")
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
# Classes whose objects a file may hold, by module and name: settings, and a task's vocabulary. Building one sets its attributes
# and calls nothing of its own (no __reduce__, no __setstate__). Nor does using one run code: an attribute may hide a method, but
# what a file puts there is a value, or one of the few functions that it may call anyway; and no method of Dictionary evaluates
# its attributes, imports by them, or takes one for a path.
DICTIONARY = ("fairseq.data.dictionary", "Dictionary")
CLASSES = (("argparse", "Namespace"), DICTIONARY)
DICTS = (dict, collections.OrderedDict, collections.Counter)
# What torch.save writes, which is pickle's protocol 2, by the names in Python's own unpickler.
OPERATIONS = (
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING "
    "EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 BINGET LONG_BINGET "
    "BINPUT LONG_BINPUT BINPERSID GLOBAL NEWOBJ REDUCE BUILD"
)


def known_classes() -> list:
    """Those of `CLASSES` whose modules are imported; fairseq's need not be."""
    found = [getattr(sys.modules.get(module), name, None) for module, name in CLASSES]
    return [cls for cls in found if cls is not None]


def import_class(module: str, name: str):
    """One of `CLASSES`. Raises `Forbidden` where its module cannot be imported."""
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # a fairseq that does not suit this Python raises errors of other types than ImportError
        raise Forbidden(f"an object of {module}.{name}") from error


class Unpickler(pickle._Unpickler):
    """Python's own unpickler, that calls `FUNCTIONS` alone and changes no object but the containers that it has made.

    Example::

        >>> import io
        >>> Unpickler(io.BytesIO(pickle.dumps({"rho": 0.05}, protocol=2))).load()
        {'rho': 0.05}
        >>> Unpickler(io.BytesIO(pickle.dumps(print, protocol=2))).load()
        Traceback (most recent call last):
        sharp_plugins.files.safe_unpickler.Forbidden: an object of __builtin__.print
    """

    dispatch = {}

    def find_class(self, module: str, name: str):
        if (module, name) in FUNCTIONS:
            return FUNCTIONS[module, name]
        if (module, name) in CLASSES:
            return import_class(module, name)
        if (module, name) == ("torch.storage", "UntypedStorage"):
            return torch.UntypedStorage
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise Forbidden(f"an object of {module}.{name}")

    def load(self):
        try:
            return super().load()
        except (KeyError, IndexError, TypeError, AttributeError) as error:  # no operation of `dispatch`, or in no order
            raise pickle.UnpicklingError(f"no file of torch.save's: {error!r}") from error

    def _newobj(self):
        arguments, cls = self.stack.pop(), self.stack.pop()
        if not any(cls is known for known in known_classes()) or arguments != ():
            raise Forbidden(f"an object of {cls}")
        self.append(cls.__new__(cls))

    def _reduce(self):
        arguments, function = self.stack.pop(), self.stack.pop()
        if not any(function is known for known in FUNCTIONS.values()):
            raise Forbidden(f"a call of {function}")
        self.append(function(*arguments))

    def _build(self):
        state = self.stack.pop()
        if type(self.stack[-1]) not in (*known_classes(), collections.OrderedDict) or type(state) is not dict:
            raise Forbidden(f"attributes of {type(self.stack[-1])}")
        vars(self.stack[-1]).update(state)

    def _binpersid(self):
        name = self.stack.pop()
        if type(name) is not tuple or not name or name[0] not in ("storage", b"storage"):
            raise Forbidden(f"what torch calls {name!r:.50}")
        self.append(self.persistent_load(name))

    def _top(self, *kinds):
        if type(self.stack[-1]) not in kinds:
            raise Forbidden(f"items of {type(self.stack[-1])}")
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
pickle_module = types.ModuleType("sharp_plugins_pickle")
pickle_module.Unpickler = Unpickler
pickle_module.load = lambda file, **how: Unpickler(file, **how).load()
