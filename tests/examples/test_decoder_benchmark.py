"""`examples/benchmarks/decoder_step.py` at its smallest size: the two models are one, and the tables come out."""

import importlib
import logging
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"
TINY = "--tiny --layers 2 --batch 2 --tokens 6 --device cpu --rounds 2 --memory-steps 0".split()
SHAPES = ["smollm2-135m", "gpt2-medium"]

pytest.importorskip("transformers")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("decoder_step")
    logging.disable(logging.NOTSET)  # the scripts silence fairseq


@pytest.mark.parametrize("shape", SHAPES)
def test_all_methods_are_one_model(script, shape):
    args = script.arguments([*TINY, "--shape", shape])
    losses = script.losses(script.models_of(args), args)
    assert set(losses) >= {"ours", "theirs", "ours-lora"}
    assert list(losses.values()) == pytest.approx([losses["theirs"]] * len(losses), abs=1e-5)
    gradients = {}
    for method in ("ours", "theirs"):
        model = script.model_of(method, args)
        script.loss_of(method, model, script.tokens_of(args)).backward()
        gradients[method] = {name: p.grad for name, p in model.named_parameters()}
        if method == "theirs":
            settings = script.decoder_side.settings_of(shape, args.layers, args.dropout, args.tiny)
            gradients[method] = script.decoder_side.state_for_ours(gradients[method], settings)
        gradients[method].pop("output_projection.weight", None)
    assert gradients["ours"].keys() == gradients["theirs"].keys()
    for name, gradient in gradients["ours"].items():
        torch.testing.assert_close(gradient, gradients["theirs"][name], rtol=1e-3, atol=1e-6, msg=name)


def test_lora_trains_updates_alone(script):
    pytest.importorskip("peft")
    for shape in SHAPES:
        args = script.arguments([*TINY, "--shape", shape])
        for method in ("ours-lora", "theirs-lora"):
            names = [name for name, p in script.model_of(method, args).named_parameters() if p.requires_grad]
            assert names and all("lora_" in name for name in names)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_tables(script, precision, capsys, tmp_path):
    out = tmp_path / "out.md"
    script.main([*TINY, "--precision", precision, "--methods", "ours", "theirs", "--out", str(out)])
    text = capsys.readouterr().out
    assert "ours / theirs" in text and "≤ 1.00" in text and out.read_text().strip() == text.strip()


def test_missing_peft_is_named(script, monkeypatch, capsys):
    monkeypatch.setattr(script.measure, "find_spec", lambda name: None)
    assert script.arguments(TINY).methods == ["ours", "theirs", "ours-lora"]
    with pytest.raises(SystemExit):
        script.arguments([*TINY, "--methods", "theirs-lora"])
    assert "pip install peft" in capsys.readouterr().err
