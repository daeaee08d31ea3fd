"""Files of the kind that torch.save writes, which run code when they are loaded: each leaves a mark on the disk."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import torch


class Touch:
    """Unpickled, it makes an empty file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mknod, (str(self.mark),)


def zipped(path: Path, mark: Path) -> None:
    torch.save({"model": {"w": torch.zeros(2)}, "extra": Touch(mark)}, path)


def legacy(path: Path, mark: Path) -> None:
    torch.save({"model": {"w": torch.zeros(2)}, "extra": Touch(mark)}, path, _use_new_zipfile_serialization=False)


def bare_pickle(path: Path, mark: Path) -> None:
    path.write_bytes(pickle.dumps(Touch(mark), protocol=2))


def newest_pickle(path: Path, mark: Path) -> None:
    torch.save({"extra": Touch(mark)}, path, pickle_protocol=5)


class Writer(torch.nn.Module):
    """As TorchScript, it writes a file while it is loaded."""

    def __init__(self, mark: str):
        super().__init__()
        self.mark = mark

    def forward(self, x):
        return x

    @torch.jit.export
    def __getstate__(self):
        return (self.mark, self.training)

    @torch.jit.export
    def __setstate__(self, state: "tuple[str, bool]"):
        self.mark = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), self.mark)


def torchscript(path: Path, mark: Path) -> None:
    torch.jit.script(Writer(str(mark))).save(str(path))


def old_tar(path: Path, mark: Path) -> None:
    """The format of the first torch versions, which is read with pickle."""
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(Touch(mark), protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


KINDS = (zipped, legacy, bare_pickle, newest_pickle, torchscript, old_tar)
