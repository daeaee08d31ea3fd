"""A benchmark's settings from files: ``TASK.yaml``, whole for ``fairseq-hydra-train``, and ``lora.yaml`` and ``adapter.yaml``."""

from pathlib import Path
from typing import Dict, Sequence

from sharp_plugins.files.yaml import read_yaml
from sharp_plugins.runs.configs import NEEDED, Settings, check_parts, check_settings


def read_settings(directory: Path, task: str, needed: Sequence[str] = NEEDED) -> Settings:
    """Read a task's settings, those of a whole ``dsam`` run, and what LoRA and adapters change in them, by task.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: it cannot be read, or does not have what is needed.

    Example::

        read_settings(Path("configs/bert"), "RTE").lora["lr"]
    """
    path = directory / f"{task}.yaml"
    own = _load(path)
    check_settings(own, path, needed)
    return Settings(own, *(_entry(directory / name, task) for name in ("lora.yaml", "adapter.yaml")))


def _entry(path: Path, task: str) -> Dict:
    entry = _load(path).get(task)
    if not isinstance(entry, dict) or "lr" not in entry:
        raise ValueError(f"{path}: no lr for {task}")
    check_parts(entry, f"{path}: {task}")
    return entry


def _load(path: Path) -> Dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; --configs wants a directory with one such file for each task")
    return read_yaml(path)
