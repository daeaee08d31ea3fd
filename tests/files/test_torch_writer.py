"""Checkpoints that are written tensor by tensor are torch's own kind of file."""

import argparse
import zipfile

import pytest
import torch

from sharp_plugins.files import safe_load
from sharp_plugins.files.torch_writer import ALIGNMENT, Later, Pending, save_torch, write_torch

TENSORS = {
    "fp32": torch.randn(3, 4),
    "fp16": torch.randn(5).half(),
    "bf16": torch.randn(2, 1, 3).bfloat16(),
    "turned": torch.randn(4, 7).t(),
    "empty": torch.zeros(0, 3),
    "number": torch.tensor(2.5),
}


def pending(tensor):
    return Pending(Later(tuple(tensor.shape), tensor.dtype, lambda: tensor))


@pytest.fixture
def path(tmp_path):
    table = pending(TENSORS["fp32"])
    content = {"model": {name: pending(tensor) for name, tensor in TENSORS.items()}, "args": None, "cfg": {"task": {"data": "."}}}
    content["model"].update(one=table, two=table)
    write_torch(tmp_path / "model.pt", content)
    return tmp_path / "model.pt"


@pytest.mark.parametrize("mmap", [False, True])
def test_all_loaders_read_it(path, mmap):
    for content in (torch.load(path, weights_only=True, mmap=mmap), safe_load.load(path, mmap=mmap)):
        assert content["args"] is None and content["cfg"] == {"task": {"data": "."}}
        for name, tensor in TENSORS.items():
            found = content["model"][name]
            assert torch.equal(found, tensor) and found.dtype == tensor.dtype and found.is_contiguous(), name
        assert content["model"]["one"].data_ptr() == content["model"]["two"].data_ptr() != content["model"]["fp32"].data_ptr()


def test_numbers_lie_where_a_loader_can_map_them(path):
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        assert archive.testzip() is None
        members = [member for member in archive.infolist() if "/data/" in member.filename]
        for member in members:
            file.seek(member.header_offset + 26)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            assert (member.header_offset + 30 + name + extra) % ALIGNMENT == 0
    assert len(members) == len(TENSORS) + 1  # the table once


def test_large_tensors(path, tmp_path, monkeypatch):
    """Beyond 2 GB a zip file has larger headers; here beyond 20 bytes."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 20)
    write_torch(tmp_path / "large.pt", {"table": pending(TENSORS["fp32"])})
    for mmap in (False, True):
        assert torch.equal(torch.load(tmp_path / "large.pt", weights_only=True, mmap=mmap)["table"], TENSORS["fp32"])


def test_tensors_are_made_one_after_the_other(tmp_path):
    alive, most = [], []

    class Counted(torch.Tensor):
        def __del__(self):
            alive.pop()

    def make():
        alive.append(1)
        most.append(len(alive))
        return torch.ones(8).as_subclass(Counted)

    write_torch(tmp_path / "model.pt", [Pending(Later((8,), torch.float32, make)) for _ in range(5)])
    assert len(most) == 5 and max(most) <= 2


def test_another_tensor_than_was_said(tmp_path):
    for tensor in (torch.zeros(3), torch.zeros(2).half()):
        with pytest.raises(ValueError, match="was made, for"):
            write_torch(tmp_path / "model.pt", {"a": Pending(Later((2,), torch.float32, lambda tensor=tensor: tensor))})


def test_namespaces_are_kept(tmp_path):
    write_torch(tmp_path / "model.pt", {"args": argparse.Namespace(lr=1.0)})
    assert safe_load.load(tmp_path / "model.pt")["args"].lr == 1.0


def test_a_file_that_cannot_be_written(tmp_path):
    """torch raises a RuntimeError."""
    with pytest.raises(OSError, match=f"^{tmp_path / 'model.pt'}: cannot be written: "):
        save_torch({}, tmp_path / "nowhere" / "model.pt", tmp_path / "model.pt")
