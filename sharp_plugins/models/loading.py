"""A trained checkpoint as a model to compute with: looked at before fairseq builds a model of the sizes in it, and in fp32."""

import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
from fairseq import checkpoint_utils

import sharp_plugins
from sharp_plugins.files.checkpoint_config import config_of
from sharp_plugins.files.tensors import read_torch

EVERY = 10.0  # seconds between two lines about the progress


class Loaded(NamedTuple):
    """A model with its task.

    Attributes:
        model: in fp32, on the device, in evaluation mode.
        cfg: fairseq's whole config.
        task: fairseq's.
        device: such as "cuda".
    """

    model: torch.nn.Module
    cfg: Any
    task: Any
    device: str


def read_state(path) -> Dict:
    """What is in a checkpoint, read safely and without its tensors yet.

    Raises:
        FileNotFoundError, IsADirectoryError: it is not there, or is a directory.
        OSError: it cannot be read now, for want of memory, say.
        ValueError: it is cut off, cannot be read safely, or holds no parts by their names.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: it is a directory, and a checkpoint is wanted, such as a model.pt in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there")
    state = read_torch(path, mmap=True)
    if not isinstance(state, dict):
        raise ValueError(f"{path}: no checkpoint of fairseq's, which has parts by their names: it holds a {type(state).__name__}")
    return state


def load_model(
    path,
    state: Dict,
    data,
    check_sizes: Callable[[Path, Dict, Dict[str, torch.Tensor]], None],
    device: Optional[str] = None,
    task: Any = None,
) -> Loaded:
    """The model and the task of a checkpoint, on other data.

    Args:
        state: from `read_state`; what a benchmark wants of it has been looked at.
        data: the task's directory.
        check_sizes: is given the path, the model's settings and its weights, and raises ValueError where they do not fit: fairseq
            builds a model of the settings before it looks at the weights, which can take any memory. For an encoder it is
            `sharp_plugins.models.encoder_sizes.check_encoder`.
        device: where to compute; a GPU where there is one by default.
        task: fairseq's, where it is another than the one that the checkpoint was trained with.

    Raises:
        ValueError: it is no checkpoint of fairseq 0.12, cannot be loaded on these data, or the device is not there.

    Example::

        state = read_state("checkpoint_best.pt")
        loaded = load_model("checkpoint_best.pt", state, "data-bin", check_encoder)
        for rows, sample in by_length(loaded.task.load_dataset("valid"), 64, loaded.device):
            logits = loaded.model(**sample["net_input"])[0]
    """
    path, device = Path(path), device or ("cuda" if torch.cuda.is_available() else "cpu")
    sharp_plugins.register()  # the architectures, and what fairseq needs to load them
    if not isinstance(state.get("model"), dict) or not all(isinstance(name, str) for name in state["model"]):
        raise ValueError(f"{path}: no checkpoint of fairseq's: it has no model with weights by their names")
    if state.get("args") is not None:  # fairseq would read this one, in which the checks below do not look
        raise ValueError(f"{path}: it has the settings of an older fairseq, args; checkpoints of fairseq 0.12 are evaluated")
    check_sizes(path, config_of(state, "model"), state["model"])
    try:
        (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], {"data": str(data)}, task)
    except Exception as error:  # fairseq raises bare ones
        raise ValueError(f"{path}: cannot be loaded on {data}: {error}") from error
    try:
        return Loaded(model.float().to(device).eval(), cfg, task, device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ValueError(f"--device {device}: {error}") from error


class Progress:
    """Tells every `EVERY` seconds how many of *total* are done, until all are.

    Args:
        what: they are, such as "rows".
        tell: is given the lines.

    Example::

        progress = Progress(len(rows), "rows", print)
        for done, row in enumerate(rows, 1):
            ...
            progress.tell(done)  # "1200 of 5000 rows, 117.3 a second"
    """

    def __init__(self, total: int, what: str, tell: Callable[[str], None]):
        self.total, self.what, self._tell = total, what, tell
        self.begin = self.told = time.monotonic()

    def tell(self, done: int) -> None:
        now = time.monotonic()
        if now - self.told > EVERY and done < self.total:
            self.told = now
            self._tell(f"{done} of {self.total} {self.what}, {done / (now - self.begin):.1f} a second")


def by_length(dataset, size: int, device: str, tell: Callable[[str], None] = lambda line: None) -> Iterator[Tuple[List[int], Dict]]:
    """(numbers of the rows, fairseq's sample of them) by batches, the longest rows first, so that little is padded.

    Args:
        size: rows in a batch.
        device: where the sample's ``net_input`` is put.
        tell: is given a line about the progress now and then, see `Progress`.
    """
    ordered = sorted(range(len(dataset)), key=dataset.num_tokens, reverse=True)
    progress = Progress(len(ordered), "rows", tell)
    for start in range(0, len(ordered), size):
        rows = ordered[start : start + size]
        sample = dataset.collater([dataset[row] for row in rows])
        sample["net_input"] = {name: value.to(device) for name, value in sample["net_input"].items()}
        yield rows, sample
        progress.tell(start + len(rows))
