"""``--task cloze``: fine-tune a masked language model to fill the mask in a prompt with the right label word.

The data come from ``python -m sharp_plugins.cloze prepare``. The model is fairseq's RoBERTa or ``sharp_bert``, plain or in
``--arch lora`` or ``adapter``, with its masked-language-model head; ``--train-lm-head`` says what of the head trains.
"""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Dict, List

from fairseq.models.roberta import RobertaModel
from fairseq.tasks import FairseqTask, register_task
from fairseq.utils import safe_getattr
from omegaconf import OmegaConf, open_dict

from sharp_plugins.cloze import criterion  # noqa: F401  --criterion cloze
from sharp_plugins.cloze.checks import STATE, check_checkpoint, check_criterion, check_tied, check_vocabulary, state_of
from sharp_plugins.cloze.config import ClozeConfig
from sharp_plugins.cloze.dataset import load_split
from sharp_plugins.cloze.head import count, freeze_head, set_head
from sharp_plugins.cloze.prepared import COMMAND, read_prepared
from sharp_plugins.files.tensors import read_torch
from sharp_plugins.models.base_arch import wrapper_of
from sharp_plugins.models.run_settings import paths_to_train_from, setting

logger = logging.getLogger(__name__)


@register_task("cloze", dataclass=ClozeConfig)
class Cloze(FairseqTask):
    """Classes of sentences as words at a mask, by a `RobertaModel`.

    Attributes:
        label_words: the dictionary's index of each class's word.

    Raises:
        FileNotFoundError: the data are not there.
        ValueError: they are no data of this task, are of another model, or a flag does not fit.

    Example, with data that are prepared::

        task = Cloze.setup_task(ClozeConfig(data="DATA"))
        task.load_dataset("valid")
        task.dataset("valid").collater([task.dataset("valid")[0]])["target"]  # the number of its class
    """

    @classmethod
    def setup_task(cls, cfg, **unused):
        """The task of a config, a checkpoint's too."""
        return cls(cfg)

    def __init__(self, cfg):
        super().__init__(cfg)
        if not cfg.data:
            raise ValueError(f"--task cloze needs data: the directory that `{COMMAND}` wrote")
        self.prepared = read_prepared(cfg.data)
        self.dictionary = self.prepared.dictionary()
        self.label_words: List[int] = self.prepared.words
        self.state.add_factory(STATE, lambda: state_of(self.prepared))
        getattr(self.state, STATE)  # made now, so that it is saved
        words = {name: self.dictionary[index] for name, index in zip(self.prepared.layout.classes, self.label_words)}
        logger.info("dictionary: %d symbols; label words: %s", len(self.dictionary), words)

    @property
    def source_dictionary(self):
        return self.dictionary

    @property
    def target_dictionary(self):
        return self.dictionary

    def max_positions(self) -> int:
        """The most symbols that the model reads of a sequence."""
        return self.prepared.max_positions

    def load_dataset(self, split: str, **unused) -> None:
        """Load a split, for training, validation or evaluation.

        Raises:
            FileNotFoundError: it is not there.
        """
        is_train = split == setting(self.cfg, "train_subset", "train")
        self.datasets[split] = load_split(self.prepared, self.dictionary, split, shuffle=is_train)

    def build_criterion(self, cfg, from_checkpoint=False):
        """The criterion.

        Raises:
            ValueError: it is for other tasks.
        """
        check_criterion(getattr(cfg, "_name", None) or getattr(cfg, "criterion", None))
        return super().build_criterion(cfg, from_checkpoint)

    def build_model(self, cfg, from_checkpoint=False):
        """The model, with as many positions as the data's own where no flag says otherwise.

        Raises:
            ValueError: it is no BERT or RoBERTa, or its weights come from a checkpoint without a masked-language-model head or with
                another vocabulary.
        """
        choice = str(self.cfg.train_lm_head)
        if not from_checkpoint:
            self.check_splits()
            with open_dict(cfg) if OmegaConf.is_config(cfg) else nullcontext():
                if not safe_getattr(cfg, "max_positions"):
                    cfg.max_positions = self.prepared.max_positions
                set_head(cfg, choice)
            for path in filter(Path.is_file, paths_to_train_from(self.cfg)):
                state = read_torch(path, mmap=True)
                check_checkpoint(path, state, self.prepared)
                if not cfg.untie_weights_roberta:
                    check_tied(path, state, choice)
        model = super().build_model(cfg, from_checkpoint)
        if not isinstance(model, RobertaModel):
            raise ValueError(
                f"--task cloze trains masked language models, such as --arch roberta_base, and {type(model).__name__} is none"
            )
        if not from_checkpoint:
            self.check_lengths(model)
        if choice == "frozen" and wrapper_of(cfg) is None:  # of a checkpoint too, so that it tells which weights were trained
            freeze_head(model)
        if not from_checkpoint:
            counts = count(model)
            logger.info(
                f"--train-lm-head {choice}: {counts.trained:,} of {counts.total:,} weights train, {counts.head:,} of them in the "
                "masked-language-model head"
            )
        return model

    def check_splits(self) -> None:
        """Raise FileNotFoundError where a split that training wants was not prepared."""
        wanted = [str(setting(self.cfg, "train_subset", "train"))]
        if not setting(self.cfg, "disable_validation", False):
            wanted += str(setting(self.cfg, "valid_subset", "valid")).split(",")
        absent = [split for split in wanted if split not in self.prepared.facts]
        if absent:
            raise FileNotFoundError(f"{self.cfg.data}: no data of {', '.join(absent)}; `{COMMAND}` makes them")

    def check_lengths(self, model) -> None:
        """Raise ValueError where a sequence is longer than the model."""
        longest, room = max(facts["longest"] for facts in self.prepared.facts.values()), model.max_positions()
        if longest > room:
            raise ValueError(f"--max-positions {room}: {self.cfg.data} has sequences of {longest} tokens")

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Take a checkpoint's "task_state", whose vocabulary must be the data's."""
        check_vocabulary(state_dict.get(STATE), self.prepared, "the checkpoint")
