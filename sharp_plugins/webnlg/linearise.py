"""A set of triples as one line of text, as published work writes it, or as the quickstart does."""

import re
from typing import Callable, Dict, Sequence

from sharp_plugins.webnlg.entry import Entry, Triple

# What separates the parts of a triple in `markup`. In sentencepiece they should be user-defined symbols.
SUBJECT, PREDICATE, OBJECT = "<S>", "<P>", "<O>"

# E2E NLG's slots and values as they stand in the data files of LoRA's and prefix tuning's code (examples/NLG/data/e2e/*.txt in
# microsoft/LoRA), where they differ from the published ones. With these all inputs of dev and test are equal to those files'.
E2E_NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}
E2E_VALUES = {"less than £20": "less than £ 20", "£20-25": "£ 20 - 25", "more than £30": "more than £ 30"}


def linearise(entry: Entry, how: str) -> str:
    """An entry's triples on one line, in their order.

    Args:
        how: one of `LINEARISATIONS`.

    Raises:
        ValueError: there is no such one.

    >>> entry = Entry("1", "Food", None, (("Bacon", "partOf", "BLT"), ("BLT", "madeIn", "New_York")), ("A text.",))
    >>> for how in LINEARISATIONS:
    ...     print(repr(linearise(entry, how)))
    'Bacon : partOf : BLT | BLT : madeIn : New_York'
    ' | Bacon : partOf : BLT | BLT : madeIn : New_York'
    '<S> Bacon <P> part of <O> BLT <S> BLT <P> made in <O> New York'
    """
    if how not in LINEARISATIONS:
        raise ValueError(f"there is no linearisation {how!r}; there are {', '.join(LINEARISATIONS)}")
    return LINEARISATIONS[how](entry.triples)


def lora(triples: Sequence[Triple]) -> str:
    """As LoRA's code (Hu et al. 2022, microsoft/LoRA, examples/NLG/src/format_converting_webnlg.py and ..._dart.py): ``subject :
    property : object``, with `` | `` between two triples. Names stay as they are.

    E2E NLG's slots have no subject, and are written as in LoRA's data files:

    >>> lora([("", "name", "The Vaults"), ("", "eatType", "pub"), ("", "priceRange", "more than £30")])
    'name : The Vaults | Type : pub | price : more than £ 30'
    """
    return " | ".join(map(_joined, triples))


def prefix(triples: Sequence[Triple]) -> str:
    """As prefix tuning's code trains on WebNLG (Li and Liang 2021, XiangLi1999/PrefixTuning, LineByLineWebNLGTextDataset in its
    transformers/src/transformers/data/datasets/language_modeling.py): as `lora`, and `` | `` precedes the first triple too.

    That code generates (read_webnlg_files in gpt2/run_generation.py) from another input for the first entry of a file: there no
    triple is preceded by a bar, not even the second. The condition tests the number of the entry where the number of the triple is
    meant. Here every entry has its bars. For E2E NLG that code writes what `lora` writes, and so does this. For DART it does so
    too, and this cannot tell DART's triples from WebNLG's: take `lora`.

    >>> prefix([("", "name", "The Vaults"), ("", "eatType", "pub")])
    'name : The Vaults | Type : pub'
    """
    if all(not subject for subject, _, _ in triples):
        return lora(triples)
    return "".join(f" | {_joined(triple)}" for triple in triples)


def _joined(triple: Triple) -> str:
    subject, predicate, obj = triple
    if subject:
        return f"{subject} : {predicate} : {obj}"
    return f"{E2E_NAMES.get(predicate, predicate)} : {E2E_VALUES.get(obj, obj)}"


def markup(triples: Sequence[Triple]) -> str:
    """As the quickstart: symbols mark the parts, and names are written as words, for a model that learns its words from the corpus.

    >>> markup([("Aarhus", "leaderName", "Jacob_Bundsgaard")])
    '<S> Aarhus <P> leader name <O> Jacob Bundsgaard'
    """
    parts = []
    for subject, predicate, obj in triples:
        parts += [SUBJECT, readable_entity(subject)] if subject else []
        parts += [PREDICATE, readable_predicate(predicate)]
        parts += [OBJECT, readable_entity(obj)]
    return " ".join(parts)


def readable_entity(name: str) -> str:
    """``Aarhus_Airport`` -> ``Aarhus Airport``; the quotation marks around a literal are dropped."""
    if len(name) >= 2 and name.startswith('"') and name.endswith('"'):
        name = name[1:-1]
    return " ".join(name.replace("_", " ").split())


def readable_predicate(name: str) -> str:
    """``leaderName`` -> ``leader name``: camelCase is split, its words become lower case, abbreviations stay.

    Words of a predicate then share their pieces with the same words in the texts.
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " ")).split()
    return " ".join(word if re.search(r"[A-Z]{2}", word) else word.lower() for word in words)


LINEARISATIONS: Dict[str, Callable[[Sequence[Triple]], str]] = {"lora": lora, "prefix": prefix, "markup": markup}
