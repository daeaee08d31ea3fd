"""Which value a sweep chooses, and for which methods there is one to choose."""

import pytest

from sharp_plugins.runs.configs import Settings, configure
from sharp_plugins.runs.methods import find_method
from sharp_plugins.runs.record import Measure, Record, Result
from sharp_plugins.runs.sweep import choose, describe, grid, read_sweeps

RHO = "optimizer.sam_rho"


def result(method, seed, value, task="RTE", **axes):
    metrics = {"valid": {"accuracy": value, "loss": value}, "test": {"accuracy": 100 - value}}
    return Result(Record("made-up", task, method, seed, axes), metrics, 1.0, 10, 10, None, [], {})


def by(name="accuracy", higher=True):
    return lambda task: Measure("valid", name, name, higher)


def values(results):
    return [(r.record.method, r.record.seed, r.metrics["valid"]["accuracy"]) for r in results]


def test_the_best_mean_is_chosen_and_not_the_best_run():
    runs = [result("base", 1, 60.0), result("sam", 1, 70.0, **{RHO: 0.01}), result("sam", 2, 72.0, **{RHO: 0.01})]
    runs += [result("sam", 1, 50.0, **{RHO: 0.05}), result("sam", 2, 90.0, **{RHO: 0.05})]
    kept, (choice,) = choose(runs, by())
    assert values(kept) == [("base", 1, 60.0), ("sam", 1, 70.0), ("sam", 2, 72.0)]
    assert all(run.record.axes == {} for run in kept)
    assert choice.chosen == ((RHO, 0.01),) and choice.is_complete
    assert choice.tried == [(((RHO, 0.01),), 71.0, 2), (((RHO, 0.05),), 70.0, 2)]


def test_of_a_loss_the_lowest_is_and_of_equal_ones_the_first():
    runs = [result("sam", 1, value, **{RHO: rho}) for rho, value in ((0.01, 3.0), (0.02, 2.0), (0.05, 2.0))]
    assert choose(runs, by("loss", higher=False))[1][0].chosen == ((RHO, 0.02),)


def test_tasks_methods_and_other_axes_choose_for_themselves():
    runs = []
    for task, method, examples, best in (("RTE", "sam", 16, 0.01), ("RTE", "sam", 32, 0.05), ("CoLA", "dsam", 16, 0.05)):
        runs += [result(method, 1, 70.0 + (rho == best), task, examples=examples, **{RHO: rho}) for rho in (0.01, 0.05)]
    kept, choices = choose(runs, by())
    assert [(c.task, c.method, c.rest, c.chosen[0][1]) for c in choices] == [
        ("RTE", "sam", (("examples", 16),), 0.01),
        ("RTE", "sam", (("examples", 32),), 0.05),
        ("CoLA", "dsam", (("examples", 16),), 0.05),
    ]
    assert [run.record.axes for run in kept] == [{"examples": 16}, {"examples": 32}, {"examples": 16}]
    assert all(run.metrics["valid"]["accuracy"] == 71.0 for run in kept)


def test_values_are_compared_on_the_seeds_that_all_have():
    runs = [result("sam", 1, 70.0, **{RHO: 0.01}), result("sam", 1, 71.0, **{RHO: 0.05}), result("sam", 2, 10.0, **{RHO: 0.05})]
    kept, (choice,) = choose(runs, by())
    assert choice.chosen == ((RHO, 0.05),) and not choice.is_complete and len(kept) == 2
    assert "the choice may change: RTE sam" in describe([choice], by())


def test_a_diverged_value_is_not_chosen():
    runs = [result("sam", 1, float("nan"), **{RHO: 0.5}), result("sam", 1, 1.0, **{RHO: 0.05})]
    assert choose(runs, by())[1][0].chosen == ((RHO, 0.05),)
    assert choose([runs[0]], by()) == ([], [])


def test_runs_beside_the_sweep_are_left_out_for_one_search():
    runs = [result("sam", 1, 99.0), result("sam", 1, 70.0, **{RHO: 0.01}), result("sam", 1, 60.0, **{RHO: 0.05})]
    assert values(choose(runs, by())[0]) == [("sam", 1, 70.0)]


def test_what_is_told():
    runs = [result("sam", 1, 70.0, **{RHO: 0.01}), result("sam", 1, 60.0, **{RHO: 0.05})]
    text = describe(choose(runs, by())[1], by())
    assert "RTE: accuracy on valid" in text and "| chosen |" in text.splitlines()[-2] and "sam_rho=0.05" in text.splitlines()[-1]
    assert describe([], by()) == ""


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
    found = grid(sweeps, lambda changes: configure(Settings(task, {"lr": 0.2}), find_method(method), changes))
    assert len(found) == count and all(set(axes) <= set(sweeps) for axes in found)
