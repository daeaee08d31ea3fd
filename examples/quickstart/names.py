"""The invented entities of the quickstart corpus, kind by kind.

Each kind is a pool of names in a fixed order. The pools of entities are cut in two: the first part is for training
and for the seen categories, the rest occurs in the unseen categories of the test set only. Pools of values (styles,
courses, numbers, ...) are shared.
"""

from typing import Callable, Dict, List

# A name is two or three words, each of which occurs in other names too: an unseen name is a new combination.
_CITY_HEADS = "Port New Mount Lake Saint Fort".split()
_CITY_TAILS = "Alder Brannock Corwen Dunley Elmore Fenwick Glenrae Harting Kelso Lorne Marwood Norvik Pembry".split()
_COUNTRIES = "Avaria Borland Cestonia Drevia Elmark Ferrona Galdia Hesperia Istria Jorvia Kalmen Lethany".split()
_FIRST = (
    "Anna Boris Clara David Elena Felix Greta Hugo Irene Jonas Karin Leon Mira Nils Olga Pavel Rosa Simon Tessa Viktor"
).split()
_LAST = (
    "Abel Brandt Castor Dorn Egger Falk Gruber Holt Ivarsen Jansen Keller Lind Moreau Novak Orban Petrov Quist Rossi Stein Toller"
).split()
_WORDS = "Amber Bright Cedar Delta Ember Falcon Granite Harbour Ivory Juniper Lunar Meadow North Opal River Silver".split()
_DISHES = "Bralo Custo Dampa Ferli Gondo Harka Jorki Lumpo Marzel Ponti Rusko Semla Tarvo Vindo".split()
_NOUNS = "Garden Letter Mirror Road Secret Shore Song Storm Tower Winter".split()


def _pair(first: List[str], second: List[str], count: int, pattern: str = "{} {}") -> List[str]:
    """``count`` different combinations that walk through both lists, so that every part occurs about equally often."""
    names = []
    for i in range(count):
        names.append(pattern.format(first[i % len(first)], second[(i + i // len(first) * 3) % len(second)]))
    if len(set(names)) != count:
        raise ValueError(f"the lists are too short for {count} different names: {first[0]!r}..., {second[0]!r}...")
    return names


def _quoted(values: List[str]) -> List[str]:
    """WebNLG writes values that are no entities in quotation marks."""
    return [f'"{value}"' for value in values]


CITIES = _pair(_CITY_HEADS, _CITY_TAILS, 48)

# Entities: the pools that are cut into a seen and an unseen part.
ENTITIES: Dict[str, List[str]] = {
    "City": CITIES,
    "Country": _COUNTRIES,
    "Person": _pair(_FIRST, _LAST, 60),
    "Company": _pair(_WORDS, "Group Works Holdings Partners".split(), 28),
    "Airport": [city + " " + "Airport" for city in CITIES[::3]],
    "Building": _pair(_WORDS, "Tower House Hall Palace Court".split(), 16),
    "University": ["University of " + city for city in CITIES[1::3]],
    "Food": _pair(_DISHES, "stew pie soup cake salad".split(), 16),
    "WrittenWork": _pair(_WORDS, _NOUNS, 16, "The {} {}"),
    "SportsTeam": _pair(CITIES[2::3], "Rovers United Athletic Rangers".split(), 16),
    "Ship": _pair("MS SS".split(), _WORDS, 12),
    "Festival": _pair(CITIES, "Days Nights Festival Fair".split(), 12),
}

# How much of a pool is seen. Subjects of the seen categories are all seen: only these categories use them.
SEEN_SHARE = {"City": 0.75, "Country": 0.75, "Person": 0.75, "Company": 0.75, "Ship": 0.0, "Festival": 0.0}

# Values: shared by seen and unseen inputs.
VALUES: Dict[str, List[str]] = {
    "Style": "Gothic Baroque Modernist Romanesque Brutalist Colonial".split(),
    "Network": ["Northern League of Universities", "Union of Free Colleges", "Academic Compact"],
    "Ingredient": "barley salmon cabbage chestnuts lentils mutton mushrooms plums rye walnuts".split(),
    "Course": _quoted(["a starter", "a main course", "a dessert", "a side dish"]),
    "Dish": [name + " bake" for name in _DISHES[:8]],
    "Genre": "comedy crime drama fantasy history mystery poetry romance satire".split(),
    "Book": _pair(_WORDS[::-1], _NOUNS, 12, "A {} {}"),
    "League": ["Premier Division", "Coastal League", "Second Division", "Northern Conference"],
    "Runway": _quoted([f"{n:02d}/{n + 18:02d}" for n in range(1, 18, 2)]),
    "Year": _quoted([str(year) for year in range(1900, 2016, 3)]),
    "Metres": [str(n) for n in range(1200, 3700, 150)],
    "Height": [str(n) for n in range(12, 400, 17)],
    "Small": [str(n) for n in range(3, 60, 4)],
    "Students": [str(n) for n in range(4000, 36000, 1600)],
    "Staff": [str(n) for n in range(210, 2100, 90)],
    "Pages": [str(n) for n in range(96, 620, 28)],
    "Population": [str(n) for n in range(21000, 900000, 27500)],
}


def pools(unseen: bool) -> Callable[[str], List[str]]:
    """Return the function from a kind to its names, for seen or for unseen inputs."""

    def names(kind: str) -> List[str]:
        if kind in VALUES:
            return VALUES[kind]
        cut = int(len(ENTITIES[kind]) * SEEN_SHARE.get(kind, 1.0))
        return ENTITIES[kind][cut:] if unseen else ENTITIES[kind][:cut]

    return names
