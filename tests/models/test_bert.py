"""sharp_bert computes what published weights say, and takes part in fairseq's training as RoBERTa does."""

import argparse
from types import SimpleNamespace

import published
import pytest
import torch
import toy
from fairseq import checkpoint_utils, models
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY
from omegaconf import OmegaConf

from sharp_plugins.convert.published_settings import read_settings
from sharp_plugins.convert.weights import fairseq_weights
from sharp_plugins.criterions.perturbed_embeddings import perturbed
from sharp_plugins.models.bert import token_types_of

BOS, PAD, EOS = 0, 1, 2
HEAD = "sentence_classification_head"
ROWS = 30  # of the table of words; row i is symbol i here
SIZES = dict(encoder_layers=2, encoder_embed_dim=16, encoder_ffn_embed_dim=32, encoder_attention_heads=2, max_positions=256)
TINY = ["--arch", "sharp_bert", *(part for k, v in SIZES.items() for part in (f"--{k.replace('_', '-')}", str(v)))]
STILL = "--dropout 0 --attention-dropout 0".split()


def dictionary(symbols=ROWS):
    result = Dictionary()
    for i in range(symbols - result.nspecial - 1):
        result.add_symbol(f"w{i}")
    result.add_symbol("<mask>")
    return result


def build(**settings):
    args = argparse.Namespace(arch="sharp_bert", **{**SIZES, **settings})
    torch.manual_seed(0)
    return models.build_model(args, SimpleNamespace(source_dictionary=dictionary())).eval()


@pytest.fixture
def bert(tmp_path):
    """(config, published weights, the same weights under fairseq's names)."""
    config = published.config("bert", ROWS)
    weights = published.weights(config, lm_head=True)
    published.write(tmp_path, config, weights, safe=False)
    state, _ = fairseq_weights(weights, read_settings(tmp_path / "config.json"), list(range(ROWS)))
    return config, weights, state


def loaded(state, **settings):
    model = build(**settings)
    model.load_state_dict({**model.state_dict(), **state})
    return model


SINGLE = [BOS, 5, 6, 7, EOS]
PAIR = [BOS, 8, 9, EOS, 10, 11, 12, EOS]


def padded(*rows):
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in rows])


def test_hidden_states_are_those_of_the_published_weights(bert):
    config, weights, state = bert
    model = loaded(state)
    with torch.no_grad():
        features, _ = model(padded(SINGLE, PAIR), features_only=True)
        alone, _ = model(torch.tensor([SINGLE]), features_only=True)
    single = published.encode(config, weights, SINGLE, [0] * 5)
    pair = published.encode(config, weights, PAIR, [0, 0, 0, 0, 1, 1, 1, 1])
    for ours, theirs in ((features[0, :5], single), (alone[0], single), (features[1], pair)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_token_types_are_one_after_the_first_separator():
    expected = [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1]]
    assert token_types_of(padded(SINGLE, PAIR), EOS).tolist() == expected
    assert token_types_of(torch.tensor([[BOS, 5]]), EOS).tolist() == [[0, 0]]


def test_token_types_can_be_given(bert):
    config, weights, state = bert
    given = [0, 1, 0, 1, 0, 1, 1, 0]
    model = loaded(state)
    with torch.no_grad():
        features, _ = model(torch.tensor([PAIR]), features_only=True, token_types=torch.tensor([given]))
    torch.testing.assert_close(features[0], published.encode(config, weights, PAIR, given), rtol=0, atol=1e-5)


def test_one_token_type(tmp_path):
    config = published.config("bert", ROWS, type_vocab_size=1)
    weights = published.weights(config)
    published.write(tmp_path, config, weights, safe=False)
    state, _ = fairseq_weights(weights, read_settings(tmp_path / "config.json"), list(range(ROWS)))
    with torch.no_grad():
        features, _ = loaded(state, token_types=1)(torch.tensor([PAIR]), features_only=True)
    torch.testing.assert_close(features[0], published.encode(config, weights, PAIR, [0] * 8), rtol=0, atol=1e-5)


def test_padding_on_the_left_changes_nothing():
    model = build()
    with torch.no_grad():
        alone, _ = model(torch.tensor([PAIR]), features_only=True)
        shifted, _ = model(torch.tensor([[PAD, PAD, *PAIR]]), features_only=True)
    torch.testing.assert_close(shifted[0, 2:], alone[0], rtol=0, atol=1e-5)


def test_an_untied_checkpoint_needs_the_flag():
    untied = build(untie_weights_roberta=True).state_dict()
    with pytest.raises(ValueError, match="encoder.lm_head.weight is another table .* it needs --untie-weights-roberta"):
        build().load_state_dict(untied)
    build(untie_weights_roberta=True).load_state_dict(untied)


# ---------------------------------------------------------------------- rows of like length

LENGTHS = [3, 60, 4, 5, 58, 57, 3, 90, 4, 5, 3, 4]
ROWS_OF_WORDS = padded(
    *([BOS, *(5 + (row + place) % 20 for place in range(length - 2)), EOS] for row, length in enumerate(LENGTHS))
)


def widths_of_passes(model):
    """The shapes that the first layer sees, (T, B)."""
    shapes = []
    layer = model.encoder.sentence_encoder.layers[0]
    layer.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape[:2])))
    return shapes


def test_rows_of_like_length_are_encoded_together_and_nothing_changes():
    """Features, the language model's scores and gradients, but for what is at padding."""
    tokens, found = ROWS_OF_WORDS, []
    is_token = tokens.ne(PAD)
    for whole in (False, True):
        model = build(whole_rows=whole, dropout=0.0, attention_dropout=0.0).train()
        shapes = widths_of_passes(model)
        features, extra = model(tokens, features_only=True)
        scores, _ = model(tokens)
        loss = (features[is_token] ** 3).sum() + scores[is_token].logsumexp(-1).sum()
        loss.backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        found.append((features[is_token], scores[is_token], extra, gradients, shapes))
    (ours, scores, extra, gradients, shapes), (expected, whole_scores, whole_extra, whole_gradients, whole_shapes) = found
    assert whole_shapes == [(90, 12)] * 2 and shapes == [(5, 8), (60, 3), (90, 1)] * 2
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(scores, whole_scores, rtol=0, atol=1e-5)
    assert extra == whole_extra and gradients.keys() == whole_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, whole_gradients[name], rtol=1e-4, atol=1e-4)


def test_an_encoders_output_has_the_same_parts():
    """For those who read more of it than the features."""
    ours, whole = (build(whole_rows=whole).encoder.sentence_encoder for whole in (False, True))
    with torch.no_grad():
        ours, whole = ours(ROWS_OF_WORDS), whole(ROWS_OF_WORDS)
    is_token = ROWS_OF_WORDS.ne(PAD)
    assert {name: len(part) for name, part in ours.items() if part} == {
        name: len(part) for name, part in whole.items() if name not in ("encoder_states", "fc_results") and part
    }
    for name in ("encoder_padding_mask", "src_lengths"):
        assert torch.equal(ours[name][0], whole[name][0]) and ours[name][0].dtype == whole[name][0].dtype
    for name, turn in (("encoder_out", lambda x: x.transpose(0, 1)), ("encoder_embedding", lambda x: x)):
        assert ours[name][0].shape == whole[name][0].shape
        torch.testing.assert_close(turn(ours[name][0])[is_token], turn(whole[name][0])[is_token], rtol=0, atol=1e-5)


def test_perturbed_embeddings_reach_their_own_tokens():
    """As R3F perturbs them, before the rows are grouped."""
    noise, found = torch.randn(*ROWS_OF_WORDS.shape, 16, generator=torch.Generator().manual_seed(1)), []
    for whole in (False, True):
        model, delta = build(whole_rows=whole), noise.clone().requires_grad_()
        with perturbed(model, delta):
            features, _ = model(ROWS_OF_WORDS, features_only=True)
        (features[:, 0] ** 3).sum().backward()
        found.append((features[:, 0], delta.grad * ROWS_OF_WORDS.ne(PAD).unsqueeze(-1)))
    for ours, expected in zip(*found):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "setting, inputs",
    [
        ({"whole_rows": True}, {}),
        ({"encoder_layerdrop": 0.1}, {}),  # drawn once for a batch
        ({"quant_noise_pq": 0.1, "quant_noise_pq_block_size": 4}, {}),
        ({}, {"return_all_hiddens": True}),
    ],
    ids=str,
)
def test_where_rows_stay_together(setting, inputs):
    model = build(**setting)
    shapes = widths_of_passes(model)
    model(ROWS_OF_WORDS, features_only=True, **inputs)
    assert shapes == [(90, 12)]


def test_padding_before_the_rows_is_no_saving():
    model = build()
    shapes = widths_of_passes(model)
    with torch.no_grad():
        features, _ = model(ROWS_OF_WORDS.flip(1), features_only=True)
        alone, _ = model(ROWS_OF_WORDS.flip(1)[:1, -3:], features_only=True)
    assert shapes[0] == (90, 12)
    torch.testing.assert_close(features[0, -3:], alone[0], rtol=0, atol=1e-5)


def test_language_model_head(bert):
    config, weights, state = bert
    with torch.no_grad():
        scores, _ = loaded(state)(torch.tensor([PAIR]))
    x = published.encode(config, weights, PAIR, [0, 0, 0, 0, 1, 1, 1, 1])
    head = "cls.predictions.transform"
    x = torch.nn.functional.gelu(x @ weights[f"{head}.dense.weight"].T + weights[f"{head}.dense.bias"])
    x = torch.nn.functional.layer_norm(
        x, (16,), weights[f"{head}.LayerNorm.weight"], weights[f"{head}.LayerNorm.bias"], config["layer_norm_eps"]
    )
    expected = x @ weights["bert.embeddings.word_embeddings.weight"].T + weights["cls.predictions.bias"]
    torch.testing.assert_close(scores[0], expected, rtol=0, atol=1e-5)


def test_embeddings_of_words_can_be_given_and_are_read_through_their_module():
    model = build()
    words = model.encoder.sentence_encoder.embed_tokens
    tokens = padded(SINGLE, PAIR)
    with torch.no_grad():
        expected, _ = model(tokens, features_only=True)
        given, _ = model(tokens, features_only=True, token_embeddings=words(tokens))
        doubled, _ = model(tokens, features_only=True, token_embeddings=2 * words(tokens))
        hook = words.register_forward_hook(lambda module, inputs, output: 2 * output)
        hooked, _ = model(tokens, features_only=True)
        hook.remove()
    assert torch.equal(given, expected) and torch.equal(hooked, doubled) and not torch.allclose(doubled, expected)


def test_epsilon_is_berts_everywhere():
    epsilons = {module.eps for module in build().modules() if isinstance(module, torch.nn.LayerNorm)}
    assert epsilons == {1e-12}
    epsilons = {module.eps for module in build(layer_norm_eps=1e-6).modules() if isinstance(module, torch.nn.LayerNorm)}
    assert epsilons == {1e-6}


@pytest.mark.parametrize(
    "arch, layers, width, inner, heads",
    [
        ("sharp_bert", 12, 768, 3072, 12),
        ("sharp_bert_base", 12, 768, 3072, 12),
        ("sharp_bert_large", 24, 1024, 4096, 16),
        ("sharp_minilm", 6, 384, 1536, 12),
    ],
)
def test_named_sizes(arch, layers, width, inner, heads):
    args = argparse.Namespace()
    ARCH_CONFIG_REGISTRY[arch](args)
    sizes = args.encoder_layers, args.encoder_embed_dim, args.encoder_ffn_embed_dim, args.encoder_attention_heads
    assert sizes == (layers, width, inner, heads)
    assert (args.token_types, args.layer_norm_eps, args.dropout, args.attention_dropout) == (2, 1e-12, 0.1, 0.1)


def test_hydra_configs_build_the_same():
    config = OmegaConf.create({"_name": "sharp_bert", "token_types": 3, **SIZES})
    OmegaConf.set_struct(config, True)
    torch.manual_seed(0)
    model = models.build_model(config, SimpleNamespace(source_dictionary=dictionary()))
    toy.assert_same(model.state_dict(), build(token_types=3).state_dict())


@pytest.mark.parametrize("setting", [{"token_types": 0}, *({"layer_norm_eps": eps} for eps in (0.0, float("nan"), float("inf")))])
def test_impossible_settings(setting):
    with pytest.raises(ValueError, match="--token-types must be 1 or larger and --layer-norm-eps"):
        build(**setting)


# ---------------------------------------------------------------------- in fairseq's training


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Binarized pairs with two labels, as the stock task reads them."""
    directory = tmp_path_factory.mktemp("pairs")
    dictionary().save(str(directory / "dict.txt"))
    first = [f"w{i} w{i + 1} w{i % 3}" for i in range(12)]
    second = [f"w{10 + i % 2}" for i in range(12)]
    return published.write_sentence_data(directory, directory / "dict.txt", first, second, [i % 2 for i in range(12)])


def trainer_of(data, *flags, optimizer="adam", model=TINY):
    line = ["--num-classes", 2, "--init-token", 0, "--optimizer", optimizer, "--lr", "0.01", *STILL, *flags]
    return toy.build_trainer(data, *line, model=model, criterion=published.SENTENCE_PREDICTION, task="sentence_prediction")


def load(trainer, path):
    trainer.load_checkpoint(str(path), reset_optimizer=True, reset_lr_scheduler=True, reset_meters=True)


def save(directory, state):
    """A checkpoint with *state* and nothing to resume."""
    path = directory / "model.pt"
    history = [{"optimizer_name": None, "lr_scheduler_state": {}, "num_updates": 0}]
    extra = {"train_iterator": {"epoch": 1}}
    torch.save({"args": None, "cfg": None, "model": state, "optimizer_history": history, "extra_state": extra}, path)
    return path


def without_heads(trainer, state):
    """What the conversion writes: the encoder's and the language-model head's weights, and the pooler."""
    own = {name: value for name, value in toy.weights(trainer).items() if not name.startswith("classification_heads.")}
    return {**own, **state}


def test_the_stock_task_makes_berts_pairs(pairs):
    trainer = trainer_of(pairs)
    (sample,) = toy.batches(trainer, [3])
    for row in sample["net_input"]["src_tokens"].tolist():
        assert row[0] == BOS and row.count(EOS) == 2 and row[4] == EOS and len(row) == 7


@pytest.mark.parametrize("optimizer", ["adam", "sam", "dsam"])
@pytest.mark.parametrize("precision", [[], published.FP16], ids=["fp32", "fp16"])
def test_training_lowers_the_loss(pairs, tmp_path, bert, optimizer, precision):
    trainer = trainer_of(pairs, *precision, optimizer=optimizer)
    load(trainer, save(tmp_path, without_heads(trainer, bert[2])))
    (sample,) = toy.batches(trainer, [8])
    before = toy.weights(trainer)["encoder.sentence_encoder.embed_token_types.weight"]
    losses = [trainer.train_step([sample])["loss"] for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]
    after = toy.weights(trainer)["encoder.sentence_encoder.embed_token_types.weight"]
    assert (before[0] != after[0]).any() and (before[1] != after[1]).any()


def test_a_head_starts_with_the_pooler(pairs, tmp_path, bert):
    _, weights, state = bert
    trainer = trainer_of(pairs)
    model = trainer.get_model()
    load(trainer, save(tmp_path, without_heads(trainer, state)))
    head = model.classification_heads[HEAD]
    assert torch.equal(head.dense.weight, weights["bert.pooler.dense.weight"])
    assert torch.equal(head.dense.bias, weights["bert.pooler.dense.bias"])
    assert not any("pooler" in name for name in model.state_dict())
    # A head that the checkpoint holds stays as it is there.
    mine = {**model.state_dict(), **state, f"classification_heads.{HEAD}.dense.weight": torch.ones(16, 16)}
    load(trainer, save(tmp_path, mine))
    assert torch.equal(model.classification_heads[HEAD].dense.weight, torch.ones(16, 16))


def test_checkpoints_come_back_with_their_heads(pairs, tmp_path):
    trainer = trainer_of(pairs)
    trainer.get_model().register_classification_head("another", num_classes=3, inner_dim=8)
    path = save(tmp_path, {name: value + 0.5 for name, value in toy.weights(trainer).items()})
    fresh = trainer_of(pairs, "--load-checkpoint-heads")
    load(fresh, path)
    toy.assert_same({name: value + 0.5 for name, value in toy.weights(trainer).items()}, toy.weights(fresh))
    with torch.no_grad():
        scores, _ = fresh.get_model()(padded(PAIR), classification_head_name="another")
    assert scores.shape == (1, 3)
    without = trainer_of(pairs)
    load(without, path)
    assert list(without.get_model().classification_heads) == [HEAD]


@pytest.mark.parametrize("way", ["--restore-file", "--finetune-from-model"])
def test_both_ways_to_start_from_a_checkpoint(pairs, tmp_path, way):
    source = trainer_of(pairs, "--seed", 11)
    path = save(tmp_path, toy.weights(source))
    resets = "--reset-optimizer --reset-dataloader --reset-meters".split() if way == "--restore-file" else []
    trainer = trainer_of(pairs, way, path, "--save-dir", tmp_path / "new", *resets)
    _, epoch_itr = checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    assert epoch_itr.epoch == 1 and trainer.get_num_updates() == 0
    toy.assert_same(toy.weights(source), toy.weights(trainer))


def test_lora_on_the_projections_of_a_converted_model(pairs, tmp_path, bert):
    model = ["--arch", "lora", "--base-arch", "sharp_bert", *TINY[2:], "--lora-rank", "2"]
    trainer = trainer_of(pairs, model=model)
    load(trainer, save(tmp_path, without_heads(trainer_of(pairs), bert[2])))
    head = trainer.get_model().classification_heads[HEAD]
    assert torch.equal(head.dense.weight, bert[1]["bert.pooler.dense.weight"])
    (sample,) = toy.batches(trainer, [8])
    before = toy.weights(trainer)
    losses = [trainer.train_step([sample])["loss"] for _ in range(20)]
    after = toy.weights(trainer)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert losses[-1] < losses[0]
    assert all("lora" in name or name.startswith("classification_heads.") for name in changed)
    projections = {name.split(".self_attn.")[1].split(".")[0] for name in changed if "self_attn" in name}
    assert projections == {"q_proj", "v_proj"}
