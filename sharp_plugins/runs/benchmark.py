"""What a benchmark tells the engine."""

from pathlib import Path
from typing import ClassVar, Dict, List, Mapping, Optional, Sequence, Tuple

from sharp_plugins.files.text import read_json
from sharp_plugins.runs.checkpoints import BEST
from sharp_plugins.runs.configs import Settings
from sharp_plugins.runs.methods import KINDS, Method
from sharp_plugins.runs.record import Measure, Record, Result, Value
from sharp_plugins.runs.stages import Stage, train
from sharp_plugins.runs.store import Run

SCORES = "scores.json"


class Benchmark:
    """A benchmark: which tasks and data, settings, stages and metrics. One object serves one call of the command.

    The engine (`sharp_plugins.runs.command`) calls `add_arguments`, then `begin` once with the command line's arguments, then
    `settings` and `made_of` for all tasks, `prepare`, and the others, most of them more than once. With ``--sweep`` it asks for
    `selection` before `begin`. A subclass answers at least `made_of`, `settings`, `place`, `stages` and `measures`. What is wrong
    with the user's input is a ValueError or OSError that names the flag to change; it is raised before any training starts.

    `adapt`, `place`, `needs` and `stages` are asked about the runs of earlier calls in the directory, too. They answer for any
    value of an axis that such a call had, whatever `axes` says now.

    Attributes:
        name: of its records.
        title: heading of its tables.
        tasks: all there are, in the order of the tables.
        tasks_help: of --tasks, where it takes more than the names of the tasks.
        methods_help: of --methods, where it does not take what the engine does.
        default_tasks, default_methods, default_seeds: what is done without the flags.
        extra_methods: methods of its own, by name, beside those of `sharp_plugins.runs.methods`.
        kinds: one method of each kind that it can train, to see whether one of them knows a setting of --set.
        settings_flag: of its own, which names the files of settings; errors point to it.
        own: settings that each run makes itself, and that --set refuses, beside those of the engine.
        reads: parts of a config that its stages read, and fairseq's training does not: "generation", say. Others are refused.
        baseline: the method that the others are compared to.
        costs: pairs of methods such as ("dsam", "sam"), each with a table of how much longer the first one takes.
        keep_checkpoints: whether they stay without the flag, too.
        kept_help: what --help says of them, where some stay without the flag.
        measured: the checkpoint that `collect` tells about: fairseq's best one, or the last.

    Example, with data that are there and an evaluation that fairseq brings along::

        class Reversal(Benchmark):
            name, title, tasks = "reversal", "Sentences and their mirror images", ("words",)

            def made_of(self, task):
                return {"data": sha256(DATA / "train.src-tgt.src.bin")}

            def settings(self, task):
                return Settings(read_yaml(HERE / "words.yaml"), lora={"lr": 0.01})

            def place(self, config, run):
                config["task"]["data"] = str(DATA)

            def stages(self, run):
                score = ["python", "-m", "my_package.score", "checkpoint_best.pt", "--json", SCORES]
                return [train(run), Stage("evaluate", score, SCORES)]

            def measures(self, task):
                return [Measure("test", "bleu", "BLEU")]

        sys.exit(main(Reversal()))

    >>> Benchmark().needs(Record("", "", "base", 1, {})) is None
    True
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    tasks: ClassVar[Sequence[str]] = ()
    tasks_help: ClassVar[str] = ""
    methods_help: ClassVar[str] = ""
    default_tasks: ClassVar[Optional[Sequence[str]]] = None
    default_methods: ClassVar[Sequence[str]] = ("base", "sam", "dsam")
    default_seeds: ClassVar[Sequence[int]] = (1, 2, 3, 4, 5)
    extra_methods: ClassVar[Mapping[str, Method]] = {}
    kinds: ClassVar[Sequence[str]] = KINDS
    settings_flag: ClassVar[str] = "--configs"
    own: ClassVar[Tuple[str, ...]] = ()
    reads: ClassVar[Tuple[str, ...]] = ()
    baseline: ClassVar[Optional[str]] = "base"
    costs: ClassVar[Sequence[Tuple[str, str]]] = ()
    keep_checkpoints: ClassVar[bool] = False
    kept_help: ClassVar[str] = ""
    measured: ClassVar[str] = BEST

    # ---- the command line

    def add_arguments(self, parser) -> None:
        """Add flags of its own to an argparse parser."""

    def begin(self, args) -> None:
        """Look at the arguments, and read what all tasks share. Nothing is written to ``args.out`` yet.

        ``args`` has the engine's flags, too: ``args.tasks``, ``args.methods``, ``args.seeds``. A benchmark whose data depend on the
        seed or an axis, as few-shot samples do, keeps the seeds for `prepare`.
        """

    def axes(self) -> Mapping[str, Sequence[Value]]:
        """Further axes of the runs, such as {"examples": [16, 32]}: each value of each is trained. Names have no dot."""
        return {}

    # ---- data

    def made_of(self, task: Optional[str]) -> Dict:
        """Checksums and the like by part, in JSON's types, such as {"backbone": ..., "data": ...}: runs of other ones are refused.

        Args:
            task: None for the parts that all tasks share; they are asked for where other tasks' runs are in the directory.
        """
        raise NotImplementedError

    def made_of_run(self, record: Record) -> Dict:
        """The same of the parts that are a run's own, such as a sample of its seed. It is asked about finished runs, too."""
        return {}

    def prepare(self, task: str) -> Optional[str]:
        """Make a task's data, unless they are made; returns what is to be printed. Two calls may do so at the same time.

        All of them at once: where each seed or value of an axis has a sample of its own, all that are missing for the call's
        seeds and `axes`. `made_of` then holds what decides how a sample is drawn, such as a version of the sampler.
        """
        return None

    def check_data(self, run: Run) -> None:
        """Raise ValueError where a run's data, just before it begins, are others than `prepare` made or found: another call may
        have made them anew meanwhile, as long as no run of them had begun."""

    # ---- settings

    def settings(self, task: str) -> Settings:
        """The settings of a task."""
        raise NotImplementedError

    def adapt(self, config: Dict, run: Run) -> None:
        """Change a run's config before --set does; ``run.config`` is empty yet, ``run.record`` has the axes."""

    def place(self, config: Dict, run: Run) -> None:
        """Put into a run's config what --set must not change: where the data are, and what training starts from.

        The engine has put in ``common.user_dir``, ``common.seed`` and ``checkpoint.save_dir``.
        """
        raise NotImplementedError

    def needs(self, record: Record) -> Optional[Record]:
        """The run that must be finished before this one begins, such as the one whose model it starts from.

        Most often ``record._replace(method="base")``. Axes of the benchmark's own, whose names have no dot, stay as they are in
        the answer. Of swept settings the engine keeps those that the needed method has use for: with
        ``--sweep model.lora_rank=4,8`` both runs start from the one of base.

        ``run.needs`` has that run, with its directory. Its checkpoints stay until all runs that start from it are finished, also
        those of other calls. It is `measured`'s that must be there.
        """
        return None

    def check(self, runs: Sequence[Run]) -> None:
        """Raise ValueError where something does not fit the runs that are planned."""

    # ---- stages and results

    def stages(self, run: Run) -> Sequence[Stage]:
        """What is done, in order; the paths in the commands are relative to the run's directory, or absolute.

        One stage trains, is called "train" and makes no file that is told; every other one says which file it makes. A run without
        it measures a model as it is. They are asked for before any training, too, when the run that this one needs may not be
        finished.
        """
        return [train(run)]

    def collect(self, run: Run) -> Dict[str, Dict[str, float]]:
        """The metrics by split and name, when all stages are done; here, from the file ``scores.json`` that one of them makes."""
        return read_json(run.directory / SCORES)

    def notes(self, run: Run) -> Dict:
        """What is kept in the result beside, in JSON's types."""
        return {}

    # ---- tables

    def measures(self, task: str) -> Sequence[Measure]:
        """What the tables show of a task, its main measure first."""
        raise NotImplementedError

    def selection(self, task: str) -> Measure:
        """The measure by which --sweep chooses, on the split that it is to choose on; its name in fairseq's own validations is
        what the tables of equal updates and equal time look up. A first measure on test data is refused with --sweep."""
        return self.measures(task)[0]

    def about(self, results: Sequence[Result]) -> str:
        """A text under the tables' heading."""
        return ""

    def remarks(self, results: Sequence[Result]) -> Sequence[str]:
        """Further lines above the tables, such as which files are not the published ones."""
        return ()

    def report(self, out: Path, results: Sequence[Result]) -> List[Path]:
        """Write files of its own beside the tables; returns them."""
        return []
