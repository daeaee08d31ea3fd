"""An engine that makes up its scores, for the scripts of examples/studies."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import yaml

from sharp_plugins.runs.record import Record, Result
from sharp_plugins.runs.store import RECORD, RESULT, directory_of

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ROOT / "examples" / "studies"
RATE, RHO, BETA = "optimization.lr", "optimizer.sam_rho", "optimizer.dsam_beta"


def load(monkeypatch):
    """The scripts by name, and the calls of the engine."""
    monkeypatch.syspath_prepend(str(STUDIES))
    found = SimpleNamespace(**{name: importlib.import_module(name) for name in ("plan", "study", "gains", "report")}, calls=[])
    found.score = lambda method, settings, seed: 70.0

    def engine(line):
        found.calls.append(line)
        words = {flag: [] for flag in ("--set", "--sweep", "--seeds", "--methods", "--out", "--tasks", "--train-rows")}
        flag = None
        for word in line:
            if word.startswith("--"):
                flag = word
            elif flag in words:
                words[flag].append(word)
        fixed = dict(setting.split("=") for setting in words["--set"])
        name, _, values = (words["--sweep"] or ["=one"])[0].partition("=")
        for value in values.split(","):
            for seed in map(int, words["--seeds"]):
                settings = {**fixed, **({name: value} if name else {})}
                rows = {"train-rows": int(words["--train-rows"][0])} if words["--train-rows"] else {}
                axes = {**rows, **({name: float(value)} if name else {})}
                record = Record("glue", words["--tasks"][0], words["--methods"][0], seed, axes)
                save(Path(words["--out"][0]), record, settings, found.score(record.method, settings, seed))
        return 0

    found.engine = engine
    monkeypatch.setattr(found.study, "run_program", engine)
    return found


def save(out, record, settings, score):
    directory = directory_of(out, record)
    directory.mkdir(parents=True, exist_ok=True)
    metric = {"CoLA": "mcc"}.get(record.task, "accuracy")
    metrics = {"valid": {metric: score + 1}, "dev": {metric: score}}
    result = Result(record, metrics, 0.5, 40, 20, None, [], {})
    (directory / RECORD).write_text(json.dumps(record._asdict()))
    (directory / RESULT).write_text(json.dumps({**result._asdict(), "record": record._asdict(), "checkpoints": "deleted"}))
    config = {"task": {"data": "DATA"}, "model": {"encoder_layers": 3}}
    for name, value in settings.items():
        part, key = name.split(".")
        config.setdefault(part, {})[key] = False if value == "false" else float(value)
    (directory / "run.yaml").write_text(yaml.safe_dump(config))


def flags(line, flag):
    return [line[place + 1] for place, word in enumerate(line[:-1]) if word == flag]


def run(scripts, tmp_path, name, *more):
    line = [name, "--backbone", "B", "--data", "D", "--out", str(tmp_path), *more]
    return scripts.study.main(line)
