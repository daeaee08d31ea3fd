import sys
from pathlib import Path

import pytest

if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))

pytest.importorskip("tokenizers")


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    """GPT-2's kind: one special token, which ends texts; three unused symbols."""
    import prompts

    return prompts.write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def smollm(tmp_path_factory):
    """SmolLM2's kind: a start, a beginning and an end of its own."""
    import prompts

    return prompts.write_backbone(tmp_path_factory.mktemp("smollm"), is_gpt2=False)


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Flags that name files of prompts and texts."""
    import prompts

    return prompts.write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="session")
def data(backbone, texts, tmp_path_factory):
    """Prepared in LoRA's format."""
    import prompts

    return prompts.prepare(backbone, tmp_path_factory.mktemp("data") / "lora", *texts, "--format", "lora-gpt2")


@pytest.fixture(scope="session")
def learned(data, tmp_path_factory):
    """A checkpoint of a model that has learnt the training data a little."""
    import prompts

    trainer = prompts.trainer(data, "--optimizer", "adam", "--lr", "0.01", "--batch-size", "8")
    samples = list(trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=False))
    for sample in 25 * samples:
        trainer.train_step([sample])
    path = tmp_path_factory.mktemp("learned") / "model.pt"
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}})
    return path
