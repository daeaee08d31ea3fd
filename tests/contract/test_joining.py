"""A new method joins with one line, and the contract finds out a wrong one: every promise has a made-up method that breaks it."""

import broken
import promises  # noqa: F401  (fills PROMISES)
import pytest
import toy
from every_method import PROMISES

pytestmark = pytest.mark.skipif(toy.DEVICE != "cpu", reason="not all promises are tried on a GPU")

BREAKS = {
    "without_strength_it_is_the_base_optimizer": broken.DRAWS,
    "without_strength_it_is_any_base_optimizer": broken.STAYS_ABOVE,
    "without_strength_it_goes_its_own_way": broken.SHORT_CUT,
    "a_criterion_without_weight_is_the_stock_one": broken.NEVER_OFF,
    "it_equals_its_plain_twin": broken.STAYS_ABOVE,
    "clipping_does_not_touch_the_ascent": broken.UNCLIPPED,
    "micro_batches_make_the_update_of_the_whole_batch": broken.HALF_BLIND,
    "a_schedule_of_update_freq_is_followed": broken.HALF_BLIND,
    "it_logs_what_it_promises_and_nothing_else": broken.TALKS,
    "resuming_equals_never_having_stopped": broken.COUNTS_ALONE,
    "its_state_makes_a_round_trip": broken.FORGETS,
    "it_takes_no_other_optimizers_state": broken.TAKES_ANYTHING,
    "an_exception_leaves_nothing": broken.MOVES_W,
    "ctrl_c_at_any_call_leaves_nothing": broken.MOVES_W,
    "out_of_memory_leaves_nothing": broken.MOVES_W,
    "a_checkpoint_in_the_middle_of_an_update_holds_its_beginning": broken.MOVES_W,
    "a_checkpoint_that_cannot_be_written_leaves_nothing": broken.SAVES_LOUDLY,
    "training_goes_on_as_if_nothing_had_been": broken.COUNTS_ALONE,
    "a_base_optimizer_that_fails_half_way_leaves_what_it_leaves_alone": broken.STAYS_ABOVE,
    "a_failure_after_the_base_optimizers_update_leaves_that_and_nothing_else": broken.STAYS_ABOVE,
    "an_overflow_lowers_the_loss_scale_and_skips_the_update": broken.SETTLES_EARLY,
    "training_without_a_loss_scale_stops_as_in_fairseq": broken.MOVES_W,
    "amp_repeats_an_overflowed_update_as_if_it_were_the_first_try": broken.MOVES_W,
    "an_update_that_amp_gives_up_leaves_nothing": broken.MOVES_W,
}


def first_precision(name):
    return (PROMISES[name].of_methods or PROMISES[name].of_criterions)[0]


def test_every_promise_can_be_broken():
    assert BREAKS.keys() == PROMISES.keys()


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_method_is_found_out(world, name):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        PROMISES[name].check(world, BREAKS[name], first_precision(name))


@pytest.mark.parametrize("name", [name for name, promise in PROMISES.items() if promise.of_methods])
def test_a_right_method_that_joins_with_one_line_keeps_every_promise(world, name):
    PROMISES[name].check(world, broken.DOWNHILL, first_precision(name))
