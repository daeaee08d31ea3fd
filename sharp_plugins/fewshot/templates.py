"""Texts with places for a row's fields, as a task's file has them: ``{premise}``, or with operations ``{premise|no-final-stop}``.

A brace of the text itself is doubled, ``{{``. The operations are those that published prompts need.
"""

import re
from typing import Callable, Dict, List, Mapping, NamedTuple, Tuple, Union

# The name of the place where a candidate stands that is filled in, see `fill`.
PLACEHOLDER = "@placeholder"
PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def without_final_stop(text: str) -> str:
    """Without one full stop at the end.

    >>> without_final_stop("It rained."), without_final_stop("It rained!")
    ('It rained', 'It rained!')
    """
    return text.removesuffix(".")


def lower_first_word(text: str) -> str:
    """With the first word in lower case, unless it is "I" alone.

    >>> lower_first_word("The sun rose."), lower_first_word("I slept."), lower_first_word("I'm here.")
    ('the sun rose.', 'I slept.', "i'm here.")
    """
    first, space, rest = text.partition(" ")
    return text if first == "I" else first.lower() + space + rest


def as_list(text: str) -> str:
    """ReCoRD's highlights as the items of a list.

    >>> as_list("A storm.\\n@highlight\\nIt rained.")
    'A storm.\\n- It rained.'
    """
    return text.replace("@highlight\n", "- ")


OPERATIONS: Dict[str, Callable[[str], str]] = {
    "strip": str.strip,
    "rstrip": str.rstrip,
    "no-final-stop": without_final_stop,
    "lower-first-word": lower_first_word,
    "highlights": as_list,
}


class Place(NamedTuple):
    """A place in a template: a field, and the operations on its text, in order."""

    field: str
    operations: Tuple[str, ...]


class Template(NamedTuple):
    """A text with places.

    Attributes:
        parts: texts and places, in order.

    >>> template = read_template("{premise|rstrip|no-final-stop} so")
    >>> template.fields
    ['premise']
    >>> template.render({"premise": "The sun rose. "})
    'The sun rose so'
    """

    parts: Tuple[Union[str, Place], ...]

    @property
    def fields(self) -> List[str]:
        """The fields that it names."""
        return list(dict.fromkeys(part.field for part in self.parts if isinstance(part, Place)))

    def render(self, values: Mapping[str, str]) -> str:
        """The text of a row.

        Args:
            values: of the fields.
        """
        return "".join(part if isinstance(part, str) else _value(part, values) for part in self.parts)


def _value(place: Place, values: Mapping[str, str]) -> str:
    text = values[place.field]
    for name in place.operations:
        text = OPERATIONS[name](text)
    return text


def read_template(text: str) -> Template:
    """
    Raises:
        ValueError: a brace stands alone, or there is no such operation.
    """
    parts: List[Union[str, Place]] = []
    end = 0
    for match in PLACE.finditer(text):
        parts.append(text[end : match.start()])
        end = match.end()
        if match[0] in ("{{", "}}"):
            parts.append(match[0][0])
            continue
        field, *operations = [part.strip() for part in (match[1] or "").split("|")]
        if not field:
            raise ValueError(f"{text!r}: {match[0]} names no field; a brace of the text itself is doubled")
        for name in operations:
            if name not in OPERATIONS:
                raise ValueError(f"{text!r}: there is no operation {name}; choose from {', '.join(OPERATIONS)}")
        parts.append(Place(field, tuple(operations)))
    parts.append(text[end:])
    return Template(tuple(part for part in parts if part != ""))


def fill(text: str, candidate: str) -> str:
    """A sentence with a gap, with the candidate in it.

    >>> fill("Then @placeholder won.", "Venus")
    'Then Venus won.'
    """
    return text.replace(PLACEHOLDER, candidate)
