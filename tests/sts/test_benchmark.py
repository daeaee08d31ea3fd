"""``python -m sharp_plugins.sts run`` on a tiny encoder."""

import csv
import json
import shutil

import pairs
import pytest
import sts_files
import yaml

from sharp_plugins.files.yaml import read_yaml
from sharp_plugins.runs import schedule
from sharp_plugins.runs.configs import differences
from sharp_plugins.sts.__main__ import main
from sharp_plugins.sts.benchmark import CONFIGS, METHODS
from sharp_plugins.sts.sets import SETS
from sharp_plugins.text import encoder_directory


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return pairs.write_backbone(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return sts_files.write_sets(tmp_path_factory.mktemp("sets"))


def run(backbone, data, out, *flags):
    line = ["run", "--backbone", backbone, "--data", data, "--text", backbone / "texts.txt", "--out", out, "--cpu", *flags]
    return main([str(part) for part in line])


@pytest.fixture
def planned(monkeypatch):
    """The runs of a call, which are not made."""
    runs = []
    monkeypatch.setattr(schedule, "side_by_side", lambda given, *args: runs.extend(given))
    return runs


SETTINGS = ("dataset.batch_size=4", "task.max_length=20", "dataset.num_workers=0", "common.log_interval=1")
SMALL = [word for setting in SETTINGS for word in ("--set", setting)]


@pytest.mark.slow
def test_methods_are_trained_evaluated_and_compared(backbone, data, tmp_path):
    flags = ["--methods", "base", "mirror", "mirror-dsam-r3f", "--seeds", "1", *SMALL, "--set", "task.pooling=cls"]
    assert run(backbone, data, tmp_path, *flags) == 0
    table = (tmp_path / "table.md").read_text()
    assert "mirror-dsam-r3f" in table and all(f"{name}, " in table or f"{name} |" in table for name in (*SETS, "average"))
    # base is the encoder as it is.
    where = [backbone / "model.pt", "--data", data, "--device", "cpu", "--pooling", "cls", "--json", tmp_path / "direct.json"]
    assert main(["evaluate", *map(str, where)]) == 0
    [base] = [json.loads(path.read_text()) for path in (tmp_path / "sentences" / "base").rglob("result.json")]
    assert base["metrics"]["test"] == pytest.approx(json.loads((tmp_path / "direct.json").read_text()))
    assert "A sentence's vector: cls, of at most 20 symbols in training." in table
    with open(tmp_path / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"base", "mirror", "mirror-dsam-r3f"}
    log = (tmp_path / "sentences" / "mirror-dsam-r3f" / "seed1" / "train.log").read_text()
    assert '"symm_kl"' in log and '"dsam_weight_max"' in log
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sentences").rglob("*")}
    assert run(backbone, data, tmp_path, *flags) == 0  # nothing is done again
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "sentences").rglob("*")} == before


@pytest.mark.slow
def test_a_search_needs_the_development_set_alone(backbone, data, tmp_path, capsys):
    few = tmp_path / "few"
    (few / "STS-B").mkdir(parents=True)
    shutil.copy(data / "STS-B" / "dev.tsv", few / "STS-B")
    flags = ["--methods", "mirror-sam", "--seeds", "1", *SMALL, "--sweep", "optimizer.sam_rho=0.01,0.1", "--sets", "STS-B-dev"]
    assert run(backbone, few, tmp_path / "out", *flags) == 0
    found = [json.loads(path.read_text())["metrics"] for path in (tmp_path / "out").rglob("result.json")]
    assert len(found) == 2 and all(one["test"] == {} and list(one["valid"]) == ["STS-B-dev"] for one in found)
    table = (tmp_path / "out" / "table.md").read_text()
    assert "STS-B, dev" in table and ", average" not in table and "## The search" in table
    # The same runs with the test sets are others, and what is asked for must be there.
    assert run(backbone, few, tmp_path / "out", *flags[:-2]) == 1 and "STS12.tsv" in capsys.readouterr().err
    assert run(backbone, data, tmp_path / "out", *flags[:-2]) == 1 and "differs in the sets" in capsys.readouterr().err


def test_the_optimizers_of_other_methods_have_no_say(backbone, data, tmp_path, planned):
    """No method of this call has use for the share, of a run whose length is not known."""
    run(backbone, data, tmp_path, "--methods", "mirror", "--seeds", "1", *SMALL, "--set", "optimizer.sam_start=0.5")
    assert [one.record.method for one in planned] == ["mirror"]


@pytest.mark.parametrize("family", ["bert", "roberta", "minilm"])
def test_a_batch_is_mirror_berts(family):
    """Of 200 pairs, so that its 10,000 sentences make 50 updates; the last weights are used."""
    data = read_yaml(CONFIGS / f"{family}.yaml")["dataset"]
    assert (data["batch_size"], data["required_batch_size_multiple"], data["disable_validation"]) == (200, 1, True)


@pytest.mark.parametrize("family", ["bert", "roberta", "minilm"])
def test_the_settings_are_mirror_berts_and_the_papers(data, tmp_path, planned, monkeypatch, family):
    """Those of its scripts, and of δ-SAM's appendix A. fairseq knows all settings, or the call would be refused."""
    backbone = pairs.write_backbone(tmp_path / "backbone", "roberta" if family == "roberta" else "bert")
    if family == "minilm":
        loaded = encoder_directory.load_backbone
        monkeypatch.setattr(encoder_directory, "load_backbone", lambda path: loaded(path)._replace(family="minilm"))
    line = ["run", "--backbone", backbone, "--data", data, "--text", backbone / "texts.txt", "--out", tmp_path / "out"]
    run_all = [*map(str, line), "--methods", *METHODS, "--seeds", "1", "--set", "dataset.batch_size=4"]
    main(run_all)
    found = {one.record.method: one.config for one in planned}
    assert list(found) == list(METHODS)
    rho, beta, epsilon, pooling = {"bert": (0.05, 3, 5e-2, "mean-padded"), "roberta": (0.01, 5, 1e-3, "cls")}.get(
        family, (0.05, 3, 5e-2, "mean")
    )
    for method, config in found.items():
        optimizer, criterion, common = config["optimizer"], config["criterion"], config["common"]
        base = optimizer.get("base", optimizer)
        assert (base["adam_betas"], base["adam_eps"], base["weight_decay"]) == ("(0.9, 0.999)", 1e-8, 0.01)
        assert (optimizer.get("sam_rho"), optimizer.get("dsam_beta")) == (
            rho if "sam" in method else None,
            beta if "dsam" in method else None,
        )
        r3f = (1.0, epsilon) if "r3f" in method else (None, None)
        assert (criterion.get("r3f_lambda"), criterion.get("r3f_eps"), criterion["contrastive_temperature"]) == (*r3f, 0.04)
        task, optimization = config["task"], config["optimization"]
        assert (task["pooling"], task["max_length"], task["span_length"], task["mask_text"]) == (pooling, 50, 5, "[MASK]")
        rates = [0.0] if method == "base" else [2e-5]
        assert (optimization["lr"], optimization["clip_norm"], optimization["max_epoch"]) == (rates, 0.0, 1)
        assert (config["model"]["dropout"], config["model"]["attention_dropout"]) == (0.1, 0.1)
        assert (optimizer["_name"] if base is optimizer else optimizer["base_optimizer"]) == "adam"
        assert config["lr_scheduler"] == {"_name": "fixed"}
        # fp32 weights, which hold a small ρ; on a CPU no AMP.
        assert not common.get("fp16") and common.get("amp", False) is not common.get("cpu", False)


def test_settings_of_ones_own_train_with_one_worker(backbone, data, tmp_path, monkeypatch, planned):
    """And not with as many as this machine has GPUs: on another one the batches of a run would be of another size."""
    monkeypatch.setattr(schedule, "check_workers", lambda *_: None)  # as if there were two
    own = read_yaml(CONFIGS / "bert.yaml")
    del own["distributed_training"]
    (tmp_path / "bert.yaml").write_text(yaml.safe_dump(own))
    flags = ["--methods", "mirror", "--seeds", "1", *SMALL, "--configs", tmp_path]
    for name, workers in (("one", 1), ("two", 2)):
        more = [] if workers == 1 else ["--set", f"distributed_training.distributed_world_size={workers}"]
        run(backbone, data, tmp_path / name, *flags, *more)
        assert planned[-1].config["distributed_training"]["distributed_world_size"] == workers


def test_a_part_of_the_settings_that_has_none_by_name(backbone, data, tmp_path, planned, capsys):
    for part in ("r3f", "lr_scheduler"):
        (tmp_path / "bert.yaml").write_text(yaml.safe_dump({**read_yaml(CONFIGS / "bert.yaml"), part: "fixed"}))
        assert run(backbone, data, tmp_path / "out", "--methods", "mirror", *SMALL, "--configs", tmp_path) == 1 and not planned
        assert capsys.readouterr().err == f"error: {tmp_path / 'bert.yaml'}: {part}: settings by name are expected\n"


def test_the_text_is_a_place(backbone, data, tmp_path, planned, capsys):
    """The same sentences may be elsewhere the next time, and --set does not name others."""
    flags = ["--methods", "mirror", "--seeds", "1", *SMALL]
    run(backbone, data, tmp_path / "out", *flags)
    [one] = planned
    moved = {**one.config, "task": {**one.config["task"], "text": "elsewhere/texts.txt"}}
    assert not differences(one.config, moved)
    assert run(backbone, data, tmp_path / "out", *flags, "--set", "task.text=other.txt") == 1
    assert "--set task.text=other.txt: each run has a task.text of its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--set", "dataset.batch_size=11"], "10 sentences are fewer than a batch"),
        (["--methods", "sam"], "--methods sam"),
        (["--methods", "lora-sam"], "--methods lora-sam: there is no such method here"),
        (["--set", "distributed_training.distributed_world_size=3"], "10 sentences are fewer than a batch"),
        (["--set", "checkpoint.no_last_checkpoints=true"], "checkpoint.no_last_checkpoints leaves no last checkpoint"),
        (
            ["--set", "optimization.max_epoch=3", "--set", "checkpoint.save_interval=2"],
            "checkpoint.save_interval leaves no checkpoint of the last epoch to measure",
        ),
        (["--set", "criterion.beta=1"], "fairseq does not know such a setting"),
        (["--methods", "mirror", "mirror-sam", "--set", "optimizer.sam_start=1.5"], "mirror-sam: --sam-start must be a share"),
        (["--set", "dataset.batch_size=null"], "--batch-size: say how many pairs are compared"),
        (["--set", "dataset.batch_size=1"], "--batch-size 1: a pair is compared with others of its batch"),
        (["--set", "task.max_length=2"], "--max-length must be 3 or larger, and is 2"),
        (["--set", "task.max_length=300"], "--set task.max_length=300: "),
        (["--set", "task.span_length=-1"], "--span-length must be 0 or larger, and is -1"),
        (["--set", "criterion.contrastive_temperature=nan"], "--contrastive-temperature must be a finite number"),
        (["--methods", "mirror-r3f", "--sweep", "criterion.r3f_eps=0.1,-1"], "--r3f-eps must be a finite number"),
        (["--text", "no.txt"], "--text no.txt: not there"),
        (["--methods", "mirror-sam", "--set", "optimizer.sam_start=0.5"], "0.5 is a share of the run, whose length is not known"),
    ],
)
def test_what_does_not_fit_is_told_before_training(backbone, data, tmp_path, capsys, flags, words):
    assert run(backbone, data, tmp_path, "--seeds", "1", *SMALL, *flags) == 1
    assert words in capsys.readouterr().err and not list(tmp_path.rglob("*.log"))


def test_help_names_the_methods_that_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "base, mirror, mirror-r3f, mirror-sam, mirror-sam-r3f, mirror-dsam, mirror-dsam-r3f (default:" in words
    assert "lora" not in words and "hyphens" not in words
