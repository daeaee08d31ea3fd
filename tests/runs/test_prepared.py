"""A directory with data is made once: whole or not there, by one call or two at the same time."""

import pytest

from sharp_plugins.runs.prepared import STAMP, make_once, read_prepared

SPLITS = {"RTE": ["train", "valid"]}
SOURCE = {"task": "RTE", "format": 1, "seed": 1}


def write(directory, rows=1):
    (directory / "train.txt").write_text("the cat\n" * rows)
    of = {"rows": {"train": rows}, "files": {"train": "train.tsv"}, "shortened": {"train": 0}}
    return {**of, "stand_ins": [], "warnings": ["few rows"]}


def make(out, source=SOURCE, write=write):
    return make_once(out, source, write, ["train.txt"], SPLITS)


def read(out, version=1):
    return read_prepared(out, SPLITS, version, "make it")


def test_data_are_made_once_for_a_source(tmp_path):
    made = make(tmp_path / "data")
    assert not made.done_before and made == read(tmp_path / "data") and made.task == "RTE"
    assert made.in_words == f"warning: few rows\ntrain: 1 rows of train.tsv\n{tmp_path / 'data'}: written"
    before = (tmp_path / "data" / STAMP).stat().st_mtime_ns
    assert make(tmp_path / "data") == made._replace(done_before=True)
    assert (tmp_path / "data" / STAMP).stat().st_mtime_ns == before
    assert not make(tmp_path / "data", {**SOURCE, "seed": 2}).done_before
    assert read(tmp_path / "data").source["seed"] == 2 and [path.name for path in tmp_path.iterdir()] == ["data"]
    with pytest.raises(ValueError, match="data: written by another version; make it again with `make it`"):
        read(tmp_path / "data", version=2)


def test_a_stop_leaves_what_was_there(tmp_path):
    def stop(directory):
        write(directory)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "deep" / "data", write=stop)
    assert list(tmp_path.iterdir()) == []
    made = make(tmp_path / "data")
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "data", {**SOURCE, "seed": 2}, write=stop)
    assert read(tmp_path / "data") == made


def test_data_that_another_call_has_made_meanwhile_stay(tmp_path):
    """Its runs read them already."""

    def late(directory):
        make(tmp_path / "data")
        late.inode = (tmp_path / "data" / "train.txt").stat().st_ino
        return write(directory)

    assert make(tmp_path / "data", write=late).done_before
    assert (tmp_path / "data" / "train.txt").stat().st_ino == late.inode
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
