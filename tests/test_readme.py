"""The README and the guides: their examples run, their links and paths lead somewhere, and each flag has one place."""

import ast
import functools
import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("sharp_plugins", "examples", "tests")
GUIDES = [
    *ROOT.glob("*.md"),
    *(path for part in PARTS for path in (ROOT / part).rglob("*.md") if ".pytest_cache" not in path.parts),
]
EVERY_GUIDE = pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))

MOST_LINES = 150
# Of the repositories of fairseq and of LoRA, and so said.
OTHERS = ("examples/rxf", "examples/roberta/config/finetuning/sts_b.yaml", "examples/NLG")
COMMANDS = ("fairseq-", "python", "bash", "pip", "git", "source", "export", "run=", "$run")


def text(path):
    return (ROOT / path).read_text(encoding="utf-8")


def code_blocks(guide, language=""):
    """The blocks of a language; without one, those of a shell, which begin with a command."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", text(guide), re.S | re.M)
    return blocks if language else [block for block in blocks if block.startswith(COMMANDS)]


def prose(guide):
    """A guide without its blocks of code, and without what the changelog says was there before."""
    words = re.sub(r"^```.*?^```", "", text(guide), flags=re.S | re.M)
    return re.sub(r"^ *\|[^|]*\|", "", words, flags=re.M) if guide.name == "CHANGELOG.md" else words


# ---------------------------------------------------------------------- examples


def test_the_loop_without_fairseq_learns():
    (loop,) = [block for block in code_blocks("sharp_plugins/core/README.md", "python") if "Perturbation" in block]
    names = a_problem()
    before = names["losses"](names["model"](names["x"]), names["y"]).mean().item()
    exec(loop, names)
    after = names["losses"](names["model"](names["x"]), names["y"]).mean().item()
    assert after < 0.5 * before
    assert not names["ball"].climbed


def test_the_loop_with_accumulation_and_a_scale_is_that_without():
    from sharp_plugins import Perturbation

    (loop,) = [block for block in code_blocks("sharp_plugins/core/README.md", "python") if "micro_batches" in block]
    scaled, plain = a_problem(), a_problem()
    batches = scaled["batches"][:6]
    ball = Perturbation(scaled["model"].parameters(), rho=0.05)
    updates = [batches[i : i + 2] for i in range(0, 6, 2)]
    exec(loop, {**scaled, "ball": ball, "updates": updates, "scaler": torch.amp.GradScaler("cpu", init_scale=1024.0)})
    model, losses = plain["model"], plain["losses"]
    for (x, y), (x2, y2) in updates:
        x, y = torch.cat([x, x2]), torch.cat([y, y2])
        losses(model(x), y).mean().backward()
        w = [p.detach().clone() for p in model.parameters()]
        norm = torch.sqrt(sum(p.grad.square().sum() for p in model.parameters()))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * p.grad / norm)
        plain["optimizer"].zero_grad()
        losses(model(x), y).mean().backward()
        with torch.no_grad():
            for p, home in zip(model.parameters(), w):
                p.copy_(home)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        plain["optimizer"].step()
        plain["optimizer"].zero_grad()
    for ours, theirs in zip(scaled["model"].parameters(), model.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def a_problem():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    x = torch.randn(256, 4)
    y = (x[:, 0] * x[:, 1] > 0).long()
    return {
        "torch": torch,
        "x": x,
        "y": y,
        "model": model,
        "losses": lambda output, target: torch.nn.functional.cross_entropy(output, target, reduction="none"),
        "optimizer": torch.optim.Adam(model.parameters(), lr=0.02),
        "batches": [(x[i : i + 32], y[i : i + 32]) for i in range(0, 256, 32)] * 30,
    }


def test_lora_without_fairseq():
    (lines,) = [block for block in code_blocks("sharp_plugins/core/README.md", "python") if "add_lora" in block]
    model = torch.nn.Sequential()
    model.query, model.key, model.value = (torch.nn.Linear(16, 16) for _ in range(3))
    exec(lines, {"model": model})
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "query.lora_A",
        "query.lora_B",
        "value.lora_A",
        "value.lora_B",
    ]


def test_bar_without_fairseq():
    (lines,) = [block for block in code_blocks("sharp_plugins/core/README.md", "python") if "nbar_sign" in block]
    a, b = (torch.nn.Parameter(torch.ones(shape)) for shape in ((2, 4), (3, 2)))
    a.grad, b.grad = torch.full_like(a, 0.1), torch.ones_like(b)
    exec(lines, {"torch": torch, "a": a, "b": b})
    # ‖G_B‖ is the larger one: B grows, and A shrinks (nBAR).
    assert torch.allclose(b, torch.full_like(b, 1 + 5e-4)) and torch.allclose(a, torch.full_like(a, 1 - 5e-4))


def test_a_pair_is_declared():
    from sharp_plugins import scale_invariant_pairs

    (lines,) = [block for block in code_blocks("sharp_plugins/optim/README.md", "python") if "declare_pair" in block]
    attention = torch.nn.Module()
    attention.q_proj, attention.k_proj = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    exec(lines, {"attention": attention})
    (pair,) = scale_invariant_pairs(attention)
    assert [len(side) for side in (pair.x, pair.y)] == [2, 2]


@EVERY_GUIDE
def test_python_compiles_and_shell_parses(guide):
    for block in code_blocks(guide, "python"):
        compile(block, str(guide), "exec")
    for block in code_blocks(guide):
        parsed = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert parsed.returncode == 0, f"{block}\n{parsed.stderr}"


def test_hydra_settings_are_known():
    from sharp_plugins import optim
    from sharp_plugins.criterions.r3f import R3FSentencePredictionConfig
    from sharp_plugins.models.lora import LoRAConfig

    configs = {"dsam": optim.DSAMConfig, "sam": optim.SAMConfig, "r3f_sentence_prediction": R3FSentencePredictionConfig}
    seen = set()
    for guide in GUIDES:
        for block in code_blocks(guide, "yaml"):
            for settings in yaml.safe_load(block).values():
                name = settings.pop("_name", None)
                seen.add(name)
                if name == "lora":  # the base architecture's settings stand beside its own
                    assert {key for key in settings if key.startswith("lora_")} < set(LoRAConfig.__dataclass_fields__)
                elif name:
                    assert set(settings) <= set(configs[name].__dataclass_fields__), name
    assert seen == {None, "lora", *configs}
    (criterion,) = [yaml.safe_load(block)["criterion"] for block in code_blocks("sharp_plugins/criterions/README.md", "yaml")]
    assert criterion["regression_target"] is False and criterion["classification_head_name"] == "sentence_classification_head"


# ---------------------------------------------------------------------- length, links, paths


def test_the_readme_is_short():
    assert len(text("README.md").splitlines()) <= MOST_LINES


def anchors(path):
    """The places in a guide that a link can name, as GitHub makes them of the headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text(path), flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@EVERY_GUIDE
def test_links_lead_somewhere(guide):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(guide)):
        if not link.startswith(("https://", "http://")):
            path, _, place = link.partition("#")
            there = (guide.parent / path).resolve() if path else guide
            assert there.exists(), link
            assert not place or place in anchors(there), link


def lost_paths(words):
    """Paths in a text that lead nowhere."""
    paths = re.findall(r"(?<![\w./-])(?:sharp_plugins|examples|tests)/[\w./-]*\w", words)
    return [path for path in paths if not (path.startswith(OTHERS) or (ROOT / path).exists())]


def lost_names(words, marked=False):
    """Names of modules in a text, and of what is in them, that are not there, or moved; with *marked* those in backticks."""
    return [name for name in re.findall(rf"{'`' if marked else ''}\b(sharp_plugins(?:\.\w+)+)", words) if not is_there(name)]


@functools.lru_cache(maxsize=None)
def is_there(name):
    found, parts = "sharp_plugins", name.split(".")[1:]
    while parts and importlib.util.find_spec(f"{found}.{parts[0]}"):
        found += f".{parts.pop(0)}"
        if not importlib.util.find_spec(found).submodule_search_locations:
            break
    module = importlib.import_module(found)
    if not parts:
        return True
    # A function or a class, and perhaps a method of it.
    value = getattr(module, parts[0], None)
    is_from = getattr(value, "__module__", found)
    is_own = hasattr(module, "__path__") or not str(is_from).startswith("sharp_plugins") or is_from == found
    return value is not None and is_own and (len(parts) == 1 or hasattr(value, parts[1]))


@EVERY_GUIDE
def test_paths_exist(guide):
    assert not lost_paths(text(guide) if guide.name != "CHANGELOG.md" else prose(guide))
    for name in re.findall(r"`([\w-]+\.(?:py|sh|args))`", prose(guide)):
        assert list(guide.parent.rglob(name)), name


@EVERY_GUIDE
def test_modules_exist(guide):
    assert not lost_names(text(guide) if guide.name != "CHANGELOG.md" else prose(guide))


def docstrings(folder):
    """Those of each file, by its path."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        yield path.relative_to(ROOT), "\n".join(ast.get_docstring(node) or "" for node in nodes if isinstance(node, kinds))


@pytest.mark.parametrize("part", PARTS)
def test_docstrings_name_what_is_there(part):
    found = {str(path): [*lost_paths(words), *lost_names(words, marked=True)] for path, words in docstrings(part)}
    assert not {path: names for path, names in found.items() if names}


def test_a_name_that_has_moved_is_found():
    assert lost_names("`sharp_plugins.convert.nowhere` in sharp_plugins.nowhere", marked=True) == ["sharp_plugins.convert.nowhere"]
    assert lost_names("sharp_plugins.nowhere") == ["sharp_plugins.nowhere"]
    # It is imported there, and stands in core/perturbation.py; a package may hand it on.
    assert lost_names(
        "sharp_plugins.optim.sam.Perturbation, sharp_plugins.core.perturbation.Perturbation, sharp_plugins.optim.SAM"
    ) == ["sharp_plugins.optim.sam.Perturbation"]
    assert lost_paths("see tests/nowhere.py and tests/toy.py") == ["tests/nowhere.py"]


def test_all_guides_are_listed():
    listed = {(ROOT / "examples" / link).resolve() for link in re.findall(r"\]\(([^)#\s]+)\)", text("examples/README.md"))}
    # A study's table stands beside its numbers, and the study's guide speaks of it.
    guides = {path for path in GUIDES if not path.with_suffix(".csv").is_file()}
    assert guides - {ROOT / "examples" / "README.md"} <= listed


def test_all_modules_that_read_and_write_are_in_their_guide():
    modules = text("sharp_plugins/files/README.md").partition("## The modules")[2]
    files = {path.name for path in (ROOT / "sharp_plugins" / "files").glob("*.py")} - {"__init__.py"}
    assert files <= set(re.findall(r"`(\w+\.py)`", modules)) | {"safely.py"}  # a command, which the guide has above


def test_all_folders_are_in_the_house():
    listed = set(re.findall(r"`(\w+)/`", "\n".join(re.findall(r"^\| `.*/` \|", text("sharp_plugins/README.md"), re.M))))
    assert listed == {path.parent.name for path in (ROOT / "sharp_plugins").glob("*/__init__.py")}


# ---------------------------------------------------------------------- flags and metrics


def flags():
    """Flag -> the guide that describes it."""
    import argparse

    from sharp_plugins import optim
    from sharp_plugins.criterions import freelb, r3f, rdrop, smart
    from sharp_plugins.models.adapter import AdapterConfig
    from sharp_plugins.models.bert import BertModel
    from sharp_plugins.models.decoder_config import DecoderConfig
    from sharp_plugins.models.lora import LoRAConfig
    from sharp_plugins.models.prefix import PrefixConfig

    owners = {
        "optim": (optim.SAMConfig, optim.DSAMConfig, optim.BARConfig),
        "models": (LoRAConfig, AdapterConfig, PrefixConfig),
        "criterions": (
            *(rdrop.RDropSentencePredictionConfig, rdrop.RDropLabelSmoothedCrossEntropyConfig),
            *(r3f.R3FSentencePredictionConfig, r3f.R3FLabelSmoothedCrossEntropyConfig),
            *(freelb.FreeLBConfig, smart.SMARTConfig),
        ),
    }
    prefixes = ("sam_", "dsam_", "bar_", "lora_", "adapter_", "prefix_", "rdrop_", "r3f_", "freelb_", "smart_")
    found = {}
    for owner, configs in owners.items():
        for config in configs:
            for name in config.__dataclass_fields__:
                if name.startswith(prefixes) or name in ("base_optimizer", "base_arch"):
                    found[f"--{name.replace('_', '-')}"] = f"sharp_plugins/{owner}/README.md"
    # Of the others fairseq's own decoders have flags of the same name and meaning.
    own = r"decoder_(kv|head|gated|norm|post|positions).*|rope_.*|no_(attention|ffn)_bias|untied_.*|embedding_.*|unused_.*"
    for name in DecoderConfig.__dataclass_fields__:
        if re.fullmatch(own, name):
            found[f"--{name.replace('_', '-')}"] = "sharp_plugins/models/README.md"
    parser = argparse.ArgumentParser()
    BertModel.add_args(parser)
    found.update(dict.fromkeys(("--token-types", "--layer-norm-eps"), "sharp_plugins/models/README.md"))
    assert {flag for action in parser._actions for flag in action.option_strings} >= {"--token-types", "--layer-norm-eps"}
    return found


def rows(guide):
    """The first cells of a guide's tables."""
    return re.findall(r"^\|([^|]*)\|", text(guide), re.M)


def test_each_flag_is_described_once_where_it_belongs():
    places = {}
    for guide in GUIDES:
        for cell in rows(guide):
            for flag in re.findall(r"--[a-z][\w-]*", cell):
                places.setdefault(flag, []).append(str(guide.relative_to(ROOT)))
    assert {flag: places.get(flag) for flag in flags()} == {flag: [owner] for flag, owner in flags().items()}


def test_the_engines_flags_are_described():
    if importlib.util.find_spec("sharp_plugins.runs.command") is None:
        pytest.skip("there is no engine yet")
    import argparse

    from sharp_plugins.runs.benchmark import Benchmark
    from sharp_plugins.runs.command import add_run_arguments

    parser = argparse.ArgumentParser(add_help=False)
    add_run_arguments(parser, Benchmark())
    described = {flag for cell in rows("sharp_plugins/runs/README.md") for flag in re.findall(r"--[a-z][\w-]*", cell)}
    assert described == {flag for action in parser._actions for flag in action.option_strings}


def test_each_metric_is_described():
    from sharp_plugins.criterions import freelb, r3f, rdrop, smart

    of_criterions = (freelb.FreeLBSentencePrediction, r3f.R3F, rdrop.RDrop, smart.SMARTSentencePrediction)
    guide = text("sharp_plugins/criterions/README.md")
    assert all(f"`{name}`" in guide for criterion in of_criterions for name in criterion.measures)
    names = {
        name
        for part in ("optim", "host")
        for path in (ROOT / "sharp_plugins" / part).glob("*.py")
        for name in re.findall(r'"((?:sam|dsam|bar)_(?!loss|shrink")\w+)"', path.read_text(encoding="utf-8"))
    }
    described = " ".join(rows("sharp_plugins/optim/README.md"))
    settings = {flag[2:].replace("-", "_") for flag in flags()}
    assert {"sam_gap", "bar_alpha", "dsam_r"} <= names and not {name for name in names - settings if f"`{name}`" not in described}


@pytest.mark.parametrize("script", ["examples/quickstart/run.sh", "tests/run.sh"])
def test_the_two_commands_are_scripts(script):
    assert f"\nbash {script}" in text("README.md")
    assert os.access(ROOT / script, os.R_OK) and subprocess.run(["bash", "-n", ROOT / script]).returncode == 0
