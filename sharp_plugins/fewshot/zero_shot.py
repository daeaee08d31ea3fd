"""What a backbone chooses without any training. For the same test set and model it is found out once, whatever run asks for it."""

import json
import shlex
from pathlib import Path
from typing import Callable, Dict, Optional

import sharp_plugins
from sharp_plugins.fewshot.arguments import kind_of
from sharp_plugins.fewshot.data import CHOICES, DATA, ZERO_SHOT
from sharp_plugins.fewshot.stages import GENERATED, write_and_score
from sharp_plugins.fewshot.task import CLOZE, DECODER, GENERATION
from sharp_plugins.files.text import read_json
from sharp_plugins.files.writing import sha256, write_text
from sharp_plugins.runs.data import STAMP


def zero_shot(
    backbone: Path, sample: Path, device: Optional[str] = None, warn: Callable[[str], None] = lambda line: None
) -> Dict[str, Dict[str, float]]:
    """The scores of a backbone on the test set of a sample, as ``evaluate`` of `sharp_plugins.cloze` or `.candidates` gives them.

    Args:
        backbone: the directory of the converted model.
        sample: a directory that ``python -m sharp_plugins.fewshot prepare`` wrote; the scores are kept in it,
            where it can be written.
        device: where to compute; a GPU where there is one by default.
        warn: is told where the scores cannot be kept.

    Raises:
        OSError: a file is not there or cannot be read.
        ValueError: the model or the data cannot be used.
    """
    if not (sample / STAMP).is_file():
        raise ValueError(
            f"{sample}: no sample, which has a {STAMP}; `python -m sharp_plugins.fewshot prepare` writes one to OUT/TASK/kK-seedN"
        )
    task = read_json(sample / STAMP).get("source", {}).get("task", {})
    if "kind" not in task:
        raise ValueError(f"{sample}: its {STAMP} is of other data than `python -m sharp_plugins.fewshot prepare` writes")
    if task["kind"] != CLOZE and task["training"] == GENERATION:
        user_dir = str(Path(sharp_plugins.__file__).parent)
        write, score = write_and_score(str(sample / DATA), str(backbone / "model.pt"), user_dir, device == "cpu")
        raise ValueError(
            f"{sample}: answers of {task['name']} are written, and not chosen. These two commands do it, as --methods zero-shot of "
            f"`run` does:\n{shlex.join(write)} > {GENERATED}\n{shlex.join(score)}"
        )
    if not (backbone / "model.pt").is_file():
        raise FileNotFoundError(f"{backbone / 'model.pt'}: not there; BACKBONE is what `python -m sharp_plugins.convert` wrote")
    if kind_of(backbone) != task["kind"]:
        of = {CLOZE: "an encoder", DECODER: "a decoder"}
        raise ValueError(f"{sample}: the sample is for {of[task['kind']]}, and {backbone} is {of[kind_of(backbone)]}")
    model, kept = sha256(backbone / "model.pt"), sample / ZERO_SHOT
    if kept.is_file():
        before = read_json(kept)
        if before.get("model") == model:
            return before["scores"]
    part = CHOICES if (sample / CHOICES).is_dir() else DATA
    measure = _cloze if task["kind"] == CLOZE else _candidates
    scores = {"test": measure(backbone / "model.pt", sample / part, device)}
    try:
        write_text(kept, json.dumps({"model": model, "scores": scores}, indent=2) + "\n")
    except OSError as error:  # it only saves the next call's time
        warn(f"{kept}: the scores cannot be kept there, and the next call computes them anew: {error}")
    return scores


def _cloze(model: Path, data: Path, device: Optional[str]) -> Dict[str, float]:
    from sharp_plugins.cloze.evaluate import Checkpoint
    from sharp_plugins.cloze.prepared import read_prepared

    return Checkpoint(model, read_prepared(data), device).predict("test").scores()


def _candidates(model: Path, data: Path, device: Optional[str]) -> Dict[str, float]:
    from sharp_plugins.candidates.evaluate import Checkpoint

    return Checkpoint(model, data, device).choose("test", 16).scores()
