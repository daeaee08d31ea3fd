import sys
from pathlib import Path

import pytest

if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A tiny BERT with random weights, converted."""
    import glue_files

    return glue_files.convert_small(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="session")
def roberta(tmp_path_factory):
    """A tiny RoBERTa with random weights, converted."""
    import glue_files

    return glue_files.convert_small(tmp_path_factory.mktemp("roberta"), "roberta")
