"""A made-up benchmark: sentences of made-up words, and a small transformer that learns to write them backwards.

It is what a stranger writes for a benchmark of their own, and all that it takes: settings, data, three stages, one metric.
"""

import json
import random
import sys
from pathlib import Path

from sharp_plugins.files.writing import sha256, unfinished_in, write_text
from sharp_plugins.runs.benchmark import SCORES, Benchmark
from sharp_plugins.runs.command import main
from sharp_plugins.runs.configs import Settings
from sharp_plugins.runs.methods import Method
from sharp_plugins.runs.record import Measure
from sharp_plugins.runs.stages import Stage, train

SIZES = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in (("layers", 1), ("attention_heads", 2))}
SIZES.update({f"{part}_{name}": 16 for part in ("encoder", "decoder") for name in ("embed_dim", "ffn_embed_dim")})
# A whole run of δ-SAM; the other methods' settings are derived from it.
DSAM = {
    "common": {"log_format": "json", "log_interval": 1},
    "task": {"_name": "translation", "source_lang": "src", "target_lang": "tgt"},
    "criterion": {"_name": "label_smoothed_cross_entropy", "label_smoothing": 0.1},
    "dataset": {"batch_size": 8, "required_batch_size_multiple": 1, "num_workers": 0},
    "optimizer": {
        "_name": "dsam",
        "sam_rho": 0.05,
        "dsam_beta": 3,
        "base_optimizer": "adam",
        "base": {"adam_betas": "(0.9, 0.98)"},
    },
    "lr_scheduler": {"_name": "fixed"},
    "optimization": {"lr": [0.01], "max_update": 12},
    "model": {"_name": "transformer", "share_decoder_input_output_embed": True, **SIZES},
    "checkpoint": {"no_epoch_checkpoints": True},
    "distributed_training": {"distributed_world_size": 1},
}


class Backwards(Benchmark):
    """One task for each length of the sentences."""

    name, title, tasks = "backwards", "Sentences, written backwards", ("short", "long")
    default_methods, default_seeds = ("base", "sam"), (1, 2)
    extra_methods = {"untrained": Method("untrained")}
    kinds = ("dsam", "lora-obar", "houlsby", "r3f", "rdrop")

    def add_arguments(self, parser):
        parser.add_argument("--sentences", type=int, default=32, metavar="N", help="in the training set (default: 32)")

    def begin(self, args):
        if args.sentences < 8:
            raise ValueError(f"--sentences {args.sentences}: should be at least 8")
        self.sentences, self.data = args.sentences, args.out / "data"

    def made_of(self, task):
        return {"maker": sha256(Path(__file__))} if task is None else {"maker": sha256(Path(__file__)), "data": self.sentences}

    def prepare(self, task):
        if (self.data / task).is_dir():
            return f"{task}: all was there"
        from fairseq import options
        from fairseq_cli import preprocess

        rng = random.Random(task)
        with unfinished_in(self.data) as unfinished:
            for split, count in (("train", self.sentences), ("valid", 8), ("test", 8)):
                most = {"short": 4, "long": 9}[task]
                lines = [[rng.choice("abcdefgh") for _ in range(rng.randint(2, most))] for _ in range(count)]
                write_text(unfinished / f"{split}.src", "".join(" ".join(line) + "\n" for line in lines))
                write_text(unfinished / f"{split}.tgt", "".join(" ".join(line[::-1]) + "\n" for line in lines))
            flags = [part for split in ("train", "valid", "test") for part in (f"--{split}pref", str(unfinished / split))]
            flags += ["-s", "src", "-t", "tgt", "--joined-dictionary", "--destdir", str(unfinished / "bin")]
            preprocess.main(options.get_preprocessing_parser().parse_args(flags))
            (unfinished / "bin").rename(self.data / task)
        return f"{task}: written"

    def settings(self, task):
        return Settings(DSAM, lora={"lr": 0.02, "bar_alpha": 0.5})

    def place(self, config, run):
        config["task"]["data"] = str((self.data / run.record.task).resolve())
        if run.record.method == "untrained":
            config["optimization"].update(lr=[0.0], max_update=1)
        if run.needs is not None:
            config["checkpoint"]["finetune_from_model"] = str((run.needs.directory / "checkpoint_best.pt").resolve())

    def needs(self, record):
        return record._replace(method="base") if record.method.startswith("lora") else None

    def stages(self, run):
        generate = [
            "fairseq-generate",
            run.config["task"]["data"],
            "--path",
            "checkpoint_best.pt",
            "--gen-subset",
            "valid",
            "--beam",
            "2",
        ]
        generate += ["--user-dir", run.config["common"]["user_dir"], *(["--cpu"] if run.config["common"].get("cpu") else [])]
        score = ["python", "-c", f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import made_up; made_up.score()"]
        return [train(run), Stage("generate", generate, "generated.txt", takes_output=True), Stage("score", score, SCORES)]

    def measures(self, task):
        return [Measure("valid", "words", "words in place, %")]


def score():
    """The share of words that stand where they should, from fairseq-generate's output."""
    lines = [line.split("\t") for line in Path("generated.txt").read_text().splitlines() if line[:2] in ("T-", "H-")]
    targets, written = ({line[0][2:]: line[-1].split() for line in lines if line[0][0] == kind} for kind in "TH")
    pairs = [pair for number, target in targets.items() for pair in zip(target, written[number] + [None] * len(target))]
    right = sum(one == other for one, other in pairs)
    write_text(Path(SCORES), json.dumps({"valid": {"words": 100 * right / len(pairs)}}))


if __name__ == "__main__":
    sys.exit(main(Backwards()))
