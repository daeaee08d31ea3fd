import importlib
import sys
from pathlib import Path

if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))

import pytest
import study_engine


@pytest.fixture
def scripts(monkeypatch):
    """The scripts of examples/studies by name, and the calls of their engine."""
    return study_engine.load(monkeypatch)


@pytest.fixture
def script(monkeypatch):
    """Imports a script of examples/benchmarks by its name."""
    monkeypatch.syspath_prepend(str(study_engine.ROOT / "examples" / "benchmarks"))
    return importlib.import_module
