import prompts
import pytest

pytest.importorskip("tokenizers")


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    """GPT-2's kind."""
    return prompts.write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Flags that name files of prompts and texts."""
    return prompts.write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="session")
def data(backbone, texts, tmp_path_factory):
    """Prepared in LoRA's format."""
    return prompts.prepare(backbone, tmp_path_factory.mktemp("data") / "lora", *texts, "--format", "lora-gpt2")
