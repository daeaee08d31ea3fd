"""Which weights of a model are scale-invariant pairs. LoRA's layers declare theirs; others are declared with one call:

    declare_pair(attention, "q_proj.weight", "k_proj.weight")

A pair may have several tensors a side: with biases, query and key are scale-invariant only with them,

    declare_pair(attention, ["q_proj.weight", "q_proj.bias"], ["k_proj.weight", "k_proj.bias"])
"""

from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

from torch import nn

Names = Union[str, Sequence[str]]

# Which pairs' balancedness is logged: the first, the middle and the last, all, or none.
MONITORS = ("ends", "all", "none")


_DECLARED = "_scale_invariant_pairs"  # a module's attribute


class Pair(NamedTuple):
    """A scale-invariant pair of a model.

    name: where it is: the module's name, with the names of the parameters where the module declares several pairs.
    x, y: the parameters of each side (X and Y of `sharp_plugins.core.balancedness`).

    Example::

        >>> model = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False))
        >>> declare_pair(model, "0.weight", "1.weight")
        >>> [(pair.name, len(pair.x), len(pair.y)) for pair in scale_invariant_pairs(model)]
        [('0.weight/1.weight', 1, 1)]
    """

    name: str
    x: Tuple[nn.Parameter, ...]
    y: Tuple[nn.Parameter, ...]


def declare_pair(module: nn.Module, x: Names, y: Names) -> None:
    """Declare that the loss depends on parameters *x* and *y* of *module* through their product alone, so that scaling one up
    and the other down by the same factor changes nothing.

    Args:
        module: the model or any part of it; the declaration is copied and pickled with it.
        x, y: names of parameters below *module*; several names count as one weight, that of a stack.

    Raises:
        ValueError: there is no parameter of such a name, or the sides share one.
    """
    sides = tuple((names,) if isinstance(names, str) else tuple(names) for names in (x, y))
    known = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    unknown = [name for names in sides for name in names if name not in known]
    if unknown or not all(sides):
        raise ValueError(f"declare_pair: {type(module).__name__} has no parameter {', '.join(unknown) or '(no name given)'}")
    if len(set(sides[0] + sides[1])) < len(sides[0] + sides[1]):
        raise ValueError(f"declare_pair: {', '.join(sides[0] + sides[1])}: a parameter belongs to one side, once")
    # A plain attribute, and names instead of parameters: both survive deepcopy, pickle and a change of precision.
    declared = getattr(module, _DECLARED, [])
    if sides not in declared:
        setattr(module, _DECLARED, [*declared, sides])


def parameter_at(module: nn.Module, path: str) -> Optional[nn.Parameter]:
    """The parameter that is registered under a name; None where there is none. Of a LoRA layer "weight" is W, and not W + s B A,
    which its attribute `weight` reads as, and which torch's `get_parameter` refuses.

    Example::

        >>> parameter_at(nn.Sequential(nn.Linear(2, 3)), "0.weight").shape
        torch.Size([3, 2])
    """
    owner, _, name = path.rpartition(".")
    return module.get_submodule(owner)._parameters.get(name)


def _declared_parameter(module: nn.Module, path: str) -> nn.Parameter:
    parameter = parameter_at(module, path)
    if parameter is None:
        raise AttributeError(f"{type(module).__name__} has no parameter {path} any more, of which a pair was declared")
    return parameter


def scale_invariant_pairs(model: nn.Module) -> List[Pair]:
    """All declared pairs of *model*, in the order of its modules; one that is declared of two modules, or twice, counts once."""
    pairs, seen = [], set()
    for prefix, module in model.named_modules():
        declared = getattr(module, _DECLARED, ())
        for x, y in declared:
            names = [prefix] if prefix else []
            if len(declared) > 1 or not names:
                names.append("+".join(x) + "/" + "+".join(y))
            params = [tuple(_declared_parameter(module, name) for name in side) for side in (x, y)]
            own = frozenset(tuple(map(id, side)) for side in params)
            if own not in seen:
                seen.add(own)
                pairs.append(Pair(".".join(names), *params))
    return pairs
