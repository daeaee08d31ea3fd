"""What a run is, and what came out of it: the records that the engine stores, and that tables and statistics read."""

import math
from typing import Dict, List, Mapping, NamedTuple, Optional, Union

Value = Union[str, int, float]


class Record(NamedTuple):
    """Which run it is; a directory's path is only a print of it.

    Attributes:
        benchmark: its name, such as "glue".
        task: one of the benchmark's, such as "RTE".
        method: such as "base" or "lora-nbar", see `sharp_plugins.runs.methods`.
        seed: the random seed.
        axes: further coordinates by name, such as {"examples": 16} or {"optimizer.sam_rho": 0.01}.
    """

    benchmark: str
    task: str
    method: str
    seed: int
    axes: Mapping[str, Value]


class Validation(NamedTuple):
    """One validation during training.

    Attributes:
        update: how many updates had been made.
        minutes: of training and validation until then, by fairseq's own clock, which goes on where an interrupted run does.
        metrics: value by name, in the units of `Result.metrics`.
    """

    update: int
    minutes: float
    metrics: Dict[str, float]


class Result(NamedTuple):
    """A finished run.

    Attributes:
        record: which run.
        metrics: of the checkpoint that the run was to find: value by split and name, such as {"valid": {"accuracy": 71.5}}.
        minutes: of training and validation, by fairseq's own clock.
        updates: that were made.
        best_update: of the checkpoint that is measured; None where the last one is.
        memory: the most bytes that training held, on the GPU where there is one and else of the process; None if unknown.
        validations: in their order; empty where there were none.
        notes: what the benchmark wants to keep beside, in JSON's types.
    """

    record: Record
    metrics: Dict[str, Dict[str, float]]
    minutes: float
    updates: int
    best_update: Optional[int]
    memory: Optional[int]
    validations: List[Validation]
    notes: Dict


class Measure(NamedTuple):
    """A number that a table shows.

    Attributes:
        split, name: where it stands in `Result.metrics`.
        heading: what the table calls it, such as "accuracy, mismatched".
        higher_is_better: False for a loss or TER.
        chosen_on: what the set is, where a sweep chooses by it and it is no development set.

    >>> result = Result(Record("glue", "RTE", "sam", 1, {}), {"valid": {"accuracy": 71.5}}, 1.0, 10, None, None, [], {})
    >>> Measure("valid", "accuracy", "accuracy").of(result), Measure("test", "accuracy", "accuracy").of(result)
    (71.5, None)
    """

    split: str
    name: str
    heading: str
    higher_is_better: bool = True
    chosen_on: str = ""

    def of(self, result: Result) -> Optional[float]:
        """The number in a result; None where the run was not measured so."""
        return result.metrics.get(self.split, {}).get(self.name)

    def told_by(self, metrics: Mapping[str, float]) -> Optional[float]:
        """The number in a validation's metrics. fairseq's criterions tell no nll_loss where the loss is the same.

        >>> Measure("valid", "nll_loss", "loss").told_by({"loss": 2.5})
        2.5
        """
        return metrics.get(self.name, metrics.get("loss") if self.name == "nll_loss" else None)


class Validated(Measure):
    """A number of the training's own validation, at the checkpoint that is measured; it need not stand in `Result.metrics`.

    >>> one = Validation(10, 1.0, {"loss": 2.5, "nll_loss": 2.0})
    >>> result = Result(Record("webnlg", "text", "sam", 1, {}), {"valid": {"loss": 2.5}}, 1.0, 10, 10, None, [one], {})
    >>> Validated("valid", "nll_loss", "loss", higher_is_better=False).of(result)
    2.0
    """

    __slots__ = ()

    def of(self, result: Result) -> Optional[float]:
        """The number; NaN where training diverged, which its log tells of no validation."""
        update = result.updates if result.best_update is None else result.best_update
        found = [self.told_by(one.metrics) for one in result.validations if one.update == update]
        found = [value for value in found if value is not None]
        diverged = [value for value in result.metrics.get(self.split, {}).values() if math.isnan(value)]
        return found[-1] if found else diverged[0] if diverged else None
