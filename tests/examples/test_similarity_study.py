"""The study of sentence similarity with an engine that makes up its scores: what is searched, what is trained, and the table."""

import csv
import importlib
import json
import statistics
from pathlib import Path

import pytest
from scipy import stats

from sharp_plugins.runs.record import Record, Result
from sharp_plugins.runs.store import RECORD, RESULT, directory_of
from sharp_plugins.sts.sets import SETS

STUDIES = Path(__file__).resolve().parents[2] / "examples" / "studies"
RATE, RHO, BETA, EPSILON = "optimization.lr", "optimizer.sam_rho", "optimizer.dsam_beta", "criterion.r3f_eps"
BEST = {RATE: "5e-5", RHO: "0.01", BETA: "1", EPSILON: "1e-3"}
GAINS = {"mirror-sam": (0.4, 0.1, -0.2), "mirror-dsam": (0.1, 0.2, 0.3), "mirror-r3f": (-1.0, -2.0, 0.0)}


def score(method, settings, seed):
    return 60.0 + seed / 8 + (GAINS.get(method, (0, 0, 0))[seed - 1] if seed < 100 else 0.0)


@pytest.fixture
def similarity(monkeypatch):
    """The script, and the calls of the engine as (method, seeds, {setting: value}, search)."""
    monkeypatch.syspath_prepend(str(STUDIES))
    script = importlib.import_module("similarity")
    script.calls = []

    def engine(line):
        words, flag = {}, None
        for word in line:
            if word.startswith("--"):
                flag = word
            words.setdefault(flag, []).extend([] if word.startswith("--") else [word])
        [method], seeds = words["--methods"], [int(seed) for seed in words["--seeds"]]
        settings, search = dict(setting.split("=") for setting in words["--set"]), words.get("--sweep", [""])[0]
        script.calls.append((method, seeds, settings, search))
        assert words.get("--sets") == ([script.DEV] if search else None)  # the test sets are not looked at in a search
        name, _, values = search.partition("=")
        for value in values.split(","):
            for seed in seeds:
                record = Record("sts", "sentences", method, seed, {name: float(value)} if name else {})
                found = score(method, settings, seed)
                metrics = {"test": {**dict.fromkeys(SETS, found), "average": found}}
                metrics["valid"] = {script.DEV: 70.0 + (BEST.get(name) == value)}
                directory = directory_of(Path(words["--out"][0]), record)
                directory.mkdir(parents=True, exist_ok=True)
                result = Result(record, metrics, 2.5, 50, None, None, [], {})._asdict()
                (directory / "run.yaml").write_text("model: {encoder_layers: 3}")
                (directory / RECORD).write_text(json.dumps(record._asdict()))
                (directory / RESULT).write_text(json.dumps({**result, "record": record._asdict(), "checkpoints": "deleted"}))
        return 0

    monkeypatch.setattr(script.study, "run_program", engine)
    return script


def run(similarity, tmp_path, *more):
    line = ["--backbone", "B", "--data", "D", "--text", "T", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to"), *more]
    return similarity.main([*line, *(() if "--seeds" in more else ("--seeds", "1", "2", "3"))])


FIXED = ("common.amp", "false")
FOUND = [(name, BEST[name]) for name in (RATE, RHO, BETA, EPSILON)]


def test_each_method_is_searched_and_then_trained_with_fresh_seeds(similarity, tmp_path):
    assert run(similarity, tmp_path) == 0
    rate, rho, beta, epsilon = FOUND
    pilots, fresh = [101, 102], [1, 2, 3]
    assert [(method, seeds, settings, search.split("=")[0]) for method, seeds, settings, search in similarity.calls] == [
        ("mirror", pilots, dict([FIXED]), RATE),
        ("mirror-sam", pilots, dict([FIXED, rate]), RHO),
        ("mirror-dsam", pilots, dict([FIXED, rate]), RHO),
        ("mirror-dsam", pilots, dict([FIXED, rate, rho]), BETA),
        ("mirror-r3f", pilots, dict([FIXED, rate]), EPSILON),
        ("base", [1], dict([FIXED]), ""),  # what trains nothing is alike with all seeds
        ("mirror", fresh, dict([FIXED, rate]), ""),
        ("mirror-sam", fresh, dict([FIXED, rate, rho]), ""),
        ("mirror-dsam", fresh, dict([FIXED, rate, rho, beta]), ""),
        ("mirror-r3f", fresh, dict([FIXED, rate, epsilon]), ""),
        ("mirror-dsam-r3f", fresh, dict([FIXED, rate, rho, beta, epsilon]), ""),
    ]


def test_one_pilot_seed_may_search(similarity, tmp_path):
    assert run(similarity, tmp_path, "--pilot-seeds", "102") == 0
    assert {tuple(seeds) for _, seeds, _, search in similarity.calls if search} == {(102,)}
    assert similarity.calls[-1][2] == dict([FIXED, *FOUND])
    text = (tmp_path / "to" / "similarity.md").read_text()
    assert "An encoder of 3 layers" in text and "was of seed 102." in text
    # What the searches saw.
    assert "| 3 | sentences | mirror-sam | sam rho | 0.005: 70.00, 0.01: 71.00, 0.02: 70.00, 0.05: 70.00, 0.1: 70.00 |" in text
    with open(tmp_path / "to" / "similarity-search.csv", newline="") as file:
        rows = [(row["method"], row["value"], row["seed"], row["score"]) for row in csv.DictReader(file)]
    assert ("mirror-dsam", "1", "102", "71.0") in rows and len(rows) == 4 + 5 + 5 + 3 + 6


def test_fewer_seeds_choose_and_are_shown_where_there_are_more(similarity, tmp_path):
    assert run(similarity, tmp_path) == 0
    assert run(similarity, tmp_path, "--pilot-seeds", "101", "--seeds", "1", "2") == 0
    with open(tmp_path / "to" / "similarity-search.csv", newline="") as file:
        assert {row["seed"] for row in csv.DictReader(file)} == {"101"}
    with open(tmp_path / "to" / "similarity.csv", newline="") as file:
        assert {row["seed"] for row in csv.DictReader(file)} == {"1", "2"}


def test_fewer_values_may_be_searched_and_one_is_taken(similarity, tmp_path):
    fewer = ["--search", "mirror", "optimization.lr=2e-5", "--search", "mirror-r3f", "criterion.r3f_eps=1e-3,5e-2"]
    fewer += ["--search", "mirror-dsam", "optimizer.dsam_beta=3"]
    assert run(similarity, tmp_path, *fewer) == 0
    searched = [(method, search) for method, _, _, search in similarity.calls if search]
    rhos = "optimizer.sam_rho=0.005,0.01,0.02,0.05,0.1"
    assert searched == [("mirror-sam", rhos), ("mirror-dsam", rhos), ("mirror-r3f", "criterion.r3f_eps=1e-3,5e-2")]
    assert similarity.calls[-1][2] == dict([FIXED, (RATE, "2e-5"), (RHO, "0.01"), (BETA, "3"), (EPSILON, "1e-3")])
    text = (tmp_path / "to" / "similarity.md").read_text()
    assert "Of mirror, lr=2e-5 was not searched. Of mirror-dsam, dsam beta=3 was not searched." in text
    assert "Not tried of mirror-r3f: r3f eps 1e-5, 1e-4, 1e-2, 1e-1." in text
    assert "| 3 | sentences | mirror-r3f | r3f eps | 1e-3: 71.00, 5e-2: 70.00 |" in text and "| mirror | lr |" not in text


def test_fewer_values_choose_among_the_runs_of_more(similarity, tmp_path):
    assert run(similarity, tmp_path) == 0
    assert run(similarity, tmp_path, "--search", "mirror-r3f", "criterion.r3f_eps=1e-2,5e-2") == 0
    assert similarity.calls[-1][2][EPSILON] == "1e-2"  # both are alike, and the best one of all was not asked for
    assert "1e-2: 70.00, 5e-2: 70.00 |" in (tmp_path / "to" / "similarity.md").read_text()


@pytest.mark.parametrize("method, sweep", [("mirror-sam", "optimizer.sam_rh=0.1"), ("base", "optimization.lr=1"), ("sam", "")])
def test_a_search_that_is_none_is_refused_before_any_run(similarity, tmp_path, capsys, method, sweep):
    with pytest.raises(SystemExit):
        run(similarity, tmp_path, "--search", method, sweep)
    assert "the searches are mirror optimization.lr, mirror-sam optimizer.sam_rho" in capsys.readouterr().err
    assert not similarity.calls


def test_what_is_there_is_written_where_a_later_method_fails(similarity, tmp_path, monkeypatch):
    whole = similarity.study.run_program

    def fails(line):
        last = "mirror-r3f" in line and "--sweep" not in line
        return 1 if last else whole(line)

    monkeypatch.setattr(similarity.study, "run_program", fails)
    assert run(similarity, tmp_path) == 1
    with open(tmp_path / "to" / "similarity.csv", newline="") as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"base", "mirror", "mirror-sam", "mirror-dsam"}


def test_more_seeds_take_no_method_from_the_table_where_a_later_one_fails(similarity, tmp_path, monkeypatch):
    assert run(similarity, tmp_path, "--seeds", "1", "2") == 0
    there = {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()}
    whole = similarity.study.run_program
    monkeypatch.setattr(similarity.study, "run_program", lambda line: 1 if "mirror-sam" in line else whole(line))
    assert run(similarity, tmp_path) == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == there


def test_runs_of_another_machine_are_not_written_over(similarity, tmp_path, capsys):
    assert run(similarity, tmp_path) == 0
    there = {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()}
    similarity.calls.clear()
    line = ["--backbone", "B", "--data", "D", "--text", "T", "--out", str(tmp_path / "other"), "--seeds", "1", "2", "3"]
    assert similarity.main([*line, "--to", str(tmp_path / "to")]) == 1 and not similarity.calls
    assert "16 runs are there that this call has not, such as base 1 (method, seed); give another --to" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == there
    assert similarity.main(line) == 0 and (tmp_path / "other" / "similarity.csv").is_file()  # beside its runs


def test_searches_of_another_machine_are_not_written_over(similarity, tmp_path, capsys):
    """Where the same fresh runs are here, with values that were given."""
    assert run(similarity, tmp_path) == 0
    there = {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()}
    one = {"mirror": [RATE], "mirror-sam": [RHO], "mirror-dsam": [RHO, BETA], "mirror-r3f": [EPSILON]}
    given = [word for method, names in one.items() for name in names for word in ("--search", method, f"{name}={BEST[name]}")]
    line = ["--backbone", "B", "--data", "D", "--text", "T", "--out", str(tmp_path / "other"), "--seeds", "1", "2", "3", *given]
    assert similarity.main(line) == 0
    similarity.calls.clear()
    assert similarity.main([*line, "--to", str(tmp_path / "to")]) == 1 and not similarity.calls
    words = "similarity-search.csv: 46 runs are there that this call has not, such as mirror optimization.lr 1e-05 101 ("
    assert words in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == there


def test_the_table_is_of_the_fresh_seeds(similarity, tmp_path):
    assert run(similarity, tmp_path, "--name", "minilm") == 0
    text, _ = (tmp_path / "to" / "minilm.md").read_text().split("\n\n| layers | cell | method | searched |")
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in text.splitlines()}
    for method, gains in GAINS.items():
        low, high = stats.t.interval(0.95, 2, loc=statistics.fmean(gains), scale=stats.sem(gains))
        assert f"{statistics.fmean(gains):+.2f} ({low:+.2f} to {high:+.2f})" in lines[method]
    assert lines["mirror"][9].startswith("60.25 ± ") and lines["mirror"][10].strip() == "" and lines["base"][10].strip() == ""
    with open(tmp_path / "to" / "minilm.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1 + 5 * 3 and {row["seed"] for row in rows} == {"1", "2", "3"}
    assert (tmp_path / "to" / "minilm.png").stat().st_size > 5000
    assert [row["average"] for row in rows if row["method"] == "mirror-sam"] == ["60.525", "60.35", "60.175"]


def test_pilot_seeds_are_not_used_again(similarity, tmp_path, capsys):
    with pytest.raises(SystemExit):
        similarity.main(["--backbone", "B", "--data", "D", "--text", "T", "--out", str(tmp_path), "--seeds", "102"])
    assert "the pilot seeds, which choose" in capsys.readouterr().err and not similarity.calls
