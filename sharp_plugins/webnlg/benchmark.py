"""Data-to-text generation as a benchmark: train, generate the test set, score it against all references. What is trained is a
published decoder (`sharp_plugins.webnlg.fine_tuning`), or a small transformer from scratch (`sharp_plugins.webnlg.scratch`)."""

from pathlib import Path
from typing import Union

from sharp_plugins.files.text import read_json
from sharp_plugins.runs.benchmark import SCORES, Benchmark
from sharp_plugins.runs.checkpoints import read_checkpoint
from sharp_plugins.runs.methods import BASE, Method, find_method
from sharp_plugins.runs.record import Validated
from sharp_plugins.runs.stages import TRAIN_LOG, Stage, train
from sharp_plugins.runs.training_log import read_ends, read_trained_weights, read_validations
from sharp_plugins.webnlg.fine_tuning import EPOCHS, SETTINGS, FineTuning
from sharp_plugins.webnlg.linearise import LINEARISATIONS
from sharp_plugins.webnlg.results import FT, UNTRAINED, metrics_of
from sharp_plugins.webnlg.scratch import DEFAULT_SIZE, SIZES, FromScratch
from sharp_plugins.webnlg.seen import RULES
from sharp_plugins.webnlg.texts import TEXTS

GENERATED = "generated.txt"


class DataToText(Benchmark):
    """The benchmark of ``python -m sharp_plugins.webnlg run``.

    >>> [measure.heading for measure in DataToText().measures("data-to-text")][:4]
    ['BLEU', 'chrF++', 'TER', 'BLEU, seen']
    """

    name, title, tasks = "webnlg", "Data-to-text generation", ("data-to-text",)
    own = ("dataset.train_subset", "dataset.valid_subset")
    default_methods, default_seeds = FromScratch.default_methods, (1,)
    extra_methods = {UNTRAINED: Method(UNTRAINED), FT: Method(FT)}
    keep_checkpoints, kept_help = FromScratch.keep_checkpoints, " (default: of models from scratch, without --backbone)"

    def add_arguments(self, parser):
        add_data_arguments(parser)
        add_seen_argument(parser)
        words = f"model and training: of a few minutes (small, for the quickstart's corpus) or more (default: {DEFAULT_SIZE})"
        parser.add_argument("--size", choices=list(SIZES), help=words)
        words = "stop each training after so many minutes, if the settings do not end it before"
        parser.add_argument("--minutes", type=float, metavar="M", help=words)
        add_backbone_arguments(parser)

    def begin(self, args):
        if args.minutes is not None and not args.minutes > 0:
            raise ValueError(f"--minutes {args.minutes}: should be above 0")
        for name in ("dev_inputs", "test_inputs"):
            if getattr(args, name) is not None and getattr(args, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)}: should be at least 1")
        self.model: Union[FineTuning, FromScratch] = FromScratch(args) if args.backbone is None else FineTuning(args)
        self.minutes, self.methods, self.out = args.minutes, args.methods, args.out
        self.baseline, self.kinds, self.measured = self.model.baseline, self.model.kinds, self.model.measured
        self.keep_checkpoints, self.reads = self.model.keep_checkpoints, self.model.reads
        self.settings_flag = self.model.settings_flag

    def made_of(self, task):
        return self.model.made_of()

    def prepare(self, task):
        return self.model.prepare(self.out)

    def settings(self, task):
        return self.model.settings()

    def adapt(self, config, run):
        self.model.adapt(config, run)
        if self.minutes is not None:
            config["optimization"]["stop_time_hours"] = self.minutes / 60

    def place(self, config, run):
        self.model.place(config, run)

    def check(self, runs):
        self.model.check(runs)

    def needs(self, record):
        """What is put into a model is put into a trained one, of the same seed; a published one is trained."""
        network = find_method(record.method, self.extra_methods).network
        return None if network is None or isinstance(self.model, FineTuning) else record._replace(method=BASE)

    def stages(self, run):
        inputs = self.model.inputs(run)
        score = ["python", "-m", "sharp_plugins.webnlg", "score", GENERATED, "--data", str(inputs), "--split", "test"]
        score += [*self.model.seen_flags, "--json", SCORES]
        return [train(run), *self.model.generation(run), Stage("score", score, SCORES)]

    def collect(self, run):
        validated = self._validated(run)
        return {**metrics_of(read_json(run.directory / SCORES)), **({"valid": validated} if validated else {})}

    def _validated(self, run):
        """Of the checkpoint that generates; nothing where training does not validate. It keeps what the best one is chosen
        by, which need not be the loss."""
        state = read_checkpoint(run.directory / self.measured)
        by, value = run.config["checkpoint"].get("best_checkpoint_metric", "loss"), state["extra_state"]["val_loss"]
        if value is None or by == "loss":
            return {} if value is None else {by: value}
        update = state["optimizer_history"][-1]["num_updates"]
        losses = [one.metrics["loss"] for one in read_validations(run.directory / TRAIN_LOG) if one.update == update]
        return {by: value, **({"loss": losses[-1]} if losses else {})}

    def notes(self, run):
        log = run.directory / TRAIN_LOG
        signatures = read_json(run.directory / SCORES).get("signatures")
        return {
            "trained_weights": read_trained_weights(log),
            "balancedness": read_ends(log, "balancedness_"),
            "signatures": signatures,
        }

    def measures(self, task):
        return self.model.measures if hasattr(self, "model") else FromScratch.measures

    def selection(self, task):
        # Label smoothing is a part of the loss itself: the more of it, the larger the loss.
        return Validated("valid", "nll_loss", "loss on dev, without smoothing", higher_is_better=False)

    def about(self, results):
        return self.model.about()

    def results_table(self, results):
        """All scores, in Markdown."""
        return self.model.results_table(results)

    def report(self, out, results):
        from sharp_plugins.webnlg.report import write_report

        order = {method: number for number, method in enumerate(self.methods)}
        return write_report(out, sorted(results, key=lambda result: order.get(result.record.method, len(order))), self)


def add_data_arguments(parser) -> None:
    """The corpus, and what a model from scratch makes of it."""
    words = "a corpus: train, dev and test, in a form that sharp_plugins/webnlg/readers/README.md names"
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help=words)
    words = f"sentencepiece's vocabulary (default: {SIZES[DEFAULT_SIZE]}, as for a model of the size {DEFAULT_SIZE}; "
    parser.add_argument("--vocab-size", type=int, metavar="N", help=words + f"{SIZES['small']} for small)")


def add_seen_argument(parser) -> None:
    """How seen categories are told."""
    words = (
        "tell seen categories of test inputs by the list of the 2017 challenge, or by what is in training (default: as the data "
    )
    words += "say; where they do not, by what is in training)"
    parser.add_argument("--seen", choices=RULES, help=words)


def add_backbone_arguments(parser) -> None:
    """The flags of a published decoder."""
    words = "train a published decoder, in the directory that `python -m sharp_plugins.convert` wrote (default: from scratch); "
    words += f"the methods are then {' '.join(FineTuning.default_methods)} by default"
    parser.add_argument("--backbone", type=Path, metavar="DIR", help=words)
    words = "directory with FAMILY/ft.yaml, lora.yaml and prefix.yaml (default: the settings that come with the plugin)"
    parser.add_argument("--configs", type=Path, default=SETTINGS, metavar="DIR", help=words)
    words = "of prompt and text, as for `python -m sharp_plugins.prompted prepare` (default: the settings')"
    parser.add_argument("--format", metavar="NAME", help=words)
    words = "how a set of triples becomes a prompt (default: the settings')"
    parser.add_argument("--linearise", choices=list(LINEARISATIONS), help=words)
    words = "which texts are trained on: without those that are marked toFix, or all (default: the settings', which is good)"
    parser.add_argument("--texts", choices=TEXTS, help=words)
    words = (
        "which checkpoint generates: of the lowest loss on dev, of the highest BLEU of texts for dev, or the last one (default: "
    )
    words += "dev-loss)"
    parser.add_argument("--epoch", choices=EPOCHS, default=EPOCHS[0], help=words)
    words = "validate on so many inputs of dev, evenly spread (default: all)"
    parser.add_argument("--dev-inputs", type=int, metavar="N", help=words)
    words = "generate and score so many inputs of the test set, evenly spread (default: all)"
    parser.add_argument("--test-inputs", type=int, metavar="N", help=words)
