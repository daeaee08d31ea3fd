"""Files that are complete or not there, several of them too."""

import os

import pytest

from sharp_plugins.files.writing import filling


def test_files_are_moved_and_the_last_one_is_the_last(tmp_path, monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: moved.append(new) or replace(old, new))
    out = tmp_path / "made" / "for it"
    out.mkdir(parents=True)
    (out / "b").write_text("old")
    with filling(out, last="a") as unfinished:
        for name in "abc":
            (unfinished / name).write_text(f"new {name}")
        assert [path.name for path in out.iterdir() if path != unfinished] == ["b"] and not moved
    assert sorted(moved[:2]) == [out / "b", out / "c"] and moved[2:] == [out / "a"]
    assert sorted(os.listdir(out)) == ["a", "b", "c"] and (out / "b").read_text() == "new b"


def test_after_an_error_nothing_is_moved(tmp_path):
    with pytest.raises(KeyboardInterrupt), filling(tmp_path / "new" / "one", last="a") as unfinished:
        (unfinished / "a").write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
