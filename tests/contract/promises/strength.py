"""A method without strength (ρ = 0, α = 0) is its base optimizer bit for bit, and gets there by its own way."""

import toy
from events import Calls
from every_method import ALL, STOCK, promise
from state import assert_alike, everything
from trainers import build

BASES = ("sgd", "nag", "adafactor", "adagrad", "adadelta", "adamax")


def three_updates(world, method, precision, **settings):
    """All that three updates leave, but for the method's name; with dropout."""
    trainer = build(world, method, precision, **settings)
    for sizes in ([3, 5], [6]):
        trainer.train_step(toy.batches(trainer, sizes))
    assert trainer.get_num_updates() == 3
    state = everything(trainer)
    state["optimizer"].pop("sharp_plugins", None)
    return state


def assert_same_calls(first, second):
    """Says where two lists of thousands of names part; pytest would look for their shortest difference."""
    parts = next((at for at, (one, other) in enumerate(zip(first, second)) if one != other), min(len(first), len(second)))
    same = len(first) == len(second) == parts
    assert same, f"call {parts} of {len(first)} and {len(second)}: {first[parts : parts + 3]}, {second[parts : parts + 3]}"


@promise(of_criterions="fp32")
def without_strength_it_is_the_base_optimizer(world, method, precision):
    assert_alike(*(three_updates(world, one, precision) for one in (method.switched_off(), method.base())))


@promise("fp32")
def without_strength_it_is_any_base_optimizer(world, method, precision):
    of_all = not method.decoder and (method.lora or not method.varies)
    for base in BASES if of_all else BASES[:1]:
        assert_alike(*(three_updates(world, one, precision, base=base) for one in (method.switched_off(), method.base())))


@promise()
def without_strength_it_goes_its_own_way(world, method, precision):
    """It calls what it calls with strength, so that what is computed there is tested by the promises above."""
    names = []
    for one in (method, method.switched_off()):
        trainer = build(world, one, precision)
        samples = [toy.batches(trainer, [4, 4]) for _ in range(2)]  # with an interval of 2 the first climbs not
        with Calls() as calls:
            for each in samples:
                trainer.train_step(each)
        assert trainer.get_num_updates() == 3
        names.append(calls.names)
    assert_same_calls(*names)


@promise("", of_criterions=ALL, under_the_base=True)
def a_criterion_without_weight_is_the_stock_one(world, method, precision):
    off = method.criterion._replace(flags=f"{method.criterion.flags} {method.criterion.off}")
    if precision in ("fp32", "amp") or not method.criterion.rounds_when_off:
        ends = [three_updates(world, method._replace(criterion=one), precision) for one in (off, STOCK)]
    else:
        no_dropout = "--dropout 0 --attention-dropout 0"
        ends = [three_updates(world, method._replace(criterion=one), precision, flags=no_dropout) for one in (off, STOCK)]
        for end in ends:
            del end["random"]
    assert_alike(*ends)
