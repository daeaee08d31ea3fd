"""The engine knows no benchmark."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "sharp_plugins" / "runs"
# What an engine may build on: the rest are benchmarks, and rooms of the plugin that fairseq loads.
ALLOWED = ("sharp_plugins.runs", "sharp_plugins.files", "sharp_plugins.command_line")
# The command of the folder also shows what can be told of a checkpoint of any benchmark.
OF_THE_COMMAND = (*ALLOWED, "sharp_plugins.sharpness")


def test_no_file_names_a_benchmark():
    for path in ENGINE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            allowed = OF_THE_COMMAND if path.stem == "__main__" else ALLOWED
            for name in names:
                assert name is None or not name.startswith("sharp_plugins.") or name.startswith(allowed), (path.name, name)


def test_no_benchmark_is_imported():
    modules = [f"sharp_plugins.runs.{path.stem}" for path in ENGINE.glob("*.py") if path.stem != "__init__"]
    code = f"import sys, importlib; [importlib.import_module(name) for name in {modules!r}]; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert "sharp_plugins.runs.plan" in shown.split()
    found = [name for name in shown.split() if name.startswith(("sharp_plugins.glue", "sharp_plugins.webnlg"))]
    assert found == []


def test_help_imports_no_fairseq():
    code = "import sys; import sharp_plugins.runs.command as c, sharp_plugins.runs.benchmark; print('fairseq' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert shown.strip() == "False"
