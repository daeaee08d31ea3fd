"""Each repair of fairseq: that it works, and that it does nothing where fairseq is right."""

import argparse
import sys
import types

import numpy
import pytest
import torch
import toy
from fairseq import options, utils
from fairseq.data import data_utils, language_pair_dataset, token_block_dataset
from fairseq.dataclass.configs import EMAConfig
from fairseq.models import distributed_fairseq_model
from fairseq.models.ema.ema import EMA
from fairseq.modules import dynamic_crf_layer

from sharp_plugins.host import flags, mends
from sharp_plugins.host.install import install


@pytest.mark.skipif(
    not hasattr(torch.serialization, "add_safe_globals"), reason="before torch 2.6 fairseq loads checkpoints without a mend"
)
def test_checkpoints_with_a_namespace_load_safely(tmp_path):
    torch.save({"args": argparse.Namespace(arch="transformer")}, tmp_path / "checkpoint.pt")
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["args"].arch == "transformer"


class Arbitrary:
    pass


def test_other_classes_are_still_refused(tmp_path):
    torch.save({"args": Arbitrary()}, tmp_path / "checkpoint.pt")
    with pytest.raises(Exception, match="[Ww]eights.only"):
        torch.load(tmp_path / "checkpoint.pt", weights_only=True)


def parse(data, *flags):
    parser = options.get_training_parser()
    return options.parse_args_and_arch(parser, [str(data), "--arch", "transformer", "--optimizer", "sgd", *flags])


def test_bf16_does_not_ask_for_a_tpu(translation_data):
    assert parse(translation_data, "--bf16").tpu is False
    assert parse(translation_data, "--memory-efficient-bf16").tpu is False


def test_bf16_on_a_tpu_stays_fairseqs_affair(translation_data, monkeypatch):
    assert parse(translation_data, "--bf16", "--tpu").tpu is True
    spec = types.SimpleNamespace()
    original = flags.importlib.util.find_spec
    monkeypatch.setattr(flags.importlib.util, "find_spec", lambda name: spec if name == "torch_xla" else original(name))
    assert parse(translation_data, "--bf16").tpu is True


def test_old_numpy_aliases_are_there_for_fairseq_alone():
    assert data_utils.np.fromiter((2.0, 3.0), data_utils.np.int).tolist() == [2, 3]
    assert dynamic_crf_layer.np.float("inf") == float("inf")
    # Language models' data with a sentence a block, and translation data's numbers of tokens.
    blocks = token_block_dataset.TokenBlockDataset(
        [torch.tensor([5, 2]), torch.tensor([5, 6, 2])], [2, 3], None, pad=1, eos=2, break_mode="eos"
    )
    assert blocks.sizes.tolist() == [2, 3]
    assert language_pair_dataset.np.vectorize(len, otypes=[language_pair_dataset.np.compat.long])(["ab"]).tolist() == [2]
    assert data_utils.np.random is numpy.random
    assert "int" not in vars(numpy) or numpy.lib.NumpyVersion(numpy.__version__) < "1.24.0"


def test_numpy_with_aliases_of_its_own_is_left_alone(monkeypatch):
    monkeypatch.setattr(numpy, "int", int, raising=False)
    monkeypatch.setattr(data_utils, "np", numpy)
    mends.restore_numpy_aliases()
    assert data_utils.np is numpy


def test_pytorch_ddp_drops_the_device_of_a_module_on_a_cpu(monkeypatch):
    given = {}
    stock = torch.nn.parallel.DistributedDataParallel

    def init(self, module, device_ids=None, output_device=None, **kwargs):
        given.update(device_ids=device_ids, output_device=output_device)

    class Stock(stock):
        __init__ = init

    monkeypatch.setattr(distributed_fairseq_model, "DistributedDataParallel", Stock)
    mends.let_pytorch_ddp_run_on_cpu()
    patched = distributed_fairseq_model.DistributedDataParallel
    assert issubclass(patched, stock)
    patched(torch.nn.Linear(1, 1), device_ids=[0], output_device=0)
    assert given == {"device_ids": None, "output_device": None}
    patched(torch.nn.Linear(1, 1, device="meta"), device_ids=[0], output_device=0)
    assert given == {"device_ids": [0], "output_device": 0}
    assert torch.nn.parallel.DistributedDataParallel is stock


@pytest.mark.parametrize("count", [3, 16, 21, 300])
@pytest.mark.parametrize("multiple", [1, 8])
def test_no_sentence_is_lost_in_batching(multiple, count):
    limits = {"max_sentences": 16, "max_tokens": 1000, "required_batch_size_multiple": multiple}
    indices, lengths = numpy.arange(count), numpy.full(count, 7)
    batches = data_utils.batch_by_size(indices, num_tokens_fn=None, num_tokens_vec=lengths, **limits)
    assert numpy.concatenate(batches).tolist() == indices.tolist()
    assert all(0 < len(batch) <= 16 for batch in batches)
    assert data_utils.batch_by_size(indices[:0], num_tokens_fn=None, num_tokens_vec=lengths[:0], **limits) == []


def test_fp16_flattens_on_a_cpu(translation_data):
    """With a stock optimizer as with ours; and the updates are those of weights that are not flat."""
    ends = []
    for flat in ([], ["--fp16-no-flatten-grads"]):
        trainer = toy.build_trainer(translation_data, "--optimizer", "adam", "--lr", "0.01", "--fp16", *flat)
        assert trainer.optimizer.has_flat_params == (not flat)
        for sizes in ([4, 4], [6]):
            trainer.train_step(toy.batches(trainer, sizes))
        assert trainer.get_num_updates() == 2
        ends.append(toy.weights(trainer))
    toy.assert_same_but_for_rounding(*ends)


@pytest.mark.parametrize("optimizer", ["sgd", "sam"])
def test_an_overflow_on_a_cpu_skips_the_update(translation_data, optimizer):
    trainer = toy.build_trainer(
        translation_data,
        "--optimizer",
        optimizer,
        "--lr",
        "0.1",
        "--fp16",
        "--fp16-no-flatten-grads",
        "--fp16-init-scale",
        str(2**30),
    )
    before = toy.weights(trainer)
    assert trainer.train_step(toy.batches(trainer, [4])) is None
    toy.assert_same(before, toy.weights(trainer))
    assert trainer.optimizer.scaler.loss_scale == 2**29


def test_other_assertions_are_not_swallowed(translation_data, monkeypatch, tmp_path):
    trainer = toy.build_trainer(translation_data, "--optimizer", "sgd", "--lr", "0.1", "--save-dir", tmp_path)

    def fail(*args, **kwargs):
        raise AssertionError("a real one")

    monkeypatch.setattr(trainer.get_criterion(), "forward", fail)
    with pytest.raises(AssertionError, match="a real one"):
        trainer.train_step(toy.batches(trainer, [4]))


@pytest.mark.parametrize("fp32", [False, True], ids=["own precision", "ema_fp32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_shared_weights_are_averaged_as_all_others(dtype, fp32):
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)}).to(dtype)
    model["b"].weight = model["a"].weight
    before = {name: p.detach().clone() for name, p in model.state_dict().items()}
    ema = EMA(model, EMAConfig(store_ema=True, ema_decay=0.75, ema_fp32=fp32))
    for step in (1, 2):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1.0)
        ema.step(model, step)
    for name, average in ema.get_model().state_dict().items():
        # 0.75 (0.75 w + 0.25 (w + 1)) + 0.25 (w + 2)
        torch.testing.assert_close(average, before[name] + 0.6875, rtol=0, atol=1e-6 if dtype == torch.float32 else 2e-3)


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="this torch has no GradScaler for a CPU")
@pytest.mark.parametrize("optimizer", [["sgd"], ["sam", "--base-optimizer", "sgd", "--sam-rho", "0.5"]], ids=["sgd", "sam"])
def test_amp_unscales_gradients_once(translation_data, optimizer):
    """The scale is no part of the update; and an overflow skips it and lowers the scale."""
    flags = ["--optimizer", *optimizer, *toy.SGD, "--dropout", "0"]
    plain = toy.build_trainer(translation_data, *flags)
    amp = toy.build_trainer(translation_data, *flags, "--amp")
    scaler = amp.optimizer._grad_scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    start = toy.weights(plain)
    for trainer in (plain, amp):
        for sample in toy.batches(trainer, [4, 4]):
            trainer.train_step([sample])
    now = toy.weights(plain)
    assert any(not torch.equal(now[name], start[name]) for name in now)
    for name, value in toy.weights(amp).items():
        torch.testing.assert_close(value, now[name], rtol=1e-4, atol=1e-6)

    before = toy.weights(amp)
    for p in amp.get_model().parameters():
        p.grad = torch.full_like(p, float("inf"))
    scaler.scale(torch.ones(1))
    assert not amp.optimizer.clip_grad_norm(0.0).isfinite()
    amp.optimizer.step()
    toy.assert_same(toy.weights(amp), before)
    assert scaler.get_scale() == 64


@pytest.mark.skipif(toy.DEVICE == "cuda", reason="a GPU has a loss scale, which is lowered")
@pytest.mark.parametrize("precision", [[], ["--amp"]], ids=["fp32", "amp"])
@pytest.mark.parametrize("optimizer", ["sgd", "sam"])
def test_gradients_that_are_not_finite_end_amp_on_a_cpu_as_fp32(translation_data, tmp_path, monkeypatch, optimizer, precision):
    trainer = toy.build_trainer(translation_data, "--optimizer", optimizer, "--lr", "0.1", "--save-dir", tmp_path, *precision)
    assert trainer.train_step(toy.batches(trainer, [4])) is not None
    before, forward = toy.weights(trainer), trainer.get_criterion().forward

    def infinite(*args, **kwargs):
        loss, size, log = forward(*args, **kwargs)
        return loss * float("inf"), size, log

    monkeypatch.setattr(trainer.get_criterion(), "forward", infinite)
    with pytest.raises(FloatingPointError, match="gradients are Nan/Inf"):
        trainer.train_step(toy.batches(trainer, [4]))
    assert (tmp_path / "crash.pt").exists()
    toy.assert_same(toy.weights(trainer), before)


@pytest.mark.parametrize("max_norm", [0.0, 0.5])
def test_gradients_on_a_cpu_are_clipped_there_beside_a_gpu(monkeypatch, max_norm):
    """A GPU is played by torch's device without memory, from which no number comes back."""
    ours, others = ([torch.nn.Parameter(torch.zeros(n)) for n in (3, 4)] for _ in range(2))
    for params in (ours, others):
        for n, p in enumerate(params):
            p.grad = torch.arange(p.numel(), dtype=torch.float32) + n
    expected = torch.nn.utils.clip_grad_norm_(others, max_norm or float("inf"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: "meta")
    norm = utils.clip_grad_norm_(ours, max_norm)
    torch.testing.assert_close(norm, expected)
    for p, q in zip(ours, others):
        torch.testing.assert_close(p.grad, q.grad)
    assert utils.torch.cuda.is_available()


def test_installing_again_changes_nothing():
    from fairseq.trainer import Trainer

    before = (
        Trainer.train_step,
        Trainer.__init__,
        options.parse_args_and_arch,
        data_utils.np,
        distributed_fairseq_model.DistributedDataParallel,
    )
    install()
    after = (
        Trainer.train_step,
        Trainer.__init__,
        options.parse_args_and_arch,
        data_utils.np,
        distributed_fairseq_model.DistributedDataParallel,
    )
    assert all(a is b for a, b in zip(before, after))
    assert "torch_xla" not in sys.modules
