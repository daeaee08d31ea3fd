"""The flag --sweep: its values, and the methods that are trained with each of them."""

import pytest

from sharp_plugins.runs.configs import Settings, configure
from sharp_plugins.runs.methods import find_method
from sharp_plugins.runs.sweep import changes_of, grid, read_sweeps

RHO = "optimizer.sam_rho"


def test_the_flag():
    assert read_sweeps(["a.b=1,2.5,x", "c.d=[1,2],[3]"]) == {"a.b": [1, 2.5, "x"], "c.d": ["[1,2]", "[3]"]}
    for texts, words in (
        (["lr=1,2"], "should be part.name"),
        (["a.b=1"], "--set is for one value"),
        (["a.b=1,1"], "different ones"),
        (["a.b=1,"], "empty"),
        (["a.b"], "empty"),
        (["a.b=1,2", "a.b=3,4"], "set twice"),
    ):
        with pytest.raises(ValueError, match=f"--sweep .*{words}"):
            read_sweeps(texts)
    with pytest.raises(ValueError, match="a.b is set twice"):
        read_sweeps(["a.b=1,2"], ["a.b=3"])


@pytest.mark.parametrize("method, count", [("base", 1), ("sam", 2), ("dsam", 4), ("lora-nbar", 1), ("lora-sam", 2), ("rdrop", 1)])
def test_methods_without_use_for_a_setting_are_trained_once(method, count):
    task = {
        "optimizer": {"_name": "dsam", "sam_rho": 0.1, "dsam_beta": 3, "base_optimizer": "adam"},
        "optimization": {"lr": [0.1]},
        "criterion": {"_name": "sentence_prediction"},
        "model": {"_name": "roberta"},
    }
    sweeps = read_sweeps([f"{RHO}=0.1,0.2", "optimizer.dsam_beta=1,2"])
    found = grid(sweeps, lambda swept: configure(Settings(task, {"lr": 0.2}), find_method(method), changes_of(swept)))
    assert len(found) == count and all(set(axes) <= set(sweeps) for axes in found)


def test_a_learning_rate_is_a_number():
    """fairseq's is a list, one for each epoch."""
    task = {"optimizer": {"_name": "dsam", "base_optimizer": "adam"}, "optimization": {"lr": [0.1]}, "model": {"_name": "roberta"}}
    config = configure(Settings(task), find_method("base"), ["optimization.lr=0.01"])
    assert config["optimization"]["lr"] == [0.01]
    assert configure(Settings(task), find_method("base"), ["optimization.update_freq=2"])["optimization"]["update_freq"] == [2]
    assert configure(Settings(task), find_method("base"), ["optimization.lr=[0.01,0.02]"])["optimization"]["lr"] == [0.01, 0.02]
    assert read_sweeps(["optimization.lr=0.01,0.02"]) == {"optimization.lr": [0.01, 0.02]}
