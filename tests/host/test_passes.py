"""What the extra passes leave for the descent: nothing but the gradient."""

import random
import weakref
from types import SimpleNamespace

import numpy
import pytest
import torch
import toy
from fairseq.distributed import LegacyDistributedDataParallel
from fairseq.logging import metrics
from torch import nn

from sharp_plugins.host.passes import Passes
from sharp_plugins.host.randomness import RandomState
from sharp_plugins.host.undo import Buffers
from sharp_plugins.optim.base import STATE_KEY

METHODS = ["sam", "dsam"]
SGD = ["--base-optimizer", "sgd", *toy.SGD, "--dropout", "0"]


# ---------------------------------------------------------------------- batch norms


class WithBatchNorm(nn.Module):
    """An encoder whose output goes through a batch norm."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.norm = encoder, nn.BatchNorm1d(16)

    def forward(self, *args, **kwargs):
        output = self.encoder(*args, **kwargs)
        x = output["encoder_out"][0]
        output["encoder_out"] = [self.norm(x.reshape(-1, 16)).view(x.shape)]
        return output

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.encoder, name)


def build(data, *flags):
    """A trainer whose model has a batch norm."""
    cfg = toy.config(data, *flags)
    build_model = toy.tasks.FairseqTask.build_model

    def build_with_norm(task, *args, **kwargs):
        model = build_model(task, *args, **kwargs)
        model.encoder = WithBatchNorm(model.encoder)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy.tasks.FairseqTask, "build_model", build_with_norm)
        return toy.trainer_from(cfg)


def statistics(trainer):
    norm = trainer.get_model().encoder.norm
    return norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone()


@pytest.mark.parametrize("sizes", [[4], [3, 5]], ids=["one batch", "micro-batches"])
@pytest.mark.parametrize("method, passes", [("sgd", 1), ("sam", 2), ("dsam", 3)])
def test_an_update_moves_the_statistics_once(translation_data, method, passes, sizes):
    """By what the norm is given in the last pass, the descent at w + ε, whatever the passes before it were given."""
    flags = SGD if method != "sgd" else SGD[2:]
    rho = ["--sam-rho", "0.5"] if method != "sgd" else []
    trainer = build(translation_data, "--optimizer", method, *flags, *rho)
    given = []
    trainer.get_model().encoder.norm.register_forward_hook(lambda norm, inputs, output: given.append(inputs[0].detach()))
    mean, variance, count = statistics(trainer)
    for update in range(2):
        del given[:]
        trainer.train_step(toy.batches(trainer, sizes))
        # δ-SAM makes all micro-batches but the last once more, for their backward.
        assert len(given) == passes * len(sizes) + (len(sizes) - 1) * (method == "dsam")
        for x in given[-len(sizes) :]:
            mean, variance = 0.9 * mean + 0.1 * x.mean(0), 0.9 * variance + 0.1 * x.var(0)
        for moved, expected in zip(statistics(trainer), (mean, variance, count + (update + 1) * len(sizes))):
            torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-6)
        if method != "sgd":  # the test can fail: at w the norm was given something else
            assert (given[0].mean(0) - given[-len(sizes)].mean(0)).abs().max() > 1e-3


def test_an_update_moves_the_criterions_statistics_once(translation_data, monkeypatch):
    trainer = build(translation_data, "--optimizer", "sam", *SGD[2:])
    criterion = trainer.get_criterion()
    criterion.norm = torch.nn.BatchNorm1d(3, affine=False)
    compute_loss = type(criterion).compute_loss

    def normalise_too(self, *args, **kwargs):
        self.norm(torch.ones(2, 3))
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(type(criterion), "compute_loss", normalise_too)
    trainer.train_step(toy.batches(trainer, [4]))
    assert criterion.norm.num_batches_tracked == 1


@pytest.mark.parametrize("method", METHODS)
def test_an_overflow_leaves_the_statistics_alone(translation_data, method):
    flags = "--fp16 --fp16-no-flatten-grads --fp16-init-scale 65536".split()
    trainer = build(translation_data, "--optimizer", method, "--base-optimizer", "adam", "--lr", "0.001", *flags)
    skipped = 0
    for samples in toy.batches(trainer, [8] * 8):
        before, updates = statistics(trainer), trainer.get_num_updates()
        trainer.train_step([samples])
        if trainer.get_num_updates() == updates:
            skipped += 1
            assert all(torch.equal(one, other) for one, other in zip(statistics(trainer), before))
        assert all(value.isfinite().all() for value in statistics(trainer))
    assert 0 < skipped < 8 and trainer.get_num_updates() == 8 - skipped


# ---------------------------------------------------------------------- other buffers


def with_spectral_norm(trainer):
    """The encoder's output goes through a layer whose norm is estimated anew in each pass, from where the last one left it."""
    torch.manual_seed(1)
    layer = nn.utils.spectral_norm(nn.Linear(16, 16))
    trainer.get_model().encoder.register_forward_hook(
        lambda encoder, inputs, output: {**output, "encoder_out": [layer(x) for x in output["encoder_out"]]}
    )
    trainer.get_model().encoder.spectral = layer
    return trainer, layer


@pytest.mark.parametrize("sizes", [[4], [3, 5]], ids=["one batch", "micro-batches"])
@pytest.mark.parametrize("method", METHODS)
def test_each_pass_finds_the_buffers_as_they_were(translation_data, monkeypatch, method, sizes):
    """With ρ = 0 the training is the base optimizer's, and δ-SAM's two losses are one."""
    losses = []
    for name in ("instance_losses_without_grad", "instance_losses"):

        def note(self, *args, make=getattr(Passes, name), **named):
            losses.append(make(self, *args, **named))
            return losses[-1]

        monkeypatch.setattr(Passes, name, note)
    ends = []
    for flags in (["--optimizer", "sgd", *SGD[2:]], ["--optimizer", method, *SGD, "--sam-rho", "0"]):
        trainer, layer = with_spectral_norm(toy.build_trainer(translation_data, *flags))
        before = layer.weight_u.clone()
        for _ in range(2):
            trainer.train_step(toy.batches(trainer, sizes))
        assert not torch.equal(layer.weight_u, before)
        ends.append(toy.weights(trainer))
    toy.assert_same(*ends)
    assert len(losses) == (4 if method == "dsam" else 0)
    for there, here in zip(losses[::2], losses[1::2]):
        assert all(torch.equal(a, b.detach()) for a, b in zip(there, here))


def test_a_buffer_may_be_another_tensor_after_a_pass():
    class Replaces(nn.Module):
        """As fairseq's Fp32BatchNorm makes its buffers fp32, and as a cache grows."""

        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(2, dtype=torch.float16))
            self.register_buffer("cache", torch.zeros(1))

        def forward(self):
            self.mean, self.cache = self.mean.float() + 1, torch.ones(len(self.cache) + 1)

    module = Replaces()
    buffers = Buffers(module, module)
    before = buffers.now()
    assert len(before) == 2
    module()
    buffers.restore(before)
    assert module.mean.dtype == torch.float32 and module.mean.tolist() == [0, 0] and module.cache.tolist() == [1, 1]


def test_buffers_are_written_back_kind_by_kind(monkeypatch):
    """See the same of the weights, in tests/core."""
    module, kinds, copy = nn.BatchNorm1d(3), [], torch._foreach_copy_
    module.running_var = module.running_var.half()
    buffers = Buffers(module, module)
    monkeypatch.setattr(torch, "_foreach_copy_", lambda to, source: (kinds.append({t.dtype for t in to}), copy(to, source)))
    buffers.restore(buffers.now())
    assert len(kinds) == 3 and all(len(kind) == 1 for kind in kinds)


def test_a_buffer_whose_elements_share_their_memory_is_left_alone():
    """Torch refuses to write into it."""
    module = nn.Module()
    module.register_buffer("expanded", torch.ones(1).expand(8))
    module.register_buffer("own", torch.zeros(2))
    buffers = Buffers(module)
    before = buffers.now()
    module.own += 1
    buffers.restore(before)
    assert module.own.tolist() == [0, 0] and module.expanded.tolist() == [1] * 8


@pytest.mark.parametrize("sizes", [[4], [2, 3]], ids=["a batch", "two batches"])
@pytest.mark.parametrize("method", ["sgd", *METHODS])
def test_a_model_is_told_of_an_update_at_w_as_often_as_without_the_plugin(translation_data, method, sizes):
    """Some copy their weights then, where they train; a validation has just been made. Some count in a buffer."""
    flags = SGD if method != "sgd" else SGD[2:]
    trainer, told = toy.build_trainer(translation_data, "--optimizer", method, "--store-ema", *flags), []
    model = trainer.get_model()
    stock = type(model).set_num_updates

    class Copies(type(model)):
        def set_num_updates(self, num_updates):
            told.append((num_updates, self.training, [p.detach().clone() for p in self.parameters()]))
            self.count += 1
            stock(self, num_updates)

    model.__class__ = Copies
    model.register_buffer("count", torch.zeros(()))
    own = Copies.set_num_updates
    for update in range(3):
        trainer.valid_step(toy.batches(trainer, [4])[0])
        here = [p.detach().clone() for p in model.parameters()]
        trainer.train_step(toy.batches(trainer, sizes))
        assert [number for number, _, _ in told] == [update] * len(sizes)
        for _, training, weights in told:
            assert training and all(map(torch.equal, weights, here))
        told.clear()
    assert model.count == 3 * len(sizes)
    trainer.ema.get_model().set_num_updates(7)
    assert Copies.set_num_updates is own and len(told) == 1


def test_a_model_that_inherits_how_it_is_told_still_does(translation_data):
    trainer = toy.build_trainer(translation_data, "--optimizer", "sam", *SGD)
    kind = type(trainer.get_model())
    assert "set_num_updates" not in vars(kind)
    trainer.train_step(toy.batches(trainer, [4]))
    assert "set_num_updates" not in vars(kind)


@pytest.mark.parametrize("flag", ["pq", "scalar"])
@pytest.mark.parametrize("method", METHODS)
def test_noise_that_is_written_into_the_weights_is_refused(translation_data, method, flag):
    flags = ["--optimizer", method, *SGD, f"--quant-noise-{flag}", "0.1", "--quant-noise-pq-block-size", "8"]
    with pytest.raises(ValueError, match=f"--optimizer {method} does not work with --quant-noise-{flag} .here in"):
        toy.build_trainer(translation_data, *flags)


@pytest.mark.parametrize("method", METHODS)
def test_experts_are_refused(translation_data, monkeypatch, method):
    """fairseq marks those of its BASE layers, which need its compiled library, so."""
    make = torch.nn.Linear.__init__

    def make_and_mark(self, *args, **kwargs):
        make(self, *args, **kwargs)
        self.weight.expert = True

    monkeypatch.setattr(torch.nn.Linear, "__init__", make_and_mark)
    with pytest.raises(ValueError, match=f"--optimizer {method} does not work with --base-layers .experts, here encoder.layers.0"):
        toy.build_trainer(translation_data, "--optimizer", method, *SGD)


# ---------------------------------------------------------------------- out of memory


def test_what_a_failed_pass_held_is_gone_before_the_cache_is_emptied(translation_data, monkeypatch):
    trainer = toy.build_trainer(translation_data, "--optimizer", "sam", *SGD)
    held, alive = [], []

    def run_out(*args, **kwargs):
        large = torch.zeros(3)
        held.append(weakref.ref(large))
        raise RuntimeError("CUDA out of memory (injected)")

    samples = toy.batches(trainer, [4])
    zero_grad = trainer.zero_grad

    def look():
        alive.extend(one() is not None for one in held)
        zero_grad()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.get_criterion(), "forward", run_out)
        patch.setattr(trainer, "zero_grad", look)
        assert trainer.train_step(samples) is None
    assert alive and not any(alive)
    assert trainer.train_step(samples) is not None


def test_the_graph_of_a_backward_without_memory_is_gone_before_the_cache_is_emptied(translation_data, monkeypatch):
    """Of several micro-batches the last one keeps its graph for this, and the others are computed again with that memory."""
    trainer = toy.build_trainer(translation_data, "--optimizer", "dsam", *SGD)
    held, alive, losses = [], [], Passes.instance_losses

    def hold(self):
        found = losses(self)
        held.append(weakref.ref(found[-1]))
        return found

    def run_out(loss):
        raise RuntimeError("CUDA out of memory (injected)")

    zero_grad = trainer.zero_grad

    def look():
        alive.extend(one() is not None for one in held)
        zero_grad()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Passes, "instance_losses", hold)
        patch.setattr(trainer.optimizer, "backward", run_out)
        patch.setattr(trainer, "zero_grad", look)
        assert trainer.train_step(toy.batches(trainer, [4, 3])) is None
    assert alive and not any(alive)


def test_legacy_ddp_shares_again_after_an_exception():
    model = LegacyDistributedDataParallel(nn.Linear(1, 1), process_group=SimpleNamespace(size=lambda: 1))
    for before in (False, True):
        model.accumulate_grads = before
        with pytest.raises(RuntimeError), model.no_sync():
            assert model.accumulate_grads
            raise RuntimeError
        assert model.accumulate_grads is before


# ---------------------------------------------------------------------- samples and losses


@pytest.mark.parametrize("method", METHODS)
def test_what_a_criterion_writes_into_a_sample_is_gone_in_the_next_pass(translation_data, monkeypatch, method):
    trainer = toy.build_trainer(translation_data, "--optimizer", method, *SGD)
    criterion, seen = trainer.get_criterion(), []
    compute_loss = type(criterion).compute_loss

    def spoil(self, model, net_output, sample, *args, **kwargs):
        seen.append((sample["net_input"]["src_lengths"].clone(), sample.get("note")))
        result = compute_loss(self, model, net_output, sample, *args, **kwargs)
        sample["net_input"]["src_lengths"].fill_(0)
        sample["note"] = "seen"
        return result

    monkeypatch.setattr(type(criterion), "compute_loss", spoil)
    (sample,) = toy.batches(trainer, [4])
    expected = sample["net_input"]["src_lengths"].clone()
    trainer.train_step([sample])
    assert len(seen) == {"sam": 2, "dsam": 3}[method]
    assert all(torch.equal(lengths, expected) and note is None for lengths, note in seen)


def test_a_task_may_return_its_loss_as_a_number(translation_data, monkeypatch):
    """As multilingual_translation does."""
    ends = []
    for plain in (False, True):
        trainer = toy.build_trainer(translation_data, "--optimizer", "sam", *SGD)
        if plain:
            train_step = type(trainer.task).train_step

            def with_number(self, *args, **kwargs):
                loss, size, log = train_step(self, *args, **kwargs)
                return loss.item(), size, log

            monkeypatch.setattr(type(trainer.task), "train_step", with_number)
        with metrics.aggregate(new_root=True) as log:
            for sample in toy.batches(trainer, [4, 4]):
                trainer.train_step([sample])
        ends.append((float(log["sam_gap"].avg), toy.weights(trainer)))
    assert ends[0][0] > 0 and ends[0][0] == pytest.approx(ends[1][0], abs=1e-4)
    toy.assert_same(ends[0][1], ends[1][1])


# ---------------------------------------------------------------------- AMP's state


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="this torch has no GradScaler for a CPU")
def test_amp_saves_the_methods_state_and_the_loss_scale(translation_data, monkeypatch):
    start, make = 128.0, torch.amp.GradScaler
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", lambda **_: make("cpu", init_scale=start, growth_interval=2))
    flags = ["--optimizer", "sam", "--base-optimizer", "adam", "--lr", "0.01", "--amp"]
    trainer = toy.build_trainer(translation_data, *flags)
    for sample in toy.batches(trainer, [4, 4, 4]):
        trainer.train_step([sample])
    trainer.consolidate_optimizer()
    own = trainer.state_dict()["last_optimizer_state"][STATE_KEY]
    assert (own["optimizer"], own["base_optimizer"], own["scaler"]["scale"]) == ("sam", "adam", 256.0)
    assert own["scaler"]["_growth_tracker"] == 1

    path = translation_data.parent / "amp.pt"
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}})
    start = 4.0
    other = toy.build_trainer(translation_data, *flags)
    other.load_checkpoint(str(path))
    assert other.optimizer.scaler.state_dict() == trainer.optimizer.scaler.state_dict()
    third = toy.build_trainer(translation_data, "--optimizer", "sam", "--base-optimizer", "sgd", *toy.SGD, "--amp")
    with pytest.raises(ValueError, match="--base-optimizer adam.*--base-optimizer sgd"):
        third.load_checkpoint(str(path))


# ---------------------------------------------------------------------- NumPy's and Python's random numbers


def drawing(trainer, drawn):
    """Let the encoder draw from both, as layer drop in wav2vec 2.0 does."""
    encoder = trainer.get_model().encoder
    forward = encoder.forward

    def draw_and_run(*args, **kwargs):
        drawn.append((numpy.random.random(), random.random()))
        return forward(*args, **kwargs)

    encoder.forward = draw_and_run
    return trainer


@pytest.mark.parametrize("method, counts", [("sgd", [2]), ("sam", [2, 2]), ("dsam", [2, 2, 1, 2])])
def test_all_passes_draw_the_same(translation_data, method, counts):
    """δ-SAM: at a random point, at w, the first micro-batch of the two there again for its backward; then the descent."""
    drawn = []
    flags = [] if method == "sgd" else ["--base-optimizer", "sgd"]
    trainer = drawing(toy.build_trainer(translation_data, "--optimizer", method, *flags, *toy.SGD, "--num-workers", "1"), drawn)
    numpy.random.seed(3)
    random.seed(3)
    trainer.train_step(toy.batches(trainer, [4, 4]))
    numpy.random.seed(3)
    random.seed(3)
    expected = [(numpy.random.random(), random.random()) for _ in range(2)]
    assert [expected.index(pair) for pair in drawn] == [i for count in counts for i in range(count)]


def test_the_loading_threads_draws_are_not_taken_back(translation_data):
    """With --num-workers 0 data are loaded in a thread of this process, on the same generators."""
    for workers, buffer, is_restored in ((0, 10, False), (0, 0, True), (1, 10, True)):
        cfg = toy.config(translation_data, "--optimizer", "sgd", *toy.SGD, "--num-workers", workers, "--data-buffer-size", buffer)
        state, before = RandomState(cfg), torch.get_rng_state()
        first = numpy.random.random(), random.random()
        torch.rand(3)
        state.restore()
        assert ((numpy.random.random(), random.random()) == first) == is_restored
        assert torch.equal(torch.get_rng_state(), before)
