"""Data-to-text on the engine: what is refused, what a method's run is, what comes out. Training is a stand-in but in one test."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "runs")]
from engine import save

from sharp_plugins.files.yaml import read_yaml
from sharp_plugins.runs import stages
from sharp_plugins.runs.checkpoints import read_checkpoint
from sharp_plugins.runs.command import INTERRUPTED, RUNS_FAILED
from sharp_plugins.runs.configs import check_settings
from sharp_plugins.runs.data import STAMP
from sharp_plugins.runs.stages import RunFailed
from sharp_plugins.webnlg import prepare, results, scratch
from sharp_plugins.webnlg.__main__ import main

SCORES = {"bleu": 20.0, "chrf": 30.0, "ter": 70.0}


def write_corpus(directory, **sizes):
    """The quickstart's, smaller."""
    flags = [part for split, size in sizes.items() for part in (f"--{split}", str(size))]
    script = ROOT / "examples" / "quickstart" / "make_corpus.py"
    subprocess.run([sys.executable, script, "--out", directory, *flags], check=True, stdout=subprocess.DEVNULL)
    return directory


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), train=60, dev=6, test=9)


@pytest.fixture
def call(corpus, tmp_path, monkeypatch):
    """Calls the command in this process; `call.done` has the runs and stages that were done, which make what real ones make."""
    done = []

    def perform(run, stage, lock, stop, show=None, environment=None):
        done.append((run, stage))
        call.before(run, stage)
        if stage.trains:
            for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
                path = save(run.directory / name, updates=run.config["optimization"].get("max_update", 720))
                state = torch.load(path)
                state["extra_state"]["val_loss"] = 4.0 + run.config["criterion"]["label_smoothing"]
                torch.save(state, path)
        else:
            (run.directory / stage.makes).write_text(json.dumps({way: dict.fromkeys(call.groups, SCORES) for way in results.WAYS}))
        stages._mark(run, {**stages._marks(run), stage.name: list(stage.command)})

    def prepared(data, out, vocab_size):
        out.mkdir(parents=True, exist_ok=True)
        call.prepared.append((out, vocab_size))

    monkeypatch.setattr(stages, "perform", perform)
    monkeypatch.setattr(scratch, "prepare", prepared)

    def call(line="", data=corpus):
        done.clear()
        return main(["run", "--data", str(data), "--out", str(call.out), "--cpu", *shlex.split(line)])

    call.done, call.out, call.groups, call.prepared = done, tmp_path / "out", list(results.SPLITS), []
    call.before = lambda run, stage: None
    return call


def stages_of(call, method):
    return {stage.name: (run, stage) for run, stage in call.done if run.record.method == method}


BY_BLEU = "--set checkpoint.best_checkpoint_metric=bleu"


# ---------------------------------------------------------------------- before training


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--data nowhere", "--data nowhere: no such directory"),
        ("--minutes 0", "--minutes 0.0: should be above 0"),
        ("--vocab-size 0", "--vocab-size 0: should be at least 1"),
        ("--methods adam", "--methods adam: there is no such method; it is base, untrained, ft, or"),
        ("--methods sam lora", "--methods lora: starts from data-to-text base seed 1, which is not finished; put base before it"),
        ("--methods lora-r3f lora-nbar", "put base before it"),
        ("--set optimization.max_updates=3", "fairseq does not know such a setting"),
        ("--set model.lora_rnak=3", "fairseq does not know such a setting"),
        ("--set task.data=x", "--set task.data=x: each run has a task.data of its own"),
        ("--seeds 1 1", "--seeds: 1 given more than once"),
        (
            "--set checkpoint.best_checkpoint_metric=bleu",
            "metric=bleu: choose from loss, nll_loss, ppl; bleu needs --set task.eval_",
        ),
        ("--set checkpoint.best_checkpoint_metric=accuracy", "metric=accuracy: choose from loss, nll_loss, ppl"),
        (
            "--set checkpoint.best_checkpoint_metric=f1 --set task.eval_bleu=true",
            "metric=f1: choose from loss, nll_loss, ppl, bleu",
        ),
        ("--set dataset.valid_subset=test", "--set dataset.valid_subset=test: each run has a dataset.valid_subset of its own"),
        ("--set dataset.train_subset=valid", "--set dataset.train_subset=valid: each run has a dataset.train_subset of its own"),
        ("--set generation.beam=3", "generation.beam would change nothing: no part of a run reads it; see --set and --size"),
        ("--sweep generation.beam=3,4", "generation.beam would change nothing"),
        ("--configs other", "--configs: it is of a published decoder; give --backbone too"),
        ("--set optimization.max_update=0", "should be a whole number from 1; see --set and --size"),
        ("--set checkpoint.no_last_checkpoints=true", "checkpoint.no_last_checkpoints leaves no last checkpoint"),
        ("--set dataset.disable_validation=true", "dataset.disable_validation leaves no best checkpoint to measure"),
    ],
)
def test_what_does_not_fit_is_told_before_training(call, capsys, flags, words):
    assert call(flags) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and words in shown and "Traceback" not in shown and call.done == []


@pytest.mark.parametrize("flags, words", [("", "lowest loss"), (f"{BY_BLEU} --set task.eval_bleu=true", "highest bleu")])
def test_the_table_says_which_checkpoint_generates(call, flags, words):
    assert call(f"--methods base {flags}") == 0
    assert f"Texts are generated with the checkpoint of the {words} on dev and a beam of 5" in (call.out / "table.md").read_text()


def test_a_corpus_without_a_part_is_named(call, corpus, tmp_path, capsys):
    for path in corpus.glob("[td]*n*.jsonl"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert call(data=tmp_path) == 1
    assert re.search("error: --data: .*neither dev.jsonl nor dev.jsonl.gz", capsys.readouterr().err)


@pytest.mark.parametrize("flags", ["--max-update 20", "--vocab 800", "--size large"])
def test_flags_are_not_guessed(call, capsys, flags):
    with pytest.raises(SystemExit):
        call(flags)
    assert call.done == []


def test_results_of_different_runs_do_not_mix(call, tmp_path, capsys):
    assert call("--methods base --size small") == 0
    for flags, words in (
        ("--size webnlg --vocab-size 800", "dataset.max_tokens"),
        ("--size small --vocab-size 700", "the vocabulary"),
        ("--size small --minutes 3", "optimization.stop_time_hours"),
        ("--size small --set optimizer.base.weight_decay=0.1", "optimizer.weight_decay"),
    ):
        assert call(f"--methods sam {flags}") == 1 and call.done == []
        shown = capsys.readouterr().err
        assert re.search(f"base/seed1: holds a run that differs in [^;]*{words}[^;]*; use the same .* choose another --out", shown)
    assert call("--methods sam --size small", write_corpus(tmp_path / "other", train=70, dev=6, test=9)) == 1
    assert "base/seed1: holds a run that differs in the corpus, " in capsys.readouterr().err
    assert [size for _, size in call.prepared] == [800] * 4  # where other data are asked for, those of the runs are not touched


# ---------------------------------------------------------------------- runs


def test_the_default_is_the_quickstarts_four_methods(call, capsys):
    assert call("--size small") == 0
    assert [(run.record.method, stage.name) for run, stage in call.done] == [
        (method, stage) for method in ("untrained", "base", "sam", "dsam") for stage in ("train", "generate", "score")
    ]
    configs = {run.record.method: run.config for run, _ in call.done}
    optimization = {method: config["optimization"] for method, config in configs.items()}
    assert optimization["untrained"] == {"lr": [0.0], "clip_norm": 1.0, "max_epoch": 4, "max_update": 1}
    assert optimization["base"] == optimization["dsam"] == {"lr": [2e-3], "clip_norm": 1.0, "max_epoch": 4}
    assert configs["base"]["optimizer"] == configs["untrained"]["optimizer"] == {"_name": "adam", "adam_betas": "(0.9, 0.98)"}
    assert configs["sam"]["optimizer"]["sam_rho"] == 0.05 and configs["dsam"]["optimizer"]["dsam_beta"] == 3
    assert {Path(config["task"]["data"]) for config in configs.values()} == {call.out / "data" / "bin"}
    shown = capsys.readouterr().out
    for command in ("fairseq-hydra-train --config-dir . --config-name run", "fairseq-generate"):  # after the run's environment
        assert len(re.findall(rf"; (?:\w+=\S+ )*{re.escape(command)} ", shown)) == 4
    # The table is shown at the end, methods in their order.
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines() if line.startswith("|")]
    names = [name + where for where in ("", ", seen", ", unseen") for name in ("BLEU", "chrF++", "TER")]
    assert rows[0] == ["method", *names, "updates", "training, s"]
    assert rows[2] == ["untrained", *["20.00", "30.00", "70.00"] * 3, "0", "90"]
    assert [row[0] for row in rows[3:]] == ["base", "sam", "dsam"] and rows[3][-2:] == ["720", "90"]
    numbers = json.loads((call.out / "results.json").read_text())
    assert list(numbers) == ["untrained", "base", "sam", "dsam"]
    one = numbers["base"]["seed 1"]
    assert one["scores"]["test-unseen"].items() >= SCORES.items() and (one["updates"], one["train_seconds"]) == (720, 90)
    assert one["scores"]["valid"] == {"loss": 4.1}  # with the settings' smoothing, as the stand-in has it
    assert "TER, lower is better" in (call.out / "table.md").read_text()
    # The same command has nothing left to do.
    assert call("--size small") == 0 and call.done == [] and "4 of them finished before" in capsys.readouterr().out


def test_lora_starts_from_the_base_of_its_seed(call):
    assert call("--methods base --seeds 1 2") == 0
    # Also in a later call: the checkpoints stay.
    assert call("--methods lora-nbar lora lora-sam --seeds 2") == 0
    assert [stage.name for _, stage in call.done[:4]] == ["train", "merge", "generate", "score"]
    (run, merge), (_, generate) = (stages_of(call, "lora-nbar")[name] for name in ("merge", "generate"))
    start = call.out / "data-to-text" / "base" / "seed2" / "checkpoint_best.pt"
    assert run.config["checkpoint"]["finetune_from_model"] == str(start)
    assert run.config["model"].items() >= {"_name": "lora", "base_arch": "transformer", "lora_target": ".*_proj|fc."}.items()
    assert run.config["optimization"]["lr"] == [5e-3] and run.config["optimizer"]["bar_alpha"] == 0.5
    assert merge.command[2:] == ["sharp_plugins.lora", "merge", "checkpoint_best.pt", "merged.pt"]
    assert generate.command[generate.command.index("--path") + 1] == "merged.pt"
    assert stages_of(call, "lora-sam")["train"][0].config["optimizer"]["sam_rho"] == 0.05
    # What it takes longer than base is its own time: the stand-ins' clock did not go on.
    assert json.loads((run.directory / "result.json").read_text())["minutes"] == 0
    assert call("--methods base sam --seeds 2 --set model.lora_rank=4") == 1  # of other runs than those that are there


def test_minutes_are_each_runs_own(call):
    """fairseq's clock goes on from base's checkpoint."""
    assert call("--methods base lora --minutes 3") == 0
    (base, plain), (lora, later) = (stages_of(call, method)["train"] for method in ("base", "lora"))
    assert base.config["optimization"]["stop_time_hours"] == lora.config["optimization"]["stop_time_hours"] == 0.05
    assert plain.command == stages.TRAIN
    name, _, hours = later.command[-1].partition("=")
    assert name == "optimization.stop_time_hours" and float(hours) == pytest.approx((3 + 1.5) / 60)


def test_what_generation_is_given(call):
    assert call("--methods base houlsby --set common.fp16=true --set optimization.max_update=9") == 0
    command = stages_of(call, "houlsby")["generate"][1].command
    assert command[:2] == ["fairseq-generate", str(call.out / "data" / "bin")] and {"--cpu", "--fp16"} <= set(command)
    flags = dict(zip(command, command[1:]))
    # A larger multiple loses the last sentences with some builds of fairseq.
    assert flags["--required-batch-size-multiple"] == "1" and flags["--path"] == "checkpoint_best.pt"
    assert (flags["--beam"], flags["--remove-bpe"]) == ("5", "sentencepiece")
    assert stages_of(call, "base")["train"][0].config["optimization"]["max_update"] == 9


def test_the_rule_for_seen_categories(call, capsys):
    assert call("--methods base --size small --seen training") == 0
    command = stages_of(call, "base")["score"][1].command
    assert command[command.index("--seen") + 1] == "training"
    assert "is told by the categories of the training set" in (call.out / "table.md").read_text()
    assert call("--methods base sam --size small") == 1
    assert "differs in the rule for seen categories" in capsys.readouterr().err


def test_a_killed_call_goes_on_where_it_was(call, capsys):
    def before(run, stage):
        if (run.record.method, stage.name) == killed:
            raise KeyboardInterrupt

    call.before, line = before, "--methods base lora --seeds 1"
    for killed in (("base", "generate"), ("lora", "merge"), ("lora", "score")):
        assert call(line) == INTERRUPTED and "run the same command again" in capsys.readouterr().err
    killed = None
    assert call(line) == 0 and [(run.record.method, stage.name) for run, stage in call.done] == [("lora", "score")]


def test_a_method_that_fails_does_not_stop_the_others(call, capsys):
    def before(run, stage):
        if run.record.method == "base":
            raise RunFailed("base: out of memory")

    call.before = before
    assert call("--methods base lora sam") == RUNS_FAILED
    shown = capsys.readouterr()
    assert "lora seed 1: not begun; it needs data-to-text base seed 1" in shown.err and "sam seed 1: BLEU 20.00" in shown.out
    assert list(json.loads((call.out / "results.json").read_text())) == ["sam"]


def test_groups_that_a_corpus_does_not_tell_apart_are_left_out(call, capsys):
    call.groups = ["all"]
    assert call("--methods base --seeds 1 2") == 0
    assert "seen" not in capsys.readouterr().out.split("\n| method")[1]


def test_a_sweep_chooses_by_the_loss_on_dev(call):
    assert call("--methods base sam --sweep optimizer.sam_rho=0.01,0.1") == 0
    assert [run.name for run, stage in call.done if stage.trains] == [
        "data-to-text base seed 1",
        "data-to-text sam optimizer.sam_rho=0.01 seed 1",
        "data-to-text sam optimizer.sam_rho=0.1 seed 1",
    ]
    words = "By loss on dev, without smoothing, chosen on the development set, which is not reported."
    assert words in (call.out / "table.md").read_text()
    assert list(json.loads((call.out / "results.json").read_text())) == ["base", "sam optimizer.sam_rho=0.01"]


@pytest.mark.parametrize("likelihoods, kept", [((2.0, 2.0), 0.1), ((2.0, 1.9), 0.0), ((2.0, 2.1), 0.1)])
def test_a_sweep_does_not_choose_by_how_little_is_smoothed(call, likelihoods, kept):
    """The loss has the smoothing in it; of equal ones the value that is given first is kept."""

    def log(run, stage):
        if stage.trains:
            smoothing, updates = run.config["criterion"]["label_smoothing"], run.config["optimization"]["max_update"]
            told = {
                "epoch": 1,
                "valid_loss": 4 + smoothing,
                "valid_nll_loss": likelihoods[smoothing == 0],
                "valid_num_updates": updates,
            }
            (run.directory / "train.log").write_text(json.dumps(told) + "\n")

    call.before = log
    assert call("--methods base --set optimization.max_update=4 --sweep criterion.label_smoothing=0.1,0.0") == 0
    assert list(json.loads((call.out / "results.json").read_text())) == [f"base criterion.label_smoothing={kept}"]


# ---------------------------------------------------------------------- settings, data, scores


@pytest.mark.parametrize("size", scratch.SIZES)
def test_settings_are_of_a_whole_dsam_run_and_are_installed(size):
    path = scratch.SETTINGS / f"{size}.yaml"
    settings = read_yaml(path)
    check_settings(settings, str(path))
    assert settings["dataset"]["required_batch_size_multiple"] == 1
    setup = (ROOT / "setup.py").read_text()
    patterns = re.search(r'package_data=\{\s*"sharp_plugins": \[(.*?)\]', setup, re.S)[1]
    found = {one for pattern in re.findall(r'"([^"]+)"', patterns) for one in (ROOT / "sharp_plugins").glob(pattern)}
    assert found >= set(scratch.SETTINGS.rglob("*.yaml"))


def make(data, out, vocab_size=120):
    told = []
    prepare.prepare(data, out, vocab_size, told.append)
    return told


@pytest.fixture(scope="module")
def data(corpus, tmp_path_factory):
    """(the corpus's data, the commands that made them)."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    return out, make(corpus, out)


def test_the_commands_that_make_the_data_can_be_copied(data, corpus, tmp_path):
    out, told = data
    assert [line.split("; ", 1)[1].split()[0] for line in told] == ["python", "python", "fairseq-preprocess"]
    (tmp_path / "by hand").mkdir()
    for line in told:
        line = line.removeprefix("+ ").replace(str(out), shlex.quote(str(tmp_path / "by hand")))
        line = line.replace("fairseq-preprocess", 'python -c "from fairseq_cli.preprocess import cli_main; cli_main()"')
        line = line.replace("; python", f"; {shlex.quote(sys.executable)}")
        subprocess.run(["bash", "-c", line], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    made = sorted(path.relative_to(out) for path in out.rglob("*") if path.suffix not in (".log", ".json") and path.is_file())
    assert {str(path) for path in made} >= {"bin/train.src-tgt.src.bin", "bin/dict.src.txt", "pieces/test.tgt", "text/dev.src"}
    for path in made:
        if path.name != "preprocess.log":
            assert (out / path).read_bytes() == (tmp_path / "by hand" / path).read_bytes(), path


def test_source_and_target_share_their_pieces(data):
    out, _ = data
    source = (out / "pieces" / "train.src").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("▁<S> ▁") and line.split()[0] == "▁<S>" for line in source)
    assert not re.search("<[SPO]>", "".join((out / "pieces" / "train.src").read_text(encoding="utf-8").split("▁<S>")[0]))
    text = (out / "text" / "train.tgt").read_text(encoding="utf-8").splitlines()
    pieces = (out / "pieces" / "train.tgt").read_text(encoding="utf-8").splitlines()
    assert ["".join(line.split()).replace("▁", " ").strip() for line in pieces] == text
    assert (out / "bin" / "dict.src.txt").read_bytes() == (out / "bin" / "dict.tgt.txt").read_bytes()


def test_data_are_made_once_and_anew_for_another_corpus(data, corpus, tmp_path, capsys):
    out, _ = data
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert make(corpus, out) == [f"{out}: all data were there"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    other = tmp_path / "data"
    other.mkdir()
    (other / STAMP).write_text((out / STAMP).read_text().replace('"vocabulary": 120', '"vocabulary": 119'))
    assert len(make(corpus, other)) == 3 and (other / STAMP).read_text() == (out / STAMP).read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    line = ["prepare", "--data", str(corpus), "--out", str(other), "--vocab-size", "120"]
    assert main([*line[:-1], "119"]) == 1  # the command by itself
    words = "holds data of other files or settings; choose another --out, or remove it"
    assert capsys.readouterr().err == f"error: {other}: {words}\n"
    (other / STAMP).write_text("{")
    (other / "thesis.tex").write_text("")
    assert main(line) == 1
    assert "thesis.tex, which is none of them; choose another place" in capsys.readouterr().err


def test_what_fails_in_making_the_data_is_told(corpus, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in corpus.glob("*.jsonl"):
        (broken / path.name).write_bytes(path.read_bytes() + (b"{}\n" if path.stem == "test" else b""))
    for flags, words in (
        (["--data", broken], "error: --data: .*test.jsonl:10: field 'id' is missing"),
        (["--data", corpus, "--vocab-size", 100_000], "error: --vocab-size 100000: .*Vocabulary size"),
    ):
        assert main(["prepare", "--out", str(tmp_path / "out"), *map(str, flags)]) == 1
        shown = capsys.readouterr().err
        assert re.search(rf"error: python ended with 1; its log ends with\n(.*\n)*  {words}", shown), shown
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_scores_of_generated_text(corpus, tmp_path, capsys):
    entries = [json.loads(line) for line in (corpus / "test.jsonl").read_text().splitlines()]
    lines = [f"H-{number}\t-0.1\t{entry['refs'][-1]}" for number, entry in enumerate(entries)]
    (tmp_path / "generated.txt").write_text("\n".join(reversed(lines)) + "\n")
    flags = ["score", str(tmp_path / "generated.txt"), "--data", str(corpus)]
    assert main([*flags, "--json", str(tmp_path / "scores.json")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "test: 9 inputs, 6 seen, 3 unseen"
    assert shown[1] == "seen or unseen: as the data say"
    assert [cell.strip() for cell in shown[5].split("|")[1:5]] == ["sacrebleu", "100.00", "100.00", "0.00"]
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["counts"] == {"all": 9, "seen": 6, "unseen": 3}
    assert scores["sacrebleu"]["all"] == pytest.approx({"bleu": 100, "chrf": 100, "ter": 0})
    (tmp_path / "generated.txt").write_text("\n".join(lines[:-1]))
    assert main(flags) == 1 and "8 hypotheses for 9 inputs" in capsys.readouterr().err


# ---------------------------------------------------------------------- real runs


def start(place, data, *flags):
    line = [sys.executable, "-m", "sharp_plugins.webnlg", "run", "--data", data, "--out", "out", "--cpu", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with open(place / "shown", "a") as shown:
        return subprocess.Popen(
            list(map(str, line)), cwd=place, env=environment, stdout=shown, stderr=shown, start_new_session=True
        )


@pytest.mark.slow
def test_end_to_end_with_a_kill(corpus, tmp_path):
    flags = "--size small --vocab-size 120 --methods untrained base sam lora-nbar --set optimization.max_update=8".split()
    flags += ["--set", "common.log_interval=2", "--set", "checkpoint.save_interval_updates=2"]
    log = tmp_path / "out" / "data-to-text" / "base" / "seed1" / "train.log"
    process = start(tmp_path, corpus, *flags)
    begun = time.monotonic()
    while not (log.exists() and '"num_updates": "4"' in log.read_text()):
        assert process.poll() is None and time.monotonic() - begun < processes.LIMIT, (tmp_path / "shown").read_text()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert start(tmp_path, corpus, *flags).wait(processes.LIMIT) == 0, (tmp_path / "shown").read_text()
    shown = (tmp_path / "shown").read_text()
    assert "Traceback" not in shown and "all data were there" in shown and "4 runs, 1 of them finished before" in shown
    assert "Loaded checkpoint" in log.read_text() and log.read_text().count("done training") == 1
    numbers = {name: runs["seed 1"] for name, runs in json.loads((tmp_path / "out" / "results.json").read_text()).items()}
    assert {name: one["updates"] for name, one in numbers.items()} == {"untrained": 0, "base": 8, "sam": 8, "lora-nbar": 8}
    assert all(0 <= one["scores"][group]["bleu"] <= 100 for one in numbers.values() for group in results.GROUPS)
    losses = {name: one["scores"]["valid"]["loss"] for name, one in numbers.items()}
    assert losses["lora-nbar"] < losses["base"] < losses["untrained"]
    assert 0 < numbers["lora-nbar"]["train_seconds"] < 300
    runs = tmp_path / "out" / "data-to-text"
    merged = read_checkpoint(runs / "lora-nbar" / "seed1" / "merged.pt")
    assert not any("lora" in name for name in merged["model"])
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000 and (tmp_path / "out" / "table.png").exists()


def test_webnlg_2017_is_planned(call, data_beside):
    assert call("--methods base", data_beside / "webnlg2017") == 0
    config = call.done[0][0].config
    assert call.prepared[0][1] == 2000 and config["dataset"]["max_tokens"] == 1024
