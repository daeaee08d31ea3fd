"""What a method logs: what it promises, in finite numbers, and nothing else, in the logs or in a checkpoint."""

import fnmatch
import math

import toy
from every_method import promise
from fairseq.logging import metrics
from trainers import build


def logged(world, method, precision):
    """The metrics of an update, and the checkpoint after it."""
    trainer = build(world, method, precision, begun=False)
    with metrics.aggregate() as log:
        trainer.train_step(toy.batches(trainer, [4, 4]))
    trainer.consolidate_optimizer()
    return {name: float(value) for name, value in log.get_smoothed_values().items()}, trainer.state_dict()


def meters_in(state):
    """The names of the meters that a checkpoint keeps; takes them out of *state*."""
    meters = state["extra_state"].pop("metrics", {})
    return {name for entries in meters.values() for _, name, *_ in entries}


def names_in(state):
    """All keys of a checkpoint, in nested dicts and lists; "a/b" for b in a."""
    if isinstance(state, (list, tuple)):
        state = dict(enumerate(state))
    if not isinstance(state, dict):
        return set()
    return {name for key, value in state.items() for name in {str(key), *(f"{key}/{inner}" for inner in names_in(value))}}


@promise(of_criterions="fp32")
def it_logs_what_it_promises_and_nothing_else(world, method, precision):
    (ours, saved), (theirs, plainly) = (logged(world, one, precision) for one in (method, method.base()))
    assert all(math.isfinite(value) for value in ours.values()), ours
    promised = [*method.logs.split(), *(method.criterion.logs.split() if method.criterion else ())]
    for pattern in promised:
        assert fnmatch.filter(ours, pattern), f"{pattern} is not logged"
    more = set(ours) - set(theirs)
    assert all(any(fnmatch.fnmatch(name, pattern) for pattern in promised) for name in more), more
    assert set(theirs) <= set(ours)
    # In the checkpoint: the meters of these metrics, the settings, and the optimizer's name in its state.
    assert meters_in(saved) - meters_in(plainly) == more
    allowed = ("cfg/optimizer/", "last_optimizer_state/sharp_plugins")
    assert not [name for name in names_in(saved) - names_in(plainly) if not name.startswith(allowed)]
