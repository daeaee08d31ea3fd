"""R3F's loss and gradient against its formula, on embeddings perturbed through the encoder's own argument."""

import math

import plain
import pytest
import sentences
import torch
import toy

from sharp_plugins.criterions import r3f
from sharp_plugins.criterions.perturbed_embeddings import perturbed, token_embedding

NAME, TOKENS = "r3f_sentence_prediction", "r3f_label_smoothed_cross_entropy"


def noise(tokens, kind, eps, dimension=sentences.DIMENSION, seed=0):
    """The noise that the criterion draws first, by the definition of the distributions; 0 at padding."""
    torch.manual_seed(seed)
    shape = (*tokens.shape, dimension)
    z = torch.randn(shape) * eps if kind == "normal" else torch.empty(shape).uniform_(-eps, eps)
    return z * tokens.ne(1).unsqueeze(-1)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_classification(sentence_data, kind):
    flags = ["--r3f-eps", "0.05", "--r3f-lambda", "0.7", "--r3f-noise", kind]
    criterion, model, sample = sentences.parts(sentence_data, NAME, *flags)
    z = noise(sample["net_input"]["src_tokens"], kind, 0.05)
    clean, noised = sentences.logits_at(model, sample, 0), sentences.logits_at(model, sample, z)
    kl = plain.symmetric_kl(clean, noised)
    assert kl.max() > 1e-4
    log = sentences.assert_same_loss_and_gradient(criterion, model, sample, sentences.plain_losses(clean, sample) + 0.7 * kl)
    torch.testing.assert_close(log["symm_kl"], kl.sum().detach(), rtol=1e-3, atol=1e-6)
    assert log["ncorrect"] == (clean.argmax(1) == sample["target"].view(-1)).sum()


def test_regression(sentence_data):
    flags = ["--r3f-eps", "0.1", "--r3f-lambda", "3"]
    criterion, model, sample = sentences.parts(sentence_data, NAME, *flags, regression=True)
    z = noise(sample["net_input"]["src_tokens"], "uniform", 0.1)
    clean, noised = sentences.logits_at(model, sample, 0), sentences.logits_at(model, sample, z)
    expected = sentences.plain_losses(clean, sample, regression=True) + 3 * (clean - noised).square().view(-1)
    sentences.assert_same_loss_and_gradient(criterion, model, sample, expected)


def test_with_dropout_the_copies_have_masks_of_their_own(sentence_data):
    criterion, model, sample = sentences.parts(sentence_data, NAME, "--r3f-eps", "1e-9", dropout="0.3")
    assert criterion(model, sample)[2]["symm_kl"] > 1e-3
    model.eval()
    model.training = True  # the criterion's method, without dropout
    assert criterion(model, sample)[2]["symm_kl"].abs() < 1e-8


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_the_noise_has_the_distribution_that_the_flag_names(kind):
    torch.manual_seed(0)
    z = r3f.draw_noise_(torch.empty(100_000), kind, 0.2)
    assert z.mean().abs() < 0.003
    assert z.std().item() == pytest.approx(0.2 if kind == "normal" else 0.2 / math.sqrt(3), rel=0.02)
    assert (z.abs().max() <= 0.2) == (kind == "uniform")


# ---------------------------------------------------------------------- translation


def translation(data, *flags, model=toy.MODEL):
    trainer = toy.build_trainer(
        data,
        *toy.SGD,
        "--optimizer",
        "sgd",
        "--dropout",
        "0",
        model=model,
        criterion=["--criterion", TOKENS, "--label-smoothing", "0.1", *map(str, flags)],
    )
    (sample,) = toy.batches(trainer, [5])
    return trainer.get_criterion(), trainer.get_model().train(), sample


def outputs_at(model, inputs, z):
    embedded = torch.nn.functional.embedding(inputs["src_tokens"], model.encoder.embed_tokens.weight) + z
    encoded = model.encoder(inputs["src_tokens"], inputs["src_lengths"], token_embeddings=embedded)
    return model.decoder(inputs["prev_output_tokens"], encoder_out=encoded)[0]


def token_by_token(clean, noised, sample, weight, smoothing=0.1):
    losses = []
    for row, targets in enumerate(sample["target"].tolist()):
        real = [position for position, target in enumerate(targets) if target != 1]
        log_p, log_q = (logits[row, real].log_softmax(-1) for logits in (clean, noised))
        wanted = torch.full_like(log_p, smoothing / (log_p.size(-1) - 1))
        wanted[range(len(real)), [targets[position] for position in real]] = 1 - smoothing
        losses.append(-(wanted * log_p).sum() + weight * plain.symmetric_kl(log_p, log_q).sum())
    return torch.stack(losses)


# With all embeddings shared, the decoder embeds its own input with the same module, and must not be perturbed.
@pytest.mark.parametrize("shared", [[], ["--share-all-embeddings"]], ids=["", "shared embeddings"])
def test_translation(translation_data, shared):
    model = [*(flag for flag in toy.MODEL if flag != "--share-decoder-input-output-embed"), *shared]
    flags = ["--r3f-eps", "0.05", "--r3f-lambda", "2", "--r3f-noise", "normal"]
    criterion, model, sample = translation(translation_data, *flags, model=model)
    inputs = sample["net_input"]
    z = noise(inputs["src_tokens"], "normal", 0.05)
    clean, noised = outputs_at(model, inputs, 0), outputs_at(model, inputs, z)
    assert (inputs["src_tokens"] == 1).any() and (sample["target"] == 1).any()
    expected = token_by_token(clean, noised, sample, 2.0)
    assert (expected - token_by_token(clean, noised, sample, 0.0)).min() > 1e-4
    sentences.assert_same_loss_and_gradient(criterion, model, sample, expected, atol=1e-5)


def test_bart(translation_data):
    model = "--arch bart_base --encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 16 --decoder-embed-dim 16 "
    model += "--encoder-ffn-embed-dim 32 --decoder-ffn-embed-dim 32 --encoder-attention-heads 2 "
    model += "--decoder-attention-heads 2 --attention-dropout 0 --max-source-positions 32 --max-target-positions 32"
    flags = ["--r3f-eps", "0.05", "--r3f-noise", "uniform"]
    criterion, model, sample = translation(translation_data, *flags, model=model.split())
    inputs = sample["net_input"]
    z = noise(inputs["src_tokens"], "uniform", 0.05)
    expected = token_by_token(outputs_at(model, inputs, 0), outputs_at(model, inputs, z), sample, 1.0)
    sentences.assert_same_loss_and_gradient(criterion, model, sample, expected, atol=1e-5)


def test_padding_does_not_count(translation_data, monkeypatch):
    """Each sentence's loss is what it is alone, without padding on either side."""
    monkeypatch.setattr(r3f, "draw_noise_", lambda z, kind, eps: z.copy_(torch.linspace(-eps, eps, z.size(-1))))
    criterion, model, sample = translation(translation_data, "--r3f-eps", "0.05", "--r3f-lambda", "2")
    losses = criterion.sentence_losses(model, sample)
    alone = [criterion.sentence_losses(model, one) for one in plain.single_sentences(sample, 1)]
    torch.testing.assert_close(losses, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert criterion(model, sample)[2]["symm_kl"] > 1e-3


# ---------------------------------------------------------------------- limits and faults


def test_a_recurrent_encoder_wants_sentences_by_falling_length(translation_data, monkeypatch):
    """Each copy stands beside its original; with the same noise everywhere the losses are those of one sentence at a time."""
    monkeypatch.setattr(r3f, "draw_noise_", lambda z, kind, eps: z.copy_(torch.linspace(-1, 1, z.size(-1))))
    flags = ["--criterion", "r3f_label_smoothed_cross_entropy", "--r3f-lambda", "3"]
    trainer = toy.build_trainer(
        translation_data, *toy.SGD, "--optimizer", "dsam", "--dropout", "0", model=toy.LSTM, criterion=flags
    )
    singles, dataset = toy.batches(trainer, [1] * 4), trainer.task.dataset("train")
    sample = dataset.collater([dataset[i] for i in range(4)])
    assert len(set(sample["net_input"]["src_lengths"].tolist())) > 1
    criterion, model = trainer.get_criterion(), trainer.get_model().train()
    losses = criterion.sentence_losses(model, sample)
    alone = torch.cat([criterion.sentence_losses(model, one) for one in singles])
    torch.testing.assert_close(losses.sort().values, alone.sort().values, rtol=1e-4, atol=1e-5)
    assert criterion(model, sample)[2]["symm_kl"] > 0 and trainer.train_step([sample]) is not None


@pytest.mark.parametrize("regression", [False, True], ids=["classification", "regression"])
def test_lambda_zero_is_the_stock_criterion(sentence_data, regression):
    sentences.assert_is_stock(sentence_data, NAME, "sentence_prediction", "--r3f-lambda", "0", regression=regression)


def test_without_noise_the_stock_loss_is_left(sentence_data):
    criterion, model, sample = sentences.parts(sentence_data, NAME, "--r3f-eps", "1e-12", "--r3f-lambda", "100")
    expected = sentences.plain_losses(sentences.logits_at(model, sample, 0), sample)
    sentences.assert_same_loss_and_gradient(criterion, model, sample, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_noise_below_its_spacing(dtype):
    """1e-5 on an embedding of 0.05 is a third of fp16's spacing and a 24th of bf16's: to the nearest, it is nothing."""
    model = torch.nn.Module()
    model.embed_tokens = torch.nn.Embedding(1, 50_000)
    torch.nn.init.constant_(model.embed_tokens.weight, 0.05)
    model.to(dtype)
    torch.manual_seed(0)
    tokens, delta = torch.zeros(1, 4, dtype=torch.long), torch.full((1, 4, 50_000), 1e-5, requires_grad=True)
    x = model.embed_tokens(tokens)
    assert torch.equal((x.float() + delta).to(dtype), x)
    with perturbed(model, delta):
        moved = model.embed_tokens(tokens)
    assert moved.dtype == dtype
    assert (moved.float() - x.float()).mean().item() == pytest.approx(1e-5, rel=0.05)
    moved.float().sum().backward()
    assert torch.equal(delta.grad, torch.ones_like(delta))
    assert torch.equal(model.embed_tokens(tokens), x)  # the hook is gone


@pytest.mark.parametrize(
    "flags", [["--r3f-eps", "0"], ["--r3f-eps=-1e-5"], ["--r3f-eps", "nan"], ["--r3f-lambda=-1"], ["--r3f-lambda", "inf"]]
)
@pytest.mark.parametrize("name", [NAME, TOKENS])
def test_bad_settings_are_refused(sentence_data, translation_data, name, flags):
    with pytest.raises(ValueError, match=flags[0].split("=")[0]):
        if name == NAME:
            sentences.parts(sentence_data, name, *flags)
        else:
            translation(translation_data, *flags)


def test_models_and_samples_that_cannot_be_perturbed_are_refused(sentence_data):
    criterion, model, sample = sentences.parts(sentence_data, NAME)
    with pytest.raises(ValueError, match="no token embedding"):
        token_embedding(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="src_tokens"):
        criterion(model, {**sample, "net_input": {"source": sample["net_input"]["src_tokens"]}})
    with pytest.raises(ValueError, match="does not call"), perturbed(model, torch.zeros(1)):
        pass
    with pytest.raises(ValueError, match="embed src_tokens first"), perturbed(model, torch.zeros(1)):
        model(**sample["net_input"])
    with pytest.raises(ValueError, match="classification head"):
        model.classification_heads.clear()
        criterion(model, sample)
    assert not token_embedding(model)._forward_hooks
