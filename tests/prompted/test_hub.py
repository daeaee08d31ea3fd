"""A trained model from text to text, by fairseq's hub."""

import prompts
import pytest
import torch
from omegaconf import OmegaConf

from sharp_plugins.models.decoder import DecoderModel

PROMPT = "Ann : livesIn : Bonn"
SHORT = {"max_len_a": 0, "max_len_b": 20}


@pytest.fixture(scope="module")
def hub(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    trainer = prompts.trainer(data)
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(run / "checkpoint_best.pt"), {"train_iterator": {"epoch": 1}})
    return DecoderModel.from_pretrained(str(run), "checkpoint_best.pt", str(data))


def test_prompts_have_the_datas_format_and_no_end(hub):
    expected = hub.task.encoding.prompts([PROMPT])[0]
    assert hub.encode(PROMPT).tolist() == torch.as_tensor(expected).tolist()
    assert hub.task.dictionary.unk() not in hub.encode(PROMPT)


def test_texts_are_those_of_the_generator(hub):
    tokens = hub.encode(PROMPT)
    generator = hub.task.build_generator(list(hub.models), OmegaConf.merge(hub.cfg.generation, {"beam": 5, **SHORT}))
    sample = {"net_input": {"src_tokens": tokens[None], "src_lengths": torch.tensor([len(tokens)])}, "id": torch.tensor([0])}
    best = hub.task.inference_step(generator, list(hub.models), sample)[0][0]
    assert hub.generate([tokens], beam=5, **SHORT)[0][0]["tokens"].tolist() == best["tokens"].tolist()
    [text] = hub.sample([PROMPT], beam=5, **SHORT)
    assert text == hub.bpe.decode(hub.task.dictionary.string(best["tokens"])) and "<unk>" not in text
