"""Small files of the test sets."""

import random
from pathlib import Path

from sharp_plugins.sts.sets import FILES

WORDS = "the cat dog sat runs on mat a man sings in park".split()


def write_sets(directory: Path, pairs: int = 12) -> Path:
    """All sets, with made-up sentences; each has two subsets where a set has any."""
    rng = random.Random(0)

    def sentence():
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 7)))

    for name, source in FILES.items():
        path = directory / source.places[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "SICK-R":
            rows = ["pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"]
            rows += [f"{number}\t{sentence()}\t{sentence()}\t{rng.uniform(1, 5):.1f}\tNEUTRAL" for number in range(pairs)]
        else:
            rows = ["subset\tscore\tsentence1\tsentence2"]
            rows += [f"{'ab'[number % 2]}\t{rng.uniform(0, 5):.2f}\t{sentence()}\t{sentence()}" for number in range(pairs)]
        path.write_text("".join(row + "\n" for row in rows))
    return directory
