"""Which value of a swept setting is kept, against choices made by hand."""

import math

import pytest
from made_up_results import ACCURACY, LOSS, result

from sharp_plugins.runs.coordinates import coordinates, describe, in_order, is_part
from sharp_plugins.runs.record import Measure, Record, Validated, Validation
from sharp_plugins.runs.selection import choose
from sharp_plugins.runs.words import about_search

RHO, BETA = "optimizer.sam_rho", "optimizer.dsam_beta"


def runs(task, method, values, **axes):
    """values: rho -> the measure by seed."""
    return [
        result(task, method, seed, axes={RHO: rho, **axes}, accuracy=value, loss=value)
        for rho, of in values.items()
        for seed, value in enumerate(of, start=1)
    ]


def kept(search):
    return {one[:3]: dict(one.value) for one in search.candidates if one.chosen}


def test_a_number_of_the_measured_checkpoints_validation():
    """Of the best checkpoint, or of the last one; a training that diverged tells none."""
    loss = Validated("valid", "nll_loss", "loss", higher_is_better=False)
    told = [Validation(update, 1.0, {"nll_loss": value}) for update, value in ((2, 3.0), (4, 2.0), (6, 2.5))]
    one = result("RTE", "sam", 1, loss=9.0)._replace(updates=6, best_update=4, validations=told)
    assert (loss.of(one), loss.of(one._replace(best_update=None)), loss.of(one._replace(best_update=5))) == (2.0, 2.5, None)
    lost = result("RTE", "sam", 1, loss=math.nan)
    assert math.isnan(loss.of(lost._replace(validations=[Validation(10, 1.0, {})])))
    # fairseq's cross_entropy tells no nll_loss, which is its loss.
    assert loss.of(one._replace(validations=[Validation(4, 1.0, {"loss": 2.0})])) == 2.0


def test_a_search_in_which_no_run_tells_the_measure_says_so():
    other = Measure("valid", "f1", "F1")
    search = choose(runs("RTE", "sam", {0.01: [70.0], 0.05: [71.0]}), [RHO], lambda task: other)
    assert search.unfinished == [("RTE", "sam")]
    assert "or none has the measure" in about_search(search, lambda task: [other])


def test_the_best_mean_is_kept_for_each_task_and_method():
    results = runs("RTE", "sam", {0.01: [70.0, 80.0], 0.05: [76.0, 76.0]})  # means 75, 76; the best single run is the other's
    results += runs("RTE", "dsam", {0.01: [71.0, 73.0], 0.05: [70.0, 70.0]})
    results += runs("MRPC", "sam", {0.01: [90.0], 0.05: [89.0]})
    results += [result("RTE", "base", 1, accuracy=60.0)]
    search = choose(results, [RHO], lambda task: ACCURACY)
    assert kept(search) == {
        ("RTE", "sam", ()): {RHO: 0.05},
        ("RTE", "dsam", ()): {RHO: 0.01},
        ("MRPC", "sam", ()): {RHO: 0.01},
        ("RTE", "base", ()): {},
    }
    shown = [one.record for one in results if search.keeps(one.record)]
    assert [(one.task, one.method, one.axes.get(RHO), one.seed) for one in shown] == [
        ("RTE", "sam", 0.05, 1),
        ("RTE", "sam", 0.05, 2),
        ("RTE", "dsam", 0.01, 1),
        ("RTE", "dsam", 0.01, 2),
        ("MRPC", "sam", 0.01, 1),
        ("RTE", "base", None, 1),
    ]
    assert {one.method for one in search.searched()} == {"sam", "dsam"}  # base had no choice
    (first, second) = [one.summary for one in search.candidates if one[:2] == ("RTE", "sam")]
    assert first == (2, 75, pytest.approx(50**0.5), 80) and second == (2, 76, 0, 76)


def test_lower_may_be_better():
    results = runs("RTE", "sam", {0.01: [2.0], 0.05: [1.0], 0.1: [3.0]})
    assert kept(choose(results, [RHO], lambda task: LOSS)) == {("RTE", "sam", ()): {RHO: 0.05}}


def test_of_equal_ones_the_first_that_was_given_is_kept():
    first, second = [76.8, 65.8, 61.0], [76.9, 65.7, 61.0]
    assert sum(first) != sum(second)  # in their last bits
    results = runs("RTE", "sam", {0.05: first, 0.01: second, 0.02: [60.0, 60.0, 60.0]})
    assert kept(choose(results, {RHO: [0.01, 0.02, 0.05]}, lambda task: ACCURACY))["RTE", "sam", ()] == {RHO: 0.01}
    assert kept(choose(results, {RHO: [0.05, 0.02, 0.01]}, lambda task: ACCURACY))["RTE", "sam", ()] == {RHO: 0.05}
    assert kept(choose(results, [RHO], lambda task: ACCURACY))["RTE", "sam", ()] == {RHO: 0.05}  # of the results
    assert kept(choose(results, {RHO: [0.01]}, lambda task: ACCURACY))["RTE", "sam", ()] == {RHO: 0.01}  # others follow


def test_a_run_that_diverged_or_was_not_measured_is_the_worst():
    results = runs("RTE", "sam", {0.05: [99.0, math.nan], 0.01: [50.0, 51.0]})
    results += [result("RTE", "sam", 1, axes={RHO: 0.1}, f1=99.0)]
    assert kept(choose(results, [RHO], lambda task: ACCURACY))["RTE", "sam", ()] == {RHO: 0.01}
    assert [one.summary for one in choose(results[-1:], [RHO], lambda task: ACCURACY).candidates] == [None]


def test_two_settings_at_once_and_a_choice_for_each_further_coordinate():
    results = []
    for examples, best in ((16, (0.01, 2)), (32, (0.05, 1))):
        for rho in (0.01, 0.05):
            for beta in (1, 2):
                value = 70.0 + (best == (rho, beta))
                results.append(result("RTE", "dsam", 1, axes={RHO: rho, BETA: beta, "examples": examples}, accuracy=value))
    assert kept(choose(results, {RHO: [0.01, 0.05], BETA: [1, 2]}, lambda task: ACCURACY)) == {
        ("RTE", "dsam", (("examples", 16),)): {RHO: 0.01, BETA: 2},
        ("RTE", "dsam", (("examples", 32),)): {RHO: 0.05, BETA: 1},
    }


def test_coordinates():
    key = coordinates(Record("made up", "RTE", "sam", 1, {"noise": 0.2, "examples": 16}))
    assert key == (("examples", 16), ("noise", 0.2)) and describe(key) == "examples 16, noise 0.2"
    assert is_part((), key) and is_part(key[:1], key) and not is_part((("examples", 8),), key)
    words = [(("kind", "uniform"),), (("kind", "pairs"),), (("kind", "uniform"),)]
    assert in_order([*words, (("examples", 128),), (("examples", 16),), ()]) == [
        (),
        (("examples", 16),),
        (("examples", 128),),
        (("kind", "uniform"),),
        (("kind", "pairs"),),
    ]


def test_values_are_compared_on_the_seeds_that_all_have():
    results = runs("RTE", "sam", {0.01: [70.0], 0.05: [71.0, 10.0]}) + runs("RTE", "dsam", {0.01: [70.0], 0.05: [69.0]})
    search = choose(results, [RHO], lambda task: ACCURACY)
    assert kept(search)["RTE", "sam", ()] == {RHO: 0.05}
    assert search.unfinished == [("RTE", "sam")]
    words = about_search(search, lambda task: [ACCURACY])
    assert "the choice may change: RTE sam." in words


def test_a_value_whose_other_runs_failed_does_not_win_by_those_that_are_left():
    results = runs("RTE", "sam", {0.01: [75.0, 76.0, 77.0], 0.05: [80.0]})  # of 0.05 two diverged
    search = choose(results, [RHO], lambda task: ACCURACY)
    assert kept(search)["RTE", "sam", ()] == {RHO: 0.01} and search.unfinished == [("RTE", "sam")]
    assert "A value that lacks seeds is not kept where another has all" in about_search(search, lambda task: [ACCURACY])
    # Where no value has all, those are compared that both have.
    some = runs("RTE", "sam", {0.01: [70.0, 80.0], 0.05: [60.0]})
    some += [result("RTE", "sam", 3, axes={RHO: 0.05}, accuracy=99.0)]
    assert kept(choose(some, [RHO], lambda task: ACCURACY))["RTE", "sam", ()] == {RHO: 0.01}


def test_runs_beside_the_sweep_are_left_out_for_one_search():
    results = [result("RTE", "sam", 1, accuracy=99.0), *runs("RTE", "sam", {0.01: [70.0], 0.05: [60.0]})]
    search = choose(results, [RHO], lambda task: ACCURACY)
    assert kept(search) == {("RTE", "sam", ()): {RHO: 0.01}}
    assert [one.metrics["valid"]["accuracy"] for one in results if search.keeps(one.record)] == [70.0]
    assert search.left_out == [("RTE", "sam", 1)] and "in no table: RTE sam (1)." in about_search(search, lambda task: [ACCURACY])
    search = choose(results[1:], [RHO], lambda task: ACCURACY)
    assert not search.left_out and "in no table" not in about_search(search, lambda task: [ACCURACY])
