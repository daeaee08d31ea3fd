"""What a fine-tuned checkpoint predicts for a task's data, and how well."""

from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

import torch
from fairseq import checkpoint_utils
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.models.roberta import RobertaModel

import sharp_plugins
from sharp_plugins.files.tensors import read_torch
from sharp_plugins.glue.binarize import Prepared
from sharp_plugins.glue.checkpoints import config_of
from sharp_plugins.glue.metrics import scores
from sharp_plugins.glue.submission import write_submission
from sharp_plugins.glue.tasks import TASKS, Task
from sharp_plugins.models.bert import BertModel

BATCH = 64


class Predictions(NamedTuple):
    """Of one split, in the order of its file: classes as the files name them, or numbers from 0 to 1.

    targets: None where the file has no labels.
    """

    values: List
    targets: Optional[List]


class Checkpoint:
    """A fine-tuned model with its task, on the data of a `Prepared` directory; computes in fp32."""

    def __init__(self, path, prepared: Prepared, device: Optional[str] = None):
        """
        Args:
            device: where to compute; a GPU where there is one by default.

        Raises:
            FileNotFoundError: the checkpoint is not there.
            OSError: it cannot be read now, for want of memory, say.
            ValueError: it is cut off, cannot be read safely, or is no classifier of the task's classes.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not there")
        sharp_plugins.register()  # the architectures, and what fairseq needs to load them
        state = read_torch(path, mmap=True)
        self.glue_task: Task = TASKS[prepared.task]
        self.prepared = prepared
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        outputs = max(1, len(self.glue_task.classes))
        trained_on = config_of(state, "task")
        if trained_on.get("_name") != "sentence_prediction" or trained_on.get("num_classes") != outputs:
            raise ValueError(f"{path}: no classifier with {outputs} outputs, as {prepared.task} wants it")
        if not isinstance(state.get("model"), dict) or not all(isinstance(name, str) for name in state["model"]):
            raise ValueError(f"{path}: no checkpoint of fairseq's: it has no model with weights by their names")
        if state.get("args") is not None:  # fairseq would read this one, in which the checks below do not look
            raise ValueError(f"{path}: it has the settings of an older fairseq, args; checkpoints of fairseq 0.12 are evaluated")
        check_sizes(path, config_of(state, "model"), state["model"])
        overrides = {"data": str(prepared.directory)}
        try:
            (model,), cfg, self.task = checkpoint_utils.load_model_ensemble_and_task([str(path)], overrides)
        except Exception as error:  # fairseq raises bare ones
            raise ValueError(f"{path}: cannot be loaded on {prepared.directory}: {error}") from error
        try:
            self.model = model.float().to(self.device).eval()
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            raise ValueError(f"--device {self.device}: {error}") from error
        self.head = getattr(cfg.criterion, "classification_head_name", None)
        if self.head not in self.model.classification_heads:
            raise ValueError(f"{path}: no classifier: its weights have no head of the name in its config, {self.head}")

    @torch.no_grad()
    def predict(self, split: str) -> Predictions:
        """Predict for all rows of one of fairseq's splits.

        Raises:
            ValueError: an output is NaN or infinite.
        """
        dataset = self.task.load_dataset(split)
        by_length = sorted(range(len(dataset)), key=dataset.num_tokens, reverse=True)
        values: List = [None] * len(dataset)
        targets = None
        for start in range(0, len(dataset), BATCH):
            rows = by_length[start : start + BATCH]
            sample = dataset.collater([dataset[row] for row in rows])
            inputs = {name: value.to(self.device) for name, value in sample["net_input"].items()}
            logits = self.model(**inputs, features_only=True, classification_head_name=self.head)[0]
            if not logits.isfinite().all():
                raise ValueError(f"{split}: the model's outputs are no finite numbers; its training diverged")
            _put(values, rows, self._names(logits))
            if "target" in sample:
                targets = targets or [None] * len(dataset)
                _put(targets, rows, self._names(sample["target"], are_classes=True))
        return Predictions(values, targets)

    def _names(self, output: torch.Tensor, are_classes: bool = False) -> List:
        """Rows of the model's outputs, or of targets, as numbers or as the files' names of the classes."""
        if self.glue_task.is_regression:
            return output.view(-1).tolist()
        classes = output.view(-1) if are_classes else output.argmax(dim=1)
        return [self.glue_task.classes[i] for i in classes.tolist()]

    def score(self) -> Dict[str, Dict[str, float]]:
        """The task's metrics in percent, on each split but the training set that has labels."""
        result = {}
        for split in self.prepared.rows:
            if split != "train" and self.has_labels(split):
                predictions = self.predict(split)
                result[split] = scores(self.glue_task, predictions.values, predictions.targets)
        return result

    def has_labels(self, split: str) -> bool:
        """Whether the split's file has them; a published test set has none, and may be large."""
        return any((self.prepared.directory / "label" / f"{split}.{ending}").is_file() for ending in ("idx", "label"))

    def write_submissions(self, directory) -> List[Path]:
        """Write what gluebenchmark.com takes for each test set, and return the files' paths.

        Raises:
            ValueError: there is no test set.
        """
        written = []
        for split in self.prepared.rows:
            if split.startswith("test"):
                index = (self.prepared.directory / "index" / f"{split}.txt").read_text(encoding="utf-8").splitlines()
                predictions = self.predict(split)
                written.append(write_submission(directory, self.glue_task, split, index, predictions.values))
        if not written:
            raise ValueError(f"--submission: {self.prepared.directory} has no test set")
        return written


def check_sizes(path: Path, args: Dict, state: Dict[str, torch.Tensor]) -> None:
    """Raise ValueError where a checkpoint's config is of another architecture than is evaluated here, or has other sizes than its
    weights: fairseq builds a model of the former before it looks at the latter, which can take any memory."""
    arch = args.get("_name") or args.get("arch")
    base = args.get("base_arch") if arch in ("lora", "adapter") else arch
    model = ARCH_MODEL_REGISTRY.get(base) if isinstance(base, str) else None
    if model not in (BertModel, RobertaModel):
        raise ValueError(f"{path}: its architecture, {base}, is none of a BERT or RoBERTa")

    inside = "encoder.sentence_encoder."
    layers = {name[len(inside) :].split(".")[1] for name in state if name.startswith(f"{inside}layers.")}
    shapes = {
        "encoder_layers": len(layers),
        "encoder_embed_dim": _shape(state, f"{inside}embed_tokens.weight", 1),
        "encoder_ffn_embed_dim": _shape(state, f"{inside}layers.0.fc1.weight", 0),
        "max_positions": _shape(state, f"{inside}embed_positions.weight", 0),
    }
    # Those that have small defaults.
    optional = {"token_types": _shape(state, f"{inside}embed_token_types.weight", 0)} if model is BertModel else {}
    if arch == "lora":
        optional["lora_rank"] = _shape(state, next((name for name in state if name.endswith(".lora_A")), ""), 0)
    if arch == "adapter":
        optional["adapter_size"] = _shape(state, next((name for name in state if name.endswith(".adapter.down.weight")), ""), 0)
    shapes.update({name: size for name, size in optional.items() if args.get(name) is not None})
    for name, size in shapes.items():
        # RoBERTa's table of positions begins after the padding index.
        if not isinstance(args.get(name), int) or not size - 2 * (name == "max_positions") <= args[name] <= size:
            raise ValueError(f"{path}: its config says {name} {args.get(name)}, and its weights have {size}")


def _shape(state: Dict[str, torch.Tensor], name: str, dimension: int) -> int:
    return state[name].shape[dimension] if torch.is_tensor(state.get(name)) and state[name].dim() == 2 else 0


def _put(into: List, rows: Sequence[int], values: Sequence) -> None:
    for row, value in zip(rows, values):
        into[row] = value
