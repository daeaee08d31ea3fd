"""fairseq's own published RoBERTa checkpoints load as they are, and hold the same as converted ones."""

import argparse

import published
import pytest
import torch
import toy
from fairseq import checkpoint_utils
from fairseq.data import Dictionary

from sharp_plugins.convert.published_settings import read_settings
from sharp_plugins.convert.weights import fairseq_weights

ROWS = 30
BOS, PAD, EOS = 0, 1, 2
TINY = (
    "--arch roberta --encoder-layers 2 --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-attention-heads 2 "
    "--max-positions 256 --dropout 0 --attention-dropout 0"
).split()


@pytest.fixture
def roberta(tmp_path):
    """(config, published weights, the same under fairseq's names)."""
    config = published.config("roberta", ROWS)
    weights = published.weights(config, lm_head=True)
    published.write(tmp_path, config, weights, safe=False)
    state, _ = fairseq_weights(weights, read_settings(tmp_path / "config.json"), list(range(ROWS)))
    return config, weights, state


def old_checkpoint(path, state):
    """As roberta.base.tar.gz's model.pt, which is from 2019: one projection, a decoder, a Namespace."""
    old = {}
    for name, value in state.items():
        name = name.replace("encoder.", "decoder.", 1).replace("layernorm_embedding", "emb_layer_norm")
        if ".self_attn.q_proj." in name:
            parts = [state[name.replace("decoder.", "encoder.", 1).replace("q_proj", f"{p}_proj")] for p in "qkv"]
            old[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        elif not any(f".self_attn.{p}_proj." in name for p in "kv"):
            old[name] = value
    args = argparse.Namespace(
        activation_dropout=0.0,
        activation_fn="gelu",
        adam_betas="(0.9, 0.98)",
        adam_eps=1e-06,
        arch="roberta_base",
        attention_dropout=0.1,
        clip_norm=0.0,
        criterion="masked_lm",
        data="data",
        ddp_backend="c10d",
        dropout=0.1,
        encoder_attention_heads=2,
        encoder_embed_dim=16,
        encoder_ffn_embed_dim=32,
        encoder_layers=2,
        lr=[0.0006],
        lr_scheduler="polynomial_decay",
        max_positions=256,
        max_update=500000,
        optimizer="adam",
        pooler_dropout=0.0,
        pooler_activation_fn="tanh",
        sample_break_mode="complete",
        seed=1,
        task="masked_lm",
        tokens_per_sample=256,
        update_freq=[1],
    )
    history = {
        "criterion_name": "MaskedLmLoss",
        "optimizer_name": "FP16Optimizer",
        "lr_scheduler_state": {"best": None},
        "num_updates": 500000,
    }
    iterator = {"epoch": 247, "iterations_in_epoch": 0}
    torch.save(
        {
            "args": args,
            "model": old,
            "optimizer_history": [history],
            "extra_state": {"train_iterator": iterator},
            "last_optimizer_state": None,
        },
        path,
    )
    return path


def trainer_from(directory, path):
    """A fine-tuning trainer that starts from the checkpoint, with the flags of fairseq's own instructions."""
    dictionary = Dictionary()
    for i in range(ROWS - dictionary.nspecial - 1):
        dictionary.add_symbol(f"w{i}")
    dictionary.save(str(directory / "dict.txt"))  # without <mask>, as fairseq's own is
    data = published.write_sentence_data(directory, directory / "dict.txt", ["w1 w2", "w3"], ["w4", "w5 w6"], [0, 1])
    flags = "--num-classes 2 --init-token 0 --separator-token 2 --optimizer adam --lr 0.001 --reset-optimizer".split()
    flags += ["--reset-dataloader", "--reset-meters", "--restore-file", path, "--save-dir", directory / "run"]
    criterion = ["--criterion", "sentence_prediction"]
    trainer = toy.build_trainer(data, *flags, model=TINY, criterion=criterion, task="sentence_prediction")
    checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    return trainer


def test_a_checkpoint_of_2019_starts_fine_tuning(tmp_path, roberta):
    config, weights, state = roberta
    trainer = trainer_from(tmp_path, old_checkpoint(tmp_path / "model.pt", state))
    model = trainer.get_model()
    toy.assert_same({name: value for name, value in toy.weights(trainer).items() if name in state}, state)
    pair = [BOS, 5, 6, EOS, EOS, 8, EOS]
    with torch.no_grad():
        features, _ = model.eval()(torch.tensor([pair + [PAD]]), features_only=True)
    expected = published.encode(config, weights, pair, [0] * len(pair))
    torch.testing.assert_close(features[0, :-1], expected, rtol=0, atol=1e-5)
    (sample,) = toy.batches(trainer, [2])
    assert sample["net_input"]["src_tokens"].tolist() == [[0, 5, 6, 2, 2, 8, 2], [0, 7, 2, 2, 9, 10, 2]]
    assert trainer.train_step([sample])["loss"] > 0 and trainer.get_num_updates() == 1
