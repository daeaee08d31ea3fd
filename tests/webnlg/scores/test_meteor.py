"""METEOR's program is called as the challenge and LoRA call it. A stand-in takes java's place, but where the real jar is named."""

import os
import stat
from pathlib import Path

import pytest

from sharp_plugins.webnlg.corpus import Entry, find_split, read_split
from sharp_plugins.webnlg.scores.evaluation import systems
from sharp_plugins.webnlg.scores.hypotheses import read_hypotheses
from sharp_plugins.webnlg.scores.meteor import MeteorError, meteor_scores
from sharp_plugins.webnlg.seen import tell_seen

ENTRIES = [
    Entry("1", "Food", True, (("a", "b", "c"),), ("It's a BLT.", "A BLT!")),
    Entry("2", "Food", False, (("a", "b", "c"),), ("One", "Two", "Three", "Four")),
]
TEXTS = ["It's Ít.", ""]
JAVA = """#!/bin/sh
{ printf '%s\\n' "$*"; cat "$4"; echo --; cat "$5"; } >> "$SHOWN"
printf 'Meteor version: 1.5\\n\\nSegment 1 score:\\t0.4\\n\\nFinal score:            0.25\\n'
"""


@pytest.fixture
def meteor(tmp_path, monkeypatch):
    """Calls METEOR; `meteor.java` writes the stand-in."""

    def java(script):
        path = tmp_path / "bin" / "java"
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("SHOWN", str(tmp_path / "shown"))
    jar = tmp_path / "meteor-1.5.jar"
    jar.write_bytes(b"")
    java(JAVA)

    def call(paraphrases=None):
        return meteor_scores(systems(TEXTS, ENTRIES), ENTRIES, jar, paraphrases)

    call.java, call.jar, call.shown = java, jar, lambda: (tmp_path / "shown").read_text(encoding="utf-8")
    return call


def test_what_the_program_is_given(meteor):
    scores = meteor()
    assert scores == {way: dict.fromkeys(("all", "seen", "unseen"), 25.0) for way in ("sacrebleu", "challenge2017", "lora")}
    calls = meteor.shown().split("-Xmx2G -jar ")[1:]
    assert len(calls) == 9
    head = f"{meteor.jar} outputs references -l en -norm -r"
    # The challenge leaves the lines of missing references empty, and LoRA repeats the first.
    assert calls[0] == f"{head} 4\nIt's Ít.\n\n--\nIt's a BLT.\nA BLT!\n\n\nOne\nTwo\nThree\nFour\n"
    assert calls[3] == f"{head} 3\nit ' s it .\n\n--\nit ' s a blt .\na blt !\n\none\ntwo\nthree\n"
    assert calls[4] == f"{head} 3\nit ' s it .\n--\nit ' s a blt .\na blt !\n\n"
    lora = "it ' s a blt .\na blt !\n" + "it ' s a blt .\n" * 4 + "one\ntwo\nthree\nfour\none\none\n"
    assert calls[6] == f"{head} 6\nit ' s ít .\n\n--\n{lora}"


def test_a_table_of_paraphrases(meteor, tmp_path):
    (tmp_path / "paraphrase-en.gz").write_bytes(b"")
    meteor(tmp_path / "paraphrase-en.gz")
    assert f"-r 3 -a {tmp_path / 'paraphrase-en.gz'}\n" in meteor.shown()


@pytest.mark.parametrize(
    "script, words",
    [
        (
            "#!/bin/sh\necho 'Error: Invalid or corrupt jarfile' >&2; exit 1\n",
            "java ended with 1 and without a score: .*corrupt jarfile",
        ),
        ("#!/bin/sh\necho nothing\n", "java ended with 0 and without a score: nothing"),
        ("#!/bin/sh\n", "it printed nothing"),
    ],
)
def test_no_score(meteor, script, words):
    meteor.java(script)
    with pytest.raises(MeteorError, match=f"--meteor-jar: {words}|{words}"):
        meteor()


def test_what_is_not_there(meteor, tmp_path, monkeypatch):
    with pytest.raises(MeteorError, match="--meteor-paraphrases .*none.gz: no such file"):
        meteor(tmp_path / "none.gz")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeteorError, match="java is not installed, or not in PATH"):
        meteor()
    meteor.jar.unlink()
    with pytest.raises(MeteorError, match="--meteor-jar .*meteor-1.5.jar: no such file"):
        meteor()


# What the challenge's own evaluation prints for it, of all inputs, of seen categories and of unseen ones
# (github.com/abevieiramota/challenge-webnlg, webnlg-automatic-evaluation-v2/eval/meteor-GKB_Unimelb-*-cat.txt).
MELBOURNE = {"all": 37.63962007897742, "seen": 41.464200677574886, "unseen": 33.22133982986484}


def test_the_real_program_gives_the_challenges_own_numbers(data_beside):
    """SHARP_TEST_METEOR names meteor-1.5.jar, with data/paraphrase-en.gz beside it; PyPI's pycocoevalcap has both."""
    jar = os.environ.get("SHARP_TEST_METEOR")
    if not jar:
        pytest.skip("SHARP_TEST_METEOR names no meteor-1.5.jar")
    place = data_beside / "webnlg2017"
    entries, _ = tell_seen(read_split(find_split(place, "test")), None, list)
    of_all = systems(read_hypotheses(place / "submissions" / "melbourne.txt", entries), entries)
    found = meteor_scores({"challenge2017": of_all["challenge2017"]}, entries, Path(jar))
    assert found["challenge2017"] == pytest.approx(MELBOURNE, rel=1e-12)
