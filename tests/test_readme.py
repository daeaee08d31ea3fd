"""The README's own lines run."""

import re
from pathlib import Path

import torch

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def code_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_loop_without_fairseq_learns():
    (loop,) = [block for block in code_blocks("python") if "Perturbation" in block]
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    x = torch.randn(256, 4)
    y = (x[:, 0] * x[:, 1] > 0).long()
    names = {
        "torch": torch,
        "model": model,
        "losses": lambda output, target: torch.nn.functional.cross_entropy(output, target, reduction="none"),
        "optimizer": torch.optim.Adam(model.parameters(), lr=0.02),
        "batches": [(x[i : i + 32], y[i : i + 32]) for i in range(0, 256, 32)] * 30,
    }
    before = names["losses"](model(x), y).mean().item()
    exec(loop, names)
    after = names["losses"](model(x), y).mean().item()
    assert after < 0.5 * before
    assert not names["ball"].climbed


def test_lora_without_fairseq():
    (lines,) = [block for block in code_blocks("python") if "add_lora" in block]
    model = torch.nn.Sequential()
    model.query, model.key, model.value = (torch.nn.Linear(16, 16) for _ in range(3))
    exec(lines, {"model": model})
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "query.lora_A",
        "query.lora_B",
        "value.lora_A",
        "value.lora_B",
    ]


def test_every_flag_is_in_the_readme():
    from sharp_plugins import optim
    from sharp_plugins.models.adapter import AdapterConfig
    from sharp_plugins.models.lora import LoRAConfig

    for config in (optim.SAMConfig, optim.DSAMConfig, optim.BARConfig, LoRAConfig, AdapterConfig):
        for name in config.__dataclass_fields__:
            if name.startswith(("sam_", "dsam_", "bar_", "lora_", "adapter_")) or name in ("base_optimizer", "base_arch"):
                assert f"--{name.replace('_', '-')}" in README, name
