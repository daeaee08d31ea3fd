import sys
from pathlib import Path

import pytest

for place in (Path(__file__).parent, Path(__file__).parents[1] / "prompted"):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

pytest.importorskip("tokenizers")


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    """GPT-2's kind: one special token, which ends texts; three unused symbols."""
    import prompts

    return prompts.write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def data(backbone, tmp_path_factory):
    """Prepared, with two and three candidates of different lengths."""
    import choices

    return choices.prepare_all(backbone, tmp_path_factory.mktemp("data"))
