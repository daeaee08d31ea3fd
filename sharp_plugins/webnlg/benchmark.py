"""Data-to-text generation as a benchmark: a small transformer learns to say sets of triples, from nothing or, with LoRA, from what
``base`` has learned. Texts are generated with the checkpoint of the lowest loss on dev, and scored against all references."""

from pathlib import Path

from sharp_plugins.files.text import read_json
from sharp_plugins.files.yaml import read_yaml
from sharp_plugins.runs.benchmark import SCORES, Benchmark
from sharp_plugins.runs.checkpoints import BEST, read_checkpoint
from sharp_plugins.runs.configs import Settings
from sharp_plugins.runs.methods import Method, find_method
from sharp_plugins.runs.record import Measure
from sharp_plugins.runs.stages import Stage, train
from sharp_plugins.webnlg.prepare import prepare, source_of

SETTINGS = Path(__file__).with_name("settings")
# Sizes of model and training, each a file of settings, with the number of sentencepiece's pieces.
SIZES = {"small": 800, "webnlg": 2000}
UNTRAINED, MERGED, GENERATED = "untrained", "merged.pt", "generated.txt"
# Groups of test inputs: how their split is called in results and in headings.
GROUPS = {"test": "", "test-seen": ", seen", "test-unseen": ", unseen"}
OF_SCORES = {"all": "test", "seen": "test-seen", "unseen": "test-unseen"}
SCORERS = (("bleu", "BLEU", True), ("chrf", "chrF++", True), ("ter", "TER", False))
# A batch size multiple above 1 makes some builds of fairseq lose the last sentences.
GENERATE = "--gen-subset test --beam 5 --max-len-a 1.5 --max-len-b 20 --max-tokens 4000 --required-batch-size-multiple 1 "
GENERATE += "--remove-bpe sentencepiece"


class DataToText(Benchmark):
    """The benchmark of ``python -m sharp_plugins.webnlg run``.

    >>> [measure.heading for measure in DataToText().measures("data-to-text")][:4]
    ['BLEU', 'chrF++', 'TER', 'BLEU, seen']
    """

    name, title, tasks = "webnlg", "Data-to-text generation", ("data-to-text",)
    default_methods, default_seeds = (UNTRAINED, "base", "sam", "dsam"), (1,)
    extra_methods = {UNTRAINED: Method(UNTRAINED)}
    keep_checkpoints = True  # LoRA's runs of a later call start from them

    def add_arguments(self, parser):
        add_data_arguments(parser)
        words = "model and training: of a few minutes (small, for the quickstart's corpus) or more (default: webnlg)"
        parser.add_argument("--size", choices=list(SIZES), default="webnlg", help=words)
        words = "stop each training after so many minutes, if the settings do not end it before"
        parser.add_argument("--minutes", type=float, metavar="M", help=words)

    def begin(self, args):
        if args.minutes is not None and not args.minutes > 0:
            raise ValueError(f"--minutes {args.minutes}: should be above 0")
        self.vocab_size = SIZES[args.size] if args.vocab_size is None else args.vocab_size
        self.data, self.prepared = args.data.resolve(), args.out / "data"
        self.source = source_of(args.data, self.vocab_size)
        self.size, self.minutes, self.methods = args.size, args.minutes, args.methods

    def made_of(self, task):
        return {"corpus": self.source["corpus"], "vocabulary": [self.source["format"], self.source["vocabulary"]]}

    def prepare(self, task):
        prepare(self.data, self.prepared, self.vocab_size)

    def settings(self, task):
        lora = read_yaml(SETTINGS / "lora.yaml")
        self.lora_model = lora["model"]
        return Settings(read_yaml(SETTINGS / f"{self.size}.yaml"), lora["settings"])

    def adapt(self, config, run):
        if run.method.network == "lora":
            config["model"].update(self.lora_model)
        if self.minutes is not None:
            config["optimization"]["stop_time_hours"] = self.minutes / 60

    def place(self, config, run):
        config["task"]["data"] = str((self.prepared / "bin").resolve())
        if run.record.method == UNTRAINED:
            config["optimization"].update(lr=[0.0], max_update=1)
        if run.needs is not None:
            config["checkpoint"]["finetune_from_model"] = str((run.needs.directory / BEST).resolve())

    def needs(self, record):
        """What is put into a model is put into a trained one, of the same seed."""
        network = find_method(record.method, self.extra_methods).network
        return None if network is None else record._replace(method="base")

    def stages(self, run):
        common, has_lora = run.config["common"], run.method.network == "lora"
        merge = ["python", "-m", "sharp_plugins.lora", "merge", BEST, MERGED]
        generate = ["fairseq-generate", run.config["task"]["data"], "--user-dir", common["user_dir"]]
        generate += ["--path", MERGED if has_lora else BEST, *GENERATE.split()]
        generate += [f"--{name}" for name in ("cpu", "fp16") if common.get(name)]
        score = ["python", "-m", "sharp_plugins.webnlg", "score", GENERATED, "--data", str(self.data), "--json", SCORES]
        return [
            train(run),
            *([Stage("merge", merge, MERGED, is_temporary=True)] if has_lora else []),
            Stage("generate", generate, GENERATED, takes_output=True),
            Stage("score", score, SCORES),
        ]

    def collect(self, run):
        loss = read_checkpoint(run.directory / BEST)["extra_state"]["val_loss"]
        scores = read_json(run.directory / SCORES)["sacrebleu"]
        return {**{OF_SCORES[group]: values for group, values in scores.items()}, "valid": {"loss": loss}}

    def measures(self, task):
        return [
            Measure(group, name, heading + where, better) for group, where in GROUPS.items() for name, heading, better in SCORERS
        ]

    def selection(self, task):
        return Measure("valid", "loss", "loss on dev", higher_is_better=False)

    def about(self, results):
        return (
            "Texts are generated with the checkpoint of the lowest loss on dev and a beam of 5, and scored against all references. "
            "Methods with LoRA or adapters start from the checkpoint of base of the same seed."
        )

    def report(self, out, results):
        from sharp_plugins.webnlg.report import write_report

        order = {method: number for number, method in enumerate(self.methods)}
        return write_report(out, sorted(results, key=lambda result: order.get(result.record.method, len(order))), self)


def add_data_arguments(parser) -> None:
    """The flags that the data are made with."""
    words = "a corpus: train, dev and test as .jsonl or .jsonl.gz, see sharp_plugins/webnlg/corpus.py"
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help=words)
    words = f"sentencepiece's vocabulary (default: {SIZES['webnlg']}; {SIZES['small']} with --size small)"
    parser.add_argument("--vocab-size", type=int, metavar="N", help=words)
