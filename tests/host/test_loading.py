"""Each way in which fairseq loads a file: none runs what it holds, whatever fairseq and torch say of safety."""

import argparse
import ast
import inspect
import io
import os
import re
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import crafted
import fairseq
import fairseq_cli
import numpy
import processes
import pytest
import torch
import toy
from fairseq import checkpoint_utils, file_utils, hub_utils, utils
from fairseq.models import build_model
from fairseq.models.speech_to_text import hub_interface
from fairseq.models.text_to_speech import vocoder
from fairseq.models.transformer import TransformerModel
from fairseq.modules.quantization.pq import em
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig, AudioFinetuningTask
from omegaconf import OmegaConf

from sharp_plugins.convert.weights import read_weights
from sharp_plugins.files import safe_load
from sharp_plugins.glue.evaluate import Checkpoint
from sharp_plugins.host import loading
from sharp_plugins.lora.__main__ import main as lora_main

pytestmark = pytest.mark.filterwarnings("ignore")

UNSAFE = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # torch.load's default is then that of torch before 2.6


@pytest.fixture(params=["fairseq's call", "a call with weights_only=False"])
def unsafe(request, monkeypatch):
    """torch.load is unsafe by default, or fairseq asks for it, as its last version does."""
    for name, value in UNSAFE.items():
        monkeypatch.setenv(name, value)
    if request.param != "fairseq's call":
        for name in ("load_checkpoint_to_cpu", "load_ema_from_checkpoint"):
            source = inspect.getsource(getattr(checkpoint_utils, name))
            changed = re.sub(r"torch\.load\(\s*f,(\s*weights_only=False,)?", "torch.load(f, weights_only=False,", source)
            assert changed.count("weights_only=False") == 1
            scope = {}
            exec(compile(changed, name, "exec"), vars(checkpoint_utils), scope)
            monkeypatch.setattr(checkpoint_utils, name, scope[name])


@pytest.fixture(scope="module")
def trained(translation_data, tmp_path_factory):
    """A checkpoint of a toy model."""
    trainer = toy.build_trainer(translation_data, "--optimizer", "adam", "--lr", "0.1")
    trainer.train_step(toy.batches(trainer, [4]))
    path = tmp_path_factory.mktemp("trained") / "model.pt"
    trainer.consolidate_optimizer()
    place = trainer.get_train_iterator(epoch=1)
    place.next_epoch_itr()
    trainer.save_checkpoint(str(path), {"train_iterator": place.state_dict(), "val_loss": None})
    return path


@pytest.fixture(params=[crafted.zipped, crafted.legacy, crafted.torchscript], ids=lambda kind: kind.__name__)
def bad(request, tmp_path):
    """A file that makes the file ``mark`` beside it."""
    path = tmp_path / "model.pt"
    request.param(path, tmp_path / "mark")
    (tmp_path / "mark").unlink(missing_ok=True)
    return path


def load_with(data, *flags):
    trainer = toy.build_trainer(data, "--optimizer", "adam", "--lr", "0.1", *flags)
    return checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)


WAYS = {
    "--restore-file": lambda path, data: load_with(data, "--restore-file", path),
    "--finetune-from-model": lambda path, data: load_with(data, "--finetune-from-model", path, "--save-dir", path.parent / "new"),
    "--path": lambda path, data: checkpoint_utils.load_model_ensemble_and_task([str(path)], {"data": str(data)}),
    "ensemble": lambda path, data: checkpoint_utils.load_model_ensemble([str(path)]),
    "pretrained parts": lambda path, data: checkpoint_utils.load_pretrained_component_from_model(None, str(path)),
    "averages": lambda path, data: checkpoint_utils.load_ema_from_checkpoint(str(path)),
    "hub": lambda path, data: hub_utils.from_pretrained(str(path.parent), "model.pt", str(data)),
    "from_pretrained": lambda path, data: TransformerModel.from_pretrained(str(path.parent), "model.pt", str(data)),
    "vocoder": lambda path, data: vocoder.HiFiGANVocoder(
        str(path),
        dict(
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1, 1, 1]],
            upsample_rates=[2],
            upsample_kernel_sizes=[4],
            upsample_initial_channel=4,
            model_in_dim=4,
        ),
    ),
    "quantization": lambda path, data: em.EM.load(
        argparse.Namespace(), str(path.rename(path.with_name("x_centroids.pth")).parent), "x"
    ),
}


REFUSED = r"cannot be read safely: it holds .*README\.md|cannot be read: it is a TorchScript program"


@pytest.mark.parametrize("way", WAYS)
def test_a_file_leaves_no_mark_on_the_disk(translation_data, unsafe, bad, way):
    with pytest.raises(ValueError, match=REFUSED):
        WAYS[way](bad, translation_data)
    assert not (bad.parent / "mark").exists()


@pytest.mark.parametrize("way", ["--restore-file", "--path", "ensemble", "hub", "from_pretrained"])
def test_what_fairseq_writes_is_read(translation_data, unsafe, trained, way):
    assert WAYS[way](trained, translation_data)


def test_a_speech_tasks_checkpoint_is_read(tmp_path, unsafe):
    """Its vocabulary is in the checkpoint."""
    (tmp_path / "dict.ltr.txt").write_text("a 1\nb 1\n")
    task = AudioFinetuningTask.setup_task(AudioFinetuningConfig(data=str(tmp_path), labels="ltr"))
    assert task.target_dictionary is not None  # as training does; it is in the state from then on
    history = [{"optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}]
    state = {"args": None, "cfg": {}, "model": {}, "optimizer_history": history, "extra_state": {"train_iterator": {"epoch": 1}}}
    state["task_state"] = task.state_dict()
    checkpoint_utils.torch_persistent_save(state, str(tmp_path / "c.pt"))
    other = AudioFinetuningTask.setup_task(AudioFinetuningConfig(data=str(tmp_path / "not there"), labels="ltr"))
    other.load_state_dict(checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "c.pt"))["task_state"])
    assert other.target_dictionary == task.target_dictionary and other.target_dictionary.string(torch.tensor([4, 5])) == "a b"


@pytest.mark.parametrize("command", ["lora merge", "lora save", "glue evaluate", "convert"])
def test_the_plugins_own_commands_leave_no_mark(translation_data, bad, capsys, command):
    bad = bad.rename(bad.with_name("pytorch_model.bin")) if command == "convert" else bad
    if command == "convert":
        with pytest.raises(ValueError, match=REFUSED):
            read_weights(bad.parent)
    elif command == "glue evaluate":
        with pytest.raises(ValueError, match=REFUSED):
            Checkpoint(bad, types.SimpleNamespace(task="RTE"))
    else:
        assert lora_main([command.split()[1], str(bad), str(bad.parent / "out")]) == 1
        assert re.search(REFUSED, capsys.readouterr().err)
    assert not (bad.parent / "mark").exists()


def test_torch_itself_stays_as_it_is(tmp_path):
    assert loading.torch.load is torch.load and torch.load.__module__ == "torch.serialization"
    crafted.zipped(tmp_path / "file.pt", tmp_path / "mark")
    torch.load(tmp_path / "file.pt", weights_only=False)  # somebody else's decision
    assert (tmp_path / "mark").exists()
    view = checkpoint_utils.torch
    assert view.Tensor is torch.Tensor and view.nn is torch.nn and view.__version__ == torch.__version__


# ---------------------------------------------------------------------- settings and archives


def test_a_checkpoints_settings_are_not_run(translation_data, trained, tmp_path):
    state = safe_load.load(trained)
    mark = tmp_path / "mark"
    code = f"[(512, 3)] + [__import__('os').mknod({str(mark)!r})]"
    state["cfg"]["model"] = argparse.Namespace(arch="fconv", _name="fconv", encoder_layers=code)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="is no plain value"):
        checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "model.pt")], {"data": str(translation_data)})
    assert not mark.exists()


def test_settings_mean_what_they_did(translation_data):
    task = toy.build_trainer(translation_data, "--optimizer", "adam", "--lr", "0.1").task
    args = toy.config(
        translation_data,
        "--optimizer",
        "adam",
        "--adam-betas",
        "(0.9, 0.98)",
        "--encoder-layers",
        "[(16, 3)] * 2",
        "--decoder-layers",
        "[(16, 3)] + [(16, 1)]",
        "--decoder-attention",
        "True",
        model="--arch fconv --encoder-embed-dim 16 --decoder-embed-dim 16 --decoder-out-embed-dim 16".split(),
    )
    model = build_model(args.model, task)
    assert len(model.encoder.convolutions) == 2 and [c.kernel_size[0] for c in model.decoder.convolutions] == [3, 1]
    assert utils.eval_bool(None, True) is True and utils.eval_bool("False") is False
    assert utils.eval_str_list("[1, 2]") == [1.0, 2.0] and utils.eval_str_list("3") == [3.0]


class Meter:
    """What checkpoints of fairseq's first versions hold."""


def test_an_old_checkpoint_is_converted_as_the_guide_says(translation_data, trained, tmp_path, monkeypatch):
    state = safe_load.load(trained)
    name = vars(state["cfg"]["model"])["_name"]
    cfg = OmegaConf.create({**state["cfg"], "model": {"_name": name, **vars(state["cfg"]["model"])}})
    extra = {"train_meters": Meter(), "val_loss": numpy.float64(1)}
    torch.save({**state, "cfg": cfg, "extra_state": extra}, tmp_path / "old.pt")
    with pytest.raises(safe_load.Refused, match=r"old\.pt: cannot be read safely: .*'Files from elsewhere'"):
        WAYS["--path"](tmp_path / "old.pt", translation_data)
    guide = (Path(toy.PLUGIN) / "files" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(import pydoc\n.*?)```", guide, re.S)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    (model,), _, _ = WAYS["--path"](tmp_path / "new.pt", translation_data)
    # fairseq 0.12.2 keeps a float of no value in the state, and its encoder other names than it saves.
    one, other = (
        {name: value for name, value in part.items() if name.startswith("decoder.") and "float_tensor" not in name}
        for part in (model.state_dict(), state["model"])
    )
    toy.assert_same(one, other)
    assert load_with(translation_data, "--finetune-from-model", tmp_path / "new.pt", "--save-dir", tmp_path / "new")


def test_a_speech_models_config_names_no_code_to_run(tmp_path, monkeypatch):
    """It would load hubconf.py of a repository on GitHub, or of any directory."""
    (tmp_path / "hubconf.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\ndef tts(**how): return None\n")
    data_cfg = types.SimpleNamespace(
        hub={"tts_model_id": f"{tmp_path}:tts"}, prepend_tgt_lang_tag=False, bpe_tokenizer={"bpe": None}, config={}
    )
    task = types.SimpleNamespace(data_cfg=data_cfg, tgt_dict=types.SimpleNamespace(string=lambda tokens: "a text"))
    generator = types.SimpleNamespace(generate=lambda *args, **how: [[{"tokens": []}]])
    monkeypatch.setattr(torch.hub, "load", lambda repo, model, **how: exec((Path(repo) / "hubconf.py").read_text()))
    predict = hub_interface.S2THubInterface.get_prediction
    with pytest.raises(ValueError, match=f"config.yaml names {tmp_path}:tts .* would download code and run it; predict without"):
        predict(task, None, generator, None, synthesize_speech=True)
    assert not (tmp_path / "mark").exists()
    assert predict(task, None, generator, None) == "a text" and hub_interface.torch.hub.get_dir is torch.hub.get_dir


def write_archive(path, name, link=None, others=()):
    with tarfile.open(path, "w:gz") as archive:
        for other in others:
            archive.addfile(tarfile.TarInfo(other))
        entry = tarfile.TarInfo(name)
        if link:
            entry.type, entry.linkname = tarfile.SYMTYPE, link
            archive.addfile(entry)
            entry = tarfile.TarInfo(f"{name}/mark")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))


@pytest.mark.parametrize("name, link", [("../mark", None), ("{}/mark", None), ("out", "{}")], ids=["up", "absolute", "link"])
def test_an_archive_stays_in_its_place(tmp_path, monkeypatch, name, link):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    write_archive(tmp_path / "model.tar.gz", name.format(tmp_path), link and link.format(tmp_path))
    with pytest.raises((tarfile.TarError, ValueError)):
        hub_utils.from_pretrained(str(tmp_path / "model.tar.gz"))
    assert not list(tmp_path.rglob("mark"))


def write_links(path, *links):
    with tarfile.open(path, "w:gz") as archive:
        for name in ("model/dict.txt", "model/a/b/other.txt"):
            archive.addfile(tarfile.TarInfo(name))
        for name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)


LINKS_OUT = {
    "beside": [("model/link", "../secret")],
    "its own place": [("model/link", "..")],
    "from below": [("model/a/link", "../../secret")],
    "another top": [("model/link", "../model2/x")],
    "absolute": [("model/link", "/etc/passwd")],
    "down and up": [("model/a/down", ".."), ("model/a/link", "down/../secret")],  # a name alone says model/a/secret
    "through a link": [("model/a/c", "b"), ("model/a/c/link", "../../x")],
}


@pytest.mark.parametrize("kind", LINKS_OUT)
def test_no_link_of_an_archive_leads_out_of_it(tmp_path, kind):
    """fairseq moves what is extracted to where the archive was: there ``../secret`` is the user's file."""
    (tmp_path / "secret").write_text("the user's")
    write_links(tmp_path / "model.tar.gz", *LINKS_OUT[kind])
    with pytest.raises(ValueError, match=r"model\.tar\.gz: its link model/\S+ leads outside of its own directory"):
        file_utils.load_archive_file(str(tmp_path / "model.tar.gz"))
    assert sorted(os.listdir(tmp_path)) == ["model.tar.gz", "secret"]


def test_links_within_an_archive_are_extracted(tmp_path):
    write_links(tmp_path / "model.tar.gz", ("model/link", "dict.txt"), ("model/a/link", "../dict.txt"))
    extracted = Path(file_utils.load_archive_file(str(tmp_path / "model.tar.gz")))
    assert os.readlink(extracted / "a" / "link") == "../dict.txt" and (extracted / "link").exists()


def test_an_archive_that_the_disk_cannot_hold_is_not_extracted(tmp_path, monkeypatch):
    write_archive(tmp_path / "model.tar.gz", "model/dict.txt", others=["model/other.txt"])
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=2))
    with pytest.raises(ValueError, match="it would unpack to 3 bytes, and 2 are free in /"):
        file_utils.load_archive_file(str(tmp_path / "model.tar.gz"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=3))
    assert file_utils.load_archive_file(str(tmp_path / "model.tar.gz"))


def test_an_ordinary_archive_is_extracted(tmp_path):
    write_archive(tmp_path / "model.tar.gz", "model/dict.txt", others=["model/other.txt"])
    extracted = Path(file_utils.load_archive_file(str(tmp_path / "model.tar.gz")))
    assert {path.name for path in extracted.rglob("*.txt")} == {"dict.txt", "other.txt"}
    assert file_utils.tarfile.TarFile is tarfile.TarFile


def test_a_python_without_the_filter_extracts_nothing(tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter")
    write_archive(tmp_path / "model.tar.gz", "model/dict.txt")
    with pytest.raises(ValueError, match="extract it by hand"):
        file_utils.load_archive_file(str(tmp_path / "model.tar.gz"))


# ---------------------------------------------------------------------- nothing is forgotten

# What these read comes from processes of the same run, or is code that the user names.
DECIDED = {
    "fairseq.distributed.utils": {"torch.load(", "pickle.load"},
    "fairseq_cli.eval_lm": {"eval("},
    "fairseq_cli.validate": {"eval("},  # of --model-overrides
    "fairseq.file_utils": {".extractall("},
    "fairseq.data.audio.data_cfg": {"yaml.FullLoader"},  # builds no objects since PyYAML 5.4
}
PATTERNS = {
    "torch.load(": r"\btorch\.load\(",
    "eval(": r"(?<![\w.])eval\(",
    "pickle.load": r"\bpickle\.loads?\(|joblib\.load",
    "torch.hub.load": r"torch\.hub\.load|load_state_dict_from_url|jit\.load",
    ".extractall(": r"\.extractall\(",
    "yaml.FullLoader": r"yaml\.(FullLoader|UnsafeLoader|Loader|unsafe_load)",
    "allow_pickle": "allow_pickle=True",
    "exec(": r"(?<![\w.])exec\(",
}


def test_no_other_module_of_fairseq_runs_what_a_file_holds():
    found = {}
    for package in (fairseq, fairseq_cli):
        root = Path(package.__file__).parent
        for path in root.rglob("*.py"):
            if "examples" in path.relative_to(root).parts:
                continue
            name = ".".join([package.__name__, *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__")
            text = "\n".join(line for line in path.read_text().splitlines() if "def eval(" not in line)
            kinds = {kind for kind, pattern in PATTERNS.items() if re.search(pattern, text)}
            kinds -= {"torch.load("} if name in loading.TORCH_LOAD else set()
            kinds -= {"eval("} if name in loading.EVAL else set()
            kinds -= {"torch.hub.load"} if name == hub_interface.__name__ else set()
            if kinds - DECIDED.get(name, set()):
                found[name] = kinds
    assert not found


# The plugin's own: safe_load has torch's safe loader, safe_unpickler a pickle of its own, and a rank reads what another has sent.
LOADS = r"\bserialization\.load\("
OWN = {"files/safe_load.py": "_read", "files/safe_unpickler.py": "load", "host/loading.py": "_load_from_rank"}


def runs_what_a_file_holds(source, allowed=None):
    """The kinds of loading in a module, but for its texts and for one function that is allowed to load."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if allowed is None or getattr(node, "name", None) != allowed]
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            is_text = [isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) for one in node.body]
            node.body = [one for one, text in zip(node.body, is_text) if not text] or [ast.Pass()]
    code = ast.unparse(tree)
    return {kind for kind, pattern in {**PATTERNS, "serialization.load(": LOADS}.items() if re.search(pattern, code)}


def test_no_module_of_the_plugin_runs_what_a_file_holds():
    root = Path(toy.PLUGIN)
    sources = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in root.rglob("*.py")}
    found = {name: runs_what_a_file_holds(source, OWN.get(name)) for name, source in sources.items()}
    assert not {name: kinds for name, kinds in found.items() if kinds}
    assert all(runs_what_a_file_holds(sources[name]) == {"serialization.load("} for name in OWN)


@pytest.mark.parametrize(
    "line, kind",
    [
        ("state = torch.load(path)", "torch.load("),
        ("state = torch.serialization.load(path)", "serialization.load("),
        ("return pickle.loads(sent)", "pickle.load"),
        ("return numpy.load(path, allow_pickle = True)", "allow_pickle"),
    ],
)
def test_a_module_that_runs_it_is_found(line, kind):
    source = f'def read(path):\n    """As torch.load( does."""\n    {line}\n'
    assert runs_what_a_file_holds(source) == {kind} and runs_what_a_file_holds(source, "read") == set()


# ---------------------------------------------------------------------- real processes

AVERAGE = """
import sys, torch
with open(sys.argv[1], "rb") as file:
    state = torch.load(file, map_location="cpu", weights_only=False)
torch.save(state, sys.argv[2])
"""


def run(directory, *arguments):
    """Exit status and output of a Python process with an unsafe torch.load."""
    environment = {**os.environ, **UNSAFE, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(toy.PLUGIN).parent)}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=directory,
        env=environment,
        timeout=processes.LIMIT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train", "generate", "script"])
def test_programs_run_nothing(translation_data, trained, tmp_path, program):
    crafted.zipped(tmp_path / "bad.pt", tmp_path / "mark")
    (tmp_path / "script.py").write_text(AVERAGE)
    common = [translation_data, "--user-dir", toy.PLUGIN, "--cpu"]
    line = {
        "train": lambda path: [
            "-m",
            "fairseq_cli.train",
            *processes.line(
                translation_data,
                tmp_path / "run",
                "--restore-file",
                path,
                *"--optimizer adam --batch-size 8 --max-update 1".split(),
                *"--reset-optimizer --reset-dataloader --reset-meters".split(),
            ),
        ],
        "generate": lambda path: ["-m", "fairseq_cli.generate", *common, "--path", path, "--batch-size", 8],
        "script": lambda path: ["-m", "sharp_plugins.files.safely", "script.py", path, "out.pt"],
    }[program]
    status, text = run(tmp_path, *line(tmp_path / "bad.pt"))
    assert status and "cannot be read safely: it holds an object of" in text and not (tmp_path / "mark").exists(), text[-3000:]
    status, text = run(tmp_path, *line(trained))
    assert status == 0, text[-3000:]
