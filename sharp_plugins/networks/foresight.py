"""What the trained model will not be good for, said when the updates are added and not hours later."""

from typing import Dict, List, Optional

from torch import nn

from sharp_plugins.networks.module_names import above, names_trained_along


def warnings_for(model: nn.Module, also_train: Optional[str], layers: List[str]) -> List[str]:
    """A sentence for each thing that `merge` or `to_peft` will refuse of a model.

    Args:
        also_train: ``LoRASettings``' own.
        layers: names of those of its layers that have an update.
    """
    return [
        f"{layer}.weight and {other} are one weight, and a plain model cannot add the update to one of them alone: "
        f"`python -m sharp_plugins.lora merge` will refuse this model. Leave {layer} out of the target, or use the checkpoints "
        "unmerged"
        for layer, other in tied_layers(model, layers).items()
    ] + [
        f"{name} is in a module that is trained as a whole and has an update too, and PEFT's files have no place for that: "
        "`python -m sharp_plugins.lora save` will refuse this model"
        for name in trained_twice(model, also_train, layers)[:1]
    ]


def tied_layers(model: nn.Module, layers: List[str]) -> Dict[str, str]:
    """Those of *layers* whose weight another module has too, with the weight's name there."""
    modules = dict(model.named_modules(remove_duplicate=False))
    updated = {id(modules[layer]) for layer in layers}
    owners: Dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(modules[name.rpartition(".")[0]]) not in updated:
            owners.setdefault(id(parameter), name)
    return {layer: owners[id(modules[layer].base_weight)] for layer in layers if id(modules[layer].base_weight) in owners}


def trained_twice(model: nn.Module, also_train: Optional[str], layers: List[str]) -> List[str]:
    """Those of *layers* that are trained as a whole too, because of *also_train*."""
    names = names_trained_along([name for name, _ in model.named_parameters(remove_duplicate=False)], also_train)
    whole = {name.rpartition(".")[0] for name in names}
    return [layer for layer in layers if not whole.isdisjoint((layer, *above(layer)))]
