"""The mean of LoRA checkpoints: of W + s B A, formed by hand, which the means of A and of B do not make."""

import argparse
import copy
import gc
import os
import weakref

import pytest
import torch
from processes import checkpoint

from sharp_plugins.lora import commands
from sharp_plugins.lora.__main__ import main
from sharp_plugins.lora.average import Mean
from sharp_plugins.lora.merge import merge
from sharp_plugins.networks import LoRASettings

SETTINGS = LoRASettings(rank=2, alpha=6.0, also_train="head", bias="lora_only", target="fc")


def state(seed, dtype=torch.float32):
    """One run's weights: all have the base of seed 0."""
    base, own = (torch.Generator().manual_seed(number) for number in (0, 100 + seed))

    def frozen(*shape):
        return torch.randn(*shape, generator=base).to(dtype)

    def trained(*shape):
        return torch.randn(*shape, generator=own).to(dtype)

    table = frozen(11, 8)
    return {
        "encoder.fc.weight": frozen(16, 8),
        "encoder.fc.bias": trained(16),
        "encoder.fc.lora_A": trained(2, 8),
        "encoder.fc.lora_B": trained(16, 2),
        "encoder.embed.weight": table,
        "decoder.embed.weight": table,
        "encoder.fc2.bias": frozen(8),
        "encoder.norm.running_mean": trained(8),
        "encoder.norm.num_batches_tracked": torch.tensor(seed),
        "encoder.embed_positions._float_tensor": trained(1),
        "head.weight": trained(3, 8),
    }


def by_hand(states, name):
    return (
        sum(
            s["encoder.fc.weight"].double() + 3.0 * s["encoder.fc.lora_B"].double() @ s["encoder.fc.lora_A"].double()
            for s in states
        )
        / len(states)
        if name == "encoder.fc.weight"
        else sum(s[name].double() for s in states) / len(states)
    )


def mean_of(states, settings=SETTINGS):
    mean = Mean(states[0], settings)
    for other in states[1:]:
        mean.add(other)
    return mean


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_the_mean_is_that_of_the_merged_weights(count, dtype):
    states = [state(i, dtype) for i in range(count)]
    kept = copy.deepcopy(states)
    mean = mean_of(states)
    merged, agreement = merge(mean.state(), mean.scale)
    for name in ("encoder.fc.weight", "encoder.fc.bias", "head.weight", "encoder.norm.running_mean"):
        expected = by_hand(states, name)
        error = (merged[name].double() - expected).abs()
        assert merged[name].dtype == dtype and (error <= torch.finfo(dtype).eps * expected.abs() + 1e-6).all(), name
    for name in ("encoder.embed.weight", "decoder.embed.weight", "encoder.fc2.bias", "encoder.norm.num_batches_tracked"):
        assert torch.equal(merged[name], states[0][name])
    assert merged["encoder.embed.weight"].data_ptr() == merged["decoder.embed.weight"].data_ptr()
    assert all(torch.equal(one[name], other[name]) for one, other in zip(states, kept) for name in one)
    assert agreement.layers == 1 and len(merged) == len(states[0]) - 2
    if count > 1:  # and it is not what averaging all tensors makes
        a, b = (sum(s[f"encoder.fc.lora_{part}"].double() for s in states) / count for part in "AB")
        wrong = states[0]["encoder.fc.weight"].double() + 3.0 * b @ a
        assert (wrong - by_hand(states, "encoder.fc.weight")).norm() > 0.05 * by_hand(states, "encoder.fc.weight").norm()


def test_tied_weights_that_were_trained_stay_one():
    def tied(seed):
        parts = state(seed)
        table = torch.randn(11, 8, generator=torch.Generator().manual_seed(seed))
        return {**parts, "encoder.embed.weight": table, "decoder.embed.weight": table}

    states = [tied(i) for i in range(3)]
    merged, _ = merge(mean_of(states, LoRASettings(rank=2, alpha=6.0, also_train="encoder.embed,head", bias="all")).state(), 1.0)
    torch.testing.assert_close(merged["decoder.embed.weight"].double(), by_hand(states, "decoder.embed.weight"), rtol=0, atol=1e-6)
    assert merged["encoder.embed.weight"].data_ptr() == merged["decoder.embed.weight"].data_ptr()


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda s: s.update({"encoder.fc.weight": s["encoder.fc.weight"] + 1}),
            "encoder.fc.weight is not the first's, although it was frozen",
        ),
        (lambda s: s["encoder.fc2.bias"].add_(1), "encoder.fc2.bias is not the first's"),
        (lambda s: s.update({"encoder.embed.weight": torch.ones(11, 8)}), "encoder.embed.weight is not the first's"),
        (lambda s: s.pop("head.weight"), "no head.weight, unlike the first"),
        (lambda s: s.update(more=torch.ones(1)), "a more, unlike the first"),
        (lambda s: s.update({"head.weight": torch.ones(4, 8)}), "head.weight is 4 x 8, and 3 x 8 in the first"),
    ],
)
def test_models_that_do_not_belong_together_are_refused_by_name(change, words):
    other = state(1)
    change(other)
    with pytest.raises(ValueError, match=words):
        mean_of([state(0), other])


# ---------------------------------------------------------------------- the command


def write(path, seed, **settings):
    settings = {
        "lora_rank": 2,
        "lora_alpha": 6.0,
        "lora_target": "fc",
        "lora_also_train": "head",
        "lora_bias": "lora_only",
        **settings,
    }
    model = argparse.Namespace(**{"arch": "lora", "_name": "lora", "base_arch": "transformer", **settings})
    torch.save(
        {
            "args": None,
            "cfg": {"model": model, "task": None},
            "model": state(seed),
            "criterion": None,
            "task_state": {},
            "optimizer_history": [{"num_updates": seed}],
            "extra_state": {"ema": state(seed)},
            "last_optimizer_state": {"state": {}},
        },
        path,
    )
    return path


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_the_command_averages_merged_weights(tmp_path, capsys):
    paths = [write(tmp_path / f"{i}.pt", i) for i in range(3)]
    status, out, err = run(capsys, "merge", *paths, tmp_path / "mean.pt")
    assert status == 0 and "1 layers merged (float32), the mean of 3 checkpoints" in out, err
    written = checkpoint(tmp_path / "mean.pt")
    states = [state(i) for i in range(3)]
    for name in ("encoder.fc.weight", "head.weight"):
        torch.testing.assert_close(written["model"][name].double(), by_hand(states, name), rtol=1e-6, atol=1e-6)
    assert written["cfg"]["model"]["_name"] == "transformer" and not any("lora" in name for name in written["model"])
    assert "last_optimizer_state" not in written and "ema" not in written["extra_state"]
    # ... and of one it is what it was.
    run(capsys, "merge", paths[0], tmp_path / "one.pt")
    (once, _), first = merge(state(0), 3.0), checkpoint(tmp_path / "one.pt")["model"]
    assert all(torch.equal(once[name], first[name]) for name in once)


@pytest.mark.parametrize(
    "settings, words",
    [(dict(lora_alpha=4.0), "lora_alpha is 4.0, and 6.0 in"), (dict(base_arch="bart"), "base_arch is bart, and transformer in")],
)
def test_checkpoints_of_other_settings_are_refused(tmp_path, capsys, settings, words):
    first, other = write(tmp_path / "a.pt", 0), write(tmp_path / "b.pt", 1, **settings)
    status, out, err = run(capsys, "merge", first, other, tmp_path / "mean.pt")
    assert status == 1 and f"{other}: {words} {first}" in err and not (tmp_path / "mean.pt").exists()


def test_a_forgotten_name_to_write_to_loses_no_checkpoint(tmp_path, capsys):
    paths = [write(tmp_path / f"{i}.pt", i) for i in range(3)]
    before = [path.read_bytes() for path in paths]
    for arguments in (paths, paths[:2], [*paths, paths[0]]):
        status, _, err = run(capsys, "merge", *arguments)
        assert status == 1 and "choose another name to write to" in err
    assert [path.read_bytes() for path in paths] == before and sorted(os.listdir(tmp_path)) == ["0.pt", "1.pt", "2.pt"]


def test_no_more_than_two_models_are_in_memory(tmp_path, monkeypatch):
    """Of the tables, which nothing copies, at any time two are there: the first's, and that of the file that is read."""
    paths, alive, most = [write(tmp_path / f"{i}.pt", i) for i in range(6)], weakref.WeakSet(), []
    read = commands.read

    def counted(path, mmap=False):
        content = read(path, mmap)
        alive.add(content["model"]["encoder.embed.weight"])
        gc.collect()
        most.append(len(alive))
        return content

    monkeypatch.setattr(commands, "read", counted)
    commands.merge_checkpoints(paths, tmp_path / "mean.pt")
    assert len(most) == 6 and max(most) == 2
