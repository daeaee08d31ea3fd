"""Label smoothing that leaves symbols without a probability out, alone and as fairseq's criterion."""

import pytest
import texts
import torch
import toy
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss

from sharp_plugins.criterions.instances import sentence_losses_of
from sharp_plugins.criterions.label_smoothing import label_smoothed

PADDING = 1


@pytest.mark.parametrize("unused", [(), (0, 1, 3), (9,), (0, 4, 5, 9), (1,)])
def test_it_is_fairseqs_without_the_unused_columns(unused):
    """fairseq's own loss on a table that has not these columns."""
    kept = [i for i in range(10) if i not in unused or i == PADDING]
    torch.manual_seed(0)
    logits = torch.randn(6, 10, dtype=torch.float64)
    logits[:, list(unused)] = float("-inf")
    target = torch.tensor([2, 7, 2, 8, 6, PADDING])
    first, second = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ours = label_smoothed(first.log_softmax(-1), target, 0.3, unused, PADDING)

    used = [i for i in range(10) if i not in unused]
    places = torch.tensor([used.index(t) if t in used else 0 for t in target.tolist()])
    theirs = label_smoothed_nll_loss(second[:, used].log_softmax(-1), places, 0.3, reduce=False)
    mask = target.ne(PADDING)
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one[:, 0], other * mask)
    weights = torch.randn(6, dtype=torch.float64)
    ((ours[0] + 0.5 * ours[1])[:, 0] * weights).sum().backward()
    ((theirs[0] + 0.5 * theirs[1]) * weights * mask).sum().backward()
    torch.testing.assert_close(first.grad, second.grad)
    assert kept and (first.grad[:, list(unused)] == 0).all()


UNUSED = ["--unused-symbols", "<s> <pad> <unk>"]
SMOOTHED = "--criterion label_smoothed_cross_entropy --label-smoothing 0.1".split()


def losses(data, *flags, rows=6, criterion=SMOOTHED):
    trainer = texts.trainer(data, *flags, criterion=criterion)
    (sample,) = toy.batches(trainer, [rows])
    model = trainer.get_model()
    loss, _, log = trainer.get_criterion()(model, sample)
    loss.backward()
    return loss, log, sentence_losses_of(trainer.get_criterion())(model, sample), model


def test_fairseqs_criterion_with_unused_symbols(text_data):
    loss, log, by_sentence, model = losses(text_data, *UNUSED)
    assert loss.isfinite() and log["nll_loss"].isfinite() and loss > 0
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert by_sentence.shape == (6,) and by_sentence.sum().item() == pytest.approx(loss.item(), rel=1e-6)


def test_fairseqs_criterion_is_its_own_for_other_models(text_data, monkeypatch):
    from sharp_plugins.host import smoothing

    expected = losses(text_data)[0]
    monkeypatch.setattr(smoothing, "label_smoothed", None)
    assert torch.equal(losses(text_data)[0], expected)
    with pytest.raises(TypeError):
        losses(text_data, *UNUSED)


def test_without_smoothing_it_is_cross_entropy(text_data):
    zero = ["--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0"]
    plain = losses(text_data, *UNUSED, criterion=["--criterion", "cross_entropy"])[0]
    assert losses(text_data, *UNUSED, criterion=zero)[0].item() == pytest.approx(plain.item(), rel=1e-6)


def test_a_prefix_that_does_not_count(text_data):
    whole = losses(text_data, *UNUSED)[0]
    part, _, by_sentence, _ = losses(text_data, *UNUSED, "--ignore-prefix-size", "1")
    assert 0 < part < whole and by_sentence.sum().item() == pytest.approx(part.item(), rel=1e-6)
