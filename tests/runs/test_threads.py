"""The threads of the runs' processes: fewer beside busy neighbours, and always what the user has set."""

import pytest

from sharp_plugins.runs import threads

BEFORE = "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 100 0 0 1000 0 0 0 0 0 0\ncpu1 100 0 0 1000 0 0 0 0 0 0\nintr 1\n"


def after(*busy):
    """/proc/stat, 100 ticks later."""
    return "".join(f"cpu{core} {100 + ticks} 0 0 {1100 - ticks} 0 0 0 0 0 0\n" for core, ticks in enumerate(busy))


@pytest.fixture
def watched(monkeypatch):
    """A machine of two cores; call with the ticks of 100 in which each is busy."""

    def watch(*busy):
        readings = [BEFORE, after(*busy)]
        monkeypatch.setattr(threads, "usable_cores", lambda: range(len(busy)))
        monkeypatch.setattr(threads.time, "sleep", lambda seconds: None)
        monkeypatch.setattr(threads.Path, "read_text", lambda self, **kwargs: readings.pop(0))

    return watch


@pytest.mark.parametrize(
    "busy, expected", [((0, 0), None), ((10, 5), None), ((0, 100), "1"), ((50, 50), "1"), ((100, 100), "1"), ((20, 20), "1")]
)
def test_threads_are_for_free_cores(watched, busy, expected):
    watched(*busy)
    settings = threads.chosen({})
    assert settings.pop("OMP_NUM_THREADS", None) == expected
    assert settings == threads.SPIN


def test_what_the_user_has_set_stays(watched):
    watched(100, 100)
    assert threads.chosen({"OMP_NUM_THREADS": "7"}) == threads.SPIN
    assert threads.chosen({"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "active"}) == {}
    assert threads.chosen({"OMP_NUM_THREADS": "7", "GOMP_SPINCOUNT": "1"}) == {}


@pytest.mark.parametrize("first, expected", [({"OMP_NUM_THREADS": "3"}, "3"), ({}, "4")])
def test_a_run_keeps_the_number_that_it_began_with(tmp_path, monkeypatch, first, expected):
    """The user's too, and all cores."""
    path = tmp_path / "threads.json"
    monkeypatch.setattr(threads, "usable_cores", lambda: range(4))
    monkeypatch.setattr(threads, "free_cores", lambda cores: 4)
    assert "OMP_NUM_THREADS" not in first or "OMP_NUM_THREADS" not in threads.for_run(path, first)
    threads.for_run(path, first)
    monkeypatch.setattr(threads, "usable_cores", lambda: range(2))
    assert threads.for_run(path, {})["OMP_NUM_THREADS"] == expected


def test_a_run_keeps_its_first_starts_settings(tmp_path, monkeypatch):
    path = tmp_path / "run" / "threads.json"
    monkeypatch.setattr(threads, "usable_cores", lambda: range(4))
    monkeypatch.setattr(threads, "free_cores", lambda cores: 2)
    first = threads.for_run(path, {})
    assert first["OMP_NUM_THREADS"] == "2"
    monkeypatch.setattr(threads, "free_cores", lambda cores: 4)
    assert threads.for_run(path, {}) == first
    assert threads.for_run(path, {"OMP_NUM_THREADS": "3"}) == threads.SPIN
    assert threads.for_run(path, {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "passive"}) == {}


@pytest.mark.parametrize("text", ['{"OMP_NUM_THREADS": "1; rm x"}', '{"PATH": "1"}', "[1]", "not JSON", '{"OMP_NUM_THREADS": 1}'])
def test_a_file_from_elsewhere_sets_nothing_else(tmp_path, text):
    path = tmp_path / "threads.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="threads.json"):
        threads.for_run(path, {})
