import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
for path in (ROOT, ROOT / "tests"):
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))


@pytest.fixture(scope="session")
def translation_data(tmp_path_factory):
    import toy

    return toy.write_translation_data(tmp_path_factory.mktemp("translation"))


@pytest.fixture(scope="session")
def sentence_data(tmp_path_factory):
    import sentences

    return sentences.write_data(tmp_path_factory.mktemp("sentences"))
