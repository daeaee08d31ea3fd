"""A trained prefix in PEFT's files: PEFT's are read, PEFT reads ours, and the commands on checkpoints."""

import copy
import json

import decoders
import pytest
import texts
import torch
import toy
from fairseq import checkpoint_utils
from processes import checkpoint

from sharp_plugins.lora.__main__ import main
from sharp_plugins.lora.peft import Adapter, read_adapter, write_adapter
from sharp_plugins.lora.peft_prefix import from_peft, numbers_of, to_peft
from sharp_plugins.networks.prefix import Prefix

pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

SIZES = dict(
    decoder_positions="learned", decoder_layers=3, decoder_embed_dim=24, decoder_attention_heads=4, max_target_positions=32
)
FAMILIES = {
    "gpt2": (decoders.gpt2, SIZES),
    "opt": (decoders.opt, SIZES),
    "llama": (decoders.llama, {**SIZES, "decoder_embed_dim": 36, "decoder_attention_heads": 9, "decoder_kv_heads": 3}),
}
TOKENS = torch.randint(3, decoders.VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(1))
LENGTH = 4


def their_outputs(model):
    with torch.no_grad():
        return model(TOKENS, attention_mask=torch.ones_like(TOKENS)).logits


def outputs(decoder):
    with torch.no_grad():
        return decoder(TOKENS)


def save_theirs(theirs, directory, **config):
    config = {"num_virtual_tokens": LENGTH, "task_type": "CAUSAL_LM", **config}
    model = peft.get_peft_model(copy.deepcopy(theirs), peft.PrefixTuningConfig(**config)).eval()
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize("config", [{}, dict(prefix_projection=True, encoder_hidden_size=8)], ids=["plain", "projection"])
@pytest.mark.parametrize("family", FAMILIES)
def test_pefts_prefix_is_read(tmp_path, family, config):
    make, settings = FAMILIES[family]
    theirs, ours = make()
    model = save_theirs(theirs, tmp_path, **config)
    adapter = read_adapter(tmp_path)
    ours.prefix = Prefix.of(ours, LENGTH)
    ours.prefix.table.data.copy_(from_peft(adapter.tensors, adapter.config, settings))
    torch.testing.assert_close(outputs(ours), their_outputs(model), rtol=1e-5, atol=1e-5)
    ours.prefix = None
    assert (outputs(ours) - their_outputs(model)).abs().max() > 1e-2


@pytest.mark.parametrize("hidden", [0, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_reads_ours(tmp_path, family, hidden):
    make, settings = FAMILIES[family]
    theirs, ours = make()
    ours.prefix = Prefix.of(ours, LENGTH, hidden)
    state = {f"decoder.{name}": value for name, value in ours.state_dict().items()}
    write_adapter(Adapter(*to_peft(state, settings)), tmp_path)
    model = peft.PeftModel.from_pretrained(copy.deepcopy(theirs), tmp_path).eval()
    torch.testing.assert_close(their_outputs(model), outputs(ours), rtol=1e-5, atol=1e-5)
    adapter = read_adapter(tmp_path)
    torch.testing.assert_close(from_peft(adapter.tensors, adapter.config, settings), ours.prefix.numbers())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_prefix_of_a_run_in_half_precision_is_not_rounded_again(dtype):
    """fairseq keeps the weights as halves, and computes with them in fp32 where nothing else is asked for."""
    _, ours = decoders.gpt2()
    ours.prefix = Prefix.of(ours, LENGTH, 64)
    with torch.no_grad():
        for p in ours.parameters():
            p.copy_(p.to(dtype))
    expected = outputs(ours)
    state = {f"decoder.{name}": value.to(dtype) for name, value in ours.state_dict().items()}
    tensors, config = to_peft(state, SIZES)
    ours.prefix = Prefix.of(ours, LENGTH)
    ours.prefix.table.data.copy_(from_peft(tensors, config, SIZES))
    assert torch.equal(outputs(ours), expected)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(num_virtual_tokens=3), "num_virtual_tokens is 3, and prompt_embeddings has 4 rows"),
        (dict(num_transformer_submodules=2), "num_transformer_submodules is 2"),
        (dict(modules_to_save=["lm_head"]), "modules_to_save is"),
        (dict(something_new=1), "something_new is 1"),
    ],
)
def test_a_config_that_is_none_of_a_prefix_is_refused(tmp_path, change, words):
    theirs, _ = decoders.gpt2()
    save_theirs(theirs, tmp_path)
    adapter = read_adapter(tmp_path)
    with pytest.raises(ValueError, match=words):
        from_peft(adapter.tensors, {**adapter.config, **change}, SIZES)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(decoder_layers=2), r"prompt_embeddings is 4 x 144, and the model needs 96 numbers a token: 2 layers"),
        (dict(decoder_kv_heads=2), "the model needs 72 numbers a token: 3 layers · 2 · 2 heads of keys · 6"),
        (dict(max_target_positions=4), "a prefix of 4 tokens leaves no room: the model has 4 positions"),
    ],
)
def test_another_model_is_refused(tmp_path, change, words):
    theirs, _ = decoders.gpt2()
    save_theirs(theirs, tmp_path)
    adapter = read_adapter(tmp_path)
    with pytest.raises(ValueError, match=words):
        from_peft(adapter.tensors, adapter.config, {**SIZES, **change})
    with pytest.raises(ValueError, match="its architecture is transformer, and prefixes are for decoders"):
        from_peft(adapter.tensors, adapter.config, {"_name": "transformer"})


# ---------------------------------------------------------------------- the commands

PLAIN = texts.MODELS["llama"]
WRAPPED = {
    "plain": PLAIN,
    "prefix": ["--arch", "prefix", "--base-arch", *PLAIN[1:], "--prefix-length", "3", "--prefix-hidden", "8"],
    "lora": ["--arch", "lora", "--base-arch", *PLAIN[1:], "--lora-rank", "2"],
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Trained checkpoints, and the plain one from which they start."""
    directory = tmp_path_factory.mktemp("text")
    data = texts.write_data(directory)
    start = None
    for name, model in WRAPPED.items():
        trainer = texts.trainer(data, "--optimizer", "adam", "--lr", "0.1", model=model)
        if start is None:
            torch.manual_seed(0)
            for p in trainer.get_model().parameters():
                torch.nn.init.normal_(p, std=0.2)
            start = trainer.get_model().state_dict()
        else:
            trainer.get_model().load_state_dict({name: value.clone() for name, value in start.items()})
            for _ in range(2):
                trainer.train_step(toy.batches(trainer, [6]))
        trainer.consolidate_optimizer()
        trainer.save_checkpoint(str(directory / f"{name}.pt"), {"train_iterator": {"epoch": 1}})
    return directory


def succeed(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def fail(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 1
    return capsys.readouterr().err


def computed(path):
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    tokens = torch.randint(4, 20, (2, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(tokens)[0]


def test_a_prefix_is_saved_without_its_network_and_loaded_as_a_table(checkpoints, tmp_path, capsys):
    said = succeed(capsys, "save", checkpoints / "prefix.pt", tmp_path / "adapter")
    assert "a prefix of 3 tokens, without the network that computed it" in said
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["token_dim"] == 2 * 4
    said = succeed(capsys, "load", tmp_path / "adapter", checkpoints / "plain.pt", tmp_path / "table.pt")
    assert "--arch prefix --base-arch sharp_smollm2_135m --prefix-length 3 --prefix-hidden 0" in said
    assert torch.equal(computed(tmp_path / "table.pt"), computed(checkpoints / "prefix.pt"))
    assert (computed(checkpoints / "plain.pt") - computed(checkpoints / "prefix.pt")).abs().max() > 1e-2
    state = checkpoint(tmp_path / "table.pt")["model"]
    assert [name for name in state if name.startswith("decoder.prefix.")] == ["decoder.prefix.table"]
    succeed(capsys, "load", tmp_path / "adapter", checkpoints / "plain.pt", tmp_path / "table.pt")
    assert "choose another name" in fail(capsys, "load", tmp_path / "adapter", checkpoints / "plain.pt", checkpoints / "prefix.pt")
    succeed(capsys, "save", tmp_path / "table.pt", tmp_path / "again")
    one, two = (read_adapter(tmp_path / name) for name in ("adapter", "again"))
    assert torch.equal(one.tensors["prompt_embeddings"], two.tensors["prompt_embeddings"]) and one.config == two.config


def test_a_prefix_is_merged_into_nothing(checkpoints, tmp_path, capsys):
    error = fail(capsys, "merge", checkpoints / "prefix.pt", tmp_path / "out.pt")
    assert f"{checkpoints / 'prefix.pt'}: has a prefix, which cannot be merged into weights" in error


def test_a_prefix_is_loaded_onto_a_plain_model_alone(checkpoints, tmp_path, capsys):
    succeed(capsys, "save", checkpoints / "prefix.pt", tmp_path / "adapter")
    error = fail(capsys, "load", tmp_path / "adapter", checkpoints / "prefix.pt", tmp_path / "out.pt")
    assert "its architecture is prefix, and the checkpoint of a plain one is expected" in error


def test_a_part_of_the_network_that_is_missing_is_named(checkpoints):
    state = checkpoint(checkpoints / "prefix.pt")["model"]
    del state["decoder.prefix.fc1.bias"]
    with pytest.raises(ValueError, match="there is no decoder.prefix.fc1.bias"):
        numbers_of(state)


def test_a_decoder_with_lora_is_merged_saved_and_loaded(checkpoints, tmp_path, capsys):
    """With our own names and with transformers', which need no published model here."""
    trained = computed(checkpoints / "lora.pt")
    said = succeed(capsys, "merge", checkpoints / "lora.pt", tmp_path / "merged.pt")
    assert "without the plugin" not in said
    assert isinstance(checkpoint(tmp_path / "merged.pt")["cfg"]["model"], dict)
    torch.testing.assert_close(computed(tmp_path / "merged.pt"), trained, rtol=1e-4, atol=1e-5)
    assert (computed(checkpoints / "plain.pt") - trained).abs().max() > 1e-2
    succeed(capsys, "merge", checkpoints / "lora.pt", checkpoints / "lora.pt", tmp_path / "mean.pt")
    torch.testing.assert_close(computed(tmp_path / "mean.pt"), trained, rtol=1e-4, atol=1e-5)
    for names, front in (("fairseq", "decoder.layers.1."), ("transformers", "model.layers.1.")):
        succeed(capsys, "save", checkpoints / "lora.pt", tmp_path / names, "--names", names)
        assert f"base_model.model.{front}self_attn.q_proj.lora_A.weight" in read_adapter(tmp_path / names).tensors
        said = succeed(capsys, "load", tmp_path / names, checkpoints / "plain.pt", tmp_path / "again.pt")
        assert "4 layers with updates" in said
        assert torch.equal(computed(tmp_path / "again.pt"), trained)
