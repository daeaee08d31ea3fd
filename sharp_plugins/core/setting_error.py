"""Settings that are out of range, in the library's words; and the same in the words of a command line."""

from contextlib import contextmanager
from typing import Iterator, Mapping


class SettingError(ValueError):
    """A setting cannot be used. Its text is the setting's name in the library, and what is wrong: "rank must be 1 or larger".

    Args:
        name: of the setting, as the library's functions and classes call it.
        problem: what follows it in the text.

    Example::

        >>> try:
        ...     raise SettingError("rank", "must be 1 or larger, and is 0")
        ... except ValueError as error:
        ...     print(error)
        rank must be 1 or larger, and is 0
    """

    def __init__(self, name: str, problem: str):
        super().__init__(name, problem)
        self.name, self.problem = name, problem

    def __str__(self) -> str:
        return f"{self.name} {self.problem}"


NO_NAMES: Mapping[str, str] = {}


@contextmanager
def as_flags(prefix: str = "", names: Mapping[str, str] = NO_NAMES) -> Iterator[None]:
    """Name the settings as flags where they were given as flags: ``rank must be ...`` becomes ``--lora-rank must be ...``.

    Args:
        prefix: what the flags' names begin with, such as "lora"; nothing where they begin with the settings' own.
        names: what settings are called as flags, where it is not their own name.

    Raises:
        ValueError: in the place of a `SettingError`.
    """
    try:
        yield
    except SettingError as error:
        name = names.get(error.name, error.name).replace("_", "-")
        raise ValueError(f"--{prefix and f'{prefix}-'}{name} {error.problem}") from error
