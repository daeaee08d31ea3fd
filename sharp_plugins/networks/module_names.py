"""Choosing parts of a model by name, freezing the others, and loading checkpoints from before there were any new ones."""

import re
from typing import Any, Dict, Iterable, List, Mapping, Optional, Set, Tuple, Union

from torch import nn

from sharp_plugins.core.setting_error import SettingError
from sharp_plugins.networks.expressions import check_expression

# fairseq's models keep the heads of classification tasks here.
HEADS = "classification_heads"
_ADDED = "_added_parameters"  # a model's attribute


def patterns(names: str) -> List[str]:
    """Names with commas between them, or one regular expression."""
    if re.fullmatch(r"[\w., ]*", names):
        return [re.escape(name.strip()) for name in names.split(",") if name.strip()]
    return [names]


def joined(names: Optional[str], more: str) -> str:
    """*names*, which may be a regular expression or nothing, with the name *more*.

    >>> joined("a, b", "lm_head"), joined("x|y", "lm_head"), joined(None, "lm_head")
    ('a, b,lm_head', 'x|y|lm_head', 'lm_head')
    """
    if not names:
        return more
    return f"{names},{more}" if re.fullmatch(r"[\w., ]*", names) else f"{names}|{re.escape(more)}"


def matches(pattern: str, name: str) -> bool:
    """Whether *pattern* is the whole of a module's *name*, or its end from a dot on."""
    return re.fullmatch(rf"(.*\.)?(?:{pattern})", name) is not None


def above(name: str) -> List[str]:
    """Names of the modules that hold the parameter or module *name*, the outermost first."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def choose(setting: str, names: str, candidates: Mapping[str, object], kind: str) -> List[str]:
    """The names among *candidates* that *names* matches.

    Args:
        setting: what *names* was given by, for the message.
        names: names with commas between them, or one regular expression; each stands for a module's whole name or its end.
        candidates: what there is, by name.
        kind: what the candidates are called in the message.

    Raises:
        SettingError: a part of *names* matches nothing.
    """
    chosen = []
    for pattern in patterns(names):
        found = [name for name in candidates if matches(pattern, name)]
        if not found:
            ends: Dict[str, str] = {}
            for name in candidates:
                ends.setdefault(name.rsplit(".", 1)[-1], name)
            known = ", ".join(f"{end} (as {name})" if end != name else end for end, name in list(ends.items())[:30])
            raise SettingError(setting, f"{names}: nothing matches {pattern!r}; the model's {kind} are {known or '(none)'}")
        chosen += found
    return list(dict.fromkeys(chosen))


def check_patterns(setting: str, names: str) -> None:
    """Raise SettingError where *names* is no regular expression, or one that could take for ever: a checkpoint brings its own."""
    for pattern in patterns(names):
        try:
            check_expression(pattern)
            matches(pattern, "")  # as a part of another: (?i) stands at the beginning alone
        except (ValueError, re.error) as error:
            raise SettingError(setting, f"{names[:100]}: {error}") from error


def trained_along(setting: str, model: nn.Module, names: Optional[str], default: str, strict: bool) -> List[nn.Parameter]:
    """The parameters of the modules, and the single ones, that *names* matches.

    Args:
        names: what the user asked for, or None for *default*, of which parts may match nothing.
        strict: whether a part of *names* that matches nothing is an error. fairseq's tasks add heads to a model that is built
            already, so the name of a head may match later only.
    """
    # By all their names: what modules share, as the words of --share-all-embeddings, has several.
    modules = model.named_modules(remove_duplicate=False)
    candidates: Dict[str, Union[nn.Module, nn.Parameter]] = {name: module for name, module in modules if name}
    candidates.update(model.named_parameters(remove_duplicate=False))
    chosen = []
    for part in [names] if names is not None else default.split(","):
        try:
            chosen += choose(setting, part, candidates, "modules")
        except ValueError:
            if strict and names is not None:
                raise
    params: List[nn.Parameter] = []
    for name in chosen:
        found = candidates[name]
        params += [found] if isinstance(found, nn.Parameter) else list(found.parameters())
    return list(dict.fromkeys(params))


def names_trained_along(names: Iterable[str], also_train: Optional[str]) -> Set[str]:
    """Those of *names* that `sharp_plugins.networks.mark_only_lora_as_trainable` lets train because of *also_train*,
    ``LoRASettings``' own: by their names alone."""
    chosen = patterns(HEADS if also_train is None else also_train)
    return {
        name
        for name in names
        if not name.endswith((".lora_A", ".lora_B"))
        and any(matches(pattern, part) for pattern in chosen for part in (*above(name), name))
    }


def train_only(model: nn.Module, params: Iterable[nn.Parameter]) -> Tuple[int, int]:
    """Freeze all of *model* but *params*; returns the numbers of weights that train, and of all."""
    for p in model.parameters():
        p.requires_grad_(False)
    for p in params:
        p.requires_grad_(True)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in model.parameters())


def accept_plain_checkpoints(model: nn.Module, added: str) -> None:
    """Let *model* load a checkpoint without any of the parameters that were added to it: they stay as they are then. A
    checkpoint that has some must have them all; torch reports what is missing.

    Args:
        added: a regular expression for the names of the parameters that were added.
    """
    setattr(model, _ADDED, added)
    model._register_load_state_dict_pre_hook(_fill_in, with_module=True)


def _fill_in(model: nn.Module, state_dict: Dict[str, Any], prefix: str, *_: Any) -> None:
    added = re.compile(getattr(model, _ADDED))
    if not any(added.fullmatch(key) for key in state_dict):
        # With every name that a shared module has.
        named = model.named_parameters(remove_duplicate=False)
        state_dict.update({prefix + name: p.detach() for name, p in named if added.fullmatch(name)})
