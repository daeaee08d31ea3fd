"""The guide to few-shot tasks: its commands are those of its script, their flags and names are there, and its first run begins."""

import argparse
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from shell_commands import commands_with_smollm2, one_line_each

from sharp_plugins.cloze.layout import Sentence
from sharp_plugins.fewshot.__main__ import main
from sharp_plugins.fewshot.benchmark import PARTS, ZERO_SHOT, FewShot
from sharp_plugins.fewshot.family import named, read_family
from sharp_plugins.fewshot.sampling import SEEDS
from sharp_plugins.fewshot.task import CLOZE, DECODER
from sharp_plugins.fewshot.task_files import find_task, named_tasks, task_of
from sharp_plugins.runs import stages
from sharp_plugins.runs.command import RUNS_FAILED, add_run_arguments
from sharp_plugins.runs.configs import configure
from sharp_plugins.runs.methods import find_method
from sharp_plugins.runs.stages import RunFailed
from sharp_plugins.runs.sweep import changes_of, grid, read_sweeps

GUIDE = Path(__file__).resolve().parents[2] / "examples" / "fewshot"
TEXT = (GUIDE / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```", TEXT, re.M | re.S)


def test_the_first_look_has_the_scripts_commands_word_for_word():
    assert one_line_each(BLOCKS[1]) == commands_with_smollm2(GUIDE / "run.sh")
    assert BLOCKS[0] == "bash examples/fewshot/run.sh\n"


def arguments_of(part: str):
    """The words of the run in the guide that has *part* in it, and what the command's parser makes of them."""
    every = [line for block in BLOCKS for line in one_line_each(block)]
    (line,) = [line for line in every if line.startswith("python -m sharp_plugins.fewshot run") and part in line]
    words = shlex.split(line)[4:]
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_run_arguments(parser, FewShot())
    return words, parser.parse_args(words)


@pytest.mark.parametrize("part, family", [("backbones/roberta-large", "roberta"), ("backbones/opt", "opt")])
def test_the_papers_runs_have_flags_methods_and_a_grid(part, family):
    _, args = arguments_of(part)
    assert [find_method(name, FewShot.extra_methods).name for name in args.methods] == list(FewShot.default_methods)
    assert args.grid in named(family) and len(read_family(family, args.grid).sweeps()) >= 4
    assert (args.k, args.examples) == {"roberta": ([512], None), "opt": (None, [1000])}[family] and set(args.seeds) <= set(SEEDS)


def trainings_of(args, family: str) -> int:
    """How many runs the engine plans that train, of all tasks of the backbone's kind."""
    kind = {"roberta": CLOZE, "opt": DECODER}[family]
    settings = read_family(family, args.grid)
    sweeps, count = read_sweeps(settings.sweeps() if args.grid else []), 0
    for method in (find_method(name, FewShot.extra_methods) for name in args.methods if name != ZERO_SHOT):
        for task in (find_task(name, kind) for name in named_tasks(kind)):
            of = settings.settings(PARTS[CLOZE if kind == CLOZE else task.training])
            of.task["model"]["_name"] = ""
            count += len(grid(sweeps, lambda values: configure(of, method, changes_of(values)))) * len(args.seeds)
    return count


def test_how_many_trainings_the_papers_tables_are():
    counts = []
    for part, family in (("backbones/roberta-large", "roberta"), ("backbones/opt", "opt")):
        _, args = arguments_of(part)
        counts.append(trainings_of(args, family))
        args.grid = None
        assert trainings_of(args, family) == 72
    assert "The first command is {:,} trainings and the second {:,}. Without `--grid` each is 72;".format(*counts) in TEXT


def test_the_first_look_is_planned(data_beside, tmp_path, monkeypatch, capsys):
    """With a small decoder in the place of SmolLM2, up to the first stage."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "prompted"))
    import prompts

    words, args = arguments_of("backbones/smollm2")
    for flag, value in (("--backbone", prompts.write_backbone(tmp_path / "backbone")), ("--data", data_beside / "superglue")):
        words[words.index(flag) + 1] = str(value)
    words[words.index("--out") + 1] = str(tmp_path / "out")

    def refuse(run, stage, *rest):
        raise RunFailed(f"{run.name}: {stage.name}")

    monkeypatch.setattr(stages, "perform", refuse)
    # The small tokenizer makes a symbol of a letter.
    assert main(["run", *words, "--max-positions", "60", "--cpu"]) == RUNS_FAILED
    shown = capsys.readouterr()
    assert "3 runs, 0 of them finished before" in shown.out and "error: COPA lora-nbar examples=1000 seed 13: train" in shown.err


def test_the_task_of_ones_own_is_one():
    cloze, decoder = [task_of(yaml.safe_load(block), "reviews", "reviews.yaml") for block in BLOCKS if block.startswith("kind: ")]
    assert cloze.layout.words == {"bad": "terrible", "good": "great"} and cloze.label_of("1") == decoder.label_of("1") == "good"
    (text,) = [part for part in cloze.layout.template if isinstance(part, Sentence)]
    assert text.limit == 110 and "Without a limit a long text pushes the mask out, and the command stops." in TEXT
    assert decoder.kind == "decoder" and decoder.rows["valid"] == 100 and set(decoder.candidates) == {"bad", "good"}


def test_all_tasks_and_settings_are_told():
    cells = re.findall(r"^\| ([^|]+) \|", TEXT, re.M)
    told = {name for cell in cells for name in cell.split(", ")}
    assert {*named_tasks("cloze"), *named_tasks("decoder")} <= told
    for family in ("roberta", "opt", "llama"):
        assert all(f"`{name}`" in TEXT for name in named(family))


def test_the_picture_of_balancedness(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(GUIDE))
    script = importlib.import_module("balancedness")
    runs = [("lora", 1, (2.0, 3.0)), ("lora", 2, (4.0, 5.0)), ("lora-nbar", 1, (1.0,)), ("base", 1, ())]
    for method, seed, values in [*runs, ("lora-nbar/bar_alpha=2", 1, (7.0,)), ("lora", 3, ())]:
        home, _, own = method.partition("/")
        run = tmp_path / "COPA" / home / "examples=8" / own / f"seed{seed}"
        run.mkdir(parents=True)
        if seed < 3:  # the third was stopped
            (run / "result.json").touch()
        lines = [
            json.dumps(
                {"epoch": 1, "num_updates": str(10 * n), "balancedness_a": str(value - 0.5), "balancedness_b": str(value + 0.5)}
            )
            for n, value in enumerate(values, start=1)
        ]
        (run / "train.log").write_text("\n".join(["begins", '{"epoch": 1, "num_updates": "5"}', *lines]) + "\n")
    assert script.main([str(tmp_path / "COPA"), "--out", str(tmp_path / "figure.png")]) == 0
    shown = capsys.readouterr().out
    assert (
        "lora: 3.000 at update 10, 4.000 at update 20\n" in shown and "lora-nbar: 1.000 at update 10, 1.000 at update 10\n" in shown
    )
    assert "lora-nbar, bar_alpha=2: 7.000 at update 10" in shown and "examples=8" not in shown
    assert "base" not in shown and (tmp_path / "figure.png").stat().st_size > 1000
    assert script.main([str(tmp_path / "COPA" / "base"), "--out", str(tmp_path / "none.png")]) == 1
    assert "no finished run of a method with LoRA" in capsys.readouterr().err
    assert script.main([str(tmp_path / "COPA/lora/examples=8"), "--out", str(tmp_path / "one.png")]) == 0
    assert "examples=8: 3.000 at update 10, 4.000 at update 20\n" in capsys.readouterr().out


def rows_of(table: str):
    return [
        [cell.strip() for cell in line.strip("| \n").split("|")]
        for line in table.splitlines()
        if "±" in line or "zero-shot" in line
    ]


def test_the_published_averages_are_those_of_their_rows():
    found = rows_of(TEXT.split("## The published numbers")[1].split("## Measured")[0])
    assert len(found) == 15
    for name, *cells in found:
        values = [float(cell.split("±")[0]) for cell in cells]
        assert len(values) == 7 and abs(sum(values[:6]) / 6 - values[6]) <= 0.0501, name
