"""``--update-freq 1,2``: each epoch has its own number of micro-batches, and every update is that of the batches it was given."""

import fairseq_cli.train
import toy
from every_method import promise
from trainers import build

from promises.twins import SGD, assert_equals_its_twin, base_of, decay_of


@promise("fp32")
def a_schedule_of_update_freq_is_followed(world, method, precision):
    flags = f"--lr {SGD['lr'] / 4} --dropout 0 --update-freq 1,2 --batch-size 16 --disable-validation --no-save --clip-norm 0.5"
    flags += " --log-format none --num-workers 0"
    trainer = build(world, method, precision, base=base_of(method), flags=flags, statistics=False, begun=False)
    updates, train_step = [], trainer.train_step

    def remember(samples, *args):
        updates.append(samples)
        return train_step(samples, *args)

    def two_epochs():
        epochs = trainer.get_train_iterator(epoch=1)
        for _ in range(2):
            fairseq_cli.train.train(trainer.cfg, trainer, trainer.task, epochs)

    trainer.train_step = remember
    toy.batches(trainer, [2])  # a dummy batch, as fairseq-train makes one
    settings = {**SGD, "lr": SGD["lr"] / 4, "clip": 0.5, "weight_decay": decay_of(method)}
    assert_equals_its_twin(trainer, method, updates, two_epochs, 1e-3, **settings)
    assert [len(samples) for samples in updates] == [1, 1, 1, 1, 2, 2] and trainer.get_num_updates() == 6
