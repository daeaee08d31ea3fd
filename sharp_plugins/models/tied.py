"""A table of words that is the output layer too is one parameter with two names: a checkpoint with two tables does not fit."""

from typing import Any, Mapping

import torch


def check_tied(state: Mapping[str, Any], table: str, output: str, flag: str) -> None:
    """Refuse a checkpoint whose output layer has a table of its own, for a model in which it is the table of words.

    torch would load one table and then the other over it, without a word, and the model would compute something else.

    Args:
        state: the checkpoint's weights. It may hold one of the names alone, or neither.
        table, output: names of the two in *state*.
        flag: of the model with two tables.

    Raises:
        ValueError: the two differ.

    Example::

        >>> check_tied({"words": torch.zeros(2), "scores": torch.zeros(2)}, "words", "scores", "--untied-output")
    """
    if table in state and output in state and not torch.equal(state[table], state[output]):
        raise ValueError(
            f"this checkpoint's {output} is another table than {table}, and in this model the two are one: it needs {flag}"
        )
