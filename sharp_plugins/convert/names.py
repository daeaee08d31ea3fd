"""Published weights under the model's own names, whatever a training loop or a file format has put around and before these.

One step before any weight is looked up:

1. ``{"state_dict": {...}, "epoch": 3}``: the dict that holds the encoder's tensors is taken out of those around it.
2. ``module.``, ``_orig_mod.`` and the like, which DistributedDataParallel, torch.compile and FSDP put into names, go.
3. What stands before the encoder's own name goes from all weights: ``net.roberta.`` and ``net.lm_head.`` become ``roberta.`` and
   ``lm_head.``.
4. A tensor that the file holds once for several names gets all of them: by the file's metadata, where safetensors' ``save_model``
   left one name out, or because BERT and RoBERTa tie these weights.
5. Names of the first BERTs become today's.
"""

from typing import Dict, List, Mapping, Optional, Tuple

import torch
from torch import Tensor

from sharp_plugins.files.aliases import with_shared

WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Names of the dict with the weights, where others beside it hold some too (averages, a teacher's): the first that is there.
USUAL = ("state_dict", "model_state_dict", "model", "module", "net", "weights")
# Heads of language models: their output layer is the table of words again, and its bias the head's.
HEADS = ("cls.predictions.", "lm_head.")
OLD_ENDS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def model_names(content, shared: Optional[Mapping[str, str]] = None) -> Dict[str, Tensor]:
    """The tensors of an encoder's file by their names in transformers.

    Args:
        content: what the file holds: tensors by names, perhaps in dicts in dicts.
        shared: a safetensors file's metadata: a name that was left out -> the name that holds its tensor.

    Raises:
        ValueError: it holds no tensors by names, two encoders, or different tensors for one name.

    Example, as a training loop saved it, the encoder inside a larger model::

        >>> table = torch.zeros(3, 2)
        >>> content = {"state_dict": {"module.net.bert.embeddings.word_embeddings.weight": table}, "epoch": 3}
        >>> list(model_names(content))
        ['bert.embeddings.word_embeddings.weight']
    """
    weights = with_shared(tensors_of(unwrapped(content)), shared or {})
    weights = _renamed(weights, without_wrappers)
    fronts = sorted(_fronts(weights, WORDS) or _fronts(weights, POSITIONS), key=len)
    for double in [front for front in fronts[1:] if _is_copy(weights, front, fronts[0])]:
        fronts.remove(double)
        around = double[: -len(double.split(".")[-2]) - 1]
        weights = {name: value for name, value in weights.items() if not name.startswith(double)}
        weights = _renamed(weights, lambda name, around=around: name.removeprefix(around))  # a head may be there alone
    if len(fronts) == 1:  # others are refused where the encoder is looked up
        weights = _renamed(weights, lambda name: _without_front(name, fronts[0]))
        _tie(weights, fronts[0].rpartition(".")[0].rpartition(".")[2])
    return weights


def tensors_of(content) -> Dict[str, Tensor]:
    """The tensors of a dict that have names."""
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def unwrapped(content, ends: Tuple[str, ...] = (WORDS, POSITIONS)) -> Dict:
    """The dict with the model's weights: the outermost of those that hold any.

    Args:
        ends: how the names of some of these weights end.

    Raises:
        ValueError: *content* is no dict, or several models are in it.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"weights by their names are expected, and it holds a {type(content).__name__}")
    level: List[Tuple[str, Mapping]] = [("", content)]
    while level:
        found = {path: part for path, part in level if any(str(name).endswith(ends) for name in part)}
        if found:
            usual = [path for name in USUAL for path in found if path.rpartition("/")[2] == name]
            if len(found) > 1 and not usual:
                raise ValueError(f"it holds several models, {' and '.join(sorted(found))}; save the weights of one alone")
            return found[usual[0]] if usual else next(iter(found.values()))
        level = [
            (f"{path}/{name}".lstrip("/"), value)
            for path, part in level
            if path.count("/") < len(USUAL)  # no file nests deeper, and a dict may hold itself
            for name, value in part.items()
            if isinstance(value, Mapping)
        ]
    return content


def _renamed(weights: Dict[str, Tensor], rename) -> Dict[str, Tensor]:
    result: Dict[str, Tensor] = {}
    for name, value in weights.items():
        new = rename(name)
        if new in result and not _is_same(result[new], value):
            raise ValueError(f"it holds two different tensors for {new}, one of them as {name}")
        result[new] = value
    return result


def without_wrappers(name: str) -> str:
    """A weight's name without what training puts into it, and today's name for one of the first BERTs'."""
    for old, new in OLD_ENDS.items():
        name = name[: -len(old)] + new if name.endswith(old) else name
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _fronts(weights: Dict[str, Tensor], table: str) -> List[str]:
    """What stands before *table* in names, each once."""
    return [name[: -len(table)] for name in weights if name == table or name.endswith(f".{table}")]


def _without_front(name: str, front: str) -> str:
    """Without the longest part of what stands before the encoder's own name, the last in *front*."""
    parts = front.split(".")[:-2]
    for count in range(len(parts), 0, -1):
        before = ".".join(parts[:count]) + "."
        if name.startswith(before):
            return name[len(before) :]
    return name


def _is_copy(weights: Dict[str, Tensor], front: str, other: str) -> bool:
    """Whether all tensors below *front* are below *other* too."""
    return all(
        other + name[len(front) :] in weights and _is_same(value, weights[other + name[len(front) :]])
        for name, value in weights.items()
        if name.startswith(front)
    )


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other))


def _tie(weights: Dict[str, Tensor], encoder: str) -> None:
    """Give tied weights of which one is there both names."""
    for head in HEADS:
        table = f"{encoder}.{WORDS}".lstrip(".")
        for name, other in ((table, f"{head}decoder.weight"), (f"{head}bias", f"{head}decoder.bias")):
            if name not in weights and other in weights:
                weights[name] = weights[other]
