"""R-Drop's loss and gradient against Eq. 2-4, evaluated with torch's own distributions on the same two passes."""

import math

import plain
import pytest
import sentences
import torch
import toy

NAME, TOKENS = "rdrop_sentence_prediction", "rdrop_label_smoothed_cross_entropy"


def doubled(net_input):
    return {name: torch.cat([value, value]) for name, value in net_input.items()}


def two_passes(model, sample, seed=0):
    """The logits of two passes with different masks; drawn as one batch that holds every sentence twice."""
    torch.manual_seed(seed)
    logits = model(**doubled(sample["net_input"]), features_only=True, classification_head_name=sentences.HEAD)[0]
    return logits.chunk(2)


@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_classification(sentence_data, alpha):
    criterion, model, sample = sentences.parts(sentence_data, NAME, "--rdrop-alpha", alpha, dropout="0.3")
    first, second = two_passes(model, sample)
    assert (first - second).abs().max() > 1e-2  # the masks differ
    kl = plain.symmetric_kl(first, second)
    expected = sentences.plain_losses(first, sample) + sentences.plain_losses(second, sample) + alpha / 2 * kl
    log = sentences.assert_same_loss_and_gradient(criterion, model, sample, expected)
    torch.testing.assert_close(log["rdrop_kl"], kl.sum().detach() / 2)
    assert log["ncorrect"] == (first.argmax(1) == sample["target"].view(-1)).sum()


def test_regression(sentence_data):
    criterion, model, sample = sentences.parts(sentence_data, NAME, "--rdrop-alpha", "2", regression=True, dropout="0.3")
    first, second = two_passes(model, sample)
    squares = (first - second).square().view(-1)
    losses = [sentences.plain_losses(logits, sample, regression=True) for logits in (first, second)]
    log = sentences.assert_same_loss_and_gradient(criterion, model, sample, sum(losses) + 2 * squares)
    torch.testing.assert_close(log["rdrop_kl"], squares.sum().detach())


def translation(data, *flags, criterion=TOKENS, dropout="0.3"):
    trainer = toy.build_trainer(
        data, *toy.SGD, "--optimizer", "sgd", "--dropout", dropout, criterion=["--criterion", criterion, *map(str, flags)]
    )
    (sample,) = toy.batches(trainer, [5])
    return trainer.get_criterion(), trainer.get_model().train(), sample


def token_by_token(first, second, sample, alpha, smoothing=0.0, prefix=0):
    """The loss of every sentence, summed over its target tokens one by one."""
    losses, pad = [], 1
    for row, targets in enumerate(sample["target"].tolist()):
        loss = 0.0
        for position, target in enumerate(targets):
            if target == pad or position < prefix:
                continue
            p, q = (torch.softmax(logits[row, position].float(), 0) for logits in (first, second))
            for probabilities in (p, q):
                others = smoothing / (len(p) - 1)  # fairseq: the target keeps 1 - smoothing of the mass
                wanted = torch.full_like(p, others)
                wanted[target] = 1 - smoothing
                loss = loss - (wanted * probabilities.log()).sum()
            loss = loss + alpha / 2 * ((p * (p / q).log()).sum() + (q * (q / p).log()).sum())
        losses.append(loss)
    return torch.stack(losses)


@pytest.mark.parametrize("smoothing, prefix", [(0.0, 0), (0.1, 0), (0.1, 2)])
def test_translation(translation_data, smoothing, prefix):
    flags = ["--label-smoothing", smoothing, "--ignore-prefix-size", prefix]
    criterion, model, sample = translation(translation_data, "--rdrop-alpha", "5", *flags)
    assert (sample["target"] == 1).any()  # padding, which must not count
    torch.manual_seed(0)
    first, second = model(**doubled(sample["net_input"]))[0].chunk(2)
    expected = token_by_token(first, second, sample, 5.0, smoothing, prefix)
    sentences.assert_same_loss_and_gradient(criterion, model, sample, expected)


@pytest.mark.parametrize("optimizer", ["sgd", "dsam"])
def test_a_recurrent_encoder_wants_sentences_by_falling_length(translation_data, optimizer):
    """Each copy stands beside its original, so that the order stays; the loss is that of two batches of sentences, one by one."""
    flags = ["--criterion", TOKENS, "--rdrop-alpha", "5"]
    trainer = toy.build_trainer(
        translation_data, *toy.SGD, "--optimizer", optimizer, "--dropout", "0", model=toy.LSTM, criterion=flags
    )
    samples = sorted(toy.batches(trainer, [1] * 4), key=lambda sample: -sample["net_input"]["src_lengths"].item())
    dataset = trainer.task.dataset("train")
    sample = dataset.collater([dataset[i] for i in range(4)])
    lengths = sample["net_input"]["src_lengths"].tolist()
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) > 1
    criterion, model = trainer.get_criterion(), trainer.get_model().train()
    losses = criterion.sentence_losses(model, sample)
    alone = torch.cat([criterion.sentence_losses(model, one) for one in samples])
    torch.testing.assert_close(losses.sort().values, alone.sort().values, rtol=1e-4, atol=1e-5)
    assert trainer.train_step([sample]) is not None


def test_a_recurrent_encoders_passes_have_masks_of_their_own(translation_data):
    flags = ["--criterion", TOKENS, "--rdrop-alpha", "5"]
    trainer = toy.build_trainer(
        translation_data, *toy.SGD, "--optimizer", "sgd", "--dropout", "0.3", model=toy.LSTM, criterion=flags
    )
    (sample,) = toy.batches(trainer, [5])
    criterion, model = trainer.get_criterion(), trainer.get_model().train()
    torch.manual_seed(0)
    output = model(**{name: value.repeat_interleave(2, 0) for name, value in sample["net_input"].items()})[0]
    assert (output[0::2] - output[1::2]).abs().max() > 1e-3
    expected = token_by_token(output[0::2], output[1::2], sample, 5.0)
    sentences.assert_same_loss_and_gradient(criterion, model, sample, expected)


def test_padding_does_not_count(translation_data):
    """Whatever is predicted at padding, the divergence stays."""
    criterion, model, sample = translation(translation_data)
    first, second = torch.randn(2, *sample["target"].shape, len(criterion.task.target_dictionary))
    padding = sample["target"].eq(1).unsqueeze(-1)
    changed = torch.where(padding, 100 * torch.randn_like(second), second)
    before = criterion.divergence(model, sample, (first, {}), (second, {}))
    after = criterion.divergence(model, sample, (first, {}), (changed, {}))
    assert padding.any() and torch.equal(before, after) and (before > 0).all()


@pytest.mark.parametrize("regression", [False, True], ids=["classification", "regression"])
def test_alpha_zero_is_the_stock_criterion(sentence_data, regression):
    sentences.assert_is_stock(sentence_data, NAME, "sentence_prediction", "--rdrop-alpha", "0", regression=regression)


def test_alpha_zero_is_the_stock_criterion_in_translation(translation_data):
    ours, model, sample = translation(translation_data, "--rdrop-alpha", "0", "--label-smoothing", "0.1")
    stock = translation(translation_data, "--label-smoothing", "0.1", criterion="label_smoothed_cross_entropy")[0]
    losses = []
    for criterion in (ours, stock):
        torch.manual_seed(0)
        losses.append(criterion(model, sample)[0])
    assert torch.equal(*losses)


def test_fairseqs_own_r_drop_agrees(translation_data):
    flags = ["--rdrop-alpha", "5", "--label-smoothing", "0.1"]
    ours, model, sample = translation(translation_data, *flags)
    theirs = translation(translation_data, *flags, criterion="label_smoothed_cross_entropy_with_rdrop")[0]
    tokens = sample["net_input"]["src_tokens"].clone()
    torch.manual_seed(0)
    loss = ours(model, sample)[0]
    assert torch.equal(sample["net_input"]["src_tokens"], tokens)  # fairseq's own doubles it for good
    torch.manual_seed(0)
    torch.testing.assert_close(loss, theirs(model, sample)[0])


def test_without_dropout_it_is_twice_the_stock_loss(sentence_data):
    criterion, model, sample = sentences.parts(sentence_data, NAME, "--rdrop-alpha", "5")
    expected = 2 * sentences.plain_losses(sentences.logits_at(model, sample, 0), sample)
    sentences.assert_same_loss_and_gradient(criterion, model, sample, expected, atol=1e-5)


@pytest.mark.parametrize("alpha", [-1, math.nan, math.inf])
@pytest.mark.parametrize("name", [NAME, TOKENS])
def test_a_bad_alpha_is_refused(sentence_data, translation_data, name, alpha):
    with pytest.raises(ValueError, match="--rdrop-alpha"):
        if name == NAME:
            sentences.parts(sentence_data, name, f"--rdrop-alpha={alpha}")
        else:
            translation(translation_data, f"--rdrop-alpha={alpha}")
