"""The methods' names, for every benchmark.

A name joins up to three parts with hyphens, in this order:

    lora, houlsby, pfeiffer, prefix  low-rank updates, adapters, or a prefix, alone are trained
    sam, dsam, obar, nbar            around the base optimizer; obar and nbar are BAR's, and need lora
    r3f, rdrop, freelb, smart        instead of the stock loss

or is ``base``, with none of them.
"""

from typing import Mapping, NamedTuple, Optional

NETWORKS = ("lora", "houlsby", "pfeiffer", "prefix")
OPTIMIZERS = ("sam", "dsam", "obar", "nbar")
CRITERIONS = ("r3f", "rdrop", "freelb", "smart")
BASE = "base"

# Settings that are a part's own, by how their names begin: a change to one of them is for the methods with such a part.
PARTS_OWN = {"model.lora_": ("lora",), "model.adapter_": ("houlsby", "pfeiffer"), "model.prefix_": ("prefix",)}
PARTS_OWN.update({f"criterion.{name}_": (name,) for name in CRITERIONS})
# One method of each kind: between them they have use for every setting. Benchmarks of decoders have "prefix" too.
KINDS = ("dsam", "lora-obar", "houlsby", *CRITERIONS)


class Method(NamedTuple):
    """A method.

    Attributes:
        name: as ``--methods`` takes it.
        network: what is put into the model and trained instead of it; None for the model itself.
        optimizer: what goes around the base optimizer; None for the base optimizer alone.
        criterion: what replaces the stock loss; None for the stock loss.

    >>> find_method("lora-nbar").optimizer
    'nbar'
    """

    name: str
    network: Optional[str] = None
    optimizer: Optional[str] = None
    criterion: Optional[str] = None


def find_method(name: str, extra: Mapping[str, Method] = {}) -> Method:
    """The method of that name.

    Args:
        extra: a benchmark's own methods by name, beside those of the grammar.

    Raises:
        ValueError: there is no such method.
    """
    if name in extra:
        return extra[name]
    parts = [] if name == BASE else name.split("-")
    chosen = [[part for part in parts if part in group] for group in (NETWORKS, OPTIMIZERS, CRITERIONS)]
    # Each part is known, in order, and of a group of its own.
    if any(len(group) > 1 for group in chosen) or [part for group in chosen for part in group] != parts or not name:
        known = ", ".join((BASE, *extra))
        raise ValueError(
            f"--methods {name}: there is no such method; it is {known}, or one or more of: one of "
            f"{', '.join(NETWORKS)}; one of {', '.join(OPTIMIZERS)}; and one of {', '.join(CRITERIONS)}; in this order "
            "with hyphens between them"
        )
    network, optimizer, criterion = (group[0] if group else None for group in chosen)
    if optimizer in ("obar", "nbar") and network != "lora":
        rest = "-".join(part for part in parts if part != network)
        raise ValueError(f"--methods {name}: BAR balances LoRA's updates; use lora-{rest}")
    return Method(name, network, optimizer, criterion)


def has_use(method: Method, change: str) -> bool:
    """Whether a change of a setting, ``part.name=value``, concerns the method: False where it is another part's own."""
    parts = (method.network, method.criterion)
    return all(any(part in parts for part in owners) for own, owners in PARTS_OWN.items() if change.startswith(own))
