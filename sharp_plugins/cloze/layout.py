"""How sentences become a prompt with a mask, and which word at the mask says which class: LM-BFF's way, in a YAML file.

    template:
    - sentence: 1                 # the first sentence of a line
      drop_last: true             # without its last character
    - "?"                         # one character: that token of the vocabulary, without a space before it
    - <mask>
    - ","
    - sentence: 2
      lower_first: true           # its first character in lower case
      space: true                 # with a space before it
    words: {entailment: "Yes", not_entailment: "No"}
    max_length: 256

A literal of two characters or more (`" It was"`) is tokenised as it stands. ``<s>`` before and ``</s>`` after all are not written.

Source: "Making Pre-trained Language Models Better Few-shot Learners" (Gao et al. 2021), its code ``src/dataset.py``
(``tokenize_multipart_input``) and ``run_experiment.sh``; for MNLI's limit, MeZO's ``medium_models/run_fewshot.sh``.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

from sharp_plugins.files.yaml import read_yaml

MASK = "<mask>"
DIRECTORY = Path(__file__).with_name("layouts")
MOST_SENTENCES = 2
# Where YAML reads something else than a text, and the text was meant.
QUOTES = "; write it in quotes"


@dataclass(frozen=True)
class Sentence:
    """A place of a sentence in a template.

    Attributes:
        number: which sentence of a line, from 1.
        drop_last: without its last character, whatever that is. LM-BFF's code calls it the last token, and drops a character.
        lower_first: the first character in lower case.
        space: a space before it.
        limit: the most tokens of it; those after them are left out (LM-BFF's first_sent_limit and other_sent_limit).

    Example::

        >>> Sentence(2, lower_first=True, space=True).text_of("It rained.")
        ' it rained.'
    """

    number: int
    drop_last: bool = False
    lower_first: bool = False
    space: bool = False
    limit: Optional[int] = None

    def text_of(self, sentence: str) -> str:
        """What is tokenised of a sentence."""
        text = sentence[:1].lower() + sentence[1:] if self.lower_first else sentence
        return (" " if self.space else "") + (text[:-1] if self.drop_last else text)


@dataclass(frozen=True)
class Layout:
    """A layout.

    Attributes:
        template: literals, `MASK` (once) and places of sentences.
        words: each class's word, by the class as the data name it; the order is the classes' order.
        max_length: the most tokens of a sequence, the special ones too; the tail is cut.

    Example::

        >>> layout = Layout((Sentence(1), " It was", MASK, "."), {"0": "terrible", "1": "great"}, 128)
        >>> layout.sentences, layout.classes
        (1, ['0', '1'])
    """

    template: Tuple[Union[str, Sentence], ...]
    words: Dict[str, str]
    max_length: int

    @property
    def sentences(self) -> int:
        """How many sentences a line of the data has."""
        return max(part.number for part in self.template if isinstance(part, Sentence))

    @property
    def classes(self) -> List[str]:
        return list(self.words)

    def as_dict(self) -> Dict[str, Any]:
        """The settings, as a file has them."""

        def plain(part):
            if isinstance(part, str):
                return part
            given = {field.name: getattr(part, field.name) for field in fields(part)[1:]}
            return {"sentence": part.number, **{name: value for name, value in given.items() if value}}

        return {"template": [plain(part) for part in self.template], "words": dict(self.words), "max_length": self.max_length}


# ---------------------------------------------------------------------- from settings


def layout_of(settings: Dict, where: str) -> Layout:
    """The layout of a file's settings.

    Args:
        where: what errors begin with.

    Raises:
        ValueError: a setting is missing, unknown or of another kind, or the template has not one mask, or not its sentences.

    Example::

        >>> template = [{"sentence": 1}, " It was", "<mask>", "."]
        >>> layout_of({"template": template, "words": {0: "terrible", 1: "great"}, "max_length": 128}, "sst-2.yaml").classes
        ['0', '1']
    """
    names = [field.name for field in fields(Layout)]
    if set(settings) != set(names):
        unknown = sorted(map(str, set(settings) - set(names)))
        missing = [name for name in names if name not in settings]
        words = f"has no {', '.join(unknown)}" if unknown else f"needs {', '.join(missing)}"
        raise ValueError(f"{where}: a layout {words}; its settings are {', '.join(names)}")
    template, words, most = (settings[name] for name in names)
    if not isinstance(template, list):
        raise ValueError(f"{where}: template is a list of texts, {MASK} and sentences, and not {template!r}")
    parts = tuple(_part(part, f"{where}: template, part {number}") for number, part in enumerate(template, 1))
    if parts.count(MASK) != 1:
        raise ValueError(f"{where}: template: {MASK} must be in it once, and is {parts.count(MASK)} times")
    numbers = {part.number for part in parts if isinstance(part, Sentence)}
    if numbers not in ({1}, {1, 2}):
        raise ValueError(f"{where}: template: it must have sentence 1, or 1 and 2, and has {sorted(numbers) or 'none'}")
    if type(most) is not int or most < 4:
        raise ValueError(f"{where}: max_length is a number of tokens, 4 or more, and not {most!r}")
    return Layout(parts, _words(words, f"{where}: words"), most)


def _part(part, where: str) -> Union[str, Sentence]:
    if isinstance(part, str):
        if not part or part == " ":
            raise ValueError(f"{where}: a literal is a text, and not {part!r}")
        return part
    if not isinstance(part, dict) or "sentence" not in part:
        raise ValueError(f"{where}: it is a text{QUOTES if part is not None else ''}, {MASK} or a sentence, and not {part!r}")
    values = {"number" if name == "sentence" else name: value for name, value in part.items()}
    kinds = {field.name: int if field.name in ("number", "limit") else bool for field in fields(Sentence)}
    for name, value in values.items():
        if name not in kinds:
            known = ", ".join(["sentence", *list(kinds)[1:]])
            raise ValueError(f"{where}: a sentence has no {name}; it has {known}")
        if type(value) is not kinds[name] or (kinds[name] is int and value < 1):
            wanted = "a number from 1" if kinds[name] is int else "true or false"
            raise ValueError(f"{where}: {'sentence' if name == 'number' else name} is {wanted}, and not {value!r}")
    if values["number"] > MOST_SENTENCES:
        raise ValueError(f"{where}: sentence {values['number']}: a line has {MOST_SENTENCES} sentences at most")
    return Sentence(**values)


def _words(words, where: str) -> Dict[str, str]:
    if not isinstance(words, dict) or len(words) < 2:
        raise ValueError(f"{where}: a word for each of two classes or more is expected, and not {words!r}")
    for name, word in words.items():
        if type(name) not in (str, int) or not isinstance(word, str) or not word:
            odd, what = (name, "class") if type(name) not in (str, int) else (word, f"word of class {name}")
            raise ValueError(f"{where}: the {what} is {odd!r}, and no text{QUOTES}")
    if len(set(map(str, words))) < len(words):
        raise ValueError(f"{where}: a class is there twice")
    return {str(name): word for name, word in words.items()}


def named_layouts() -> List[str]:
    """The layouts that are here."""
    return sorted(path.stem for path in DIRECTORY.glob("*.yaml"))


def find_layout(name: str) -> Layout:
    """The named layout, or the one in a YAML file.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is neither, or the file's settings make no layout.

    Example::

        >>> find_layout("rte").words
        {'entailment': 'Yes', 'not_entailment': 'No'}
    """
    if name in named_layouts():
        return find_layout(str(DIRECTORY / f"{name}.yaml"))
    if not name.endswith((".yaml", ".yml")):
        raise ValueError(f"--layout {name}: choose one of {', '.join(named_layouts())}, or a file that ends in .yaml")
    if not Path(name).is_file():
        raise FileNotFoundError(f"--layout {name}: there is no such file")
    return layout_of(read_yaml(name), name)
