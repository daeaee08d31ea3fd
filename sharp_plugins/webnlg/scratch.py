"""Data-to-text from scratch: a small transformer learns to say sets of triples, from nothing or, with LoRA, from what ``base`` has
learned."""

from pathlib import Path
from typing import Dict, List, Sequence

from sharp_plugins.files.yaml import read_yaml
from sharp_plugins.runs.checkpoints import BEST
from sharp_plugins.runs.configs import Settings
from sharp_plugins.runs.methods import BASE, KINDS
from sharp_plugins.runs.record import Result
from sharp_plugins.runs.stages import Stage
from sharp_plugins.runs.store import Run
from sharp_plugins.webnlg.prepare import prepare, source_of
from sharp_plugins.webnlg.results import FT, UNTRAINED, best_in_words, check_choice, sacrebleus
from sharp_plugins.webnlg.seen import WORDS

SETTINGS = Path(__file__).with_name("settings")
# Sizes of model and training, each a file of settings, with the number of sentencepiece's pieces.
SIZES = {"small": 800, "webnlg": 2000}
DEFAULT_SIZE = "webnlg"
MERGED = "merged.pt"
# Flags that mean nothing here, with what they are where they are not given.
BACKBONES_OWN = {
    "configs": SETTINGS,
    "format": None,
    "linearise": None,
    "texts": None,
    "epoch": "dev-loss",
    "dev_inputs": None,
    "test_inputs": None,
}
# A batch size multiple above 1 makes some builds of fairseq lose the last sentences.
GENERATE = "--gen-subset test --beam 5 --max-len-a 1.5 --max-len-b 20 --max-tokens 4000 --required-batch-size-multiple 1 "
GENERATE += "--remove-bpe sentencepiece"


class FromScratch:
    """The transformer of ``--size``; methods with LoRA or adapters start from what base has learned.

    Args:
        args: of the command line.

    Raises:
        ValueError: the corpus cannot be used, or a flag is of a published decoder.

    Example::

        FromScratch(args).settings().task["model"]["encoder_layers"]
    """

    default_methods = (UNTRAINED, BASE, "sam", "dsam")
    baseline, kinds = BASE, KINDS
    measures = sacrebleus()
    measured, keep_checkpoints = BEST, True  # LoRA's runs of a later call start from them
    settings_flag, reads = "--size", ()

    def __init__(self, args):
        for name, usual in BACKBONES_OWN.items():
            if getattr(args, name) != usual:
                raise ValueError(f"--{name.replace('_', '-')}: it is of a published decoder; give --backbone too")
        if FT in args.methods:
            raise ValueError(f"--methods {FT}: it is fine-tuning of a published decoder; give --backbone too, or use {BASE}")
        self.size = args.size or DEFAULT_SIZE
        self.vocab_size = SIZES[self.size] if args.vocab_size is None else args.vocab_size
        self.args, self.corpus = args, args.data.resolve()
        self.seen_flags = [] if args.seen is None else ["--seen", args.seen]
        self.source = source_of(args.data, self.vocab_size)

    # ---- data

    def made_of(self) -> Dict:
        made_of = {"corpus": self.source["corpus"], "vocabulary": [self.source["format"], self.source["vocabulary"]]}
        return {**made_of, "rule for seen categories": self.args.seen}  # None, as runs that were made before there was a choice

    def prepare(self, out: Path) -> None:
        self.prepared = out / "data"
        prepare(self.corpus, self.prepared, self.vocab_size)

    # ---- settings

    def settings(self) -> Settings:
        return Settings(read_yaml(SETTINGS / f"{self.size}.yaml"), lora=read_yaml(SETTINGS / "lora.yaml"))

    def adapt(self, config: Dict, run: Run) -> None:
        pass

    def place(self, config: Dict, run: Run) -> None:
        config["task"]["data"] = str((self.prepared / "bin").resolve())
        if run.record.method == UNTRAINED:
            config["optimization"].update(lr=[0.0], max_update=1)
        if run.needs is not None:
            config["checkpoint"]["finetune_from_model"] = str((run.needs.directory / BEST).resolve())

    def check(self, runs: Sequence[Run]) -> None:
        for run in runs:
            has_bleu = run.config["task"].get("eval_bleu")
            check_choice(run.config, ["bleu"] if has_bleu else [], "" if has_bleu else "; bleu needs --set task.eval_bleu=true")

    # ---- stages

    def generation(self, run: Run) -> List[Stage]:
        """The stages between training and scoring, the last of which makes ``generated.txt``."""
        common, has_lora = run.config["common"], run.method.network == "lora"
        merge = ["python", "-m", "sharp_plugins.lora", "merge", BEST, MERGED]
        generate = ["fairseq-generate", run.config["task"]["data"], "--user-dir", common["user_dir"]]
        generate += ["--path", MERGED if has_lora else BEST, *GENERATE.split()]
        generate += [f"--{name}" for name in ("cpu", "fp16") if common.get(name)]
        return [
            *([Stage("merge", merge, MERGED, is_temporary=True)] if has_lora else []),
            Stage("generate", generate, "generated.txt", takes_output=True),
        ]

    def inputs(self, run: Run) -> Path:
        """The directory of the test inputs."""
        return self.corpus

    # ---- tables

    def results_table(self, results: Sequence[Result]) -> str:
        from sharp_plugins.webnlg.report import results_table  # here, as it imports scipy

        return results_table(results, self.measures)

    def about(self) -> str:
        return (
            f"Texts are generated with {best_in_words(self.settings().task, self.args.changes)} and a beam of 5, and scored "
            "against all references. "
            "Methods with LoRA or adapters start from the checkpoint of base of the same seed. "
            f"Whether a category is seen is told {WORDS.get(self.args.seen, 'as score.log says')}."
        )
