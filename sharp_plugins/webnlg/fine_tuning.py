"""Data-to-text with a published decoder as the backbone: how its data are made, what a method's run is, how texts are generated.

settings/FAMILY/ft.yaml       a whole ``dsam`` run of full fine-tuning, for ``fairseq-hydra-train``, and beside its parts
                              ``prompts``, how prompts and texts are made (`sharp_plugins.webnlg.prompts`)
settings/FAMILY/lora.yaml     what LoRA changes in any of these parts; adapter.yaml and prefix.yaml are of adapters and prefixes
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

from sharp_plugins.files.writing import sha256
from sharp_plugins.files.yaml import read_yaml
from sharp_plugins.runs.checkpoints import BEST, LAST
from sharp_plugins.runs.configs import METRIC, NEEDED, Settings, change_settings, check_parts, check_settings, merged
from sharp_plugins.runs.methods import BASE, CRITERIONS
from sharp_plugins.runs.record import Result
from sharp_plugins.runs.stages import Stage
from sharp_plugins.runs.store import Run
from sharp_plugins.runs.updates import changed_settings, set_last_update
from sharp_plugins.webnlg.prompts import Data, Prompts, checksums, directories, prepare_prompts, read_parts
from sharp_plugins.webnlg.results import FT, UNTRAINED, best_in_words, check_choice, papers
from sharp_plugins.webnlg.seen import tell_seen

if TYPE_CHECKING:
    from sharp_plugins.generation.settings import SearchSettings

SETTINGS = Path(__file__).with_name("settings")
# A family, as the converter names it -> the directory of its settings.
FAMILIES = {"gpt2": "gpt2", "opt": "opt", "llama": "smollm2"}
NETWORKS = ("lora", "adapter", "prefix")
# --epoch -> the checkpoint that it means, as tables say it. LoRA's paper takes the best epoch of each run.
CHOICES = {
    "dev-loss": "the checkpoint of the lowest loss on dev",
    "dev-bleu": "the checkpoint whose texts for dev have the highest BLEU",
    "last": "the last checkpoint",
}
EPOCHS = tuple(CHOICES)
# Sentences that are generated at once. The texts do not depend on it, but for the order in which numbers are added up.
BATCH = 32


class FineTuning:
    """A converted decoder and the settings of its family.

    Args:
        args: of the command line.

    Raises:
        OSError, ValueError: the backbone, its settings or the corpus cannot be used.

    Example::

        model = FineTuning(args)  # of the command line, with --backbone
        model.settings().of("lora")["model"]["lora_rank"]
    """

    default_methods = (FT, "prefix", "lora", "lora-obar", "lora-nbar", "lora-sam", "lora-dsam")
    baseline, measures = "lora", papers()
    keep_checkpoints, seen_flags, settings_flag, reads = False, (), "--configs", ("generation",)

    def __init__(self, args):
        from sharp_plugins.convert.decoder_backbone import load_decoder  # here, so that --help imports no fairseq

        if BASE in args.methods:
            raise ValueError(f"--methods {BASE}: with --backbone full fine-tuning is called {FT}")
        for name in ("size", "vocab_size"):
            if getattr(args, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')}: it is of a model from scratch; leave it or --backbone out")
        try:
            self.backbone = load_decoder(args.backbone)
        except (OSError, ValueError) as error:
            raise ValueError(f"--backbone {error}") from error
        self.args, self.home = args, args.backbone.resolve()
        self.said: Dict[str, str] = {}
        self.part = {"dev": args.dev_inputs, "test": args.test_inputs}
        strange = [change for change in args.changes if change.startswith("prompts.")]
        if strange:
            raise ValueError(
                f"--set {strange[0]}: how prompts are made is said by --format, --linearise and --texts; room, max_positions and "
                "too_long stand in the settings (--configs)"
            )
        self._settings, self.prompts = read_family(args.configs / FAMILIES[self.backbone.family], _changed_prompts(args))
        self.parts = read_parts(args.data, self.part)
        # It stands in the test inputs, so `score` finds it in the data.
        self.parts["test"], self.seen = tell_seen(self.parts["test"], args.seen, lambda: self.parts["train"])
        networks = {"lora": "lora-obar", "adapter": "houlsby", "prefix": "prefix"}
        self.kinds = ("dsam", *(method for name, method in networks.items() if name in self.prompts), *CRITERIONS)

    # ---- data

    def made_of(self) -> Dict:
        return {
            "backbone": {name: sha256(self.home / name) for name in ("model.pt", "dict.txt", "tokenizer.json")},
            "corpus": checksums({"train": self.parts["train"]}),
            "development and test inputs": checksums({split: self.parts[split] for split in ("dev", "test")}),
            "prompts": {name: how.in_full() for how, name in directories(self.prompts.values()).items()},
            "choice of the epoch": self.args.epoch,
        }

    def prepare(self, out: Path) -> str:
        every = directories(self.prompts.values())
        made = {how: prepare_prompts(self.parts, how, self.home, out / "data" / name) for how, name in every.items()}
        self.data = {network: made[how] for network, how in self.prompts.items()}
        return f"seen or unseen categories: {self.seen}"

    def data_of(self, run: Run) -> Data:
        network = run.method.network
        return self.data["adapter" if network in ("houlsby", "pfeiffer") else network]

    # ---- settings

    def settings(self) -> Settings:
        return self._settings

    def adapt(self, config: Dict, run: Run) -> None:
        backbone = self.backbone
        config["model"] = {**backbone.settings, **config["model"], "_name": backbone.arch}
        if self.args.epoch == "dev-bleu":
            config["task"]["eval_bleu"] = True
            config["checkpoint"].update(best_checkpoint_metric="bleu", maximize_best_checkpoint_metric=True)

    def place(self, config: Dict, run: Run) -> None:
        config["task"]["data"] = str(self.data_of(run).binarized)
        config["checkpoint"]["finetune_from_model"] = str(self.home / "model.pt")
        if self.args.epoch == "dev-bleu":
            config["task"]["eval_bleu_args"] = json.dumps(config.get("generation", {}))
        if run.record.method == UNTRAINED:
            config["optimization"].update(lr=[0.0], max_update=1)
            return
        changed = changed_settings(self.args.changes, run.record)
        said = set_last_update(config, self.data_of(run).samples, changed)
        if said:
            self.said[run.name] = said

    def check(self, runs: Sequence[Run]) -> None:
        """Raise ValueError where a text could not be generated in the end, and print what else is to be known."""
        for run in runs:
            if run.name in self.said:
                print(f"{run.name}: {self.said[run.name]}")
            self._check_choice(run.config)
            settings, data = self._check_generation(run.config), self.data_of(run)
            longest, model = data.longest_test, run.config["model"]
            most, fewest = settings.longest(longest), settings.longest(data.shortest_test)
            room = self.backbone.max_positions - (int(model.get("prefix_length", 5)) if run.method.network == "prefix" else 0)
            data.check_room(room, "; --set model.prefix_length takes some of it" * (run.method.network == "prefix"))
            if longest + most > room:
                raise ValueError(
                    f"--set generation.max_len_b: a prompt of the test set has {longest} symbols, and a text may have {most}; "
                    f"together they do not fit into {room} positions"
                )
            if fewest < max(settings.min_len, 1):
                raise ValueError(
                    f"--set generation.max_len_b: the text for a prompt of the test set may have {fewest} symbols, its end among "
                    f"them, and it needs {max(settings.min_len, 1)} at least (generation.min_len)"
                )

    def _check_choice(self, config: Dict) -> None:
        """Raise ValueError where training could not choose a checkpoint, or --sweep a value."""
        from sharp_plugins.prompted.checks import SCORES  # here and below: these import fairseq

        hint = "; --epoch dev-bleu generates texts for dev, and scores them" * (config["checkpoint"].get(METRIC) in SCORES)
        check_choice(config, SCORES if self.args.epoch == "dev-bleu" else (), hint)
        if self.args.sweeps and config["dataset"].get("disable_validation"):
            raise ValueError("--sweep: it chooses by the loss on dev, of which dataset.disable_validation tells none; take one out")

    def _check_generation(self, config: Dict) -> "SearchSettings":
        """The settings of the search. ValueError where one of the generation's would be refused once all training is done."""
        from sharp_plugins.generation.flags import settings_of  # here, so that --help imports no fairseq

        flags, more = _typed(config)
        if flags.sampling and flags.nbest != flags.beam:  # fairseq-generate's own rule
            raise ValueError(
                "--set generation.sampling=true: generation.beam must be as large as generation.nbest, and they are "
                f"{flags.beam} and {flags.nbest}; of the samples the first is scored: --set generation.beam={flags.nbest} is enough"
            )
        try:
            return settings_of(flags, self.backbone.dictionary, more)
        except ValueError as error:
            raise ValueError(f"{error}; the engine takes --a-flag as --set generation.a_flag= or --set task.a_flag=") from None

    # ---- stages

    @property
    def measured(self) -> str:
        return LAST if self.args.epoch == "last" else BEST

    def generation(self, run: Run) -> List[Stage]:
        """The stages between training and scoring, the last of which makes ``generated.txt``."""
        config, common = run.config, run.config["common"]
        command = ["fairseq-generate", config["task"]["data"], "--user-dir", common["user_dir"]]
        command += ["--task", config["task"]["_name"], "--path", self.measured, "--gen-subset", "test"]
        for typed, given in zip(_typed(config), (config.get("generation", {}), _further_flags(config))):
            for name in given:
                value, flag = typed[name], f"--{name.replace('_', '-')}"
                if value is not None and value is not False:
                    command.append(flag if value is True else f"{flag}={value}")  # with =, as a value may begin with a minus
        command += ["--batch-size", str(BATCH), "--required-batch-size-multiple", "1"]
        command += [f"--{name}" for name in ("cpu", "fp16", "bf16") if common.get(name)]
        return [Stage("generate", command, "generated.txt", takes_output=True)]

    def inputs(self, run: Run) -> Path:
        """The directory of the test inputs."""
        return self.data_of(run).inputs

    # ---- tables

    def results_table(self, results: Sequence[Result]) -> str:
        from sharp_plugins.webnlg.report import all_ways_tables  # here, as it imports scipy

        return all_ways_tables(results)

    def about(self) -> str:
        counts = {split: self._count(split) for split in ("dev", "test")}
        task = change_settings(self._settings.task, [one for one in self.args.changes if one.startswith("checkpoint.")])
        every = task["checkpoint"].get("save_interval_updates")
        chosen = f" (among the ends of epochs and every {every:,} updates)" if every else " (among the ends of epochs)"
        which = best_in_words(task, ()) if self.args.epoch == "dev-loss" else CHOICES[self.args.epoch]
        formats = ", ".join(dict.fromkeys(f"{how.format} ({how.linearise})" for how in self.prompts.values()))
        return (
            f"Backbone: {self.args.backbone.name}. Texts are generated with {which}"
            f"{'' if self.args.epoch == 'last' else chosen}, and scored against all "
            f"references of {counts['test']} test inputs; validations are on {counts['dev']} inputs of dev. Whether a "
            f"category is seen is told {self.seen}. Formats of prompts: {formats}. "
            "Decoding and all other settings of a run are in its run.yaml."
        )

    def _count(self, split: str) -> str:
        used = len(self.parts[split])
        return f"{used:,} of the" if self.part[split] is not None else f"all {used:,}"


def _typed(config: Dict) -> Tuple[Any, Any]:
    """A generation's flags, fairseq's and further ones, as fairseq-generate will have them: 1 given for a bool is True.

    Raises:
        omegaconf's errors: a value is of another type, or there is no such flag.
    """
    from fairseq.dataclass.configs import GenerationConfig
    from omegaconf import OmegaConf

    from sharp_plugins.generation.flags import GenerationFlags

    flags = OmegaConf.merge(OmegaConf.structured(GenerationConfig), config.get("generation", {}))
    return flags, OmegaConf.merge(OmegaConf.structured(GenerationFlags), _further_flags(config))


def _further_flags(config: Dict) -> Dict:
    """The flags of a generation that are settings of the task."""
    from sharp_plugins.generation.flags import GenerationFlags

    own = {field.name for field in fields(GenerationFlags) if field.name != "_name"} & config["task"].keys()
    return {name: config["task"][name] for name in sorted(own)}


def read_family(directory: Path, changes: Dict):
    """A family's settings, and how prompts are made by network, None for full fine-tuning.

    Args:
        changes: of `Prompts`, by the command line's flags.

    Raises:
        OSError, ValueError: a file is not there, or not right.
    """
    path = directory / f"{FT}.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; --configs wants a directory with such a file")
    task = read_yaml(path)
    own = task.pop("prompts", None) or {}
    check_settings({**task, "prompts": own}, path, [name for name in NEEDED if name != "model._name"])
    prompts: Dict[Optional[str], Prompts] = {None: _prompts(own, changes, path)}
    overlays = {}
    for name in NETWORKS:
        path = directory / f"{name}.yaml"
        overlays[name] = read_yaml(path) if path.is_file() else None
        if overlays[name] is not None:
            others = overlays[name].pop("prompts", None) or {}
            check_parts({**overlays[name], "prompts": others}, path)
            prompts[name] = _prompts(merged(own, others), changes, path)
    return Settings(task, **overlays), prompts


def _prompts(own: Dict, changes: Dict, path: Path) -> Prompts:
    try:
        return Prompts(**{**own, **changes}).check()
    except TypeError as error:  # a name that they have not
        raise ValueError(f"{path}: prompts: {error}; they have {', '.join(Prompts._fields)}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _changed_prompts(args) -> Dict:
    given = {"format": args.format, "linearise": args.linearise, "texts": args.texts}
    return {name: value for name, value in given.items() if value is not None}
