"""Updates of ``--optimizer sam`` inside fairseq's trainer, against plain PyTorch."""

import contextlib
import time

import plain
import pytest
import torch
import toy
from fairseq.logging import metrics
from fairseq.models.ema import build_ema

NO_DROPOUT = ["--dropout", "0"]
SGD = ["--base-optimizer", "sgd", "--momentum", "0.9", "--weight-decay", "0.01", "--lr", "0.5"]


def test_interval_makes_plain_updates_in_between(translation_data):
    trainer = toy.build_trainer(translation_data, "--optimizer", "sam", *SGD, "--sam-interval", "3", "--sam-rho", "0.2")
    climbs = []
    climb = None
    for update in range(7):
        samples = toy.batches(trainer, [4])
        if climb is None:
            trainer.train_step(samples)
            ball = trainer.optimizer.perturbation
            climb = ball.climb
            ball.climb = lambda *args, **kwargs: (climbs.append(trainer.get_num_updates()), climb(*args, **kwargs))[1]
        else:
            trainer.train_step(samples)
    assert climbs == [3, 6]  # and update 0, before the spy was there


@pytest.mark.parametrize("method", ["sam", "dsam"])
@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--sam-start", "3"], [3, 4, 5, 6]),
        (["--sam-start", "0.7", "--max-update", "7"], [5, 6]),
        (["--sam-start", "0.7", "--max-update", "10"], []),
        (["--sam-start", "3", "--sam-interval", "2"], [4, 6]),
    ],
)
def test_updates_before_the_start_are_the_base_optimizers(translation_data, method, flags, expected):
    """Bit for bit, as their data, masks and learning rates are the same."""
    sharp = toy.build_trainer(translation_data, "--optimizer", method, *SGD, "--sam-rho", "0.2", *flags)
    plain = toy.build_trainer(translation_data, "--optimizer", "sgd", *SGD[2:], *flags[2:4] * ("--max-update" in flags))
    climbed = []
    for update in range(7):
        samples = toy.batches(sharp, [4])
        with metrics.aggregate() as log:
            sharp.train_step(samples)
        plain.train_step(samples)
        climbed += [update] * ("sam_gap" in log)
        same = all(torch.equal(ours, theirs) for ours, theirs in zip(sharp.model.parameters(), plain.model.parameters()))
        assert same == (not climbed)
    assert climbed == expected


@pytest.mark.parametrize("method", ["sam", "dsam"])
@pytest.mark.parametrize("interval, expected", [(1, [2, 5]), (2, [2, 4]), (4, [0, 4])])
def test_the_radius_is_measured_at_the_updates_that_are_logged(translation_data, method, interval, expected):
    """fairseq logs after updates 3 and 6. Where it logs a plain update, the ascent before it is measured."""
    flags = ["--optimizer", method, *SGD, "--sam-rho", "0.2", "--sam-interval", interval, "--log-interval", "3"]
    trainer = toy.build_trainer(translation_data, *flags)
    measured, climbed = [], []
    for update in range(6):
        with metrics.aggregate() as log:
            trainer.train_step(toy.batches(trainer, [4]))
        assert ("sam_radius" in log) == ("sam_projection" in log)
        climbed += [update] * ("sam_gap" in log)
        if "sam_radius" in log:
            measured.append(update)
            assert log["sam_radius"].avg.item() == pytest.approx(0.2, rel=1e-4)
            assert log["sam_projection"].avg.item() == pytest.approx(1, abs=1e-4)
    assert climbed == list(range(0, 6, interval)) and measured == expected


@pytest.mark.parametrize(
    "flags, model",
    [
        ("--optimizer sam --sam-rho 0.2", toy.MODEL),
        ("--optimizer dsam --sam-rho 0.2", toy.MODEL),
        ("--optimizer dsam --sam-rho 0.2 --bf16", toy.MODEL),
        ("--optimizer bar", [*"--arch lora --base-arch transformer --lora-rank 2".split(), *toy.MODEL[2:]]),
    ],
)
def test_what_is_logged_does_not_change_what_is_trained(translation_data, flags, model):
    """Bit for bit, with all updates measured and with none after the first."""
    trained = []
    for interval in (1, 1000):
        trainer = toy.build_trainer(translation_data, *flags.split(), *SGD, "--log-interval", interval, model=model)
        for _ in range(4):
            trainer.train_step(toy.batches(trainer, [8]))
        trained.append(toy.weights(trainer))
    toy.assert_same(*trained)


class Failed(Exception):
    pass


@pytest.mark.parametrize("method, passes", [("sam", 2), ("dsam", 3)])
@pytest.mark.parametrize("fails_in", [None, 1])
def test_the_time_of_training_has_the_ascent(translation_data, tmp_path, method, passes, fails_in):
    """fairseq's train_wall: with it SAM would seem to cost what its base optimizer does. An ascent that fails counts too."""
    trainer = toy.build_trainer(translation_data, "--optimizer", method, *SGD, "--save-dir", tmp_path)
    forward, made = trainer.model.forward, []

    def slow(*args, **kwargs):
        made.append(1)
        time.sleep(0.2)
        if len(made) == fails_in:
            raise Failed
        return forward(*args, **kwargs)

    trainer.model.forward = slow
    start = time.perf_counter()
    for _ in range(1 if fails_in else 2):
        with contextlib.suppress(Failed):
            trainer.train_step(toy.batches(trainer, [4]))
    took = time.perf_counter() - start
    assert len(made) == (fails_in or 2 * passes)
    assert 0.2 * len(made) <= metrics.get_meter("train", "train_wall").sum <= took  # nothing counts twice


def test_the_ascent_sees_the_dropout_masks_of_the_descent(translation_data):
    """Then the sharpness gap is the weights' doing alone: at ρ → 0 it vanishes although dropout is on."""
    trainer = toy.build_trainer(translation_data, "--optimizer", "sam", *SGD, "--sam-rho", "1e-6", "--dropout", "0.5")
    with metrics.aggregate() as log:
        trainer.train_step(toy.batches(trainer, [8]))
    assert abs(log["sam_gap"].avg) < 1e-4


@pytest.mark.parametrize("sizes", [[8], [3, 5]])
def test_a_criterion_without_sentence_losses_is_climbed_on_as_it_is(translation_data, sizes):
    """fairseq's guided alignment: a loss of the attention beside that of the words, which δ-SAM does not know."""
    model = ["--arch", "transformer_align", *toy.MODEL[2:], "--alignment-layer", "0", "--alignment-heads", "1"]
    flags = dict(model=model, criterion=["--criterion", "label_smoothed_cross_entropy_with_alignment", "--alignment-lambda", "2"])
    dropout = [*NO_DROPOUT, "--attention-dropout", "0", "--activation-dropout", "0"]
    with pytest.raises(ValueError, match="dsam needs the loss of each sentence"):
        toy.build_trainer(translation_data, "--optimizer", "dsam", *SGD, **flags)
    sgd = ["--base-optimizer", "sgd", "--lr", "0.5", "--clip-norm", "0"]
    trainer = toy.build_trainer(translation_data, "--optimizer", "sam", *sgd, "--sam-rho", "0.5", *dropout, **flags)
    samples = toy.batches(trainer, sizes)
    for sample in samples:
        words = torch.arange(sample["target"].numel())
        sample["alignments"] = torch.stack([sample["net_input"]["src_tokens"].size(1) - 1 - words % 3, words], dim=1)
        sample["align_weights"] = torch.ones(len(words)) / len(words)
    objective = plain.OfCriterion(trainer.get_criterion())
    expected, without = (
        plain.train(trainer.get_model(), objective, [samples], method, lr=0.5) for method in (plain.SAM(0.5), plain.Base())
    )
    with metrics.aggregate() as log:
        trainer.train_step(samples)
    assert log["alignment_loss"].avg > 0
    toy.assert_close(trainer, expected)
    with pytest.raises(AssertionError):
        toy.assert_close(trainer, without, 1e-3)


def base_for(precision):
    """fairseq's SGD does not do without master copies."""
    return ["--base-optimizer", "adam", "--lr", "0.1"] if "memory-efficient" in str(precision) else SGD


FP16 = "--fp16 --fp16-init-scale 4"


@pytest.mark.parametrize("method", ["sam", "dsam", "sam --sam-adaptive", "dsam --sam-adaptive"])
@pytest.mark.parametrize(
    "flags, tolerance, of_dsam",
    [
        (FP16, 0.01, 0.03),  # flattened
        (f"{FP16} --fp16-no-flatten-grads", 0.01, 0.03),
        (f"{FP16} --memory-efficient-fp16", 0.01, 0.03),
        # g' comes from differences of losses, which bf16's forward passes give to few digits only.
        ("--bf16", 0.03, 0.2),
        ("--bf16 --memory-efficient-bf16", 0.03, 0.2),
        ("--amp", 0.0, 0.0),  # on a CPU the same as fp32; on a GPU autocast's own error
    ],
)
def test_half_precision_gives_the_epsilon_of_fp32(translation_data, flags, method, tolerance, of_dsam):
    """The projection of the realised perturbation on fp32's ε is 1 within the format's own error of the gradient."""
    tolerance = of_dsam if "dsam" in method else tolerance
    rho = "5" if "adaptive" in method else "0.5"  # adaptive SAM's ε is the smaller one, as these weights are below 1
    settings = ["--optimizer", *method.split(), *base_for(flags), "--sam-rho", rho, *NO_DROPOUT]
    changes = []
    for precision in ([], flags.split()):
        trainer = toy.build_trainer(translation_data, *settings, *precision)
        start = toy.weights(trainer)
        seen = toy.perturbed_weights(trainer, toy.batches(trainer, [8]))
        changes.append(torch.cat([(seen[n].float() - start[n].float()).reshape(-1) for n in start]))
    fp32, half = changes
    assert (half @ fp32 / (fp32 @ fp32)).item() == pytest.approx(1.0, abs=tolerance + 1e-6)
    assert torch.cosine_similarity(half, fp32, dim=0) > 1 - tolerance - 1e-6


@pytest.mark.parametrize("precision", ["--fp16 --fp16-no-flatten-grads", "--fp16 --memory-efficient-fp16"])
@pytest.mark.parametrize("method", ["sam", "dsam"])
def test_the_gradients_norm_is_that_of_fp32_whatever_the_loss_scale(translation_data, method, precision):
    norms, settings = [], ["--optimizer", method, *base_for(precision), *NO_DROPOUT]
    for flags in ("", f"{precision} --fp16-init-scale 4", f"{precision} --fp16-init-scale 128"):
        trainer = toy.build_trainer(translation_data, *settings, *flags.split())
        with metrics.aggregate() as log:
            trainer.train_step(toy.batches(trainer, [8, 3]))
        assert trainer.get_num_updates() == 1
        norms.append(float(log["sam_grad_norm"].avg))
    assert norms[1:] == pytest.approx([norms[0]] * 2, rel=0.1 if method == "dsam" else 0.02)


def test_without_a_flag_rounding_to_half_precision_keeps_the_ascent(translation_data):
    """In bf16 most of these perturbations are below half a spacing of their weights."""
    projections = []
    for flags in ([], ["--sam-rounding", "nearest"]):
        trainer = toy.build_trainer(translation_data, "--optimizer", "sam", *SGD, "--sam-rho", "0.02", "--bf16", *flags)
        with metrics.aggregate() as log:
            trainer.train_step(toy.batches(trainer, [8]))
        projections.append(log["sam_projection"].avg.item())
    assert projections[0] == pytest.approx(1, abs=0.1) and projections[1] < 0.8


def test_flattened_fp16_equals_unflattened(translation_data):
    results = []
    for flags in ([], ["--fp16-no-flatten-grads"]):
        trainer = toy.build_trainer(
            translation_data, "--optimizer", "sam", *SGD, "--sam-rho", "0.5", "--fp16", "--fp16-init-scale", "4", *flags
        )
        for _ in range(2):
            trainer.train_step(toy.batches(trainer, [6, 2]))
        results.append(toy.weights(trainer))
    toy.assert_same_but_for_rounding(*results)


def test_ema_follows_w(translation_data):
    trainer = toy.build_trainer(
        translation_data, "--optimizer", "sam", *SGD, "--sam-rho", "5", "--store-ema", "--ema-decay", "0.5", "--ema-fp32"
    )
    reference = None
    for update in range(1, 4):
        trainer.train_step(toy.batches(trainer, [4]))
        # fairseq builds its average after the first update; this one sees the weights between updates only.
        reference = reference or build_ema(trainer.get_model(), trainer.cfg.ema, trainer.device)
        reference.step(trainer.get_model(), update)
    ours, theirs = (dict(ema.get_model().named_parameters()) for ema in (trainer.ema, reference))
    toy.assert_same(ours, theirs)
    assert not torch.equal(toy.weights(trainer)["encoder.embed_tokens.weight"], theirs["encoder.embed_tokens.weight"])


def test_what_cannot_be_perturbed_is_refused_before_any_pass(translation_data, tmp_path):
    trainer = toy.build_trainer(translation_data, "--optimizer", "sam", *SGD, "--save-dir", tmp_path)
    next(trainer.get_model().parameters()).ds_id = 1  # as DeepSpeed marks what it has sharded
    trainer.task.train_step = None  # no pass is made
    with pytest.raises(ValueError, match="shard"):
        trainer.train_step(toy.batches(trainer, [4]))
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--sam-start 40 --max-epoch 2", "The first climb would be after 40 updates, and --max-epoch 2 ends the run after 32"),
        ("--sam-start 0.75 --max-update 100 --max-epoch 4", "after 75 updates, and --max-epoch 4 ends the run after 64"),
        ("--sam-start 17 --sam-interval 16 --max-epoch 2", "after 32 updates, and --max-epoch 2 ends the run after 32"),
        ("--sam-start 33 --max-epoch 3 --update-freq 1,2", "after 33 updates, and --max-epoch 3 ends the run after 32"),
        ("--sam-start 8 --max-update 8", "after 8 updates, and --max-update 8 ends the run after 8"),
        ("--sam-start 31 --max-epoch 2", ""),
        ("--sam-start 0.75 --max-update 100 --max-epoch 5", ""),
        ("--sam-start 7 --max-update 8", ""),
        ("--max-update 1", ""),
        ("--sam-start 1000", ""),
    ],
)
def test_a_run_that_ends_before_sam_begins_says_so(translation_data, caplog, flags, words):
    said = said_where_it_begins(translation_data, caplog, flags)
    assert len(said) == bool(words) and all(words in line for line in said)


def said_where_it_begins(data, caplog, flags, made=0, epoch=1, batches=0):
    """64 sentences by 4: an epoch is 16 batches. The run goes on after updates and after some batches of an epoch."""
    trainer = toy.build_trainer(data, "--optimizer", "sam", *SGD, "--batch-size", "4", *flags.split())
    iterator = trainer.get_train_iterator(epoch=1)
    iterator.load_state_dict({"version": 2, "epoch": epoch, "iterations_in_epoch": batches})
    trainer.set_num_updates(made)
    with caplog.at_level("WARNING", "sharp_plugins"):
        for _ in range(2):
            iterator.next_epoch_itr()
            trainer.begin_epoch(iterator.epoch)
            iterator = trainer.get_train_iterator(epoch=iterator.epoch + 1)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    "flags, went_on, words",
    [
        # In epochs with other numbers of updates than the settings that go on would make.
        ("--sam-start 20 --max-epoch 4 --update-freq 4", dict(made=32, epoch=3), ""),
        ("--sam-start 35 --max-epoch 4 --update-freq 4", dict(made=32, epoch=3), ""),
        ("--sam-start 40 --max-epoch 4 --update-freq 4", dict(made=32, epoch=3), "--max-epoch 4 ends the run after 40"),
        # --reset-optimizer counts the updates from 0, and one epoch is left.
        ("--sam-start 20 --max-epoch 3", dict(made=0, epoch=3), "--max-epoch 3 ends the run after 16"),
        # Within an epoch, after 6 of its 16 batches.
        ("--sam-start 41 --max-epoch 3", dict(made=32, epoch=3, batches=6), ""),
        ("--sam-start 42 --max-epoch 3", dict(made=32, epoch=3, batches=6), "--max-epoch 3 ends the run after 42"),
        # It has climbed, and has a smaller --max-update now.
        ("--sam-start 20 --max-update 10", dict(made=32, epoch=3), ""),
    ],
)
def test_a_run_that_goes_on_counts_from_where_it_is(translation_data, caplog, flags, went_on, words):
    said = said_where_it_begins(translation_data, caplog, flags, **went_on)
    assert len(said) == bool(words) and all(words in line for line in said)
