"""The flags of a base optimizer and of a base architecture are there whichever way a program gets to fairseq's parser."""

from pathlib import Path

import pytest
import toy
from fairseq import options
from processes import fork, last, line

ROOT = Path(__file__).resolve().parents[2]

OPTIMIZER = "--optimizer sam --sam-rho 0.1 --base-optimizer sgd --momentum 0.9 --weight-decay 0.01 --lr 0.1".split()
LORA = ["--arch", "lora", "--base-arch", *toy.MODEL[1:], "--lora-rank", "2"]

# Ways to the function that parses; the first two look it up before it loads the plugin.
WAYS = {
    "one expression": "args = options.parse_args_and_arch(options.get_training_parser(), {line!r})",
    "by its name": "for _ in range(2): args = parse_args_and_arch(options.get_training_parser(), {line!r})",
    "after register()": "sharp_plugins.register()\nargs = options.parse_args_and_arch(options.get_training_parser(), {line!r})",
    "from sys.argv": "sys.argv = ['x', *{line!r}]\nargs = options.parse_args_and_arch(options.get_training_parser())",
}
PARSE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import sharp_plugins.core.perturbation
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.options import parse_args_and_arch
"""


def program(way, arguments, then=""):
    return f"{PARSE}\n{WAYS[way].format(line=[str(part) for part in arguments])}\n{then}"


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


def test_the_base_parts_flags_reach_a_trainer(translation_data, tmp_path, way):
    then = """
cfg = convert_namespace_to_omegaconf(args)
import json
base = json.loads(cfg.optimizer.base)
assert (base["momentum"], base["weight_decay"]) == (0.9, 0.01) and cfg.optimizer.sam_rho == 0.1, cfg.optimizer
assert (cfg.model.lora_rank, cfg.model.base_arch, cfg.model.encoder_ffn_embed_dim) == (2, "transformer", 32)
import toy
trainer = toy.trainer_from(cfg)
(group,) = trainer.optimizer.param_groups
assert group["momentum"] == 0.9 and trainer.device.type == "cpu"
"""
    # --bf16, which fairseq's parser takes for a TPU
    arguments = line(translation_data, tmp_path, *OPTIMIZER, "--batch-size", "8", "--bf16", "--fp16-no-flatten-grads", model=LORA)
    path = f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\n"
    fork(path + program(way, arguments, then), tmp_path / "log").succeed()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--optimizer", "sam", "--base-optimizer", "sgd", "--adam-betas", "(0.9,0.9)"], "unrecognized arguments: --adam-betas"),
        (["--optimizer", "sam", "--sam-rho", "-1"], "--sam-rho must be"),
        (["--optimizer", "sam", "--base-optimizer", "bar"], "--base-optimizer bar: bar itself wraps"),
        (["--optimizer", "adam", "--lora-rank", "0"], "--lora-rank must be"),
        (["--optimizer", "adam", "--base-arch", "nosuch"], "--base-arch nosuch: there is no such architecture"),
        (["--optimizer", "adam", "--base-arch", "lora"], "--base-arch lora: lora itself changes"),
        (["--optimizer", "adam", "--base-arch", "adapter"], "--base-arch adapter: adapter itself changes"),
        (["--optimizer", "adam", "--quant-noise-pq", "0.1"], "--arch lora does not work with --quant-noise-pq 0.1"),
    ],
)
def test_bad_flags_are_refused_by_name_either_way(translation_data, tmp_path, capsys, flags, words):
    arguments = line(translation_data, tmp_path, "--lr", "0.1", "--batch-size", "8", *flags, model=LORA)
    looked_up_before = options.parse_args_and_arch.__wrapped__
    for parse in (looked_up_before, options.parse_args_and_arch):
        with pytest.raises(SystemExit):
            parse(options.get_training_parser(), arguments)
        assert words in capsys.readouterr().err.split("error: ")[-1]


def test_a_program_that_calls_fairseq_train_after_other_imports(translation_data, tmp_path):
    arguments = line(translation_data, tmp_path, *OPTIMIZER, "--batch-size", "8", "--max-update", "2", model=LORA)
    code = f"{PARSE}\nfrom fairseq_cli.train import cli_main\nsys.argv = ['fairseq-train', *{arguments!r}]\ncli_main()"
    run = fork(code, tmp_path / "log").succeed()
    assert "sam_gap" in run.text and "balancedness_encoder.layers.0.self_attn.q_proj" in run.text
    assert last(tmp_path)["last_optimizer_state"]["param_groups"][0]["momentum"] == 0.9
