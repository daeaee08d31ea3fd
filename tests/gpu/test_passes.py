"""The extra passes on a GPU: the same dropout masks, no waiting for the device, memory that runs out."""

import importlib
from pathlib import Path

import on_gpu
import pytest
import torch
from fairseq.logging import metrics
from on_gpu import CLIMBING, PRECISIONS, build, everything, needs_gpu, updates
from processes import assert_equal

from sharp_plugins.host.passes import Passes

pytestmark = needs_gpu("its dropout, its memory, and a host that may have to wait for it")
BENCHMARKS = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Imports a script of examples/benchmarks by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.parametrize("precision", PRECISIONS)
def test_all_passes_see_the_same_masks(translation_data, deterministic, precision):
    trainer = build(translation_data, "dsam", precision, "--dropout", "0.3")
    samples = updates(trainer, 1)[0]
    trainer.train_step(samples)
    passes = Passes(trainer, samples, is_global=False, raise_oom=False)
    noisy = passes.instance_losses_without_grad()
    again = passes.instance_losses()
    others = passes.instance_losses_without_grad(independent_dropout=True)
    total = passes.forward_backward()
    assert_equal([one.detach() for one in noisy], [one.detach() for one in again])
    assert not any(torch.equal(one, other) for one, other in zip(noisy, others))
    torch.testing.assert_close(total, sum(one.detach().float().sum() for one in again), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", CLIMBING)
def test_the_descent_sees_the_ascents_masks(translation_data, method):
    """At a radius of next to nothing the loss of the descent is that of the ascent."""
    trainer = build(translation_data, method, "fp32", "--dropout", "0.3", "--sam-rho", "1e-8")
    trainer.train_step(updates(trainer, 1)[0])
    logged = metrics.get_smoothed_values("train")
    assert abs(logged["sam_gap"]) < 1e-4 < logged["loss"]


@pytest.mark.parametrize("phase", ["ascent", "descent"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("method", CLIMBING)
def test_memory_that_runs_out_skips_the_update(translation_data, monkeypatch, precision, method, phase):
    """torch's own error, from an allocation that no device has room for."""
    trainer = build(translation_data, method, precision)
    samples = updates(trainer, 2)
    trainer.train_step(samples[0])
    before, backward, fired = everything(trainer), trainer.optimizer.backward, []

    def greedy(loss):
        if on_gpu.ball(trainer).climbed == (phase == "descent") and not fired:
            fired.append(phase)
            if on_gpu.DEVICE == "cpu":
                raise RuntimeError("out of memory")
            torch.empty(2**46, dtype=torch.uint8, device=on_gpu.DEVICE)
        backward(loss)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.optimizer, "backward", greedy)
        assert trainer.train_step(samples[1]) is None
    assert fired
    assert_equal(everything(trainer), before)
    assert trainer.train_step(samples[1]) is not None


# ---------------------------------------------------------------------- does the host wait?


def test_a_wait_is_noticed(script):
    """The two tests below can fail."""
    waits, bar_alone = script("synchronisations"), script("bar_alone")
    value, counts = torch.ones((), device="cuda"), []
    for what in (lambda: value.add_(1), lambda: value.item(), lambda: [value.item() for _ in range(3)]):
        with waits.warned_of_waits() as found:
            what()
        counts.append(sum(waits.WAITS in str(one.message) for one in found))
    assert counts[0] == 0 < counts[1] and counts[2] == 3 * counts[1]
    with pytest.raises(RuntimeError), bar_alone.refusing_to_wait():
        value.item()


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "fp16-not-flat"])
@pytest.mark.parametrize("method", ["sam", "dsam", "nbar", "obar", "lora-sam", "lora-dsam"])
def test_no_method_waits_more_often_than_its_base(script, method, precision):
    waits = script("synchronisations")
    sample = waits.random_sample("tiny", 4, 8, device=on_gpu.DEVICE)
    own, base = (
        waits.waits(waits.trainer_for(one, precision, "tiny", on_gpu.DEVICE), sample, 3)
        for one in (method, waits.METHODS[method][2])
    )
    assert own <= base


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "fp16-not-flat"])
@pytest.mark.parametrize("variant", ["nbar", "obar"])
def test_bars_own_code_never_waits(script, variant, precision):
    waits, bar_alone = script("synchronisations"), script("bar_alone")
    sample = waits.random_sample("tiny", 4, 8, device=on_gpu.DEVICE)
    trainer = waits.trainer_for(variant, precision, "tiny", on_gpu.DEVICE)
    assert bar_alone.host_reads(trainer, sample, 3) == 0
