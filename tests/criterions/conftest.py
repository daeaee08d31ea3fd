import sys
from pathlib import Path

import pytest

if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def sentence_data(tmp_path_factory):
    import sentences

    return sentences.write_data(tmp_path_factory.mktemp("sentences"))
