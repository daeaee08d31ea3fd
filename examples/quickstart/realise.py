"""Say a list of facts in English, each time a little differently.

A text keeps the order of the facts. What varies is how many facts share a sentence, the phrase of each fact, whether
a fact is turned round, how the subject is named after its first mention, and whether a fact about an object becomes a
relative clause or a sentence of its own.
"""

from typing import List


def realise(facts: list, category, choose) -> str:
    """One text for the facts, a list of (subject, property, object) as ``draw_facts`` makes it."""
    groups = _attach(facts)
    sentences: List[str] = []
    while groups:
        # One to three facts of the subject share a sentence; two is the most frequent.
        size = min(len(groups), 1 + choose.weighted((25, 50, 25)))
        now, groups = groups[:size], groups[size:]
        # "It" would be misread after a sentence about something else.
        aside = bool(sentences) and not sentences[-1].startswith(tuple(_mentions(facts[0][0], category)))
        sentences += _sentences(now, category, not sentences, aside, choose)
    return " ".join(sentences)


def _attach(facts: list) -> list:
    """Put each fact about an object with the fact that mentions the object: a list of (fact, [facts about it])."""
    subject = facts[0][0]
    groups = []
    for fact in facts:
        if fact[0] == subject:
            groups.append((fact, []))
        else:
            # A chain may go two steps deep; it belongs to the fact before it either way.
            groups[-1][1].append(fact)
    return groups


def _sentences(groups: list, category, first: bool, aside: bool, choose) -> List[str]:
    """One sentence for the subject's facts, and those of the objects that get their own."""
    subject = groups[0][0][0]
    name = _mention(subject, category)
    (_, prop, obj), chained = groups[0]
    if first and len(groups) == 1 and not chained and prop.inversion and choose.chance(0.3):
        return [_capital(prop.inversion.format(s=name, o=_plain(obj)))]
    after: List[str] = []
    clauses: List[str] = []
    for (_, prop, obj), chained in groups:
        clause = choose.one(prop.phrases).format(o=_plain(obj))
        # A relative clause must follow the object at once.
        relative = clause.endswith(_plain(obj)) and choose.chance(0.5)
        for number, (other, chain, value) in enumerate(chained):
            said = choose.one(chain.phrases).format(o=_plain(value))
            if number == 0 and relative:
                clause += f", {'who' if prop.kind == 'Person' else 'which'} {said},"
            else:
                after.append(f"{_plain(other)} {said}.")
        clauses.append(clause)
    if not first:
        name = f"the {category.noun}" if aside else choose.one((category.pronoun, f"the {category.noun}"))
    return [_capital(f"{name} {_join(clauses)}."), *after]


def _join(clauses: List[str]) -> str:
    """``a, b and c``; a relative clause's closing comma is dropped at the end of the sentence."""
    head, last = clauses[:-1], clauses[-1].rstrip(",")
    if not head:
        return last
    joined = head[0]
    for clause in head[1:]:
        joined = f"{joined.rstrip(',')}, {clause}"
    return f"{joined} and {last}"


def _mention(name: str, category) -> str:
    """The subject's name in a text; buildings and ships have an article."""
    return f"the {name}" if category.noun in ("building", "ship") else name


def _mentions(name: str, category) -> List[str]:
    """How a sentence about the subject may begin."""
    return [_capital(text) for text in (_mention(name, category), category.pronoun, f"the {category.noun}")]


def _plain(name: str) -> str:
    return name.strip('"')


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
