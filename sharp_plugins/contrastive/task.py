"""``--task contrastive_sentences``: an encoder learns sentence vectors from texts without labels, as Mirror-BERT does.

The data are a converted encoder's directory, with its dictionary and tokenizer; the texts are in files of their own, one a line.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.constants import ChoiceEnum
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II

from sharp_plugins.contrastive.dataset import ALONE, PairsOfViews
from sharp_plugins.contrastive.lines import read_texts
from sharp_plugins.contrastive.pooling import POOLINGS, check_pooling
from sharp_plugins.files.checkpoint_config import config_of
from sharp_plugins.files.tensors import read_torch
from sharp_plugins.models.run_settings import setting
from sharp_plugins.text.dictionary import read_dictionary
from sharp_plugins.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass
class ContrastiveSentencesConfig(FairseqDataclass):
    data: Optional[str] = field(
        default=None,
        metadata={"help": "directory of a converted encoder (python -m sharp_plugins.convert), or a copy of its tokenizer"},
    )
    text: Optional[str] = field(default=None, metadata={"help": "file of the training texts, one a line"})
    valid_text: Optional[str] = field(
        default=None, metadata={"help": "file of texts for validation (default: none; then --disable-validation)"}
    )
    pooling: ChoiceEnum(POOLINGS) = field(
        default="mean",
        metadata={
            "help": "a sentence's vector: the first symbol's output (cls; Mirror-BERT with RoBERTa), the mean over its symbols "
            "(mean), or over all positions of a row padded to --max-length (mean-padded; Mirror-BERT with BERT)"
        },
    )
    max_length: int = field(
        default=50, metadata={"help": "the most symbols of a text, the two around it included (default: Mirror-BERT's code)"}
    )
    span_length: int = field(
        default=5, metadata={"help": "characters that are masked in the second view; 0: none (default: Mirror-BERT's code)"}
    )
    mask_text: str = field(
        default="[MASK]",
        metadata={
            "help": "what stands for masked characters; <mask> is RoBERTa's own (default: Mirror-BERT's code, with RoBERTa too)"
        },
    )
    seed: int = II("common.seed")
    batch_size: Optional[int] = II("dataset.batch_size")
    batch_size_valid: Optional[int] = II("dataset.batch_size_valid")
    train_subset: str = II("dataset.train_subset")
    world_size: int = II("distributed_training.distributed_world_size")
    ddp_backend: Any = II("distributed_training.ddp_backend")
    find_unused_parameters: Any = II("distributed_training.find_unused_parameters")


@register_task("contrastive_sentences", dataclass=ContrastiveSentencesConfig)
class ContrastiveSentences(FairseqTask):
    """Pairs of views of texts.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file cannot be read, or a flag does not fit.

    Example, with a converted encoder::

        task = ContrastiveSentences(ContrastiveSentencesConfig(data="backbones/bert", text="train.txt", seed=1, batch_size=200))
        task.load_dataset("train")
    """

    @classmethod
    def setup_task(cls, cfg, **unused):
        if not cfg.text:
            raise ValueError("--text: the file of the training texts, one a line, is not given")
        return cls(cfg)

    def __init__(self, cfg):
        super().__init__(cfg)
        if not cfg.data:
            raise ValueError("--task contrastive_sentences needs data: the directory of a converted encoder")
        directory = Path(cfg.data)
        if not directory.is_dir():
            raise FileNotFoundError(f"{directory}: no such directory; the data are a converted encoder's")
        self.workers = cfg.world_size if isinstance(cfg.world_size, int) else 1  # not resolved outside of a training
        finds_unused = cfg.find_unused_parameters is True or cfg.ddp_backend not in ("pytorch_ddp", "c10d")
        if self.workers > 1 and not finds_unused:
            raise ValueError(
                f"--ddp-backend {cfg.ddp_backend}: the encoder's language-model head has no gradient here, and several workers "
                "must be told: add --find-unused-parameters, or use --ddp-backend legacy_ddp"
            )
        self.dictionary = read_dictionary(directory / "dict.txt")
        self.dictionary.add_symbol("<mask>")
        self.tokenizer = Tokenizer.load(directory)
        self.pooling = str(cfg.pooling)
        self.positions = positions_of(directory / "model.pt")
        check_text_flags(cfg)

    @classmethod
    def check(cls, cfg) -> None:
        """Raise ValueError, naming the flag, where training cannot have these settings."""
        check_text_flags(cfg)
        check_batch_size(cfg.batch_size)

    @property
    def source_dictionary(self):
        return self.dictionary

    @property
    def target_dictionary(self):
        return None

    def max_positions(self) -> int:
        """The positions of a new model: as many as the encoder in the data's directory has, so that its weights fit."""
        return self.positions

    def build_model(self, cfg, from_checkpoint=False):
        """The model.

        Raises:
            ValueError: it has fewer positions than --max-length, or is no encoder.
        """
        model = super().build_model(cfg, from_checkpoint)
        most = model.max_positions()
        if isinstance(most, int) and most < self.cfg.max_length:
            raise ValueError(f"--max-length {self.cfg.max_length}: the model has {most} positions (--max-positions)")
        check_pooling(model, self.pooling)
        return model

    def build_criterion(self, cfg, from_checkpoint=False):
        """The criterion.

        Raises:
            ValueError: it does not compare pairs.
        """
        criterion = super().build_criterion(cfg, from_checkpoint)
        if not getattr(criterion, "compares_rows", False):
            name = getattr(cfg, "_name", None) or getattr(cfg, "criterion", None)
            raise ValueError(
                f"--criterion {name}: --task contrastive_sentences has pairs and no labels; use contrastive or r3f_contrastive "
                "(one of your own for pairs sets compares_rows = True)"
            )
        return criterion

    def load_dataset(self, split: str, **unused) -> PairsOfViews:
        """Read a split's texts: those of ``--text``, or of ``--valid-text``.

        Raises:
            FileNotFoundError: the file is not there.
            ValueError: it cannot be used, or there are fewer texts than --batch-size.
        """
        is_train = split == self.cfg.train_subset
        flag, path = ("--text", self.cfg.text) if is_train else ("--valid-text", self.cfg.valid_text)
        if not path:
            raise ValueError(
                f"{flag}: the file of the {split} texts is not given" + ("" if is_train else "; or --disable-validation")
            )
        texts, workers = read_texts(path, flag), self.workers if is_train else 1
        if not is_train and setting(self.cfg, "batch_size_valid", None) == 1:
            raise ValueError(f"--batch-size-valid 1: {ALONE}")
        if not is_train and len(texts) < 2:
            raise ValueError(f"{path}: it has one text alone ({flag}), and {ALONE.split(';')[0]}")
        if is_train:
            check_batch_size(self.cfg.batch_size)
            if len(texts) < self.cfg.batch_size * workers:
                raise ValueError(
                    f"{path}: {len(texts)} texts are fewer than the {self.cfg.batch_size * workers} of a batch (--batch-size)"
                )
            distinct = len(set(texts))
            if distinct < 2:
                raise ValueError(f"{path}: all {len(texts)} texts are the same, and no pair has another one to be compared with")
            repeated = len(texts) - distinct
            if repeated:
                logger.info(
                    "%d of %d texts repeat an earlier one; with --skip-duplicates a text is no negative of itself",
                    repeated,
                    len(texts),
                )
        cfg = self.cfg
        self.datasets[split] = PairsOfViews(
            texts,
            self.tokenizer,
            self.dictionary,
            length=cfg.max_length,
            span=cfg.span_length,
            mask=cfg.mask_text,
            is_padded=self.pooling == "mean-padded",
            is_train=is_train,
            seed=cfg.seed,
            multiple=workers,
        )
        return self.datasets[split]


def check_text_flags(cfg) -> None:
    """Raise ValueError where a flag about texts is out of range."""
    if cfg.max_length < 3:
        raise ValueError(f"--max-length must be 3 or larger, and is {cfg.max_length}: two symbols stand around a text")
    if cfg.span_length < 0:
        raise ValueError(f"--span-length must be 0 or larger, and is {cfg.span_length}")


def check_batch_size(pairs: Optional[int]) -> None:
    """Raise ValueError where a batch has no two pairs."""
    if not pairs:
        raise ValueError("--batch-size: say how many pairs are compared with each other (Mirror-BERT: 200)")
    if pairs < 2:
        raise ValueError(f"--batch-size {pairs}: {ALONE}")


def positions_of(path: Path) -> int:
    """The positions of the converted encoder in a checkpoint; BERT's 512 where there is none.

    Raises:
        ValueError: it cannot be read.
    """
    if not path.is_file():
        return 512
    positions = config_of(read_torch(path, mmap=True), "model").get("max_positions")
    if not isinstance(positions, int):
        raise ValueError(f"{path}: its config has no max_positions; it is no converted encoder")
    return positions
