"""The flags of ``--task candidates``, and what the task must know of the rest of the run."""

from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import FairseqDataclass
from omegaconf import II

from sharp_plugins.candidates.prepared import COMMAND


@dataclass
class CandidatesConfig(FairseqDataclass):
    """The flags.

    Example::

        >>> CandidatesConfig(data="DATA").tokens_per_sample
        0
    """

    data: Optional[str] = field(default=None, metadata={"help": f"directory that `{COMMAND}` wrote"})
    tokens_per_sample: int = field(
        default=0, metadata={"help": "the most positions of a sequence (default: as many as the data's model has)"}
    )
    # What fairseq's own language models take from their task.
    max_target_positions: Optional[int] = field(
        default=None, metadata={"help": "positions of a new model (default: as many as the data's model has)"}
    )
    add_bos_token: bool = field(default=False, metadata={"help": "not for this task: the data have a start of their own"})
    # As `sharp_plugins.prompted.config.PromptedGenerationConfig` has them.
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    restore_file: str = II("checkpoint.restore_file")
    save_dir: str = II("checkpoint.save_dir")
    path: Optional[str] = II("common_eval.path")
    bpe: Any = II("bpe")
    train_subset: Optional[str] = II("dataset.train_subset")
    valid_subset: Optional[str] = II("dataset.valid_subset")
    disable_validation: Optional[bool] = II("dataset.disable_validation")
    skip_invalid_size_inputs_valid_test: Optional[bool] = II("dataset.skip_invalid_size_inputs_valid_test")
