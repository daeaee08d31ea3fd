"""Data that are made once: what is there, what goes, and two calls at once."""

import json
import threading

import pytest

from sharp_plugins.runs.data import STAMP, do_steps, make_once


def test_data_are_made_once_and_anew_for_another_source(tmp_path):
    out, made = tmp_path / "data", []

    def call(version):
        def make(new):
            made.append(version)
            assert not list(tmp_path.glob("data/of *")) or version != 1  # nothing of it is there before all is
            (new / f"of {version}").touch()

        return make_once(out, {"version": version}, ["of 1", "of 2"], make)

    assert [call(1), call(1), call(2), call(2)] == [True, False, True, False] and made == [1, 2]
    assert sorted(path.name for path in out.iterdir()) == ["of 2", STAMP]
    assert json.loads((out / STAMP).read_text()) == {"source": {"version": 2}}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    (out / STAMP).write_text("{")  # half a stamp is none
    (out / ".unfinished-abc").mkdir()  # as an older version left it over NFS
    assert call(2)


def test_nothing_is_lost(tmp_path):
    out = tmp_path / "data"
    make_once(out, {"version": 1}, ["words"], lambda new: (new / "words").touch())
    (out / "thesis.tex").touch()
    with pytest.raises(ValueError, match="data: holds other data, .*thesis.tex, which is none of them"):
        make_once(out, {"version": 2}, ["words"], lambda new: None)
    (out / "thesis.tex").unlink()

    def fail(new):
        (new / "words").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_once(out, {"version": 2}, ["words"], fail)
    assert (out / "words").read_text() == "" and [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_a_killed_call_has_left_is_removed(tmp_path):
    left = tmp_path / ".unfinished-abc" / "new"
    left.mkdir(parents=True)
    (left / "words").write_text("half")
    make_once(tmp_path / "data", {"version": 1}, ["words"], lambda new: (new / "words").touch())
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_two_calls_at_once(tmp_path):
    """Both begin before one is done; the later one keeps what the earlier has made."""
    both, said = threading.Barrier(2, timeout=60), []
    make_once(tmp_path / "data", {"version": 0}, ["words"], lambda new: (new / "words").touch())

    def make(new):
        both.wait()
        (new / "words").touch()

    def call():
        said.append(make_once(tmp_path / "data", {"version": 1}, ["words"], make))

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert True in said and [path.name for path in tmp_path.iterdir()] == ["data"]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [STAMP, "words"]


def test_steps_are_told_and_a_failure_with_the_end_of_its_log(tmp_path):
    told = []
    steps = {"one": ["python", "-c", "open('made', 'w')"], "two": ["python", "-c", "print('no such word'); raise SystemExit(3)"]}
    with pytest.raises(ValueError, match="python ended with 3; its log ends with\n  no such word"):
        do_steps(steps, tmp_path, tmp_path / "later", told.append)
    assert (tmp_path / "made").exists() and len(told) == 2
    assert told[0].startswith(f"+ cd {tmp_path}/later; python -c ") and told[0].endswith(" >> one.log 2>&1")
