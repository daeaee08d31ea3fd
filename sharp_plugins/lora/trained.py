"""Which of a model's parameters are trained beside the updates, by their names alone."""

from typing import Iterable, Optional, Set

from sharp_plugins.module_names import HEADS, above, matches, patterns


def names_trained_along(names: Iterable[str], also_train: Optional[str]) -> Set[str]:
    """Those of *names* that `sharp_plugins.lora.freeze` lets train because of *also_train*, ``LoRASettings``' own."""
    chosen = patterns(HEADS if also_train is None else also_train)
    return {
        name
        for name in names
        if not name.endswith((".lora_A", ".lora_B"))
        and any(matches(pattern, part) for pattern in chosen for part in (*above(name), name))
    }
