"""How a prompt and a text become one sequence of symbols, as published work does it (`FORMATS`), or by settings of one's own.

    start  prompt's template  separator  |  text's template  end
    ------------ the prompt ------------ | ------ the text -----

The start, the separator and the end are symbols; each of them but the end may be left out. The templates are texts around
``{prompt}`` and ``{text}``. Each side of the bar is tokenised by itself, and so is each side of a symbol.
"""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Dict, Optional, Tuple

from sharp_plugins.files.yaml import read_yaml

PROMPT, TEXT = "{prompt}", "{text}"
END = "</s>"  # the published end of a text, whatever its name is there
NONE = "none"  # as a start or a separator: there is none, as with nothing
MODELS_OWN = "auto"  # as a start: the symbol that the model has seen before a text


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        start, separator: a symbol, or nothing, which settings may write as ``none``; the start may be ``auto``, see `MODELS_OWN`.
        prompt, text: the templates.
        end: a symbol.
        stop: what ends a generated text beside the end: symbols, or texts that the tokenizer writes as one symbol.
        spaces: whether the prompt's underscores are written as spaces.

    Symbols are named as in the model's ``dict.txt``, or as its tokenizer publishes them (``<|endoftext|>``).

    Raises:
        ValueError: by `check`, if the settings make no sequence.

    Example::

        >>> Format(prompt="Facts: {prompt}", spaces=True).around_prompt("Alan_Bean | birthPlace | Wheeler")
        'Facts: Alan Bean | birthPlace | Wheeler'
    """

    start: str = ""
    prompt: str = PROMPT
    separator: str = ""
    text: str = f" {TEXT}"
    end: str = END
    stop: Tuple[str, ...] = ()
    spaces: bool = False

    def check(self) -> "Format":
        for name, place in (("prompt", PROMPT), ("text", TEXT)):
            template = getattr(self, name)
            if template.count(place) != 1:
                raise ValueError(f"{flag_of(name)} {template!r}: {place} must stand in it once")
        if not self.end:
            raise ValueError(f"{flag_of('end')}: a symbol is needed, or no text would ever be finished")
        return self

    def around_prompt(self, prompt: str) -> str:
        """The text before the separator."""
        before, after = self.prompt.split(PROMPT)
        return before + (prompt.replace("_", " ") if self.spaces else prompt) + after

    def around_text(self, text: str) -> str:
        """The text before the end."""
        before, after = self.text.split(TEXT)
        return before + text + after

    def as_dict(self) -> Dict:
        return {**asdict(self), "stop": list(self.stop)}


# LoRA's GPT-2 (Hu et al. 2022, examples/NLG: gpt2_encode.py, gpt2_beam.py): context </s> " text" </s>, nothing before the context.
# Prefix tuning (Li and Liang 2021, its language modelling data sets): " source " </s> " text " </s>.
# facts: where SmolLM2-135M-Instruct, untrained, finds the texts of WebNLG the most likely. It ends its lines, and rarely its text.
FORMATS: Dict[str, Format] = {
    "lora-gpt2": Format(separator=END, stop=("\n\n",)),
    "prefix-gpt2": Format(prompt=f" {PROMPT} ", separator=END, text=f" {TEXT} "),
    "facts": Format(start=MODELS_OWN, prompt=f"Facts: {PROMPT}\nText:", spaces=True, stop=("\n", "\n\n")),
    "plain": Format(start=MODELS_OWN),
}


def flag_of(name: str) -> str:
    """The flag of ``prepare`` that sets an attribute of `Format`."""
    return {"prompt": "--prompt-template", "text": "--text-template"}.get(name, f"--{name}")


def format_of(settings: Dict, where: str, base: Optional[Format] = None) -> Format:
    """*base* with *settings*: attributes of `Format` by name.

    Args:
        where: what errors begin with.

    Raises:
        ValueError: there is no such attribute, or one has another type.
    """
    base = base or Format()
    kinds = {field.name: field.type for field in fields(Format)}
    unknown = sorted(map(str, settings.keys() - kinds.keys()))
    if unknown:
        raise ValueError(f"{where}: a format has no {', '.join(unknown)}; it has {', '.join(kinds)}")
    values = {name: "" if name in ("start", "separator") and value == NONE else value for name, value in settings.items()}
    if isinstance(values.get("stop"), (list, tuple)):
        values["stop"] = tuple(values["stop"])
    for name, value in values.items():
        is_right = isinstance(value, type(getattr(base, name)))
        if not is_right or (name == "stop" and not all(isinstance(part, str) and part for part in value)):
            wanted = {"stop": "a list of texts", "spaces": "true or false"}.get(name, "a text")
            raise ValueError(f"{where}: {name} is {wanted}, and not {value!r}")
    try:
        return replace(base, **values).check()
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def find_format(name: str) -> Format:
    """The named format, or the one in a YAML file, which may begin with ``base: NAME``.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is neither, or the file's settings make no format.

    Example::

        >>> find_format("lora-gpt2").separator
        '</s>'
    """
    if name in FORMATS:
        return FORMATS[name]
    if not name.endswith((".yaml", ".yml")):
        raise ValueError(f"--format {name}: choose one of {', '.join(FORMATS)}, or a file that ends in .yaml")
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"--format {name}: there is no such file")
    settings = read_yaml(path)
    base = settings.pop("base", None)
    if base is not None and not (isinstance(base, str) and base in FORMATS):
        raise ValueError(f"{path}: base {base!r} is none of {', '.join(FORMATS)}")
    return format_of(settings, str(path), FORMATS.get(base))
