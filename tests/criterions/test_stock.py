"""The losses of the sentences sum to the stock loss, and each is what the stock criterion gives for that sentence alone."""

import argparse
import copy

import plain
import pytest
import torch
import toy
from fairseq import criterions
from fairseq.criterions import FairseqCriterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.data import Dictionary
from fairseq.models.roberta import RobertaModel, base_architecture
from fairseq.tasks import FairseqTask

from sharp_plugins.criterions import check_criterion, sentence_losses_of, supported_criterions

PAD = 1


class Task(FairseqTask):
    """As much of a task as the criterions ask for."""

    def __init__(self, words=30):
        super().__init__(None)
        self.dictionary = self.source_dictionary_ = Dictionary()
        for i in range(words):
            self.dictionary.add_symbol(f"w{i}")
        self.label_dictionary = self.dictionary

    source_dictionary = target_dictionary = property(lambda self: self.dictionary)


def roberta(task, classes=3):
    args = argparse.Namespace(
        encoder_layers=1,
        encoder_embed_dim=16,
        encoder_ffn_embed_dim=32,
        encoder_attention_heads=2,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        pooler_dropout=0.0,
        max_positions=32,
        tokens_per_sample=32,
    )
    base_architecture(args)
    torch.manual_seed(0)
    model = RobertaModel.build_model(args, task)
    model.register_classification_head("sentence_classification_head", num_classes=classes)
    return model.train()


def tokens(rows=5, length=7):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 30, (rows, length), generator=generator)
    for row in range(rows):
        ids[row, length - row :] = PAD
    return ids


def sentence_sample(target, inputs=("net_input",)):
    ids = tokens()
    sample = {name: {"src_tokens": ids + i, "src_lengths": ids.ne(PAD).sum(1)} for i, name in enumerate(inputs)}
    return {**sample, "target": target, "ntokens": int(ids.ne(PAD).sum()), "nsentences": 5, "id": torch.arange(5)}


def build(name, **settings):
    task = Task()
    cls = criterions.CRITERION_REGISTRY[name]
    registry = criterions.CRITERION_DATACLASS_REGISTRY
    if name in registry:
        cfg = registry[name]()
        for key, value in {"sentence_avg": False, "tpu": False, "ddp_backend": "legacy_ddp", **settings}.items():
            if hasattr(cfg, key):
                setattr(cfg, key, value)
    else:
        cfg = argparse.Namespace(ranking_head_name="sentence_classification_head", save_predictions=None, **settings)
    return cls.build_criterion(cfg, task), roberta(task, settings.pop("classes", 3))


def assert_sums_to_stock(criterion, model, sample):
    losses = sentence_losses_of(criterion)(model, sample)
    stock, _, _ = criterion(model, sample)
    assert losses.shape == (5,) and losses.dtype == torch.float32
    torch.testing.assert_close(losses.sum(), stock.float().sum())
    # Uniform weights give the stock gradient.
    params = plain.trainable(model)
    ours = torch.autograd.grad(losses.sum(), params, allow_unused=True)
    theirs = torch.autograd.grad(criterion(model, sample)[0].sum(), params, allow_unused=True)
    for a, b in zip(ours, theirs):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    return losses


def test_classification():
    criterion, model = build("sentence_prediction")
    sample = sentence_sample(torch.tensor([[0], [2], [1], [1], [0]]))
    losses = assert_sums_to_stock(criterion, model, sample)
    logits, _ = model(**sample["net_input"], features_only=True, classification_head_name="sentence_classification_head")
    expected = [-logits[i].log_softmax(0)[c] for i, c in enumerate([0, 2, 1, 1, 0])]
    torch.testing.assert_close(losses, torch.stack(expected))


def test_regression():
    criterion, model = build("sentence_prediction", regression_target=True)
    criterion.regression_target = True
    model.classification_heads["sentence_classification_head"].out_proj = torch.nn.Linear(16, 1)
    assert_sums_to_stock(criterion, model, sentence_sample(torch.tensor([0.1, 3.0, -1.0, 0.0, 2.0])))


def test_ranking():
    criterion, model = build("sentence_ranking", num_classes=2)
    model.classification_heads["sentence_classification_head"].out_proj = torch.nn.Linear(16, 1)
    sample = sentence_sample(torch.tensor([[0], [1], [1], [1], [0]]), inputs=("net_input1", "net_input2"))
    assert_sums_to_stock(criterion, model, sample)


@pytest.mark.parametrize("masked_rows", [[0, 1, 3], []], ids=["some masked", "none masked"])
def test_masked_language_model(masked_rows):
    criterion, model = build("masked_lm")
    target = torch.full_like(tokens(), PAD)
    for row in masked_rows:
        target[row, : row + 1] = tokens()[row, : row + 1]
    losses = assert_sums_to_stock(criterion, model, sentence_sample(target))
    assert [i for i in range(5) if losses[i] != 0] == masked_rows


@pytest.mark.parametrize("flags", [[], ["--label-smoothing", "0.2"], ["--ignore-prefix-size", "1"]])
def test_translation_sentences_one_by_one(translation_data, flags):
    trainer = toy.build_trainer(
        translation_data,
        "--optimizer",
        "sgd",
        "--lr",
        "0.1",
        "--dropout",
        "0",
        criterion=["--criterion", "label_smoothed_cross_entropy", *flags],
    )
    assert_each_sentence(trainer)


def test_translation_with_plain_cross_entropy(translation_data):
    trainer = toy.build_trainer(
        translation_data, "--optimizer", "sgd", "--lr", "0.1", "--dropout", "0", criterion=["--criterion", "cross_entropy"]
    )
    assert_each_sentence(trainer)


def test_adaptive_softmax(translation_data):
    model = [flag for flag in toy.MODEL if flag != "--share-decoder-input-output-embed"]
    trainer = toy.build_trainer(
        translation_data,
        "--optimizer",
        "sgd",
        "--lr",
        "0.1",
        "--dropout",
        "0",
        "--adaptive-softmax-cutoff",
        "8,16",
        "--adaptive-softmax-dropout",
        "0",
        "--ddp-backend",
        "legacy_ddp",
        model=model,
        criterion=["--criterion", "adaptive_loss"],
    )
    assert_each_sentence(trainer)


def assert_each_sentence(trainer):
    (sample,) = toy.batches(trainer, [5])
    criterion, model = trainer.get_criterion(), trainer.get_model().train()
    losses = assert_sums_to_stock(criterion, model, sample)
    alone = [criterion(model, one)[0].reshape(()) for one in plain.single_sentences(sample, PAD)]
    torch.testing.assert_close(losses, torch.stack(alone), rtol=1e-4, atol=1e-5)


def test_half_precision_losses_are_fp32():
    criterion, model = build("sentence_prediction")
    losses = sentence_losses_of(criterion)(model.half(), sentence_sample(torch.tensor([[0], [2], [1], [1], [0]])))
    assert losses.dtype == torch.float32


def test_subclasses_and_unknown_criterions_are_refused_with_a_list():
    class Other(LabelSmoothedCrossEntropyCriterion):
        """Has another loss than its parent, for all we know."""

    other = Other(Task(), sentence_avg=False, label_smoothing=0.1)
    with pytest.raises(ValueError) as error:
        sentence_losses_of(other)
    for name in supported_criterions():
        assert name in str(error.value)
    assert {"cross_entropy", "masked_lm", "sentence_ranking"} <= set(supported_criterions())


def test_a_criterion_of_ones_own_joins_with_one_method(translation_data):
    trainer = toy.build_trainer(translation_data, "--optimizer", "dsam", "--lr", "0.1")

    class Own(FairseqCriterion):
        def __init__(self, task, stock):
            super().__init__(task)
            self.stock = stock

        def forward(self, model, sample, reduce=True):
            return self.stock(model, sample)

        def sentence_losses(self, model, sample):
            return sentence_losses_of(self.stock)(model, sample)

        reduce_metrics = LabelSmoothedCrossEntropyCriterion.reduce_metrics

    twin = copy.deepcopy(trainer.get_model().state_dict())
    trainer._criterion = trainer._wrapped_criterion = Own(trainer.task, trainer.get_criterion())
    check_criterion(trainer.get_criterion(), trainer.task, trainer.get_model())
    assert trainer.train_step(toy.batches(trainer, [4])) is not None
    assert not torch.equal(twin["encoder.embed_tokens.weight"], toy.weights(trainer)["encoder.embed_tokens.weight"])


def test_a_task_with_its_own_train_step_is_refused():
    class OwnStep(Task):
        def train_step(self, *args, **kwargs):
            raise NotImplementedError

    criterion, model = build("cross_entropy")
    with pytest.raises(ValueError, match="--optimizer sam"):
        check_criterion(criterion, OwnStep(), model)
    model.args.mha_reg_scale_factor = 0.1
    with pytest.raises(ValueError, match="--mha-reg-scale-factor"):
        check_criterion(criterion, Task(), model)
