"""The loss of a choice against a plain loop over candidates, its gradient, what is logged, and what is read once."""

import math

import choices
import prompts
import pytest
import sentences
import torch
import toy

from sharp_plugins.criterions import sentence_losses_of

LM = (
    "--arch transformer_lm --decoder-layers 1 --decoder-embed-dim 16 --decoder-ffn-embed-dim 32 --decoder-attention-heads 2 "
    "--share-decoder-input-output-embed"
).split()
WRAPPED = {
    "sharp_decoder": prompts.MODEL,
    "transformer_lm": LM,
    "lora": ["--arch", "lora", "--base-arch", "sharp_decoder", *prompts.MODEL[2:], "--lora-rank", "2"],
    "prefix": ["--arch", "prefix", "--base-arch", "sharp_decoder", *prompts.MODEL[2:], "--prefix-length", "3"],
    "adapter": ["--arch", "adapter", "--base-arch", "sharp_decoder", *prompts.MODEL[2:], "--adapter-size", "4"],
}


def parts(data, count=9, by=0.2, **settings):
    """Criterion, model, sample, and the examples in it."""
    trainer = choices.trainer(data, **settings)
    (sample,) = toy.batches(trainer, [count])
    dataset = trainer.task.dataset("train")
    return trainer.get_criterion(), choices.shaken(trainer.get_model(), by), sample, [dataset[i] for i in range(count)]


@pytest.mark.parametrize("arch", WRAPPED)
def test_loss_and_gradient_are_the_plain_ones(data, arch):
    criterion, model, sample, examples = parts(data, by=0.1 if arch == "transformer_lm" else 0.2, model=WRAPPED[arch])
    expected, right = choices.plain_losses(lambda tokens: model(tokens)[0], examples)
    assert expected.max() > 0.5 and 0 < sum(right) < 9
    log = sentences.assert_same_loss_and_gradient(criterion, model, sample, expected, atol=1e-5)
    assert log["sample_size"] == log["ntokens"] == log["nsentences"] == 9 and log["ncorrect"] == sum(right)
    assert sentence_losses_of(criterion)(model, sample).shape == (9,)


def test_candidates_that_are_read_alike_are_one_row(data):
    _, _, sample, examples = parts(data)
    # Three words of one symbol each after one prompt are one row, and two longer candidates are two.
    assert [len(example["counted"]) for example in examples[:2]] == [2, 3]
    assert sample["rows"].tolist()[:5] == [0, 1, 2, 2, 2] and sample["candidates"][0].tolist() == [0, 1, len(sample["target"])]
    assert len(sample["net_input"]["src_tokens"]) == 5 * 2 + 4 * 1 and len(sample["target"]) == 5 * 2 + 4 * 3


def test_metrics_are_means_over_examples(data):
    from fairseq.logging import metrics

    from sharp_plugins.candidates.criterion import CandidatesCriterion

    criterion, model, sample, _ = parts(data)
    logs = [criterion(model, each)[2] for each in (sample, parts(data, 4)[2])]
    with metrics.aggregate() as found:
        CandidatesCriterion.reduce_metrics(logs)
    loss, right = (sum(float(log[name]) for log in logs) for name in ("loss", "ncorrect"))
    assert found["accuracy"].avg == pytest.approx(100 * right / 13) and found["loss"].avg == pytest.approx(loss / 13 / math.log(2))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(data, precision):
    criterion, model, sample, _ = parts(data)
    wanted, seen, normalized = criterion(model, sample)[0], [], model.get_normalized_probs
    model.get_normalized_probs = lambda *given, **how: (seen.append(normalized(*given, **how)), seen[-1])[1]
    model.to(precision)
    loss, _, _ = criterion(model, sample)
    loss.backward()
    assert seen and all(probabilities.dtype == torch.float32 for probabilities in seen)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(wanted.item(), rel=0.05)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_criterion_and_the_task_want_each_other(data, sentence_data):
    from fairseq import tasks

    cfg = toy.config(
        data, "--optimizer", "sgd", *toy.SGD, model=prompts.MODEL, criterion=["--criterion", "cross_entropy"], task="candidates"
    )
    with pytest.raises(ValueError, match="--criterion cross_entropy: it is for other tasks than candidates"):
        toy.trainer_from(cfg)
    cfg = toy.config(data, "--optimizer", "sgd", *toy.SGD, model=prompts.MODEL, criterion=choices.CRITERION, task="candidates")
    other = tasks.FairseqTask(cfg.task)
    with pytest.raises(ValueError, match="--criterion candidates chooses among candidates, which --task FairseqTask does not have"):
        other.build_criterion(cfg.criterion)
