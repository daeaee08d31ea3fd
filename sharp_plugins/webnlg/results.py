"""The scores of a run: what ``score --json`` writes, as the engine's metrics by split and name, and what tables call them."""

from typing import Dict, List, Sequence

from sharp_plugins.runs.configs import METRIC, change_settings, is_lower_better
from sharp_plugins.runs.record import Measure

# Methods of the benchmark's own: full fine-tuning of a published decoder; and one update with a learning rate of 0.
FT, UNTRAINED = "ft", "untrained"
# Groups of test inputs, as the scores name them -> how their split is called in results; and in headings.
SPLITS = {"all": "test", "seen": "test-seen", "unseen": "test-unseen"}
GROUPS = {"test": "", "test-seen": ", seen", "test-unseen": ", unseen"}
MEASURES = (("bleu", "BLEU", True), ("chrf", "chrF++", True), ("ter", "TER", False))
LOGGED = ("loss", "nll_loss", "ppl")  # by the criterions
UNSMOOTHED = ("cross_entropy", "adaptive_loss")  # they tell no nll_loss where it is their loss
# How texts are scored -> what a heading calls it.
WAYS = {
    "lora": "As LoRA's paper scores WebNLG and DART",
    "challenge2017": "As the challenge of 2017 scores",
    "sacrebleu": "As sacrebleu scores by default",
}


def name_of_measure(way: str, name: str) -> str:
    """A measure's name in results: sacrebleu's own have none before it.

    >>> name_of_measure("sacrebleu", "bleu"), name_of_measure("lora", "bleu")
    ('bleu', 'lora_bleu')
    """
    return name if way == "sacrebleu" else f"{way}_{name}"


def metrics_of(scores: Dict) -> Dict[str, Dict[str, float]]:
    """The metrics by split and name, of `sharp_plugins.webnlg.scores.evaluation.all_scores`.

    >>> metrics_of({"sacrebleu": {"all": {"bleu": 45.1}}, "lora": {"all": {"bleu": 44.7}}})
    {'test': {'bleu': 45.1, 'lora_bleu': 44.7}}
    """
    found: Dict[str, Dict[str, float]] = {}
    for way in ("sacrebleu", *(way for way in WAYS if way != "sacrebleu")):
        for group, values in scores.get(way, {}).items():
            own = {name_of_measure(way, name): values[name] for name, _, _ in MEASURES if name in values}
            found.setdefault(SPLITS[group], {}).update(own)
    return found


def check_choice(config: Dict, more: Sequence[str] = (), hint: str = "") -> None:
    """Raise ValueError where training tells no such number as the best checkpoint is to be chosen by.

    Args:
        more: what validations tell beside the criterion's own.
        hint: for the message.

    >>> check_choice({"checkpoint": {"best_checkpoint_metric": "bleu"}, "criterion": {}})
    Traceback (most recent call last):
    ValueError: --set checkpoint.best_checkpoint_metric=bleu: choose from loss, nll_loss, ppl
    """
    metric = config["checkpoint"].get(METRIC, "loss")
    by_sentence = config.get("optimization", {}).get("sentence_avg") or config["criterion"].get("sentence_avg")
    is_same = config["criterion"].get("_name") in UNSMOOTHED and not by_sentence
    own = [name for name in LOGGED if not (is_same and name == "nll_loss")]
    known = [*own, *(["accuracy"] if config["criterion"].get("report_accuracy") else []), *more]
    if metric not in known:
        raise ValueError(f"--set checkpoint.{METRIC}={metric}: choose from {', '.join(known)}{hint}")


def best_in_words(task: Dict, changes: Sequence[str]) -> str:
    """The checkpoint that a training by these settings keeps as its best.

    >>> best_in_words({}, ["checkpoint.best_checkpoint_metric=bleu"])
    'the checkpoint of the highest bleu on dev'
    """
    changed = change_settings(task, [change for change in changes if change.startswith("checkpoint.")])
    metric = changed.get("checkpoint", {}).get(METRIC, "loss")
    return f"the checkpoint of the {'lowest' if is_lower_better(metric) else 'highest'} {metric} on dev"


def sacrebleus() -> List[Measure]:
    """BLEU, chrF++ and TER as sacrebleu computes them, of all inputs and of the groups."""
    return [Measure(split, name, heading + where, better) for split, where in GROUPS.items() for name, heading, better in MEASURES]


def papers() -> List[Measure]:
    """Those that stand beside the papers' in the engine's tables; `sharp_plugins.webnlg.report` shows all."""
    own = [Measure(split, "lora_bleu", f"BLEU{where}, LoRA's scoring") for split, where in GROUPS.items()]
    own.append(Measure("test", "challenge2017_bleu", "BLEU, scoring of 2017"))
    return own + [Measure("test", name, f"{heading}, sacrebleu", better) for name, heading, better in MEASURES]
