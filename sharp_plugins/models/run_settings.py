"""What a task's config takes from other parts of the run."""

from pathlib import Path
from typing import Any, List

from omegaconf.errors import OmegaConfBaseException


def setting(cfg, name: str, default: Any) -> Any:
    """A setting that a task's config takes from another part of the run; *default* where there is no such part.

    >>> from argparse import Namespace
    >>> setting(Namespace(bpe="gpt2"), "bpe", None), setting(Namespace(bpe="${bpe}"), "bpe", "none")
    ('gpt2', 'none')
    """
    try:
        value = getattr(cfg, name, None)
    except OmegaConfBaseException:  # an interpolation, of a config that stands alone
        return default
    stands_alone = isinstance(value, str) and value.startswith("${")
    return default if value is None or stands_alone else value


def paths_to_train_from(cfg: Any) -> List[Path]:
    """Where the weights of a model that is trained will come from, whether there is a file or not.

    Args:
        cfg: a task's, with ``finetune_from_model``, ``restore_file`` and ``save_dir``.
    """
    last = cfg.restore_file == "checkpoint_last.pt"  # fairseq's default, which lies in --save-dir
    return [Path(cfg.finetune_from_model or ""), Path(cfg.save_dir if last else "", cfg.restore_file)]
