"""A tokenizer for text that goes on after other text, or after a symbol.

Some tokenizers put a space before every text that they are given: Llama 2's and others of sentencepiece's kind, and byte-level ones
with ``add_prefix_space``. It belongs before the first text of a sequence alone. transformers does so too, with ``legacy=False``.
"""

import copy
import json
from typing import Any

from sharp_plugins.text.tokenizer import Tokenizer

# What the parts of a tokenizer.json say that prepends a space, and what they say where nothing does.
SWITCHES = {"prepend_scheme": "never", "add_prefix_space": False}


def continued(tokenizer: Tokenizer) -> Tokenizer:
    """*tokenizer* without the space that it puts before a text, and takes away when it decodes; itself, if it does neither.

    Example, with Llama 2's::

        tokenizer.encode("in it"), continued(tokenizer).encode("in it")  # ["▁in", "▁it"], ["in", "▁it"]
    """
    from tokenizers import Tokenizer as Backend

    settings = json.loads(tokenizer.backend.to_str())
    parts = {name: without_space(settings[name]) for name in ("normalizer", "pre_tokenizer")}
    if all(part == settings[name] for name, part in parts.items()):
        return tokenizer
    changed = copy.copy(tokenizer)
    changed.backend = Backend.from_str(json.dumps({**settings, **parts, "decoder": without_space(settings["decoder"])}))
    return changed


def without_space(part: Any) -> Any:
    """A part of a tokenizer.json, as JSON, without what puts a space before a text, or takes the first space away.

    >>> without_space({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "_"}, {"type": "Lowercase"}]})
    {'type': 'Sequence', 'normalizers': [{'type': 'Lowercase'}]}
    """
    if isinstance(part, list):
        return [kept for each in part if (kept := without_space(each)) is not None]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Prepend" or (part.get("type") == "Strip" and part.get("content") == " "):
        return None
    return {name: SWITCHES.get(name, without_space(value)) for name, value in part.items()}
