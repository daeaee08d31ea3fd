"""The losses of texts after prompts against plain ones, row by row: stock criterions, δ-SAM's sentence losses, R-Drop, R3F."""

import plain
import prompts
import pytest
import sentences
import torch

from sharp_plugins.criterions import sentence_losses_of
from sharp_plugins.criterions.regularized import symmetric_kl

LM = (
    "--arch transformer_lm --decoder-layers 1 --decoder-embed-dim 16 --decoder-ffn-embed-dim 32 --decoder-attention-heads 2 "
    "--share-decoder-input-output-embed"
).split()
SMOOTHING = ["--label-smoothing", "0.1"]


@pytest.fixture(scope="module")
def whole(backbone, texts, tmp_path_factory):
    """In the plain format, with a start."""
    return prompts.prepare(backbone, tmp_path_factory.mktemp("data") / "plain", *texts)


@pytest.mark.parametrize("count_prompt", [False, True])
@pytest.mark.parametrize("smoothing", [None, 0.0, 0.1])
def test_the_stock_loss_is_the_plain_one(whole, smoothing, count_prompt):
    criterion, flags = (
        ("cross_entropy", []) if smoothing is None else ("label_smoothed_cross_entropy", ["--label-smoothing", smoothing])
    )
    criterion, model, sample = prompts.parts(whole, criterion, *flags, *(["--count-prompt"] if count_prompt else []))
    found = prompts.plain_log_probabilities(model, whole, 7, count_prompt=count_prompt)
    expected = prompts.plain_losses(found, smoothing or 0.0)
    loss, size, log = criterion(model, sample)
    torch.testing.assert_close(loss, expected.sum(), rtol=1e-5, atol=1e-5)
    # The mean is over what is counted.
    assert size == sum(len(symbols) for _, symbols in found) == log["ntokens"] and log["nsentences"] == 7
    sentence_losses = sentence_losses_of(criterion)(model, sample)
    torch.testing.assert_close(sentence_losses, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in ((loss, expected.sum()), (sentence_losses[2], expected[2])):
        gradients, wanted = sentences.gradients(ours, model), sentences.gradients(theirs, model)
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        sentences.assert_close_gradients(gradients, wanted, atol=1e-5)


@pytest.mark.parametrize("criterion", ["cross_entropy", "label_smoothed_cross_entropy"])
def test_scores_of_what_is_counted_alone_give_what_all_scores_give(whole, criterion):
    flags = [] if criterion == "cross_entropy" else SMOOTHING
    ours, model, sample = prompts.parts(whole, criterion, *flags)
    assert "scored" in sample["net_input"] and model(**sample["net_input"])[0].size(1) == sample["target"].size(1)
    data = prompts.trainer(whole).task.dataset("train")
    data.only_scored = False
    everything = data.collater([data[i] for i in range(7)])
    assert everything["target"].size(1) == everything["net_input"]["src_tokens"].size(1) > sample["target"].size(1)
    loss, wanted = (ours(model, each)[0] for each in (sample, everything))
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-5)
    sentences.assert_close_gradients(sentences.gradients(loss, model), sentences.gradients(wanted, model), atol=1e-5)


def test_fairseqs_own_language_model(whole):
    criterion, model, sample = prompts.parts(whole, "cross_entropy", model=LM)
    assert "scored" not in sample["net_input"] and model.max_positions() == 64
    losses = []
    for row in range(7):
        source = sample["net_input"]["src_tokens"][row : row + 1, : sample["net_input"]["src_lengths"][row]]
        first = sample["prompt_lengths"][row] - 1
        log_p = model(source)[0][0, first:].log_softmax(-1)
        targets = sample["target"][row, first : source.size(1)]
        losses.append(-log_p[range(len(targets)), targets].sum())
    torch.testing.assert_close(criterion(model, sample)[0], torch.stack(losses).sum(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sentence_losses_of(criterion)(model, sample), torch.stack(losses), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------- R-Drop and R3F


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_r3f(whole, smoothing):
    flags = ["--r3f-eps", "0.5", "--r3f-lambda", "0.7", "--r3f-noise", "normal", "--label-smoothing", smoothing]
    criterion, model, sample = prompts.parts(whole, "r3f_label_smoothed_cross_entropy", *flags)
    tokens = sample["net_input"]["src_tokens"]
    torch.manual_seed(0)
    z = torch.randn(*tokens.shape, 16) * 0.5
    clean, noised = (prompts.plain_log_probabilities(model, whole, 7, z=each) for each in (None, z))
    kl = torch.stack([plain.symmetric_kl(one, other).sum() for (one, _), (other, _) in zip(clean, noised)])
    assert kl.min() > 1e-3
    expected = prompts.plain_losses(clean, smoothing) + 0.7 * kl
    log = sentences.assert_same_loss_and_gradient(criterion, model, sample, expected, atol=2e-5)
    torch.testing.assert_close(log["symm_kl"], kl.sum().detach(), rtol=1e-3, atol=1e-5)


def test_rdrop(whole, monkeypatch):
    """With two passes that differ by noise in the place of dropout, which a plain computation can make too."""
    flags = ["--rdrop-alpha", "2", *SMOOTHING]
    criterion, model, sample = prompts.parts(whole, "rdrop_label_smoothed_cross_entropy", *flags)
    rows, length = sample["net_input"]["src_tokens"].shape
    torch.manual_seed(0)
    z = torch.randn(2 * rows, length, 16)
    model.decoder.embedding_dropout.register_forward_hook(lambda module, inputs, x: x + z if len(x) == 2 * rows else x)
    first, second = (prompts.plain_log_probabilities(model, whole, rows, z=half) for half in z.chunk(2))
    kl = torch.stack([plain.symmetric_kl(one, other).sum() for (one, _), (other, _) in zip(first, second)])
    expected = prompts.plain_losses(first, 0.1) + prompts.plain_losses(second, 0.1) + 2 * kl / 2
    sentences.assert_same_loss_and_gradient(criterion, model, sample, expected, atol=2e-5)


@pytest.mark.parametrize("name", ["rdrop", "r3f"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_unused_symbols_are_no_nan_in_any_precision(whole, name, precision):
    criterion, model, sample = prompts.parts(whole, f"{name}_label_smoothed_cross_entropy", *SMOOTHING, dropout="0.3")
    model.to(precision)
    loss, _, log = criterion(model, sample)
    loss.backward()
    assert loss.isfinite() and log[criterion.measures[0]] > 0
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_what_has_no_probability_adds_nothing_to_a_divergence():
    log_p, log_q = (torch.tensor(row).log().requires_grad_() for row in ([0.5, 0.5, 0.0], [0.8, 0.2, 0.0]))
    kl = symmetric_kl(log_p, log_q)
    torch.testing.assert_close(kl, symmetric_kl(log_p[:2], log_q[:2]))
    kl.backward()
    assert log_p.grad.isfinite().all() and log_q.grad.isfinite().all() and log_p.grad[2] == 0


@pytest.mark.parametrize("criterion", ["freelb_sentence_prediction", "smart_sentence_prediction", "r3f_sentence_prediction"])
def test_criterions_of_classes_are_refused(whole, criterion):
    with pytest.raises(
        ValueError, match="predicts a label or number for a sentence, which --task PromptedGeneration does not have"
    ):
        prompts.trainer(whole, criterion=criterion)
