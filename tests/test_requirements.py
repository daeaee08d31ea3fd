"""What the code imports is declared in setup.py, and what the tests import is missed in CI."""

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Packages whose name for pip is not the one that is imported. A user brings fairseq, or setup.py chooses one of several.
DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml", "unidecode": "Unidecode"}
CHOSEN = {"fairseq", "fairseq_cli"}


def third_party_imports(folder):
    """Name of the package -> one of the files that import it, anywhere in them."""
    files = list((ROOT / folder).rglob("*.py"))
    own = {"sharp_plugins", *(file.stem for file in files)}  # scripts of examples/ import each other
    found = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            else:
                continue
            for name in (name.split(".")[0] for name in names):
                if name not in own and name not in sys.stdlib_module_names and name not in CHOSEN:
                    found[DISTRIBUTIONS.get(name, name)] = str(file.relative_to(ROOT))
    return found


def declared(monkeypatch):
    """What setup.py gives to setuptools: names required, and names of each extra."""
    import setuptools

    given = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py", run_name="__main__")

    def names(lines):
        return {re.match(r"[\w.-]+", line).group() for line in lines}

    return names(given["install_requires"]), {extra: names(lines) for extra, lines in given["extras_require"].items()}


def test_every_import_is_declared(monkeypatch):
    required, extras = declared(monkeypatch)
    ours = third_party_imports("sharp_plugins")
    assert {"scipy", "scikit-learn", "tensorboard", "omegaconf"} <= set(ours)  # they are looked for in the right places
    undeclared = {name: file for name, file in ours.items() if name not in required | extras["examples"] | extras["gguf"]}
    assert not undeclared
    everything = required.union(*extras.values())
    assert not {name: file for name, file in third_party_imports("examples").items() if name not in everything}


def test_every_requirement_is_pinned(monkeypatch):
    required, extras = declared(monkeypatch)
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "examples" / "constraints.txt").read_text(), re.M)
    assert not required.union(*extras.values()) - set(pins)


def fairseq_for(monkeypatch, python, machine="x86_64", platform="linux", libc=("glibc", "2.36")):
    import platform as platforms

    monkeypatch.setattr(sys, "version_info", (*python, 0, "final", 0))
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(platforms, "machine", lambda: machine)
    monkeypatch.setattr(platforms, "libc_ver", lambda: libc)
    return runpy.run_path(str(ROOT / "setup.py"))["FAIRSEQ"]


def test_a_fairseq_with_a_ready_wheel_is_chosen_where_there_is_one(monkeypatch):
    chosen = {python: fairseq_for(monkeypatch, python) for python in [(3, 10), (3, 11), (3, 12), (3, 13)]}
    ready, built = "ve-fairseq>=0.12.3", "fairseq-fixed>=0.12.3.1"
    assert chosen == {(3, 10): built, (3, 11): ready, (3, 12): ready, (3, 13): built}
    assert fairseq_for(monkeypatch, (3, 12), machine="aarch64") == built
    assert fairseq_for(monkeypatch, (3, 12), machine="arm64", platform="darwin", libc=("", "")) == built
    assert fairseq_for(monkeypatch, (3, 12), libc=("glibc", "2.17")) == built
    assert fairseq_for(monkeypatch, (3, 12), libc=("", "")) == built  # musl


@pytest.mark.parametrize("ci", ["true", None])
def test_what_is_missing_fails_in_ci(tmp_path, ci):
    """A test file that wants a package which is not there, or the data beside the repository: skipped by hand, an error in CI, in a
    test and at the top alike."""
    (tmp_path / "test_top.py").write_text("import pytest\npytest.importorskip('no_such_package')\n")
    (tmp_path / "test_inside.py").write_text("import pytest\ndef test(): pytest.importorskip('no_such_package')\n")
    (tmp_path / "test_data.py").write_text("def test(data_beside): pass\n")
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS")}
    if ci is not None:
        environment["CI"] = ci
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), "-p", "no:cacheprovider", str(tmp_path)]
    run = subprocess.run([*command, "--continue-on-collection-errors"], env=environment, capture_output=True, text=True)
    closing = run.stdout.splitlines()[-1]
    if ci is None:
        assert run.returncode in (0, 5) and "3 skipped" in closing
    else:
        assert run.returncode == 1 and "1 failed" in closing and "2 errors" in closing and "skipped" not in closing
        assert run.stdout.count("No module named 'no_such_package'") >= 2
