"""The flags of ``--task prompted_generation``, and what the task must know of the rest of the run."""

from dataclasses import dataclass, field
from typing import Any, Optional

from omegaconf import II

from sharp_plugins.generation.flags import GenerationFlags
from sharp_plugins.prompted.prepared import COMMAND


@dataclass
class PromptedGenerationConfig(GenerationFlags):
    """The flags.

    Example::

        >>> PromptedGenerationConfig(data="DATA").count_prompt
        False
    """

    data: Optional[str] = field(default=None, metadata={"help": f"directory that `{COMMAND}` wrote"})
    count_prompt: bool = field(default=False, metadata={"help": "the loss counts the prompts too (default: the texts alone)"})
    leave_out_end: bool = field(
        default=False,
        metadata={
            "help": "the loss does not count the symbol that ends a text, for models that choose among texts and write none "
            "(default: it is learnt)"
        },
    )
    tokens_per_sample: int = field(
        default=0, metadata={"help": "the most positions of a sequence (default: as many as the data's model has)"}
    )
    # What fairseq's own language models take from their task.
    max_target_positions: Optional[int] = field(
        default=None, metadata={"help": "positions of a new model (default: as many as the data's model has)"}
    )
    # A validation that generates: names after fairseq's translation task.
    eval_bleu: bool = field(
        default=False,
        metadata={"help": "generate in validation too, and log BLEU and chrF++ over all references of a prompt as bleu and chrf"},
    )
    eval_bleu_args: Optional[str] = field(
        default="{}",
        metadata={"help": 'generation flags as JSON, e.g. {"beam": 5, "max_len_b": 64, "lenpen": 0.8} (default: greedy)'},
    )
    eval_bleu_inputs: int = field(
        default=0, metadata={"help": "generate for so many prompts of a validation set, spread evenly over it (default: for all)"}
    )
    eval_bleu_print_samples: bool = field(default=False, metadata={"help": "log one generated text of each batch"})
    add_bos_token: bool = field(default=False, metadata={"help": "not for this task: the data's format has a start of its own"})
    # Where weights come from, whose dictionary must be the data's.
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    restore_file: str = II("checkpoint.restore_file")
    save_dir: str = II("checkpoint.save_dir")
    path: Optional[str] = II("common_eval.path")
    best_checkpoint_metric: Optional[str] = II("checkpoint.best_checkpoint_metric")
    maximize_best_checkpoint_metric: Optional[bool] = II("checkpoint.maximize_best_checkpoint_metric")
    # What is checked before anything trains.
    ddp_backend: Any = II("distributed_training.ddp_backend")
    bpe: Any = II("bpe")
    post_process: Optional[str] = II("common_eval.post_process")
    train_subset: Optional[str] = II("dataset.train_subset")
    valid_subset: Optional[str] = II("dataset.valid_subset")
    max_valid_steps: Optional[int] = II("dataset.max_valid_steps")
    disable_validation: Optional[bool] = II("dataset.disable_validation")
    skip_invalid_size_inputs_valid_test: Optional[bool] = II("dataset.skip_invalid_size_inputs_valid_test")
