"""The commands by which a run is measured, with a checkpoint or, untrained, with the backbone itself."""

from pathlib import Path
from typing import List, Tuple

from sharp_plugins.fewshot.data import ANSWER, DATA, evaluated_in
from sharp_plugins.fewshot.task import CLOZE, Task
from sharp_plugins.runs.benchmark import SCORES
from sharp_plugins.runs.checkpoints import BEST
from sharp_plugins.runs.stages import Stage
from sharp_plugins.runs.store import Run

GENERATED = "generated.txt"
PYTHON = ("python", "-m")


def score_checkpoint(run: Run, sample: Path, task: Task) -> Stage:
    """Of the best checkpoint, on the development and the test set of a sample."""
    package = "cloze" if task.kind == CLOZE else "candidates"
    command = [*PYTHON, f"sharp_plugins.{package}", "evaluate", BEST, str(sample / evaluated_in(task))]
    command += ["--splits", "valid", "test", "--json", SCORES, *_device(run)]
    return Stage("evaluate", command, SCORES, title="scoring the best checkpoint")


def score_backbone(run: Run, sample: Path, backbone: Path) -> Stage:
    """On the test set, without any training."""
    command = [*PYTHON, "sharp_plugins.fewshot", "zero-shot", str(backbone), str(sample), "--json", SCORES, *_device(run)]
    return Stage("evaluate", command, SCORES, title="scoring the backbone")


def answers(run: Run, sample: Path, path: str) -> List[Stage]:
    """Greedy search, as MeZO's code writes SQuAD's answers, empty ones too; and their F1.

    Args:
        path: of the checkpoint that writes.
    """
    common = run.config["common"]
    command, score = write_and_score(str(sample / DATA), path, common["user_dir"], bool(common.get("cpu")))
    return [
        Stage("generate", command, GENERATED, takes_output=True, title="writing the answers"),
        Stage("score", [*score, "--json", SCORES], SCORES, title="scoring the answers"),
    ]


def write_and_score(data: str, path: str, user_dir: str, is_cpu: bool) -> Tuple[List[str], List[str]]:
    """The two commands of `answers`; the output of the first is the file that the second reads."""
    command = ["fairseq-generate", data, "--user-dir", user_dir, "--task", "prompted_generation", "--path", path]
    command += ["--gen-subset", "test", "--beam", "1", "--max-len-b", str(ANSWER), "--min-len", "0"]
    command += ["--batch-size", "16", "--required-batch-size-multiple", "1", *(["--cpu"] if is_cpu else [])]
    return command, [*PYTHON, "sharp_plugins.candidates", "answers", GENERATED, "--data", data]


def _device(run: Run) -> List[str]:
    return ["--device", "cpu"] if run.config["common"].get("cpu") else []
