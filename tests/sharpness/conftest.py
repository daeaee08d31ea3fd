import sys
from pathlib import Path

import pytest

GLUE = str(Path(__file__).resolve().parents[1] / "glue")
if GLUE not in sys.path:
    sys.path.insert(0, GLUE)


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A tiny BERT with random weights, converted."""
    import glue_files

    return glue_files.convert_small(tmp_path_factory.mktemp("bert"), "bert")
