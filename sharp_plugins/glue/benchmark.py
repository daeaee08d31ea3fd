"""GLUE as the engine of runs sees it, see `sharp_plugins.runs.benchmark`.

OUT/data/TASK             the tasks' data, see `sharp_plugins.glue.binarize`
OUT/TASK/METHOD/seedN     one run each; with --submission the test sets' predictions in submission/
"""

from pathlib import Path
from typing import Dict, Sequence

from sharp_plugins.glue.arguments import add_data_arguments
from sharp_plugins.glue.download import download
from sharp_plugins.glue.reader import is_stand_in
from sharp_plugins.glue.tasks import LABELS, TASKS, Task
from sharp_plugins.runs.benchmark import SCORES, Benchmark
from sharp_plugins.runs.checkpoints import BEST
from sharp_plugins.runs.configs import NEEDED, Settings
from sharp_plugins.runs.record import Measure, Result
from sharp_plugins.runs.settings_files import read_settings
from sharp_plugins.runs.stages import Stage, train
from sharp_plugins.runs.store import Run, name_of

CONFIGS = Path(__file__).parent / "configs"
SUBMISSION = "submission"
GLUE_NEEDS = (*NEEDED, "dataset.batch_size", "optimization.max_update", "checkpoint.best_checkpoint_metric")


class Glue(Benchmark):
    """Fine-tuning an encoder on GLUE's tasks; the best epoch counts, as in the papers.

    >>> [measure.heading for measure in Glue().measures("MRPC")]
    ['accuracy', 'F1']
    """

    name, title, tasks = "glue", "GLUE, development sets", tuple(TASKS)
    own = ("dataset.valid_subset",)
    costs = (("dsam", "sam"),)  # the δ-SAM paper's Table 4

    # ---- the command line

    def add_arguments(self, parser) -> None:
        add_data_arguments(parser)
        words = "directory with FAMILY/TASK.yaml (default: the settings that come with the plugin)"
        parser.add_argument("--configs", type=Path, default=CONFIGS, metavar="DIR", help=words)
        words = "write the test sets' predictions as gluebenchmark.com takes them, into each run's directory"
        parser.add_argument("--submission", action="store_true", help=words)

    def begin(self, args) -> None:
        from sharp_plugins.text.encoder_directory import load_backbone  # here and below, so that --help imports no fairseq

        self.args, self.backbone, self.prepared = args, load_backbone(args.backbone), {}
        self._settings = {task: read_settings(args.configs / self.backbone.family, task, GLUE_NEEDS) for task in args.tasks}
        if args.download:
            for task in args.tasks:
                download(TASKS[task], args.data)

    # ---- data

    def made_of(self, task) -> Dict:
        from sharp_plugins.glue.binarize import source_of

        shared = {"backbone": self.backbone.checksums}
        return shared if task is None else {**shared, "data": source_of(*self._how(TASKS[task]))}

    def prepare(self, task: str) -> str:
        from sharp_plugins.glue.binarize import prepare

        data, backbone, of, *how = self._how(TASKS[task])
        self.prepared[task] = prepare(data, backbone, of, self.args.out / "data" / task, *how)
        return self.prepared[task].in_words

    def _how(self, task: Task) -> Sequence:
        return self.args.data, self.backbone, task, self.args.max_positions, self.args.skip_malformed

    # ---- settings

    def settings(self, task: str) -> Settings:
        return self._settings[task]

    def adapt(self, config: Dict, run: Run) -> None:
        backbone = self.backbone
        if run.method.criterion:
            # The task's settings refer to these two, before hydra knows the plugin's criterions and their defaults.
            config["criterion"].setdefault("regression_target", False)
            config["criterion"].setdefault("classification_head_name", "sentence_classification_head")
        config["model"] = {**config["model"], **backbone.sizes, "_name": backbone.arch}
        config["task"].update(max_positions=backbone.max_positions, init_token=backbone.init_token)
        # The tokenizer's, whatever the family.
        config["task"].pop("separator_token", None)
        if backbone.separator_token is not None:
            config["task"]["separator_token"] = backbone.separator_token
        self._fit_to_stand_in(config, run.record.task)

    def _fit_to_stand_in(self, config: Dict, task: str) -> None:
        """As many passes over a sample of the training set as the settings make over the published one (ours)."""
        if "train" in self.prepared[task].stand_ins:
            share = self.prepared[task].rows["train"] / TASKS[task].splits["train"].rows
            for part, name in (("optimization", "max_update"), ("lr_scheduler", "warmup_updates")):
                if name in config.get(part, {}):
                    config[part][name] = max(1, round(config[part][name] * share))

    def place(self, config: Dict, run: Run) -> None:
        prepared, home = self.prepared[run.record.task], self.backbone.directory.resolve()
        config["task"]["data"] = str(prepared.directory.resolve())
        config["bpe"] = {"_name": "sharp_tokenizer", "bpe_tokenizer": str(home)}  # for text in fairseq's hub
        config["dataset"]["valid_subset"] = ",".join(split for split in prepared.rows if split.startswith("valid"))
        config["checkpoint"]["finetune_from_model"] = str(home / "model.pt")

    def check(self, runs: Sequence[Run]) -> None:
        for run in runs if self.args.submission else ():
            if not any(split.startswith("test") for split in self.prepared[run.record.task].rows):
                raise ValueError(f"--submission: there is no test set of {run.record.task} in --data")
            if run.is_finished and not (run.directory / SUBMISSION).is_dir():
                raise ValueError(
                    f"--submission: {run.directory} was finished without it, and its checkpoint may be gone; leave the flag "
                    "out, or delete the directory to run it again"
                )

    # ---- stages and results

    def stages(self, run: Run) -> Sequence[Stage]:
        evaluate = ["python", "-m", "sharp_plugins.glue", "evaluate", BEST, run.config["task"]["data"], "--json", SCORES]
        evaluate += ["--device", "cpu"] if run.config["common"].get("cpu") else []
        evaluate += ["--submission", SUBMISSION] if self.args.submission else []
        return [train(run), Stage("evaluate", evaluate, SCORES, title="scoring the best epoch")]

    def notes(self, run: Run) -> Dict:
        return {"files": dict(self.prepared[run.record.task].files)}

    # ---- tables

    def measures(self, task: str) -> Sequence[Measure]:
        """The paper's own first."""
        names = sorted(TASKS[task].metrics, key=lambda name: name != TASKS[task].selected)
        measures = [Measure("valid", name, LABELS[name]) for name in names]
        mismatched = [Measure("valid1", name, f"{LABELS[name]}, mismatched") for name in names]
        return measures + mismatched if "valid1" in TASKS[task].splits else measures

    def about(self, results: Sequence[Result]) -> str:
        runs = f"{self.args.out}/TASK/METHOD/seedN/run.yaml"
        which = "Values are of the epoch with the best value of the task's first metric; of equal ones the last."
        return f"Backbone: {self.args.backbone.name}. Runs and settings: {runs}. {which}"

    def remarks(self, results: Sequence[Result]) -> Sequence[str]:
        """Which files are not the published ones."""
        standing = set()
        for result in results:
            task = TASKS[result.record.task]
            for split, name in _files(result).items():
                if is_stand_in(name, task, split):
                    standing.add(f"{task.name}'s {split} set is {name}")
        return [f"Not the published sets: {'; '.join(sorted(standing))}."] if standing else []


def _files(result: Result) -> Dict[str, str]:
    """Names of files by split, as `Glue.notes` keeps them; the result may be from elsewhere."""
    files, splits = result.notes.get("files"), TASKS[result.record.task].splits
    if not isinstance(files, dict) or not all(split in splits and isinstance(name, str) for split, name in files.items()):
        raise ValueError(
            f"{name_of(result.record)}: not a run's result: its files are no names by split; delete it to run it again"
        )
    return files
