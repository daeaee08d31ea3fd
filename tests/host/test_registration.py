"""The plugin is in fairseq where fairseq loads it as its user dir or a program asks for it, and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import toy
from processes import fork

ROOT = Path(__file__).resolve().parents[2]
CORE = [path.stem for path in (ROOT / "sharp_plugins" / "core").glob("*.py")]
NETWORKS = [path.stem for path in (ROOT / "sharp_plugins" / "networks").glob("*.py")]
COMMANDS = ["lora", "convert", "glue"]

WITHOUT_FAIRSEQ = f"""
import importlib, sys
import torch
for name in {CORE!r}:
    importlib.import_module("sharp_plugins.core." + name)
# The wall: the core knows torch and NumPy, and of the plugin itself alone.
own = {{name for name in sys.modules if name.startswith("sharp_plugins.")}}
assert own == {{"sharp_plugins.core", "sharp_plugins.user_dir"}} | {{"sharp_plugins.core." + name for name in {CORE!r}}}, own
for name in {NETWORKS!r}:
    importlib.import_module("sharp_plugins.networks." + name)
from sharp_plugins.core.perturbation import Perturbation
w = torch.nn.Parameter(torch.ones(3))
ball = Perturbation([w], rho=0.1)
(w ** 2).sum().backward()
with ball.climb():
    assert not torch.equal(w, torch.ones(3))
assert torch.equal(w, torch.ones(3))
for name in {COMMANDS!r}:
    command = importlib.import_module("sharp_plugins." + name + ".__main__")
    try:
        command.main(["--help"])
    except SystemExit as end:
        assert end.code == 0
loaded = [name for name in sys.modules if name.split(".")[0] in ("fairseq", "hydra", "omegaconf")]
assert not loaded, loaded
"""

BROKEN = """
import sharp_plugins
from sharp_plugins.lora.config import takes_a_dict
assert takes_a_dict("transformer") is False
try:
    sharp_plugins.register()
except ValueError as error:
    assert "mutable default" in str(error)
else:
    raise AssertionError("a broken fairseq went unnoticed")
"""

# Nothing of the plugin is in fairseq; of its class, as others may have wrapped it.
CLEAN = """
from argparse import Namespace
from fairseq import criterions, models, optim, options, utils
from fairseq.trainer import Trainer

def is_clean():
    wrapped = [name for name, value in vars(Trainer).items() if getattr(value, "_sharp_plugins", False)]
    registered = {"sam", "bar"} & set(optim.OPTIMIZER_REGISTRY) | {"lora", "sharp_bert"} & set(models.ARCH_MODEL_REGISTRY)
    return not (wrapped or registered or hasattr(options.parse_args_and_arch, "_sharp_plugins"))

def is_registered():
    whole = {"sam", "dsam", "bar"} <= set(optim.OPTIMIZER_REGISTRY)
    whole &= {"lora", "adapter", "sharp_bert"} <= set(models.ARCH_MODEL_REGISTRY)
    whole &= "smart_sentence_prediction" in criterions.CRITERION_REGISTRY
    return whole and hasattr(Trainer.train_step, "_sharp_plugins") and hasattr(options.parse_args_and_arch, "_sharp_plugins")

assert is_clean()
"""


def run(code, *paths):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_core_and_the_help_of_commands_import_no_fairseq():
    import fairseq  # noqa: F401  there is one

    run(WITHOUT_FAIRSEQ, ROOT)


def test_a_broken_fairseq_is_as_good_as_none(tmp_path):
    (tmp_path / "fairseq").mkdir()
    raising = "raise ValueError(\"mutable default <class 'CommonConfig'> for field common is not allowed\")\n"
    (tmp_path / "fairseq" / "__init__.py").write_text(raising)
    run(WITHOUT_FAIRSEQ + BROKEN, tmp_path, ROOT)


PARTS = "sharp_plugins.core.perturbation, sharp_plugins.lora, sharp_plugins.convert.__main__, sharp_plugins.glue.__main__"
LOAD = f"utils.import_user_module(Namespace(user_dir={toy.PLUGIN!r}))"


@pytest.mark.parametrize(
    "then",
    [
        pytest.param(LOAD, id="user dir"),
        pytest.param(f"import {PARTS}\nassert is_clean()\n{LOAD}", id="user dir, imported before"),
        pytest.param(f"import {PARTS}\nassert is_clean()\nsharp_plugins.register()\nsharp_plugins.register()", id="register"),
        pytest.param(f"import sharp_plugins.optim, sharp_plugins.models.lora\n{LOAD}", id="user dir, a part imported before"),
    ],
)
def test_what_registers(tmp_path, then):
    before = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
    fork(f"{before}{CLEAN}\n{then}\nassert is_registered()", tmp_path / "log").succeed()


def test_a_user_dir_that_was_imported_under_another_name(tmp_path):
    (tmp_path / "sharp_plugins").symlink_to(toy.PLUGIN)
    then = f"import sharp_plugins\nutils.import_user_module(Namespace(user_dir={str(tmp_path / 'sharp_plugins')!r}))"
    before = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
    fork(f"{before}{CLEAN}\n{then}\nassert is_registered()", tmp_path / "log").succeed()


@pytest.mark.parametrize("is_imported", [False, True])
def test_the_root_of_a_clone_in_the_current_directory_is_taken_for_the_package(tmp_path, is_imported):
    """The command of the README, given in the folder where `git clone` was."""
    (tmp_path / "sharp_plugins" / "sharp_plugins").mkdir(parents=True)
    (tmp_path / "sharp_plugins" / "sharp_plugins" / "__init__.py").write_text("raise AssertionError('not the installed one')")
    before = f"import os, sys\nos.chdir({str(tmp_path)!r})\nsys.path.append({str(ROOT)!r})\n"
    then = "import sharp_plugins\nassert is_clean()\n" if is_imported else ""
    then += "utils.import_user_module(Namespace(user_dir='sharp_plugins'))"
    fork(f"{before}{CLEAN}\n{then}\nassert is_registered()", tmp_path / "log").succeed()


def test_fairseqs_hub_loads_a_model_of_the_plugins(translation_data, tmp_path):
    lora = ["--arch", "lora", "--base-arch", *toy.MODEL[1:], "--lora-rank", "2"]
    trainer = toy.build_trainer(translation_data, "--optimizer", "adam", "--lr", "0.1", model=lora)
    trainer.train_step(toy.batches(trainer, [4]))
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(tmp_path / "model.pt"), {"train_iterator": {"epoch": 1}})
    code = f"""
{CLEAN}
from fairseq import hub_utils
places = dict(checkpoint_file="model.pt", data_name_or_path={str(translation_data)!r}, user_dir={toy.PLUGIN!r})
(model,) = hub_utils.from_pretrained({str(tmp_path)!r}, **places)["models"]
assert is_registered() and model.decoder.layers[0].self_attn.q_proj.lora_A.shape == (2, 16)
"""
    fork(code, tmp_path / "log").succeed()
