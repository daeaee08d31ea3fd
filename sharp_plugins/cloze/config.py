"""The flags of ``--task cloze``, and what the task must know of the rest of the run."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.constants import ChoiceEnum
from omegaconf import II

from sharp_plugins.cloze.head import CHOICES
from sharp_plugins.cloze.prepared import COMMAND


@dataclass
class ClozeConfig(FairseqDataclass):
    """The flags.

    Example::

        >>> str(ClozeConfig(data="DATA").train_lm_head)
        'untied'
    """

    data: Optional[str] = field(default=None, metadata={"help": f"directory that `{COMMAND}` wrote"})
    train_lm_head: ChoiceEnum(list(CHOICES)) = field(
        default="untied",
        metadata={
            "help": "whether the masked-language-model head trains: with an output layer of its own (untied), with the table of "
            "words, which trains then (tied), or not (frozen) (default: MeZO's code)"
        },
    )
    # Where weights come from, which must be the data's model.
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    restore_file: str = II("checkpoint.restore_file")
    save_dir: str = II("checkpoint.save_dir")
    # What is checked before anything trains.
    train_subset: Optional[str] = II("dataset.train_subset")
    valid_subset: Optional[str] = II("dataset.valid_subset")
    disable_validation: Optional[bool] = II("dataset.disable_validation")
