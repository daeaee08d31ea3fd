"""Sentence similarity as the engine of runs sees it, see `sharp_plugins.runs.benchmark`: the δ-SAM paper's Table 2.

OUT/sentences/METHOD/seedN     one run each
"""

from pathlib import Path
from typing import Dict, Sequence

from sharp_plugins.command_line import check_input_files
from sharp_plugins.files.text import read_json
from sharp_plugins.files.writing import sha256
from sharp_plugins.files.yaml import read_yaml
from sharp_plugins.runs.benchmark import SCORES, Benchmark
from sharp_plugins.runs.checkpoints import LAST
from sharp_plugins.runs.configs import NEEDED, Settings, check_parts, check_settings
from sharp_plugins.runs.methods import Method
from sharp_plugins.runs.record import Measure
from sharp_plugins.runs.stages import Stage, train
from sharp_plugins.runs.store import Run
from sharp_plugins.sts.sets import DEV, SETS, checksum_of

CONFIGS = Path(__file__).parent / "configs"
TASK, UNTRAINED = "sentences", "base"
# As the paper's table calls them: base is the encoder as it is.
METHODS = {
    UNTRAINED: Method(UNTRAINED),
    "mirror": Method("mirror"),
    "mirror-r3f": Method("mirror-r3f", criterion="r3f"),
    "mirror-sam": Method("mirror-sam", optimizer="sam"),
    "mirror-sam-r3f": Method("mirror-sam-r3f", optimizer="sam", criterion="r3f"),
    "mirror-dsam": Method("mirror-dsam", optimizer="dsam"),
    "mirror-dsam-r3f": Method("mirror-dsam-r3f", optimizer="dsam", criterion="r3f"),
}


class SentenceSimilarity(Benchmark):
    """The benchmark of ``python -m sharp_plugins.sts run``. The last weights are measured, as Mirror-BERT's code does.

    >>> [measure.heading for measure in SentenceSimilarity().measures("sentences")][:3]
    ['average', 'STS12', 'STS13']
    """

    name, title, tasks = "sts", "Unsupervised sentence similarity, 100 times Spearman's correlation", (TASK,)
    default_methods = (UNTRAINED, "mirror", "mirror-r3f", "mirror-sam", "mirror-dsam", "mirror-dsam-r3f")
    extra_methods = METHODS
    kinds = ("mirror-dsam-r3f",)
    methods_help = ", ".join(METHODS)
    baseline, costs, measured = "mirror", (("mirror-dsam", "mirror-sam"),), LAST
    sets: Sequence[str] = tuple(SETS)  # that are measured, beside DEV

    # ---- the command line

    def add_arguments(self, parser) -> None:
        parser.add_argument(
            "--backbone", metavar="DIR", type=Path, required=True, help="what `python -m sharp_plugins.convert` wrote"
        )
        words = "directory with the test sets: STS12.tsv to STS16.tsv, STS-B/test.tsv, STS-B/dev.tsv and SICK/test.tsv, or with "
        words += "them as they are published"
        parser.add_argument("--data", metavar="DIR", type=Path, required=True, help=words)
        words = "training sentences, one a line (Mirror-BERT: 10,000 of STS-B's training set)"
        parser.add_argument("--text", metavar="FILE", type=Path, required=True, help=words)
        words = f"of {', '.join([*SETS, DEV])}; {DEV} is always measured (default: all; with fewer there is no average)"
        parser.add_argument("--sets", nargs="+", default=list(SETS), metavar="SET", choices=[*SETS, DEV], help=words)
        words = "directory with FAMILY.yaml (default: the settings that come with the plugin)"
        parser.add_argument("--configs", type=Path, default=CONFIGS, metavar="DIR", help=words)

    def begin(self, args) -> None:
        from sharp_plugins.contrastive.lines import read_texts  # here and below, so that --help imports no fairseq
        from sharp_plugins.sts.sets import read_set
        from sharp_plugins.text.encoder_directory import load_backbone

        unknown = [method for method in args.methods if method not in METHODS]
        if unknown:
            raise ValueError(f"--methods {unknown[0]}: there is no such method here; it is one of {', '.join(METHODS)}")
        check_input_files("--text", [args.text])  # each run's training reads it again
        self.args, self.backbone = args, load_backbone(args.backbone)
        self.texts = len(read_texts(args.text))
        self.sets = [name for name in SETS if name in args.sets]
        self.warnings = [warning for name in (*self.sets, DEV) for warning in read_set(args.data, name).warnings]
        path = args.configs / f"{self.backbone.family}.yaml"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not there; --configs wants a directory with FAMILY.yaml")
        self._settings = read_yaml(path)
        self.vectors: Dict[str, None] = {}  # what a sentence's vector is, in the order of the runs' configs
        check_parts(self._settings, path)
        self.r3f = self._settings.pop("r3f", {})
        check_settings(self._settings, path, (*NEEDED, "dataset.batch_size", "task.max_length", "task.pooling"))

    # ---- data and settings

    def made_of(self, task) -> Dict:
        shared = {"backbone": self.backbone.checksums}
        if task is None:
            return shared
        sets = {name: checksum_of(self.args.data, name) for name in (*self.sets, DEV)}
        return {**shared, "text": sha256(self.args.text), "sets": sets}

    def prepare(self, task: str) -> str:
        return "\n".join([f"{self.args.text}: {self.texts} sentences", *self.warnings])

    def settings(self, task: str) -> Settings:
        return Settings(self._settings, None, None, None)

    def adapt(self, config: Dict, run: Run) -> None:
        config["model"] = {**config["model"], **self.backbone.sizes, "_name": self.backbone.arch}
        if run.method.criterion == "r3f":
            config["criterion"].update(self.r3f)

    def place(self, config: Dict, run: Run) -> None:
        home = self.backbone.directory.resolve()
        config["task"].update(data=str(home), text=str(self.args.text.resolve()))
        self.vectors[f"{config['task']['pooling']}, of at most {config['task']['max_length']} symbols in training"] = None
        config["checkpoint"]["finetune_from_model"] = str(home / "model.pt")
        if run.record.method == UNTRAINED:
            config["optimization"].update(lr=[0.0], max_update=1)

    def check(self, runs: Sequence[Run]) -> None:
        for run in runs:
            length, positions = run.config["task"]["max_length"], self.backbone.max_positions
            if length > positions:
                raise ValueError(f"--set task.max_length={length}: {self.backbone.directory} has {positions} positions")
            batch = run.config["dataset"]["batch_size"] * run.config["distributed_training"]["distributed_world_size"]
            if batch > self.texts:
                raise ValueError(
                    f"{self.args.text}: {self.texts} sentences are fewer than a batch (--set dataset.batch_size={batch})"
                )

    # ---- stages and results

    def stages(self, run: Run) -> Sequence[Stage]:
        evaluate = ["python", "-m", "sharp_plugins.sts", "evaluate", LAST, "--data", str(self.args.data.resolve())]
        evaluate += ["--tokenizer", run.config["task"]["data"], "--sets", *self.sets, DEV, "--json", SCORES]
        evaluate += ["--device", "cpu"] if run.config["common"].get("cpu") else []
        return [train(run), Stage("evaluate", evaluate, SCORES, title="the test sets")]

    def collect(self, run: Run) -> Dict[str, Dict[str, float]]:
        found = read_json(run.directory / SCORES)
        return {"valid": {DEV: found.pop(DEV)}, "test": found}

    # ---- tables

    def measures(self, task: str) -> Sequence[Measure]:
        average = [Measure("test", "average", "average")] if len(self.sets) == len(SETS) else []
        return [*average, *(Measure("test", name, name) for name in self.sets)] or [self.selection(task)]

    def selection(self, task: str) -> Measure:
        return Measure("valid", DEV, "STS-B, dev")

    def about(self, results) -> str:
        vector = f"A sentence's vector: {'; or '.join(self.vectors)}."
        return (
            f"Backbone: {self.args.backbone.name}; {UNTRAINED} is the encoder as it is. {vector} Correlations are over all "
            "pairs of a year. The last weights are measured, and --sweep chooses on STS-B's development set."
        )
