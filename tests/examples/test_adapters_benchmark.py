"""`examples/benchmarks/adapters.py` at its smallest size, and the facts that its numbers rest on."""

import importlib
import json
import logging
import time
from pathlib import Path

import pytest
import torch
import toy

import sharp_plugins.optim.bar as bar_module
from sharp_plugins.networks import lora_layers

BENCHMARKS = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"
TINY = ["--size", "tiny", "--batch", "2", "--tokens", "4", "--device", "cpu"]
WITHOUT_PEFT = ["full", "lora", "nbar", "obar", "lora-sam"]


@pytest.fixture
def script(monkeypatch):
    """Imports a script of examples/benchmarks by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    logging.disable(logging.NOTSET)  # the scripts silence fairseq


@pytest.fixture
def adapters(script):
    return script("adapters")


# ---------------------------------------------------------------------- what is compared


def test_all_methods_start_from_the_same_model(adapters):
    args, sample = adapters.arguments(TINY), adapters.random_sample("tiny", 2, 4)
    models = {name: adapters.trainer_for(name, args).get_model() for name in WITHOUT_PEFT}
    trained = {name: {key for key, p in model.named_parameters() if p.requires_grad} for name, model in models.items()}
    assert trained["full"] == set(dict(models["full"].named_parameters()))
    head = {f"classifier.{module}.{kind}" for module in ("head", "dense") for kind in ("weight", "bias")}
    updates = {f"classifier.layers.{i}.{part}.lora_{side}" for i in (0, 1) for part in ("query", "value") for side in "AB"}
    assert all(trained[name] == head | updates for name in WITHOUT_PEFT[1:])
    toy.freeze_alike(models["full"], models["lora"])
    logits = [model.eval()(**sample["net_input"])[0] for model in models.values()]
    assert all(torch.equal(logits[0], one) for one in logits)


def test_ours_and_pefts_are_the_same_model(adapters):
    """The same frozen weights, and with the same A and B the same loss and the same gradients of A and B."""
    pytest.importorskip("peft")
    args, sample = adapters.arguments(TINY), adapters.random_sample("tiny", 2, 4)
    ours, theirs = (adapters.trainer_for(name, args).get_model().eval() for name in ("lora", "peft"))
    adapters.peft_side.draw_the_same_updates(ours, theirs)
    for model in (ours, theirs):
        logits = model(**sample["net_input"])[0]
        torch.nn.functional.cross_entropy(logits, sample["target"]).backward()
    for name, layer in lora_layers(ours).items():
        other = theirs.get_submodule(name)
        assert torch.equal(layer.base_weight, other.base_layer.weight)
        assert layer.base_weight.grad is None and other.base_layer.weight.grad is None
        for own, peft in ((layer.lora_A, other.lora_A), (layer.lora_B, other.lora_B)):
            assert own.grad.abs().max() > 0
            torch.testing.assert_close(own.grad, peft["default"].weight.grad, rtol=1e-4, atol=1e-7)
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, theirs)]
    assert counts[0] == counts[1]
    a, b = adapters.losses_with_the_same_updates(args)
    assert a == pytest.approx(b, rel=1e-5)


def test_missing_peft_is_named(adapters, monkeypatch, capsys):
    monkeypatch.setattr(adapters.measure, "find_spec", lambda name: None)
    assert adapters.arguments(TINY).methods == WITHOUT_PEFT
    with pytest.raises(SystemExit):
        adapters.arguments([*TINY, "--methods", "lora", "peft"])
    assert "pip install peft" in capsys.readouterr().err


# ---------------------------------------------------------------------- time and memory


@pytest.mark.parametrize("count", [2, 4, 5, 6, 7])
def test_each_method_follows_each_other_one_equally_often(script, count):
    order = script("measure").order
    turns = [order(count, turn) for turn in range(count if count % 2 == 0 else 2 * count)]
    assert all(sorted(turn) == list(range(count)) for turn in turns)
    neighbours = [pair for turn in turns for pair in zip(turn, turn[1:])]
    times = {neighbours.count((a, b)) for a in range(count) for b in range(count) if a != b}
    assert times == {len(turns) // count}


def test_rounds_are_compared_with_themselves(script):
    """A machine that is slower in some rounds changes no ratio."""
    measure, now, slowness = script("measure"), [0.0], [1.0]

    def step_of(seconds):
        def step():
            now[0] += seconds * slowness[0]

        return step

    steps = {"one": step_of(1.0), "two": step_of(2.0)}
    fast = measure.in_turns(steps, 2, lambda: now[0])
    slowness[0] = 5.0
    slow = measure.in_turns(steps, 2, lambda: now[0])
    seconds = {name: fast[name] + slow[name] for name in steps}
    assert seconds == {"one": [1, 1, 5, 5], "two": [2, 2, 10, 10]}
    ((name, quartiles, target),) = measure.ratio_rows(seconds, [measure.Ratio("2 / 1", "two", "one", 1.5, 1.4)], "cpu")
    assert (name, quartiles, target) == ("2 / 1", "2.000 (2.000-2.000)", "≤ 1.50")


def test_adapters_measure_all_methods(adapters):
    args = adapters.arguments([*TINY, "--rounds", "2", "--methods", *WITHOUT_PEFT])
    seconds = adapters.measure_time(args)
    assert {method: len(values) for method, values in seconds.items()} == dict.fromkeys(WITHOUT_PEFT, 2)
    text = adapters.time_tables(seconds, "cpu")
    for row in ("| nBAR / LoRA |", "| oBAR / LoRA |", "| LoRA-SAM / LoRA |", "| what nBAR adds / what SAM adds |"):
        assert row in text
    assert "PEFT" not in text and "≤ 1.02" in text and "≤ 1.01" in adapters.time_tables(seconds, "cuda")


def test_memory_of_a_method(adapters, capsys):
    if not Path("/proc/self/status").exists():
        pytest.skip("reads /proc")
    for method in ("full", "lora"):
        adapters.main([*TINY, "--memory-steps", "2", "--memory-of", method])
    full, lora = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert 0 < full["start"] <= full["peak"] and 0 < lora["weights"] < full["weights"]


@pytest.mark.slow
def test_adapters_script(adapters, tmp_path):
    out = tmp_path / "table.md"
    adapters.main([*TINY, "--methods", "full", "lora", "--rounds", "1", "--memory-steps", "2", "--out", str(out)])
    text = out.read_text()
    assert text.startswith("### Adapters: tiny, fp32, 2 x 4 tokens") and "| LoRA / full |" in text
    assert "| full | " in text and "1.000 |  | 0.03 |" in text  # the memory's table; 8,000 weights are trained


# ---------------------------------------------------------------------- BAR's own code


def trainer_of(adapters, method, *more):
    args = adapters.arguments([*TINY, "--log-interval", "1", *more])
    return adapters.trainer_for(method, args), adapters.random_sample("tiny", 2, 4)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "memory-efficient-bf16"])
@pytest.mark.parametrize("variant", ["nbar", "obar"])
def test_bar_makes_no_host_wait(script, adapters, variant, precision):
    trainer, sample = trainer_of(adapters, variant, "--precision", precision)
    assert script("bar_alone").host_reads(trainer, sample, 2) == 0


@pytest.mark.parametrize("where", ["factors", "sign_by_norms"])
def test_a_host_that_waits_is_noticed(script, adapters, monkeypatch, where):
    """The test above can fail: a value that is read in BAR's step is counted, in every update."""
    original = getattr(bar_module, where)

    def reading(first, *rest):
        if torch.is_tensor(first):
            first.sum().item()
        else:
            bool(first.x.weights[0].any())
        return original(first, *rest)

    monkeypatch.setattr(bar_module, where, reading)
    trainer, sample = trainer_of(adapters, "nbar")
    assert script("bar_alone").host_reads(trainer, sample, 2) == 2


def test_only_bar_is_left_around_bar(script, adapters):
    """Within `around_bar`, the pairs are balanced and the base optimizer updates nothing."""
    bar_alone, calls = script("bar_alone"), []
    trainer, sample = trainer_of(adapters, "obar", "--rho", "0.05")
    trainer.train_step([sample])
    model = trainer.get_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    class Watch:
        def __enter__(self):
            calls.append("in")

        def __exit__(self, *exc):
            pass

    with bar_alone.around_bar(trainer, Watch):
        trainer.train_step([sample])
    assert len(calls) == 3  # prepare, step, log
    assert trainer.get_num_updates() == 2
    layer = next(iter(lora_layers(model)))
    eta_alpha = 1e-5 * 0.5  # ‖A‖ is far larger than ‖B‖ then: A shrinks and B grows
    torch.testing.assert_close(model.get_parameter(f"{layer}.lora_A"), before[f"{layer}.lora_A"] * (1 - eta_alpha))
    assert not torch.equal(model.get_parameter(f"{layer}.lora_A"), before[f"{layer}.lora_A"])
    for name in ("classifier.head.weight", "classifier.dense.bias"):
        assert torch.equal(model.get_parameter(name), before[name])
    trainer.train_step([sample])
    assert not torch.equal(model.get_parameter("classifier.head.weight"), before["classifier.head.weight"])


def test_bars_own_time_is_a_part_of_the_update(script, adapters):
    trainer, sample = trainer_of(adapters, "nbar")
    start = time.perf_counter()
    seconds = script("bar_alone").own_seconds(trainer, sample, 3)
    assert len(seconds) == 3 and min(seconds) > 0 and sum(seconds) < time.perf_counter() - start


def test_table_of_bar_alone(adapters):
    text = adapters.bar_alone_table(adapters.arguments([*TINY, "--rounds", "2"]))
    assert [line.split(" | ")[0] for line in text.splitlines()[2:]] == ["| nbar", "| obar"]
    assert all(line.endswith("| 0 |") for line in text.splitlines()[2:])
