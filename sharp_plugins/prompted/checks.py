"""What of a run's flags does not fit prompts: refused by its flag, before anything trains."""

from typing import Any, Optional

from fairseq.criterions import CRITERION_REGISTRY

from sharp_plugins.models.run_settings import setting

# Of fairseq's criterions those that a language model's scores and targets are enough for.
CRITERIONS = ("cross_entropy", "label_smoothed_cross_entropy", "adaptive_loss")

# Values of --post-process that leave the symbols apart; a plain --remove-bpe is "subword_nmt", whose @@ no such symbol has.
JOINS_NOTHING = (None, "none", "subword_nmt", "@@ ", "silence")

# What a validation that generates logs.
SCORES = ("bleu", "chrf")


def check_criterion(name: Optional[str], is_adaptive: bool = True) -> None:
    """Raise ValueError where fairseq's criterion *name* wants another task's batches, or another model.

    Args:
        is_adaptive: whether the model has an adaptive softmax.
    """
    criterion = CRITERION_REGISTRY.get(name)
    if criterion is not None and criterion.__module__.startswith("fairseq.") and name not in CRITERIONS:
        raise ValueError(
            f"--criterion {name}: it is for other tasks than prompted_generation; choose cross_entropy, "
            "label_smoothed_cross_entropy, or one of the plugin's that are built on it"
        )
    if name == "adaptive_loss" and not is_adaptive:
        raise ValueError("--criterion adaptive_loss: the model has no adaptive softmax (--adaptive-softmax-cutoff)")


def check_bpe(bpe: Any) -> None:
    """Raise ValueError where ``--bpe``, a name or a config with one, is another tokenizer than the data's."""
    name = getattr(bpe, "_name", None) or (bpe if isinstance(bpe, str) else None)
    if name not in (None, "sharp_tokenizer"):
        raise ValueError(
            f"--bpe {name}: the data have a tokenizer of their own, which --task prompted_generation uses; leave it out"
        )


def check_post_process(how: Optional[str]) -> None:
    """Raise ValueError where ``--post-process``, or ``--remove-bpe``, would join the symbols before the tokenizer sees them: no
    symbol would be known any more, and each text empty."""
    if how not in JOINS_NOTHING:
        raise ValueError(
            f"--post-process {how} (or --remove-bpe {how}): the data's own tokenizer makes texts of the symbols, with --task "
            "prompted_generation; leave it out"
        )


def check_validation(cfg) -> None:
    """Raise ValueError where the flags of a training do not fit a validation that generates, or ask for its scores without it."""
    metric, maximize = setting(cfg, "best_checkpoint_metric", "loss"), setting(cfg, "maximize_best_checkpoint_metric", False)
    generates = setting(cfg, "eval_bleu", False)
    if metric in SCORES and not generates:
        raise ValueError(f"--best-checkpoint-metric {metric}: validation generates texts, and scores them, with --eval-bleu alone")
    if metric in SCORES and not maximize:
        raise ValueError(
            f"--best-checkpoint-metric {metric}: the larger the better, so --maximize-best-checkpoint-metric belongs to it"
        )
    if generates and setting(cfg, "ddp_backend", None) == "fully_sharded":
        raise ValueError("--eval-bleu: no rank has whole weights to generate with under --ddp-backend fully_sharded")
