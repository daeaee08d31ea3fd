"""The small world of the quickstart corpus: kinds of entities, their properties, and how English says each of them.

Every name is invented. A property's phrases continue a sentence about the subject; ``{o}`` is the object. Its
inversion, where there is one, is a whole sentence that begins with the object.
"""

from dataclasses import dataclass
from typing import Dict, Tuple


@dataclass(frozen=True)
class Property:
    """One predicate: its name in a triple, the kind of its object, and its phrases."""

    predicate: str
    kind: str
    phrases: Tuple[str, ...]
    inversion: str = ""


@dataclass(frozen=True)
class Category:
    """One category of subjects: the noun that may stand for a subject, its pronoun, and its properties."""

    noun: str
    pronoun: str
    properties: Tuple[Property, ...]


# What may be said about an object: it gives chains of triples, such as building -> city -> country.
CHAINS: Dict[str, Tuple[Property, ...]] = {
    "City": (
        Property("country", "Country", ("is in {o}", "is a city in {o}", "lies in {o}")),
        Property("leaderName", "Person", ("is led by {o}", "has {o} as its leader")),
        Property("populationTotal", "Population", ("has a population of {o}", "has {o} inhabitants")),
    ),
    "Person": (
        Property("nationality", "Country", ("comes from {o}", "is a national of {o}")),
        Property("birthYear", "Year", ("was born in {o}", "has the birth year {o}")),
    ),
    "Company": (
        Property("headquarter", "City", ("is based in {o}", "has its headquarters in {o}")),
        Property("foundingYear", "Year", ("was founded in {o}", "was set up in {o}")),
    ),
}

_LOCATION = Property(
    "location", "City", ("is located in {o}", "is situated in {o}", "can be found in {o}"), "{o} is the location of {s}."
)

SEEN: Dict[str, Category] = {
    "Airport": Category(
        "airport",
        "it",
        (
            Property("cityServed", "City", ("serves the city of {o}", "is the airport of {o}"), "{o} is served by {s}."),
            Property("operatingOrganisation", "Company", ("is operated by {o}", "is run by {o}"), "{o} operates {s}."),
            Property("runwayLength", "Metres", ("has a runway length of {o} metres", "has a runway of {o} metres")),
            Property(
                "elevationAboveTheSeaLevel_(in_metres)",
                "Height",
                ("is {o} metres above sea level", "has an elevation of {o} metres above sea level"),
            ),
            Property("runwayName", "Runway", ("has a runway named {o}", "has the runway {o}")),
            Property("openingYear", "Year", ("was opened in {o}", "has been open since {o}")),
        ),
    ),
    "Building": Category(
        "building",
        "it",
        (
            _LOCATION,
            Property(
                "architect", "Person", ("was designed by {o}", "is the work of the architect {o}"), "{o} was the architect of {s}."
            ),
            Property("floorCount", "Small", ("has {o} floors", "is {o} floors high")),
            Property("completionYear", "Year", ("was completed in {o}", "was finished in {o}")),
            Property("owner", "Company", ("is owned by {o}", "belongs to {o}"), "{o} is the owner of {s}."),
            Property("architecturalStyle", "Style", ("was built in the {o} style", "has the architectural style {o}")),
        ),
    ),
    "University": Category(
        "university",
        "it",
        (
            Property(
                "city", "City", ("is in the city of {o}", "is located in {o}", "has its campus in {o}"), "{o} is the home of {s}."
            ),
            Property("rector", "Person", ("has {o} as its rector", "is headed by {o}"), "{o} is the rector of {s}."),
            Property("numberOfStudents", "Students", ("has {o} students", "is attended by {o} students")),
            Property("established", "Year", ("was established in {o}", "has existed since {o}")),
            Property("academicStaffSize", "Staff", ("employs {o} academic staff", "has an academic staff of {o}")),
            Property("affiliation", "Network", ("is affiliated with {o}", "is a member of {o}")),
        ),
    ),
    "Food": Category(
        "dish",
        "it",
        (
            Property("country", "Country", ("comes from {o}", "is a dish from {o}", "is found in {o}")),
            Property(
                "mainIngredient",
                "Ingredient",
                ("is made with {o}", "has {o} as its main ingredient"),
                "The main ingredient of {s} is {o}.",
            ),
            Property("course", "Course", ("is served as {o}", "is eaten as {o}")),
            Property("creator", "Person", ("was created by {o}", "was invented by {o}"), "{o} is the creator of {s}."),
            Property("region", "City", ("is popular in the region of {o}", "is typical of the {o} region")),
            Property("dishVariation", "Dish", ("has {o} as a variation", "can be varied as {o}")),
        ),
    ),
    "WrittenWork": Category(
        "book",
        "it",
        (
            Property("author", "Person", ("was written by {o}", "is a book by {o}"), "{o} is the author of {s}."),
            Property("publisher", "Company", ("was published by {o}", "is issued by {o}"), "{o} is the publisher of {s}."),
            Property("numberOfPages", "Pages", ("has {o} pages", "is {o} pages long")),
            Property("genre", "Genre", ("is a work of {o}", "belongs to the genre of {o}")),
            Property("publicationYear", "Year", ("appeared in {o}", "came out in {o}")),
            Property("followedBy", "Book", ("was followed by {o}", "has {o} as its sequel"), "{o} is the sequel to {s}."),
        ),
    ),
    "SportsTeam": Category(
        "team",
        "it",
        (
            Property("ground", "City", ("plays its home games in {o}", "has its ground in {o}"), "{o} is the home ground of {s}."),
            Property("manager", "Person", ("is managed by {o}", "has {o} as its manager"), "{o} is the manager of {s}."),
            Property("league", "League", ("plays in the {o}", "competes in the {o}")),
            Property("numberOfMembers", "Pages", ("has {o} members", "counts {o} members")),
            Property("season", "Year", ("played in the {o} season", "took part in the {o} season")),
            Property("sponsor", "Company", ("is sponsored by {o}", "has {o} as its sponsor"), "{o} sponsors {s}."),
        ),
    ),
}

# These occur in the test set only. Some of their properties are known from above, the others are new.
UNSEEN: Dict[str, Category] = {
    "Ship": Category(
        "ship",
        "it",
        (
            Property("shipBuilder", "Company", ("was built by {o}", "comes from the shipyard of {o}"), "{o} built {s}."),
            Property("homePort", "City", ("has {o} as its home port", "is at home in the port of {o}")),
            Property("length", "Height", ("is {o} metres long", "has a length of {o} metres")),
            Property("captain", "Person", ("is commanded by {o}", "has {o} as its captain"), "{o} commands {s}."),
            Property("owner", "Company", ("is owned by {o}", "belongs to {o}"), "{o} is the owner of {s}."),
            Property("completionYear", "Year", ("was completed in {o}", "was finished in {o}")),
        ),
    ),
    "Festival": Category(
        "festival",
        "it",
        (
            _LOCATION,
            Property("director", "Person", ("is directed by {o}", "has {o} as its director"), "{o} directs {s}."),
            Property("numberOfVisitors", "Population", ("attracts {o} visitors", "is visited by {o} people")),
            Property("established", "Year", ("was established in {o}", "has existed since {o}")),
            Property("sponsor", "Company", ("is sponsored by {o}", "has {o} as its sponsor"), "{o} sponsors {s}."),
            Property("genre", "Genre", ("is dedicated to {o}", "has the genre {o}")),
        ),
    ),
}
