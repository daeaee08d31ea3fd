"""The examples in docstrings: what ``>>>`` begins is run, an ``Example::`` compiles, and no public class is without one."""

import ast
import copy
import doctest
import importlib
import re
import textwrap
from pathlib import Path

import pytest
import sentences
import torch
import toy

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "sharp_plugins").rglob("*.py"))

# Folders in which each public class has an example.
WRITTEN = (
    "core",
    "networks",
    "optim",
    "criterions",
    "models",
    "lora",
    "text",
    "convert",
    "files",
    "host",
    "webnlg",
    "generation",
    "prompted",
    "candidates",
    "cloze",
    "fewshot",
)

# No example is asked for: settings and records, whose fields are documented one by one, and errors.
PLAIN = re.compile(r"Config$|Error$|Exception$|^NamedTuple$|^FairseqDataclass$")


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def public_classes(path):
    """The classes of a file that a reader may use or build on."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            names = [node.name, *(ast.unparse(base).rpartition(".")[2] for base in node.bases)]
            if not any(map(PLAIN.search, names)):
                yield node


def docstrings(path):
    """(name, docstring) of all that a file defines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            words = ast.get_docstring(node)
            if words:
                yield getattr(node, "name", name_of(path)), words


def blocks(words):
    """The code in a docstring after ``Example::``, or after ``Example, of something::``."""
    for match in re.finditer(r"^( *).*\bExample\b[^\n]*::\n((?:\n|\1 +.*\n?)+)", words, re.M):
        yield textwrap.dedent(match[2])


@pytest.fixture(scope="module")
def worlds(sentence_data, translation_data):
    """What the examples call task, model, sample and args: a user's own."""

    def world(trainer):
        return {
            "task": trainer.task,
            "model": trainer.get_model().train(),
            "sample": toy.batches(trainer, [4])[0],
            "args": trainer.cfg.model,
        }

    return {
        "sentences": world(sentences.trainer(sentence_data, "sentence_prediction", dropout="0.3")),
        "translation": world(toy.build_trainer(translation_data, "--optimizer", "sgd", *toy.SGD, "--dropout", "0.3")),
    }


@pytest.mark.parametrize("path", [path for path in MODULES if ">>>" in path.read_text(encoding="utf-8")], ids=name_of)
def test_examples_run(path, worlds):
    module = importlib.import_module(name_of(path))
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    told = []
    found = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert found, "a >>> that no docstring holds"
    for test in found:
        world = worlds["translation" if "LabelSmoothed" in test.name else "sentences"]
        test.globs.update({**world, "args": copy.deepcopy(world["args"])})
        torch.manual_seed(0)
        runner.run(test, out=told.append)
    assert runner.failures == 0, "".join(told)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_blocks_compile(path):
    for name, words in docstrings(path):
        for block in blocks(words):
            if ">>>" not in block:
                compile(block, f"{name_of(path)}: {name}", "exec")


@pytest.mark.parametrize("folder", WRITTEN)
def test_every_public_class_has_an_example(folder):
    classes = [(path, node) for path in MODULES if path.parts[-2] == folder for node in public_classes(path)]
    without = [
        f"{name_of(path)}.{node.name}"
        for path, node in classes
        if not (">>>" in (words := ast.get_docstring(node) or "") or list(blocks(words)))
    ]
    assert not without


def test_what_is_asked_for():
    """The rules above find classes, and see a missing example."""
    asked = {node.name for path in MODULES if path.parts[-2] in WRITTEN for node in public_classes(path)}
    assert {"Perturbation", "LoRALinear", "SAM", "R3FSentencePrediction", "BertModel", "Tokenizer"} <= asked
    assert not {"R3FConfig", "Agreement", "Refused", "SettingError"} & asked
    assert list(blocks("Words.\n\nExample::\n\n    a = 1\n\n    b = 2\n\nArgs:\n    c: 3")) == ["\na = 1\n\nb = 2\n\n"]
    assert not list(blocks("An Example: ``a = 1``"))
