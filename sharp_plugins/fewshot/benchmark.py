"""Few-shot tasks as the engine of runs sees them, see `sharp_plugins.runs.benchmark`.

OUT/data/TASK/kK-seedN            the samples, and OUT/data/TASK/test the test set alone, see `sharp_plugins.fewshot.data`
OUT/TASK/METHOD/k=K/seedN         one run each; of decoders examples=N in the place of k=K
"""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from sharp_plugins.fewshot.arguments import TASKS, Source, add_data_arguments, source_of
from sharp_plugins.fewshot.data import DATA, settings_of
from sharp_plugins.fewshot.family import read_family
from sharp_plugins.fewshot.sampling import SEEDS
from sharp_plugins.fewshot.stages import answers, score_backbone, score_checkpoint
from sharp_plugins.fewshot.task import CANDIDATES, CLOZE, GENERATION, KINDS, TEACHER_FORCING, Task
from sharp_plugins.fewshot.task_files import named_tasks
from sharp_plugins.files.text import read_json
from sharp_plugins.runs.benchmark import SCORES, Benchmark
from sharp_plugins.runs.checkpoints import BEST, read_checkpoint
from sharp_plugins.runs.configs import Settings
from sharp_plugins.runs.data import STAMP
from sharp_plugins.runs.methods import CRITERIONS, Method, find_method
from sharp_plugins.runs.record import Measure, Record, Result, Validated
from sharp_plugins.runs.stages import TRAIN_LOG, Stage, train
from sharp_plugins.runs.store import Run, check_made_of, load_results, stored
from sharp_plugins.runs.training_log import read_trained_weights
from sharp_plugins.runs.updates import changed_settings, set_last_update

ZERO_SHOT = "zero-shot"
# fairseq's task and criterion, by how a task is trained.
PARTS = {
    CLOZE: {"task": {"_name": "cloze"}, "criterion": {"_name": "cloze"}},
    CANDIDATES: {"task": {"_name": "candidates"}, "criterion": {"_name": "candidates"}},
    # The smoothing is 0, which is cross entropy: R-Drop and R3F are built on this criterion.
    GENERATION: {
        "task": {"_name": "prompted_generation"},
        "criterion": {"_name": "label_smoothed_cross_entropy", "label_smoothing": 0.0},
    },
}
# Chosen texts are scored without an end, and MeZO's code learns them without one.
PARTS[TEACHER_FORCING] = {**PARTS[GENERATION], "task": {"_name": "prompted_generation", "leave_out_end": True}}
HEADINGS = {"accuracy": "accuracy", "f1": "F1", "em": "exact match"}


class FewShot(Benchmark):
    """Fine-tuning on few examples in prompts: encoders that fill a mask, and decoders that choose a candidate.

    >>> FewShot().selection("RTE").split
    'valid'
    """

    name, title = "fewshot", "Few-shot tasks, test sets"
    tasks = tuple(dict.fromkeys(task for kind in KINDS for task in named_tasks(kind)))
    tasks_help = TASKS
    default_methods, default_seeds = (ZERO_SHOT, "lora", "lora-sam", "lora-obar", "lora-nbar"), SEEDS
    extra_methods = {ZERO_SHOT: Method(ZERO_SHOT)}
    kinds = ("dsam", "lora-obar", *CRITERIONS)
    settings_flag = "--settings"
    own = ("dataset.train_subset", "dataset.valid_subset")
    baseline = "lora"
    costs = (("lora-sam", "lora"), ("lora-nbar", "lora"))  # BAR's Table 2
    source: Optional[Source] = None
    said: Dict[str, str]
    earlier: Dict[str, str] = {}  # tasks of finished runs -> what is reported of them

    # ---- the command line

    def add_arguments(self, parser) -> None:
        add_data_arguments(parser)
        words = "draw all runs' samples with this seed, and let --seeds be of the training alone (default: both are the run's, as "
        parser.add_argument("--data-seed", type=int, metavar="N", help=words + "in MeZO's code)")
        words = "the backbone's: bar or mezo of RoBERTa, BERT and OPT, own of other decoders; or a YAML file (default: "
        parser.add_argument("--settings", default="", metavar="NAME", help=words + "those of --grid; without it bar, or own)")
        words = (
            "train the grid of the settings of that name, in these unless --settings names others, as --sweep does with each value"
        )
        parser.add_argument("--grid", metavar="NAME", help=words)

    def resolve(self, args) -> None:
        """Look at what the flags stand for, before the engine looks at its own: tasks may be files, and a grid stands for sweeps.

        Raises:
            OSError, ValueError: something is not there or does not fit.
        """
        self.source = source_of(args)
        args.tasks = list(self.source.tasks)
        if args.grid is not None:
            methods = [find_method(name, self.extra_methods) for name in args.methods if name != ZERO_SHOT]
            family = read_family(self.source.family, args.grid, "--grid")
            try:
                sweeps = family.sweeps([method.network for method in methods])
            except ValueError as error:
                raise ValueError(f"--grid {args.grid}: {error}") from None
            args.settings = args.settings or args.grid  # a paper's values are searched in its own settings
            given = {text.partition("=")[0] for text in (*args.sweeps, *args.changes)}
            args.sweeps = [*args.sweeps, *(text for text in sweeps if text.partition("=")[0] not in given)]
        earlier = [record.task for _, record in stored(args.out, self.name)]
        self.earlier = {result.record.task: result.notes.get("metric", "") for result in load_results(args.out, self.name)}
        self.tasks = tuple(dict.fromkeys([*args.tasks, *named_tasks(self.source.kind), *earlier]))

    def begin(self, args) -> None:
        assert self.source is not None, "resolve comes first"
        self.args, self.family = args, read_family(self.source.family, args.settings)
        self.seeds = list(args.seeds) if args.data_seed is None else [args.data_seed]
        self.model, self.said = self._model_settings(), {}

    def axes(self):
        return {self.source.axis: self.source.sizes}

    # ---- data

    def made_of(self, task) -> Dict:
        """What decides a sample beside its seed, its size and its files."""
        shared: Dict[str, Any] = {"backbone": self.source.checksums, "data seed": self.args.data_seed}
        if task is None:
            return shared
        maker = self.source.makers[task]
        how = {"start": maker.start, "max_positions": maker.max_positions}
        return {**shared, "task": settings_of(maker.task), "test set": maker.sampler.test_file().name, "prompts": how}

    def made_of_run(self, record: Record) -> Dict:
        size = None if record.method == ZERO_SHOT else int(record.axes[self.source.axis])
        return {"data files": self.source.makers[record.task].sampler.checksums(size, self._seed_of(record))}

    def prepare(self, task: str) -> str:
        said: List[str] = []
        maker, methods = self.source.makers[task], self.args.methods
        for seed in self.seeds:
            for size in self.source.sizes if any(method != ZERO_SHOT for method in methods) else ():
                maker.make(self._sample(task, size, seed), size, seed, said.append)
            if ZERO_SHOT in methods:
                maker.make(self._test_set(task, seed), None, seed, said.append)
        # A run's config says how many updates its sample makes: those of other calls' runs are there, too.
        for directory, record in stored(self.args.out, self.name):
            is_one = record.task == task and record.method != ZERO_SHOT and self.source.axis in record.axes
            if is_one and not (self._data_of(record) / STAMP).is_file():
                check_made_of(directory, self.made_of_run(record))
                size = int(record.axes[self.source.axis])
                replace(maker, strict=False).make(self._data_of(record), size, self._seed_of(record), said.append)
        return "\n".join(dict.fromkeys(said))

    def _sample(self, task: str, size, seed: int) -> Path:
        return self.args.out / "data" / task / f"{self.source.axis}{size}-seed{seed}"

    def _test_set(self, task: str, seed: int) -> Path:
        sampled = self.source.makers[task].sampler.is_sampled()
        return self.args.out / "data" / task / (f"test-seed{seed}" if sampled else "test")

    def _seed_of(self, record: Record) -> int:
        """Of the run's sample."""
        return record.seed if self.args.data_seed is None else self.args.data_seed

    def _data_of(self, record: Record) -> Path:
        """The directory of a run's sample, or of the test set."""
        seed = self._seed_of(record)
        if record.method == ZERO_SHOT:
            return self._test_set(record.task, seed).resolve()
        return self._sample(record.task, record.axes[self.source.axis], seed).resolve()

    # ---- settings

    def settings(self, task: str) -> Settings:
        of = self.source.tasks[task]
        return self.family.settings(PARTS[CLOZE if of.kind == CLOZE else of.training])

    def _model_settings(self) -> Dict[str, Any]:
        """The backbone's architecture, as a config has it."""
        if self.source.kind == CLOZE:
            return {**self.source.backbone.sizes, "_name": self.source.backbone.arch}
        from sharp_plugins.convert.decoder_backbone import load_decoder  # here, so that --help imports no fairseq

        backbone = load_decoder(self.args.backbone)
        return {**backbone.settings, "_name": backbone.arch}

    def adapt(self, config: Dict, run: Run) -> None:
        config["model"] = {**config.get("model", {}), **self.model}
        changed = changed_settings(self.args.changes, run.record)
        if "optimization.max_update" in changed:
            config["optimization"].pop("max_epoch", None)  # the settings' epochs, which would end it before
        elif "optimization.max_epoch" in changed:
            config["optimization"].pop("max_update", None)  # `place` computes them
        if config["task"]["_name"] != "prompted_generation" or not config["task"].get("leave_out_end"):
            config["task"].pop("leave_out_end", None)  # what it is without the setting
        if self.source.kind != CLOZE:
            config["task"].pop("train_lm_head", None)
            best = self.source.tasks[run.record.task].training
            if config["checkpoint"].get("best_checkpoint_metric") == "accuracy" and best != CANDIDATES:
                # Teacher forcing tells no accuracy while it trains.
                config["checkpoint"].update(best_checkpoint_metric="loss", maximize_best_checkpoint_metric=False)

    def place(self, config: Dict, run: Run) -> None:
        home = self.args.backbone.resolve()
        config["task"]["data"] = str(self._data_of(run.record) / DATA)
        config["checkpoint"]["finetune_from_model"] = str(home / "model.pt")
        of = self.source.tasks[run.record.task]
        metric = config["checkpoint"].get("best_checkpoint_metric", "loss")
        if metric == "accuracy" and of.kind != CLOZE and of.training != CANDIDATES:
            raise ValueError(
                f"--set checkpoint.best_checkpoint_metric={metric}: {run.record.task} trains texts, and tells no accuracy while it "
                "trains; loss is told"
            )
        if metric not in ("loss", "accuracy"):
            raise ValueError(
                f"--set checkpoint.best_checkpoint_metric={metric}: {run.record.task} does not tell it while it trains; choose loss"
                + " or accuracy" * (of.kind == CLOZE or of.training == CANDIDATES)
            )
        if run.record.method == ZERO_SHOT:
            # It is one run, whatever --set and --sweep say of training.
            own = {part: of for part, of in self.family.run.items() if part not in ("common", "checkpoint", "task")}
            config.pop("distributed_training", None)
            config.update(deepcopy({**own, "model": {**own.get("model", {}), **self.model}}))
            return
        stamp = self._data_of(run.record) / STAMP
        if stamp.is_file():
            # fairseq saves at the last update, and not at an epoch's end where it is told to save at updates alone.
            said = set_last_update(config, read_json(stamp)["rows"]["train"], changed_settings(self.args.changes, run.record))
            if said:
                self.said[run.name] = said
        elif not config["optimization"].get("max_update"):
            config["optimization"]["max_update"] = 1  # without data there is nothing to train: the config is only looked at

    def check(self, runs: Sequence[Run]) -> None:
        for run in runs:
            if run.name in self.said:
                print(f"{run.name}: {self.said[run.name]}")

    # ---- stages and results

    def stages(self, run: Run) -> Sequence[Stage]:
        task, sample = self.source.tasks[run.record.task], self._data_of(run.record)
        is_zero_shot = run.record.method == ZERO_SHOT
        home, training = self.args.backbone.resolve(), [] if is_zero_shot else [train(run)]
        if task.metric == "f1":
            return [*training, *answers(run, sample, str(home / "model.pt") if is_zero_shot else BEST)]
        return [*training, score_backbone(run, sample, home) if is_zero_shot else score_checkpoint(run, sample, task)]

    def collect(self, run: Run) -> Dict[str, Dict[str, float]]:
        scores = read_json(run.directory / SCORES)
        if self.source.tasks[run.record.task].metric == "f1" and run.record.method != ZERO_SHOT:
            checkpoint = read_checkpoint(run.directory / BEST) or {}
            scores["valid"] = {"loss": checkpoint["extra_state"]["val_loss"]}
        return scores

    def notes(self, run: Run) -> Dict:
        notes = {"settings": self.family.source.stem, "metric": self.source.tasks[run.record.task].metric}
        notes["remarks"] = read_json(self._data_of(run.record) / STAMP)["remarks"]
        if run.record.method == ZERO_SHOT:
            return notes
        notes["head"] = run.config["task"].get("train_lm_head")
        notes["chosen_by"] = run.config["checkpoint"].get("best_checkpoint_metric")
        return {**notes, "trained_weights": read_trained_weights(run.directory / TRAIN_LOG)}

    # ---- tables

    def _task(self, name: str) -> Optional[Task]:
        return self.source.tasks.get(name) if self.source else None

    def _metrics(self, name: str) -> List[str]:
        """What is reported of a task; one of another call is known by its results."""
        of = self._task(name)
        metric = of.metric if of else self.earlier.get(name, "accuracy")
        return ["f1", "em"] if metric == "f1" else ["accuracy"]

    def measures(self, task: str) -> Sequence[Measure]:
        return [Measure("test", name, HEADINGS[name]) for name in self._metrics(task)]

    def selection(self, task: str) -> Measure:
        if self._metrics(task)[0] == "f1":
            # Label smoothing is a part of the loss itself: the more of it, the larger the loss.
            return Validated("valid", "nll_loss", "loss on dev, without smoothing", higher_is_better=False)
        return Measure("valid", "accuracy", "accuracy on dev")

    def about(self, results: Sequence[Result]) -> str:
        out = self.args.out
        default = "accuracy" if self.source.kind == CLOZE else "loss"  # of results without the note
        chosen = {result.notes.get("chosen_by") or default for result in results if result.record.method != ZERO_SHOT}
        which = f"Values are of the test set, at the checkpoint with the best {' or '.join(sorted(chosen or {default}))} "
        which += "on the development set"
        return f"Backbone: {self.args.backbone.resolve().name}. Runs and settings: {out}/TASK/METHOD/.../seedN/run.yaml. {which}."

    def remarks(self, results: Sequence[Result]) -> Sequence[str]:
        lines = ["The standard deviation is the sample's, n - 1. MeZO's tables have n; BAR's do not say."]
        heads = {str(result.notes.get("head")) for result in results if result.notes.get("head")}
        if heads:
            words = {
                "untied": "it trains, with an output layer of its own",
                "tied": "it trains, tied to the words",
                "frozen": "frozen",
            }
            lines.append(f"The masked-language-model head: {'; '.join(words.get(head, head) for head in sorted(heads))}.")
        weights = {
            (result.record.method, result.notes["trained_weights"]) for result in results if result.notes.get("trained_weights")
        }
        if weights:
            each = "; ".join(f"{method} {count:,}" for method, count in sorted(weights))
            lines.append(f"Weights that train: {each}.")
        return [*lines, *dict.fromkeys(f"{one}." for result in results for one in result.notes.get("remarks", ()))]
