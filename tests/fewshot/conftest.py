import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
for place in (TESTS / "fewshot", TESTS / "cloze", TESTS / "prompted"):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))


@pytest.fixture(scope="session")
def places(data_beside):
    """What ``--data`` names: the published samples, and the whole files."""
    return [data_beside / name for name in ("fewshot/mezo_k512", "glue", "fewshot", "superglue", "squad")]


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """A small RoBERTa with random weights and its language-model head, converted."""
    pytest.importorskip("tokenizers")
    import clozes

    directory = tmp_path_factory.mktemp("encoder")
    return clozes.convert(clozes.write_published(directory / "published"), directory / "backbone")


@pytest.fixture(scope="session")
def decoder(tmp_path_factory):
    """A small decoder with random weights, as the converter writes one."""
    pytest.importorskip("tokenizers")
    import prompts

    return prompts.write_backbone(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Made-up files of tasks, by the tasks' names."""
    import rows

    return rows.write(tmp_path_factory.mktemp("files"))
