"""Files of torch.save's: what they hold is read and what would run is not, by torch's own loader and by the one for older torch."""

import argparse
import collections
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import crafted
import pytest
import torch
from fairseq.data import Dictionary
from fairseq.logging.meters import AverageMeter
from omegaconf import OmegaConf
from torch.torch_version import TorchVersion

from sharp_plugins.files import safe_load, safe_unpickler
from sharp_plugins.files.literals import evaluate

pytestmark = pytest.mark.filterwarnings("ignore:.*TorchScript|.*torch.jit|.*pickle protocol:")


@pytest.fixture(params=["this torch", "an older torch"])
def loader(request, monkeypatch):
    if request.param == "an older torch":
        monkeypatch.setattr(torch, "__version__", TorchVersion("2.1.0"))
    return request.param


@pytest.mark.parametrize("is_open", [False, True], ids=["path", "open file"])
@pytest.mark.parametrize("kind", crafted.KINDS, ids=lambda kind: kind.__name__)
def test_nothing_that_a_file_holds_is_run(loader, tmp_path, kind, is_open):
    path, mark = tmp_path / "file.pt", tmp_path / "mark"
    kind(path, mark)
    with open(path, "rb") as file, pytest.raises((safe_load.Refused, safe_load.Unreadable)) as caught:
        safe_load.load(file if is_open else path, map_location="cpu")
    assert not mark.exists()
    words = str(caught.value)
    assert "weights_only" not in words and "add_safe_globals" not in words and "\033" not in words
    if kind is crafted.torchscript:
        assert words.startswith(f"{path}: cannot be read: it is a TorchScript program, and weights are expected: ")
    elif kind is not crafted.newest_pickle:
        assert words.startswith(f"{path}: cannot be read safely: it holds ") and "README.md" in words
    try:  # it would have left its mark
        torch.load(path, weights_only=False)
    except Exception:
        pass
    assert mark.exists()


STATE = {
    "settings": argparse.Namespace(arch="é", layers=[1, -2, 3.5], inner=argparse.Namespace(sizes=(1, 2, 3, 4), none=None)),
    "model": torch.nn.Linear(2, 3).state_dict(),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "view": torch.arange(12.0).view(3, 4).t(),
    "types": [torch.ones(3, dtype=dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool)],
    "torch's": [torch.float16, torch.device("cpu"), torch.Size([1, 2])],
    "values": [2**70, -1, 255, 70000, 1.5, True, False, None, b"\x00\xff", {1, 2}, 1 + 2j, bytearray(b"12"), ()],
    "counts": collections.Counter("aab"),
    "many": list(range(3000)),
}


def assert_same(first, second):
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert list(first) == list(second)
        assert vars(first) == vars(second) if isinstance(first, collections.OrderedDict) else True
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second):
            assert_same(one, other)
    elif torch.is_tensor(first):
        assert first.dtype == second.dtype and torch.equal(first, second) and first.stride() == second.stride()
    else:
        assert first == second


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_all_that_a_checkpoint_holds_is_read(loader, tmp_path, new):
    path = tmp_path / "file.pt"
    torch.save(STATE, path, _use_new_zipfile_serialization=new)
    assert_same(safe_load.load(path, map_location="cpu"), STATE)
    with open(path, "rb") as file:
        assert_same(safe_load.load(file), STATE)
    if new:
        assert_same(safe_load.load(path, mmap=True), STATE)


def a_vocabulary(*words):
    vocabulary = Dictionary()
    for word in words:
        vocabulary.add_symbol(word, n=2)
    return vocabulary


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_the_vocabularies_of_speech_tasks_are_read(loader, tmp_path, new):
    path = tmp_path / "file.pt"
    state = {"target_dictionary": a_vocabulary("a", "b"), "dictionaries": [a_vocabulary("c"), a_vocabulary()]}
    torch.save({"task_state": state}, path, _use_new_zipfile_serialization=new)
    read = safe_load.load(path)["task_state"]
    for one, other in zip((read["target_dictionary"], *read["dictionaries"]), (state["target_dictionary"], *state["dictionaries"])):
        assert type(one) is Dictionary and vars(one) == vars(other)
    assert read["target_dictionary"].string(torch.tensor([4, 5])) == "a b"


WITHOUT_FAIRSEQ = """
import sys
import torch
from sharp_plugins.files import safe_load
if sys.argv[2] == "an older torch":
    torch.__version__ = torch.torch_version.TorchVersion("2.1.0")
with open(sys.argv[1], "rb") as file:
    for source in (file, sys.argv[1]):
        assert "fairseq" not in sys.modules or source is not file
        assert safe_load.load(source)["words"].symbols[-1] == "a"
"""


def test_a_vocabulary_is_read_where_fairseq_is_not_yet_imported(loader, tmp_path):
    torch.save({"words": a_vocabulary("a")}, tmp_path / "file.pt")
    how = dict(capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(Path(safe_load.__file__).parents[2])})
    done = subprocess.run([sys.executable, "-c", WITHOUT_FAIRSEQ, str(tmp_path / "file.pt"), loader], **how)
    assert done.returncode == 0, done.stderr[-3000:]


def test_without_fairseq_a_vocabulary_is_refused(loader, tmp_path, monkeypatch):
    torch.save({"words": a_vocabulary("a")}, tmp_path / "file.pt")
    monkeypatch.setitem(sys.modules, "fairseq.data.dictionary", None)  # what Python cannot import
    if hasattr(torch.serialization, "get_safe_globals"):
        known = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
    try:
        with pytest.raises(safe_load.Refused, match=r"it holds an object of fairseq\.data\.dictionary\.Dictionary"):
            safe_load.load(tmp_path / "file.pt")
    finally:
        if hasattr(torch.serialization, "get_safe_globals"):
            torch.serialization.add_safe_globals(known)


def with_pickle(path, code: bytes) -> None:
    """A file whose values are these operations."""
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, code if name.endswith("data.pkl") else data)


FORBIDDEN = {
    "a class": b"\x80\x02cbuiltins\neval\n.",
    "a part of torch that loads": b"\x80\x02ctorch.storage\n_load_from_bytes\nX\x01\x00\x00\x00a\x85R.",
    "calling what the file made": b"\x80\x02}X\x01\x00\x00\x00a\x85R.",
    "attributes of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor\n}X\x01\x00\x00\x00aNsb.",
    "attributes of a class": b"\x80\x02cargparse\nNamespace\n}X\x01\x00\x00\x00aNsb.",
    "attributes by setattr": b"\x80\x02cargparse\nNamespace\n)\x81N}X\x01\x00\x00\x00aNs\x86b.",
    "items of an object": b"\x80\x02cargparse\nNamespace\n)\x81X\x01\x00\x00\x00aNs.",
    "attributes of the class of vocabularies": b"\x80\x02cfairseq.data.dictionary\nDictionary\n}X\x01\x00\x00\x00aNsb.",
    "a vocabulary's call": b"\x80\x02cfairseq.data.dictionary\nDictionary\n)R.",
    "a vocabulary's neighbour": b"\x80\x02cfairseq.data.dictionary\nPool\n)\x81.",
    "a vocabulary's method": b"\x80\x02cfairseq.data.dictionary\nDictionary.load\nX\x01\x00\x00\x00a\x85R.",
    "more on a Namespace": b"\x80\x02cargparse\nNamespace\nN\x85\x81.",
    "appending to an object": b"\x80\x02cargparse\nNamespace\n)\x81Na.",
    "a Namespace's call": b"\x80\x02cargparse\nNamespace\n)R.",
    "an encoding": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
    "a module in its storage": b"\x80\x02X\x06\x00\x00\x00moduleN\x86Q.",
    "INST": b"\x80\x02(icollections\nOrderedDict\n.",  # which another operation may name
    "an extension": b"\x80\x02\x82\x01.",
    "no stack": b"\x80\x02s.",
    "no value": b"\x80\x02h\x05.",
}


# These are no operations of torch.save's, or find nothing; all others are refused as what could run code.
BROKEN = {
    "INST": r"KeyError\(105\)",
    "an extension": r"KeyError\(130\)",
    "no stack": "IndexError",
    "no value": "Memo value not found",
}


def test_what_a_file_may_call_and_do_is_no_more_than_this():
    """A line more here is a line to think about: torch.storage._load_from_bytes, for one, reads a whole pickle."""
    named = {f"{module}.{name}" for module, name in safe_unpickler.FUNCTIONS}
    builtins = {f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("set", "bytearray", "complex")}
    tensors = {f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3", "parameter")}
    others = {"collections.OrderedDict", "collections.Counter", "torch.Size", "torch.device", "_codecs.encode"}
    assert named - tensors == builtins | others and "torch._utils._rebuild_tensor_v2" in named
    operations = (
        "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING EMPTY_LIST "
    )
    operations += "APPEND APPENDS EMPTY_DICT SETITEM SETITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 BINGET LONG_BINGET BINPUT "
    assert safe_unpickler.OPERATIONS.split() == [*operations.split(), *"LONG_BINPUT BINPERSID GLOBAL NEWOBJ REDUCE BUILD".split()]


@pytest.mark.parametrize("name", FORBIDDEN)
def test_the_unpickler_for_older_torch_builds_nothing_else(monkeypatch, tmp_path, name):
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.1.0"))
    with_pickle(tmp_path / "file.pt", FORBIDDEN[name])
    error, words = (safe_load.Unreadable, BROKEN[name]) if name in BROKEN else (safe_load.Refused, "which could run code")
    with pytest.raises(error, match=words):
        safe_load.load(tmp_path / "file.pt")
    assert "a" not in vars(torch._utils._rebuild_tensor) and "a" not in vars(argparse.Namespace)
    assert "a" not in vars(Dictionary)
    with_pickle(tmp_path / "file.pt", b"\x80\x02}X\x01\x00\x00\x00aK\x01s.")  # the frame of these is right
    assert safe_load.load(tmp_path / "file.pt") == {"a": 1}


SIZED = {
    "a number": b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "a list": b"\x80\x02cbuiltins\nbytearray\n]K\x01a\x85R.",
}


@pytest.mark.parametrize("name", SIZED)
def test_a_bytearray_is_made_of_bytes_alone(monkeypatch, tmp_path, name):
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.1.0"))
    with_pickle(tmp_path / "file.pt", SIZED[name])
    with pytest.raises(safe_load.Refused, match="bytes that are made from an object of (int|list)"):
        safe_load.load(tmp_path / "file.pt")
    for value in (bytearray(), bytearray(b"\x00\xff")):
        torch.save(value, tmp_path / "file.pt")
        assert safe_load.load(tmp_path / "file.pt") == value


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_an_environment_that_forces_torchs_own_loader(loader, monkeypatch, tmp_path, new):
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    torch.save(STATE, tmp_path / "file.pt", _use_new_zipfile_serialization=new)
    assert_same(safe_load.load(tmp_path / "file.pt"), STATE)
    with pytest.raises(safe_load.Refused):
        crafted.zipped(tmp_path / "file.pt", tmp_path / "mark")
        safe_load.load(tmp_path / "file.pt")
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"


def test_archives_and_tensors_that_take_more_than_the_file_holds(loader, tmp_path):
    """From open files without a name too. Others are in tests/files/test_broken_files.py."""
    torch.save({"w": torch.zeros(1 << 18)}, tmp_path / "whole.pt")
    small = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "whole.pt") as archive, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as compressed:
        for name in archive.namelist():
            compressed.writestr(name, archive.read(name))
    large, none = io.BytesIO(), io.BytesIO()
    torch.save({"list": [{"w": torch.ones(1).expand(10**9, 10**3)}]}, large)
    torch.save({"w": torch.ones(3, device="meta")}, none)
    no_values = "w has no values" if torch.__version__ >= (2, 6) else "an object of torch._utils._rebuild_meta_tensor_no_storage"
    too_large = r"list\.0\.w has shape .* 4000000000000 bytes"
    for file, words in ((small, "would unpack to 10"), (large, too_large), (none, no_values)):
        file.seek(0)
        with pytest.raises(ValueError, match=f"the file: cannot be read.*: .*{words}"):
            safe_load.load(file)


@pytest.mark.parametrize("data", [b"", b"not a checkpoint\n", b"PK\x03\x04 half"], ids=["empty", "text", "half"])
def test_what_is_no_file_of_torchs_is_not_called_unsafe(loader, data):
    with pytest.raises(Exception) as caught:
        safe_load.load(io.BytesIO(data))
    assert not isinstance(caught.value, safe_load.Refused) and "weights_only" not in str(caught.value)


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "text",
    [
        "0.9",
        "(0.9, 0.98)",
        " (0.9, 1 - 1e-3)",
        "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)]",
        "1e-30",
        "-2 // 3",
        "True",
        "None",
        "{'a': [1], 2: {3}}",
        "[]",
        "'text'",
        "2 ** 16",
        "-2 ** 0.5",
        "1 - 10 ** -3",
        "65536 ** 64",
        "(9 ** 9) * 9",
        "dict()",
        "dict(a=1, b=dict(c=[2 ** 3]))",
    ],
)
def test_plain_values_are_what_python_makes_of_them(text):
    assert evaluate(text) == eval(text.strip())


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "open('/etc/passwd')",
        "(1).__class__",
        "[x for x in (1,)]",
        "lambda: 1",
        "f'{1}'",
        "a",
        "9 ** 9 ** 9",
        "9 ** 65",
        "65537 ** 2",
        "(65536 ** 64) ** 2",
        "'a' ** 2",
        "0 ** -1",
        "dict([(1, 2)])",
        "dict(**{})",
        "dict(a=open('x'))",
        "list(a=1)",
        "dict.fromkeys('a')",
        "[0] * 10000000",
        "'a' * 10000000",
        "1 / 0",
        "1 +",
        "{**{}}",
        "x := 1",
        "(" * 1000,
        "",
    ],
)
def test_what_is_no_plain_value_is_not_evaluated(text):
    with pytest.raises(ValueError, match="is no plain value"):
        evaluate(text)


def test_an_expression_is_a_string():
    with pytest.raises(TypeError, match="a string is expected"):
        evaluate(None)


@pytest.mark.skipif(not hasattr(torch.serialization, "safe_globals"), reason="the conversion is for torch 2.6 and newer")
def test_the_guides_conversion_of_a_trusted_file(tmp_path, monkeypatch):
    """An old checkpoint with objects of other libraries; only what `names` tells is called."""
    monkeypatch.chdir(tmp_path)
    guide = (Path(safe_load.__file__).parent / "README.md").read_text(encoding="utf-8")
    [code] = [block.split("```")[0] for block in guide.split("```python\n")[1:] if "old.pt" in block]
    meter = AverageMeter()
    meter.update(3.0)
    cfg = OmegaConf.create({"model": {"_name": "x", "dropout": 0.1}, "task": {"_name": "y"}})
    torch.save({"cfg": cfg, "model": {"w": torch.ones(2)}, "extra_state": {"loss": meter}}, "old.pt")
    with pytest.raises(safe_load.Refused, match="README.md"):
        safe_load.load("old.pt", map_location="cpu")
    exec(compile(code, "the guide", "exec"), found := {})
    assert "fairseq.logging.meters.AverageMeter" in found["names"]
    new = safe_load.load("new.pt", map_location="cpu")
    assert new["cfg"] == {"model": {"_name": "x", "dropout": 0.1}, "task": {"_name": "y"}} and new["model"]["w"].tolist() == [1, 1]
    assert not any(AverageMeter in (one if isinstance(one, tuple) else (one,)) for one in torch.serialization.get_safe_globals())
