"""Going on from a checkpoint equals never having stopped, bit for bit on one device."""

import toy
from every_method import promise
from state import assert_alike, everything
from trainers import build


@promise(of_criterions="fp32", under_the_base=True)
def resuming_equals_never_having_stopped(world, method, precision):
    """After two updates, so that the optimizer has a state, and before two more; with dropout."""
    path, ends = world.directory / "resume.pt", []
    trainer = build(world, method, precision)
    trainer.train_step(toy.batches(trainer, [3, 5]))
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}})
    for one in (trainer, build(world, method, precision, load=path)):
        assert one.get_num_updates() == 2
        for sizes in ([5, 2], [6]):
            one.train_step(toy.batches(one, sizes))
        ends.append(everything(one))
    path.unlink()
    assert_alike(*ends)
