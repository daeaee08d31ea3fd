import sys
from pathlib import Path

import pytest

if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))

pytest.importorskip("tokenizers")


@pytest.fixture(scope="session")
def published_roberta(tmp_path_factory):
    """A small RoBERTa with its language-model head, in the files of transformers. No test changes it."""
    import clozes

    return clozes.write_published(tmp_path_factory.mktemp("cloze") / "published")


@pytest.fixture(scope="session")
def backbone(published_roberta, tmp_path_factory):
    """The same, converted."""
    import clozes

    return clozes.convert(published_roberta, tmp_path_factory.mktemp("cloze") / "backbone")


@pytest.fixture(scope="session")
def published_bert(tmp_path_factory):
    import published

    words = [*published.WORDPIECES, "terrible", "great", "it", "was"]
    directory = tmp_path_factory.mktemp("cloze_bert") / "published"
    published.write_wordpiece(directory, words)
    settings = published.config("bert", len(words))
    return published.write(directory, settings, published.weights(settings, lm_head=True))


@pytest.fixture(scope="session")
def bert(published_bert, tmp_path_factory):
    import clozes

    return clozes.convert(published_bert, tmp_path_factory.mktemp("cloze_bert") / "backbone")


@pytest.fixture(scope="session")
def data(backbone, tmp_path_factory):
    """A toy task in SST-2's layout, prepared."""
    import clozes

    directory = tmp_path_factory.mktemp("cloze_data")
    return clozes.prepare(backbone, directory / "data", "sst-2", **clozes.write_toy(directory))
