"""Make the quickstart corpus: triples and several texts for each, in WebNLG's shape.

The same seed gives the same bytes on every machine and Python: the only source of chance is ``random.Random.random``,
whose sequence Python guarantees, and no order depends on a set or a hash.
"""

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Dict, List, Tuple

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from names import pools
from realise import realise
from world import CHAINS, SEEN, UNSEEN, Category, Property

from sharp_plugins.files.writing import write_text

# How often an input has 1, 2, ... 7 triples, in percent; close to WebNLG's own.
SIZES = (26, 20, 20, 17, 11, 4, 2)
# How often to try for one more text that differs from the others.
TRIES = 40


class Chooser:
    """The few random choices that the generator makes, from ``random()`` alone."""

    def __init__(self, seed: int):
        self._random = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self._random() < probability

    def below(self, count: int) -> int:
        """A number from 0 to ``count - 1``."""
        return int(self._random() * count)

    def one(self, items):
        """One of the items."""
        return items[self.below(len(items))]

    def shuffled(self, items) -> list:
        """The items in a random order."""
        items = list(items)
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]
        return items

    def weighted(self, weights) -> int:
        """An index, with a probability in proportion to its weight."""
        point = self._random() * sum(weights)
        for index, weight in enumerate(weights):
            point -= weight
            if point < 0:
                return index
        return len(weights) - 1


class World:
    """The facts of the world: each (entity, property) has one value, drawn when it is first asked for."""

    def __init__(self, unseen: bool, choose: Chooser):
        self.names = pools(unseen)
        self._choose = choose
        self._values: Dict[Tuple[str, str], str] = {}

    def value(self, subject: str, prop: Property) -> str:
        """The object of the triple (subject, property, ?)."""
        key = (subject, prop.predicate)
        if key not in self._values:
            self._values[key] = self._choose.one(self.names(prop.kind))
        return self._values[key]


def draw_facts(name: str, category: Category, world: World, choose: Chooser) -> list:
    """Draw the facts of one input: about one subject, and about objects of these facts.

    Returns a list of (subject, property, object); a fact about an object follows the fact that mentions it.
    """
    size = 1 + choose.weighted(SIZES)
    subject = choose.one(world.names(name))
    properties = choose.shuffled(category.properties)
    facts: list = []
    while len(facts) < size:
        # At least two facts of the subject before the first chain, if two fit; then a chain every third time.
        chained = _chain(facts, world, choose) if len(facts) >= 2 and choose.chance(0.35) else None
        if chained:
            facts.insert(*chained)
        elif properties:
            prop = properties.pop()
            facts.append((subject, prop, world.value(subject, prop)))
        else:
            chained = _chain(facts, world, choose)
            if not chained:
                break
            facts.insert(*chained)
    return facts


def _chain(facts: list, world: World, choose: Chooser):
    """Find one new fact about an object, and the place where it belongs."""
    options = []
    for place, (_, prop, obj) in enumerate(facts, start=1):
        # One chained fact for each object keeps the sentences simple.
        if prop.kind in CHAINS and not any(other == obj for other, _, _ in facts):
            options += [(place, (obj, chained, world.value(obj, chained))) for chained in CHAINS[prop.kind]]
    return choose.one(options) if options else None


def make_entry(name: str, category: Category, world: World, choose: Chooser) -> dict:
    """Draw one input and write its texts; the id is added later."""
    facts = draw_facts(name, category, world, choose)
    wanted = (2, 3, 3, 4)[choose.below(4)]
    refs: List[str] = []
    for _ in range(TRIES):
        text = realise(facts, category, choose)
        if text not in refs:
            refs.append(text)
        if len(refs) == wanted:
            break
    triples = [[_underscored(s), prop.predicate, _underscored(o)] for s, prop, o in facts]
    return {"category": name, "triples": triples, "refs": refs}


def _underscored(name: str) -> str:
    return name if name.startswith('"') else name.replace(" ", "_")


def make_corpus(seed: int, train: int, dev: int, test: int) -> Dict[str, List[dict]]:
    """Return the three splits; numbers are inputs. A third of the test set is of unseen categories.

    No set of triples occurs twice, in whatever order, in the whole corpus.
    """
    choose = Chooser(seed)
    worlds = {False: World(False, choose), True: World(True, choose)}
    used = set()

    def draw(split: str, count: int, unseen: bool) -> List[dict]:
        categories = UNSEEN if unseen else SEEN
        entries: List[dict] = []
        in_vain = 0
        while len(entries) < count:
            if in_vain == 1000:
                raise SystemExit(f"error: the world is too small for {count} different {split} inputs")
            name = list(categories)[len(entries) % len(categories)]
            entry = make_entry(name, categories[name], worlds[unseen], choose)
            key = tuple(sorted(map(tuple, entry["triples"])))
            in_vain += 1
            if key not in used:
                in_vain = 0
                used.add(key)
                entries.append({**entry, "seen": not unseen if split == "test" else None})
        return entries

    unseen_test = test // 3
    splits = {
        "train": draw("train", train, False),
        "dev": draw("dev", dev, False),
        "test": draw("test", test - unseen_test, False) + draw("test", unseen_test, True),
    }
    fields = ("id", "category", "seen", "triples", "refs")
    for split, entries in splits.items():
        for number, entry in enumerate(entries, start=1):
            entry["id"] = f"{split}-{len(entry['triples'])}-{entry['category']}-Id{number}"
        splits[split] = [{field: entry[field] for field in fields} for entry in entries]
    return splits


def write_corpus(splits: Dict[str, List[dict]], directory) -> None:
    """Write ``train.jsonl``, ``dev.jsonl`` and ``test.jsonl``, in this order; each appears when it is complete."""
    for split, entries in splits.items():
        write_text(Path(directory) / f"{split}.jsonl", "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))


def main(argv=None) -> int:
    """Write the corpus and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="directory to write to")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--train", type=int, default=1200, help="inputs for training; each has 2 to 4 texts")
    parser.add_argument("--dev", type=int, default=150)
    parser.add_argument("--test", type=int, default=300)
    args = parser.parse_args(argv)
    for flag in ("train", "dev", "test"):
        if getattr(args, flag) < 3:
            parser.error(f"--{flag} must be at least 3")
    splits = make_corpus(args.seed, args.train, args.dev, args.test)
    write_corpus(splits, args.out)
    for split, entries in splits.items():
        print(f"{split}: {len(entries)} inputs, {sum(len(entry['refs']) for entry in entries)} texts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
