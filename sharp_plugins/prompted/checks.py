"""What of a run does not fit prompts, or the checkpoint that its weights come from: refused by its flag, before anything trains."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Optional

from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models import ARCH_MODEL_REGISTRY
from omegaconf.errors import OmegaConfBaseException

from sharp_plugins.files.checkpoint_config import config_of
from sharp_plugins.models.decoder import DecoderModel
from sharp_plugins.models.decoder_config import FLAGS, OPPOSITES, fields_of
from sharp_plugins.networks.decoder_settings import DecoderSettings

logger = logging.getLogger(__name__)

# Of fairseq's criterions those that a language model's scores and targets are enough for.
CRITERIONS = ("cross_entropy", "label_smoothed_cross_entropy", "adaptive_loss")
# Settings that say which weights there are and how they are cut into heads, by the attributes that hold their values.
SHAPES = {"kv_heads": "kv", "head_size": "head_width", "word_width": "words"}
SHAPES.update({name: name for name in ("layers", "width", "ffn_width", "heads", "gated", "norm", "positions", *OPPOSITES)})
# Settings by which the same weights compute something else.
OTHERS = ("activation", "norm_eps", "rope_theta", "rope_scaling", "rope_factor", "rope_low_freq_factor", "rope_high_freq_factor")


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


def check_criterion(name: Optional[str]) -> None:
    """Raise ValueError where fairseq's criterion *name* wants another task's batches."""
    criterion = CRITERION_REGISTRY.get(name)
    if criterion is not None and criterion.__module__.startswith("fairseq.") and name not in CRITERIONS:
        raise ValueError(
            f"--criterion {name}: it is for other tasks than prompted_generation; choose cross_entropy, "
            "label_smoothed_cross_entropy, or one of the plugin's that are built on it"
        )


def check_bpe(bpe: Any) -> None:
    """Raise ValueError where ``--bpe``, a name or a config with one, is another tokenizer than the data's."""
    name = getattr(bpe, "_name", None) or (bpe if isinstance(bpe, str) else None)
    if name not in (None, "sharp_tokenizer"):
        raise ValueError(
            f"--bpe {name}: the data have a tokenizer of their own, which --task prompted_generation uses; leave it out"
        )


def check_shape(path: Path, state: Any, ours: DecoderSettings) -> None:
    """Raise ValueError where the weights of a checkpoint's decoder do not fit into a model with the settings *ours*, and warn where
    they would compute something else in it.

    Args:
        state: what the checkpoint holds. Nothing is said of one whose model is no `DecoderModel`.
    """
    model = config_of(state, "model")
    name = model.get("base_arch") or model.get("arch") or model.get("_name")
    if ARCH_MODEL_REGISTRY.get(name) is not DecoderModel:
        return
    flags = {**FLAGS, **OPPOSITES}
    given = fields_of(model)
    if given.get("max_positions") is None:  # the task said it
        given["max_positions"] = ours.max_positions
    theirs = replace(ours, **given)

    def differing(settings: Dict[str, str]) -> str:
        values = {flags[name]: [getattr(each, held) for each in (theirs, ours)] for name, held in settings.items()}
        if "max_target_positions" in values and ours.positions != "learned":
            del values["max_target_positions"]  # there is no table of them
        said = {flag: [not value if flag in OPPOSITES.values() else value for value in pair] for flag, pair in values.items()}
        return ", ".join(f"--{flag.replace('_', '-')} {a} and not {b}" for flag, (a, b) in said.items() if a != b)

    found = differing({**SHAPES, "max_positions": "max_positions"})
    if found:
        raise ValueError(
            f"{path}: its model has another shape than --arch and its flags say: it has {found}. "
            "`python -m sharp_plugins.convert` prints the flags of a converted model"
        )
    found = differing({name: name for name in OTHERS})
    if found:
        logger.warning("%s: its model has %s, as the flags say here", path, found)
