"""GLUE as the engine of runs sees it, see `sharp_plugins.runs.benchmark`.

OUT/data/TASK             the tasks' data, see `sharp_plugins.glue.binarize`
OUT/data/TASK-samples     those of parts of the training set, one for each seed, number of rows and share of wrong labels
OUT/TASK/METHOD/seedN     one run each; with --submission the test sets' predictions in submission/
"""

from itertools import product
from math import ceil
from pathlib import Path
from typing import Dict, Optional, Sequence, Tuple

from sharp_plugins.glue.arguments import add_data_arguments, add_sample_arguments, check_sample
from sharp_plugins.glue.download import download
from sharp_plugins.glue.reader import is_stand_in
from sharp_plugins.glue.sample import VERSION, Sample
from sharp_plugins.glue.tasks import BINARY, LABELS, REPORTED, TASKS, Task
from sharp_plugins.runs.benchmark import SCORES, Benchmark
from sharp_plugins.runs.checkpoints import BEST
from sharp_plugins.runs.configs import METRIC, NEEDED, Settings
from sharp_plugins.runs.prepared import Prepared
from sharp_plugins.runs.record import Measure, Record, Result
from sharp_plugins.runs.settings_files import read_settings
from sharp_plugins.runs.stages import Stage, train
from sharp_plugins.runs.store import Run, name_of
from sharp_plugins.runs.updates import changed_settings, set_last_update

CONFIGS = Path(__file__).parent / "configs"
SUBMISSION = "submission"
ROWS, NOISE = "train-rows", "label-noise"  # axes
FIRST = "value of the task's first metric"
DRAWN = "drawn rows (--selection-rows, --selection-noise, --data-seed)"
GLUE_NEEDS = (*NEEDED, "dataset.batch_size", "optimization.max_update", "checkpoint.best_checkpoint_metric")
# A criterion's settings, and what they make it tell.
REPORTS = {
    "report_mcc": ("mcc",),
    "report_acc_and_f1": ("f1", "acc_and_f1"),
    "report_pearson_and_spearman": ("pearson", "spearman", "pearson_and_spearman"),
}


class Glue(Benchmark):
    """Fine-tuning an encoder on GLUE's tasks; the best epoch counts, as in the papers.

    >>> [measure.heading for measure in Glue().measures("MRPC")]
    ['accuracy', 'F1']
    """

    name, title, tasks = "glue", "GLUE, development sets", tuple(TASKS)
    own = ("dataset.train_subset", "dataset.valid_subset")
    costs = (("dsam", "sam"),)  # the δ-SAM paper's Table 4
    has_selection_rows = False

    # ---- the command line

    def add_arguments(self, parser) -> None:
        add_data_arguments(parser)
        words = "directory with FAMILY/TASK.yaml (default: the settings that come with the plugin)"
        parser.add_argument("--configs", type=Path, default=CONFIGS, metavar="DIR", help=words)
        words = "write the test sets' predictions as gluebenchmark.com takes them, into each run's directory"
        parser.add_argument("--submission", action="store_true", help=words)
        add_sample_arguments(parser)

    def begin(self, args) -> None:
        from sharp_plugins.text.encoder_directory import load_backbone  # here and below, so that --help imports no fairseq

        check_sample(args)
        numbers = [task for task in args.tasks if TASKS[task].is_regression]
        if any(args.label_noise or ()) and numbers:
            raise ValueError(f"--label-noise flips classes, and the labels of {numbers[0]} are numbers: leave it out of --tasks")
        self.has_selection_rows = args.selection_rows > 0
        self.args, self.backbone = args, load_backbone(args.backbone)
        self._prepared: Dict[Tuple[str, Optional[Sample]], Prepared] = {}
        self.said: Dict[str, str] = {}
        self._settings = {task: read_settings(args.configs / self.backbone.family, task, GLUE_NEEDS) for task in args.tasks}
        if args.download:
            for task in args.tasks:
                download(TASKS[task], args.data)

    def axes(self):
        rows, noise = self.args.train_rows, self.args.label_noise
        # So that --train-rows 300 and --train-rows 300 --label-noise 0 are one run.
        given = {ROWS: rows, NOISE: noise or [0.0]} if rows else {NOISE: noise}
        return {name: values for name, values in given.items() if values}

    # ---- data

    def made_of(self, task) -> Dict:
        from sharp_plugins.glue.binarize import source_of

        args = self.args
        chosen_by = [args.selection_rows, args.selection_noise, args.data_seed]
        # None in the runs of calls without these flags.
        shared = {"backbone": self.backbone.checksums, DRAWN: None if chosen_by == [0, False, None] else chosen_by}
        return shared if task is None else {**shared, "data": source_of(*self._how(TASKS[task]))}

    def made_of_run(self, record: Record) -> Dict:
        return {} if self.sample(record) is None else {"sampler": VERSION}

    def prepare(self, task: str) -> str:
        axes, said = self.axes(), []
        for values in product(*axes.values()):
            for seed in self.args.seeds:
                record = Record(self.name, task, "base", seed, dict(zip(axes, values)))
                said.append(self.prepared(record).in_words)
        return "\n".join(dict.fromkeys(said))

    def prepared(self, record: Record) -> Prepared:
        """The data of a run, which are made where they are not there yet."""
        from sharp_plugins.glue.binarize import prepare

        task, sample = record.task, self.sample(record)
        if (task, sample) not in self._prepared:
            data, backbone, of, *how = self._how(TASKS[task])
            place = self.args.out / "data" / task
            if sample is not None:
                noise = repr(sample.noise).removesuffix(".0")  # all its digits: another share is another sample
                place = place.with_name(f"{task}-samples") / f"rows{sample.rows or '-all'}-noise{noise}-seed{sample.seed}"
            self._prepared[task, sample] = prepare(data, backbone, of, place, *how, sample)
        return self._prepared[task, sample]

    def check_data(self, run: Run) -> None:
        from sharp_plugins.glue.binarize import read_prepared

        directory, source = self.prepared(run.record)[:2]
        if read_prepared(directory).source != source:
            raise ValueError(
                f"{run.name}: not begun: another call has made {directory} of other data or with another --max-positions; choose "
                "another --out"
            )

    def sample(self, record: Record) -> Optional[Sample]:
        """The part of the training set that a run has; None for all of it, as it is."""
        rows, noise, args = int(record.axes.get(ROWS, 0)), float(record.axes.get(NOISE, 0)), self.args
        if not (rows or noise or args.selection_rows):
            return None
        seed = record.seed if args.data_seed is None else args.data_seed
        return Sample(seed, rows, noise, args.selection_rows, args.selection_noise)

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
        self._fit_to_sample(config, run.record)

    def _fit_to_sample(self, config: Dict, record: Record) -> None:
        """As many passes over a sample of the training set as the settings make over the published one (ours)."""
        prepared = self.prepared(record)
        # With a --label-noise of 0 there is no sample, and its updates are to be those of the others.
        if "train" in prepared.stand_ins or self.sample(record) is not None or NOISE in record.axes:
            batch = config["dataset"]["batch_size"]
            share = ceil(prepared.rows["train"] / batch) / ceil(TASKS[record.task].splits["train"].rows / batch)
            for part, name in (("optimization", "max_update"), ("lr_scheduler", "warmup_updates")):
                if config.get(part, {}).get(name):
                    config[part][name] = max(1, round(config[part][name] * share))

    def place(self, config: Dict, run: Run) -> None:
        from sharp_plugins.glue.binarize import longest_input

        prepared, home = self.prepared(run.record), self.backbone.directory.resolve()
        config["task"]["data"] = str(prepared.directory.resolve())
        config["bpe"] = {"_name": "sharp_tokenizer", "bpe_tokenizer": str(home)}  # for text in fairseq's hub
        config["dataset"]["valid_subset"] = ",".join(split for split in prepared.rows if split.startswith("valid"))
        config["checkpoint"]["finetune_from_model"] = str(home / "model.pt")
        longest = longest_input(prepared) if config["dataset"].get("max_tokens") else None
        said = set_last_update(config, prepared.rows["train"], changed_settings(self.args.changes, run.record), longest)
        if said:
            self.said[run.name] = said

    def check(self, runs: Sequence[Run]) -> None:
        for line in dict.fromkeys(f"{run.record.task}: {self.said[run.name]}" for run in runs if run.name in self.said):
            print(line)
        for run in runs:
            check_reports(run.config["criterion"], run.record.task)
            metric, known = run.config["checkpoint"][METRIC], logged(run.config["criterion"])
            if metric not in known:
                raise ValueError(f"--set checkpoint.{METRIC}={metric}: of {run.record.task} choose from {', '.join(known)}")
        for run in runs if self.args.submission else ():
            if not any(split.startswith("test") for split in self.prepared(run.record).rows):
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
        return {"files": dict(self.prepared(run.record).files), "chosen_by": run.config["checkpoint"][METRIC]}

    # ---- tables

    def measures(self, task: str) -> Sequence[Measure]:
        """The paper's own first."""
        names = sorted(TASKS[task].metrics, key=lambda name: name != TASKS[task].selected)
        dev, dev1 = REPORTED.values() if self.has_selection_rows else REPORTED
        measures = [Measure(dev, name, LABELS[name]) for name in names]
        mismatched = [Measure(dev1, name, f"{LABELS[name]}, mismatched") for name in names]
        return measures + mismatched if "valid1" in TASKS[task].splits else measures

    def selection(self, task: str) -> Measure:
        drawn = "other rows of the training set" if self.has_selection_rows else ""
        return Measure("valid", TASKS[task].selected, LABELS[TASKS[task].selected], chosen_on=drawn)

    def about(self, results: Sequence[Result]) -> str:
        runs = f"{self.args.out}/TASK/METHOD/seedN/run.yaml"
        by = _chosen_by(results)
        which = f"Values are of the epoch with the best {by or FIRST}; of equal ones the last."
        if self.has_selection_rows:
            wrong = " (some of their labels are wrong, too)" if self.args.selection_noise else ""
            how = f"by {by} " if by else ""
            which = (
                f"The epoch is chosen {how}on {self.args.selection_rows} other rows of the training set{wrong}, and of equal ones "
            )
            which += "the last; values are of the development set, which chooses nothing. The tables of equal updates and of equal "
            which += "time are of those rows."
        return f"Backbone: {self.args.backbone.name}. Runs and settings: {runs}. {which}"

    def remarks(self, results: Sequence[Result]) -> Sequence[str]:
        """Which files are not the published ones."""
        standing, reported = set(), {new: split for split, new in REPORTED.items()}
        for result in results:
            task, files = TASKS[result.record.task], _files(result)
            for split, name in files.items():
                is_drawn = split == "valid" and "dev" in files  # rows of the training set's file
                if is_stand_in(name, task, "train" if is_drawn else reported.get(split, split)):
                    standing.add(f"{task.name}'s {split} set is {name}")
        return [f"Not the published sets: {'; '.join(sorted(standing))}."] if standing else []


def check_reports(criterion: Dict, task: str) -> None:
    """Raise ValueError where fairseq's criterion would make numbers of labels that are words."""
    asked = [name for name in REPORTS if criterion.get(name)]
    if asked and TASKS[task].classes not in ((), BINARY):
        raise ValueError(f"--set criterion.{asked[0]}=true: fairseq tells it of labels that are numbers, and {task}'s are words")


def logged(criterion: Dict) -> Sequence[str]:
    """What fairseq's criterion tells of a validation, by its settings.

    >>> logged({"_name": "sentence_prediction", "report_mcc": True})
    ['loss', 'nll_loss', 'accuracy', 'mcc']
    """
    own = ["loss", "nll_loss", *([] if criterion.get("regression_target") else ["accuracy"])]
    return [*own, *(name for setting, names in REPORTS.items() if criterion.get(setting) for name in names)]


def _chosen_by(results: Sequence[Result]) -> str:
    """What chose the epochs, where it is not each task's first metric."""
    usual = {task.name: task.selected for task in TASKS.values()}  # of results without the note, too
    chosen = {(one.record.task, str(one.notes.get("chosen_by", usual[one.record.task]))) for one in results}
    return " or ".join(sorted({metric for _, metric in chosen})) if any(usual[task] != by for task, by in chosen) else ""


def _files(result: Result) -> Dict[str, str]:
    """Names of files by split, as `Glue.notes` keeps them; the result may be from elsewhere."""
    files, splits = result.notes.get("files"), {*TASKS[result.record.task].splits, *REPORTED.values()}
    if not isinstance(files, dict) or not all(split in splits and isinstance(name, str) for split, name in files.items()):
        raise ValueError(
            f"{name_of(result.record)}: not a run's result: its files are no names by split; delete it to run it again"
        )
    return files
