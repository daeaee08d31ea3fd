"""The optimizer's state in a checkpoint: plain data, which comes back as it was, and is taken by no other optimizer."""

import pytest
import toy
from every_method import METHODS, promise
from processes import assert_equal, checkpoint
from trainers import ADAM, build, shared


@promise(of_criterions="fp32")
def its_state_makes_a_round_trip(world, method, precision):
    """Through a file that torch's safe loader reads."""
    path = world.directory / "state.pt"
    with shared(world, method, precision) as trainer:
        trainer.consolidate_optimizer()
        trainer.save_checkpoint(str(path), {})
        saved, before = checkpoint(path), trainer.optimizer.state_dict()
        path.unlink()
        other = build(world, method, precision)
        other.train_step(toy.batches(other, [6]))
        other.optimizer.load_state_dict(saved["last_optimizer_state"])
        assert_equal(before, other.optimizer.state_dict())


@promise("fp32 fp16-not-flat amp")
def it_takes_no_other_optimizers_state(world, method, precision):
    """The message names the flag that goes on without it."""
    one_of_each = {other.flags.split()[0]: other for other in METHODS.values()}
    own = method.flags.split()[0]
    others = [(method.base(), ADAM), (method, "nag"), *((other, ADAM) for name, other in one_of_each.items() if name != own)]
    trainer = build(world, method, precision)
    for other, base in others:
        state = build(world, other, precision, base=base, begun=False).optimizer.state_dict()
        with pytest.raises(ValueError, match="--reset-optimizer"):
            trainer.optimizer.load_state_dict(state)
