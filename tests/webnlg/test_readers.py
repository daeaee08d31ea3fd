"""Published forms of corpora: what is read of each, and how malformed entries are named."""

import json
from collections import Counter

import pytest

from sharp_plugins.webnlg.corpus import CorpusError, read_corpus, read_split

ENTRY = """
    <entry category="Airport" eid="Id1" shape="(X (X))" shape_type="NA" size="1">
      <originaltripleset><otriple>Aarhus | leader | Jacob</otriple></originaltripleset>
      <modifiedtripleset><mtriple>Aarhus | leaderName | "Jacob &amp; Co"@en</mtriple></modifiedtripleset>
      <lex comment="good" lid="Id1">Jacob   leads
        Aarhus. </lex>
      <lex comment="toFix" lid="Id2">leads</lex>
    </entry>"""
TRIPLE = ("Aarhus", "leaderName", '"Jacob & Co"@en')


def xml(entries=ENTRY):
    return f"<?xml version='1.0' encoding='utf-8'?>\n<benchmark>\n  <entries>{entries}\n  </entries>\n</benchmark>\n"


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# ---------------------------------------------------------------------- WebNLG's XML


def test_an_entry_in_xml(tmp_path):
    (entry,) = read_split(written(tmp_path / "dev.xml", xml()))
    assert (entry.id, entry.category, entry.seen, entry.triples) == ("Id1", "Airport", None, (TRIPLE,))
    assert (entry.refs, entry.good) == (("Jacob leads Aarhus.", "leads"), (True, False))


def test_texts_without_comments_are_good_and_bad_ones_are_not(tmp_path):
    """As in 2020's test set, and as one text of release v2 is marked."""
    texts = ENTRY.replace(' comment="good"', ' lang=""').replace("toFix", "bad")
    assert read_split(written(tmp_path / "test.xml", xml(texts)))[0].good == (True, False)


def test_of_a_text_with_parts_the_text_is_read(tmp_path):
    """The enriched WebNLG has templates and more beside it."""
    parts = "<sortedtripleset><sentence ID='1'><striple>A | b | C</striple></sentence></sortedtripleset><references/>"
    parts += "<text>Jacob leads Aarhus.</text><template>AGENT-1 leads PATIENT-1 .</template>"
    enriched = ENTRY.replace("Jacob   leads\n        Aarhus. ", parts)
    assert enriched != ENTRY
    assert read_split(written(tmp_path / "dev.xml", xml(enriched)))[0].refs == ("Jacob leads Aarhus.", "leads")
    for other in (enriched.replace("text>", "texts>"), enriched.replace("Aarhus.</text>", "<b>Aarhus</b>.</text>")):
        with pytest.raises(CorpusError, match=r"dev\.xml: entry Id1: a lex has parts .sortedtripleset, references, texts?, t"):
            read_split(written(tmp_path / "dev.xml", xml(other)))


def test_a_language_is_chosen(tmp_path):
    texts = ENTRY.replace('comment="good"', 'comment="good" lang="en"').replace('comment="toFix"', 'comment="good" lang="ru"')
    path = written(tmp_path / "train.xml", xml(texts))
    assert [read_split(path, language)[0].refs for language in ("en", "ru")] == [("Jacob leads Aarhus.",), ("leads",)]
    with pytest.raises(CorpusError, match=r"train\.xml: entry Id1: it has no text in the language 'de'; its texts are: en, ru"):
        read_split(path, "de")


def test_a_tree_of_files_is_one_split(tmp_path):
    """Ids that occur in several files become unique, and the order is that of the paths."""
    names = {"1triples/Food.xml": "Food", "1triples/Airport.xml": "Airport", "2triples/Airport.xml": "Airport"}
    for name, category in names.items():
        entry = ENTRY.replace("Airport", category)
        if name.startswith("2"):
            entry = entry.replace("</mtriple>", "</mtriple><mtriple>A | b | C</mtriple>")
        written(tmp_path / name, xml(entry))
    written(tmp_path / "1triples" / "README.txt", "not XML")
    written(tmp_path / "1triples" / "._Food.xml", "what another system leaves behind")
    assert [entry.id for entry in read_split(tmp_path)] == ["1-Airport-Id1", "1-Food-Id1", "2-Airport-Id1"]
    written(tmp_path / "1triples" / "Airport.xml", xml(ENTRY + ENTRY))  # as in release_v2_constrained
    assert [entry.id for entry in read_split(tmp_path)][:2] == ["1-Airport-Id1", "1-Airport-Id1-2"]


@pytest.mark.parametrize(
    "before, after, words",
    [
        ('eid="Id1" ', "", "entry 2 has no eid"),
        (' category="Airport"', "", "entry Id1: it has no category"),
        ("mtriple>", "ptriple>", "entry Id1: it has no modified triple"),
        (" | leaderName | ", " | leaderName ", "entry Id1: a triple should be 'subject | property | object', got 'Aarhus "),
        (" | leaderName | ", " |  | ", "entry Id1: triple 1 should have a subject, a property and an object"),
        (" | leaderName | ", " | a | b | ", "entry Id1: a triple should be"),
        ("lex", "text", "entry Id1: it has no text; of a test set take the file with references"),
        ("leads</lex>", " </lex>", "entry Id1: text 2 is empty"),
    ],
)
def test_a_malformed_entry_is_named(tmp_path, before, after, words):
    other = ENTRY.replace("Id1", "Id0")
    path = written(tmp_path / "train" / "1triples" / "Airport.xml", xml(other + ENTRY.replace(before, after)))
    with pytest.raises(CorpusError) as told:
        read_split(tmp_path / "train")
    assert str(told.value).startswith(f"{path}: {words}")


def test_an_xml_file_that_is_none_is_named(tmp_path):
    for text, words in (
        ("<benchmark>", "not XML"),
        (f"<!DOCTYPE benchmark>{xml()[39:]}", "document type"),
        ("<html/>", "web page|root"),
    ):
        with pytest.raises(CorpusError, match=rf"a\.xml: cannot be read: .*({words})"):
            read_split(written(tmp_path / "a.xml", text))
    with pytest.raises(CorpusError, match=r"a\.xml: the file is empty"):
        read_split(written(tmp_path / "a.xml", xml("")))


def test_real_files_of_three_releases(data_beside):
    counts = {
        "2017_dev_1triple_Airport.xml": (37, 86, 86),
        "2017_dev_5triples_Astronaut.xml": (11, 32, 32),
        "release_v2_3triples.xml": (24, 55, 55),
        "2020_test_with_refs_en.xml.gz": (1779, 5150, 5150),
    }
    for name, (inputs, texts, good) in counts.items():
        entries = read_split(data_beside / "webnlg_xml" / name)
        assert (len(entries), sum(len(one.refs) for one in entries), sum(sum(one.good) for one in entries)) == (inputs, texts, good)
    # Those of 2017 are also among the JSON lines.
    mine = {(entry.triples, entry.refs, entry.good) for entry in read_split(data_beside / "webnlg2017" / "dev.jsonl")}
    for name in list(counts)[:2]:
        assert {(entry.triples, entry.refs, entry.good) for entry in read_split(data_beside / "webnlg_xml" / name)} <= mine


# ---------------------------------------------------------------------- WebNLG's JSON

RECORD = {
    "category": "Airport",
    "lexicalisations": [
        {"comment": "good", "lang": "", "lex": "Jacob  leads Aarhus.", "xml_id": "Id1"},
        {"comment": "toFix", "lang": "", "lex": "leads", "xml_id": "Id2"},
    ],
    "modifiedtripleset": [{"object": '"Jacob & Co"@en', "property": "leaderName", "subject": "Aarhus"}],
    "originaltriplesets": {"originaltripleset": []},
    "size": "1",
    "xml_id": "Id1",
}


def test_json_holds_what_xml_holds(tmp_path):
    from_xml = read_split(written(tmp_path / "dev.xml", xml()))[0]
    for entries in ([{"1": RECORD}, {"2": RECORD}], {"1": RECORD, "2": RECORD}):
        one, two = read_split(written(tmp_path / "dev.json", {"entries": entries}))
        assert (one.id, two.id) == ("1", "2")
        assert (one.triples, one.refs, one.good, one.category) == (
            from_xml.triples,
            from_xml.refs,
            from_xml.good,
            from_xml.category,
        )


@pytest.mark.parametrize(
    "value, words",
    [
        ({"data": []}, "it has no field 'entries', which WebNLG's JSON has; there are 'data'"),
        ({"entries": 3}, "'entries' should be an array, not int"),
        ({"entries": [{"1": RECORD}, RECORD]}, "entry 2 should be an object with one field, its number"),
        ({"entries": [{"1": []}]}, "entry 1: it should be an object, not list"),
        ({"entries": [{"1": {**RECORD, "category": None}}]}, "entry 1: it has no category"),
        ({"entries": [{"1": {**RECORD, "modifiedtripleset": []}}]}, "entry 1: it has no modified triple"),
        ({"entries": [{"1": {**RECORD, "modifiedtripleset": [["a", "b", "c"]]}}]}, "entry 1: field 'modifiedtripleset' should be"),
        ({"entries": [{"1": {**RECORD, "modifiedtripleset": [{"subject": "a"}]}}]}, "entry 1: triple 1 has no property"),
        ({"entries": [{"1": {**RECORD, "lexicalisations": {}}}]}, "entry 1: field 'lexicalisations' should be"),
        ({"entries": [{"1": {**RECORD, "lexicalisations": [{"lex": 3}]}}]}, "entry 1: text 1 is empty"),
        (
            {"entries": [{"1": {**RECORD, "lexicalisations": [{"lex": "x", "lang": "en"}, {"lex": "x", "lang": ["en"]}]}}]},
            "entry 1: text 2: its language should be a word",
        ),
    ],
)
def test_malformed_json_is_named(tmp_path, value, words):
    path = written(tmp_path / "dev.json", value)
    with pytest.raises(CorpusError) as told:
        read_split(path)
    assert str(told.value).startswith(f"{path}: {words}")


# ---------------------------------------------------------------------- E2E NLG and DART


def test_e2e_rows_of_one_input_are_one_entry(tmp_path):
    path = tmp_path / "devset.csv"
    rows = [
        "mr,ref",
        '"name[The Vaults], customer rating[5 out of 5]","A place, ""The Vaults"", \nis good."',
        "name[The Mill],The Mill is there.",
        '"name[The Vaults], customer rating[5 out of 5]",Good: The Vaults.',
    ]
    path.write_bytes("\r\n".join(rows).encode())
    one, two = read_split(path)
    assert one.triples == (("", "name", "The Vaults"), ("", "customer rating", "5 out of 5")) and two.triples == (
        ("", "name", "The Mill"),
    )
    assert one.refs == ('A place, "The Vaults", is good.', "Good: The Vaults.") and one.good == (True, True)
    assert (one.id, two.id, one.category, one.seen) == ("Id1", "Id2", "E2E", None)


@pytest.mark.parametrize(
    "rows, words",
    [
        ("MR\nname[A]", "1: the columns should be mr and ref; there are mr .of the test set take testset_w_refs.csv"),
        ("", "1: the columns should be"),
        ("mr,ref\nname[A],b\nname[A]", "3: 1 fields, and the first line has 2"),
        ("mr,ref\nname[A], ", "2: the text is empty"),
        ("mr,ref\nname A,b", "2: a meaning representation such as .* is expected, got 'name A'"),
        ('mr,ref\n"name[A] eatType[b]",c', "2: a meaning representation"),
        ('mr,ref\n"name[A], eatType[]",c', "2: a meaning representation"),
        ('mr,ref\n"name[A]",b\n"name[A]"x,b', "3: not CSV"),
    ],
)
def test_malformed_e2e_is_named_by_line(tmp_path, rows, words):
    with pytest.raises(CorpusError, match=rf"a\.csv:{words}"):
        read_split(written(tmp_path / "a.csv", rows))


DART = {
    "tripleset": [["Mars Hill College", "JOINED", "1973"]],
    "subtree_was_extended": True,
    "annotations": [{"source": "WikiSQL_decl_sents", "text": "It  joined in 1973."}, {"source": "webnlg", "text": "In 1973."}],
}


def test_dart_has_its_properties_in_lower_case(tmp_path):
    one, two = read_split(written(tmp_path / "dart-v1.1.1-full-dev.json", [DART, {**DART, "annotations": [{"text": "One."}]}]))
    assert one.triples == (("Mars Hill College", "joined", "1973"),) and one.refs == ("It joined in 1973.", "In 1973.")
    assert (one.id, one.category, two.id, two.category) == ("Id1", "WikiSQL_decl_sents", "Id2", "DART")


def test_empty_texts_of_dart_are_left_out(tmp_path):
    """As there is one in the published test set."""
    empty = {"source": "WikiTableQuestions_lily", "text": " "}
    records = [{**DART, "annotations": [empty, DART["annotations"][1]]}, {**DART, "annotations": [empty]}, DART]
    entries = read_split(written(tmp_path / "test.json", records))
    assert [(entry.id, entry.category, len(entry.refs)) for entry in entries] == [
        ("Id1", "WikiTableQuestions_lily", 1),
        ("Id3", "WikiSQL_decl_sents", 2),
    ]


@pytest.mark.parametrize(
    "change, words",
    [
        (3, "it should be an object with a field 'tripleset'"),
        ({**DART, "tripleset": []}, "it should be an object with a field 'tripleset'"),
        ({**DART, "annotations": None}, "it should be an object with a field 'annotations'"),
        ({**DART, "tripleset": [["a", "b"]]}, "triple 1 should be"),
        ({**DART, "tripleset": [["", "b", "c"]]}, "triple 1 should be"),  # it would be a slot of E2E's
        ({**DART, "annotations": ["text"]}, "annotation 1 should be"),
        ({**DART, "annotations": [{"text": None}]}, "annotation 1 should be"),
    ],
)
def test_malformed_dart_is_named(tmp_path, change, words):
    with pytest.raises(CorpusError, match=rf"a\.json: entry 2: {words}"):
        read_split(written(tmp_path / "a.json", [DART, change]))


# ---------------------------------------------------------------------- JSON lines and their list of texts

LINE = {"id": "one", "category": "Food", "triples": [["a", "b", "c"]], "refs": ["Good.", "bad", "Better."]}


def lines(path, *records):
    return written(path, "".join(json.dumps(record) + "\n" for record in records))


def test_a_list_beside_marks_texts(tmp_path):
    for split in ("train", "dev"):
        lines(tmp_path / f"{split}.jsonl", LINE, {**LINE, "id": "two", "good": [True, True, False]})
    written(tmp_path / "tofix.tsv", "split\tid\tref\ntrain\tone\t1\ntrain\ttwo\t0\n")
    assert [entry.good for entry in read_split(tmp_path / "train.jsonl")] == [(True, False, True), (False, True, False)]
    assert [entry.good for entry in read_split(tmp_path / "dev.jsonl")] == [(True, True, True), (True, True, False)]


@pytest.mark.parametrize(
    "rows, words",
    [
        ("split\tid\n", "tofix.tsv:1: no column ref"),
        ("split\tid\tref\ntrain\tone\n", "tofix.tsv:2: 2 fields"),
        ("split\tid\tref\ntrain\tnone\t0\n", "tofix.tsv:2: train.jsonl has no entry 'none'"),
        ("split\tid\tref\ntrain\tone\t3\n", "tofix.tsv:2: entry 'one' of train.jsonl has 3 texts, numbered from 0, and no text 3"),
        ("split\tid\tref\ntrain\tone\t-1\n", "tofix.tsv:2: .* no text -1"),
    ],
)
def test_a_list_that_does_not_fit_is_named(tmp_path, rows, words):
    written(tmp_path / "tofix.tsv", rows)
    with pytest.raises(CorpusError, match=words):
        read_split(lines(tmp_path / "train.jsonl", LINE))


@pytest.mark.parametrize("good", ["yes", [True], [True, False, 1], [True] * 4])
def test_good_is_a_flag_for_each_text(tmp_path, good):
    with pytest.raises(
        CorpusError, match=r"train\.jsonl:1: field 'good' must be a list of true and false, one for each of the 3 texts"
    ):
        read_split(lines(tmp_path / "train.jsonl", {**LINE, "good": good}))


def test_the_texts_that_are_not_good_are_those_of_the_release(data_beside):
    corpus = read_corpus(data_beside / "webnlg2017")
    bad = {split: Counter(good for entry in entries for good in entry.good)[False] for split, entries in corpus.items()}
    assert bad == {"train": 77, "dev": 10, "test": 0}
