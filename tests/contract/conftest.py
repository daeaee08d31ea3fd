import sys
from pathlib import Path

import pytest

if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("promises", "state", "events")


@pytest.fixture(scope="session")
def world(translation_data, sentence_data, text_data, tmp_path_factory):
    """What the methods are trained on, and a place for their files."""
    from trainers import World

    return World(translation_data, sentence_data, text_data, tmp_path_factory.mktemp("contract"))
