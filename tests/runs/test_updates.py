"""How many updates a training has, against fairseq's own iterators; which of two limits holds; warm-ups that are too long."""

import numpy
import pytest
from fairseq.data import data_utils, iterators
from fairseq.dataclass.configs import DatasetConfig

import sharp_plugins
from sharp_plugins.runs.updates import set_last_update, updates_of_epochs


def config(workers=1, warmup=0, rows=4, **limits):
    parts = {"optimization": limits, "dataset": {"batch_size": rows}, "lr_scheduler": {"warmup_updates": warmup}}
    return {**parts, "distributed_training": {"distributed_world_size": workers}}


@pytest.mark.parametrize("samples", [33, 40, 3])
@pytest.mark.parametrize("workers, frequencies", [(1, [1]), (1, [3, 2, 1]), (3, [1]), (3, [4, 2]), (2, [1, 1, 1, 1, 9])])
@pytest.mark.parametrize("skip", [False, True])
def test_the_number_is_fairseqs(samples, workers, frequencies, skip):
    batches, updates = [list(range(i, min(i + 4, samples))) for i in range(0, samples, 4)], 0
    for epoch in range(4):
        every = frequencies[epoch] if epoch < len(frequencies) else frequencies[-1]  # as fairseq_cli.train.train
        shard = iterators.CountingIterator(iterators.ShardedIterator(batches, workers, 0, fill_value=[]))
        updates += len(list(iterators.GroupedIterator(shard, every, skip_remainder_batch=skip)))
    own = config(workers, max_epoch=4, update_freq=frequencies, skip_remainder_batch=skip)
    assert updates_of_epochs(own, samples) == updates


@pytest.mark.parametrize("rows, multiple", [(12, 8), (12, None), (17, 4), (16, 8), (5, 8), (12, 1), (9, 8)])
@pytest.mark.parametrize("samples", [100, 96, 13])
def test_the_number_is_that_of_the_batches_which_fairseq_cuts(rows, multiple, samples):
    sharp_plugins.register()  # else fairseq leaves the last rows out
    how = dict(max_sentences=rows, required_batch_size_multiple=multiple or DatasetConfig.required_batch_size_multiple)
    lengths = numpy.full(samples, 7)
    batches = data_utils.batch_by_size(numpy.arange(samples), lambda i: 7, lengths, **how)
    assert sum(map(len, batches)) == samples
    own = config(rows=rows, max_epoch=3)
    if multiple:
        own["dataset"]["required_batch_size_multiple"] = multiple
    assert updates_of_epochs(own, samples) == 3 * len(batches)


MAX_UPDATE, MAX_EPOCH = "optimization.max_update", "optimization.max_epoch"


@pytest.mark.parametrize(
    "changed, before, after",
    [
        ([], {"max_epoch": 5}, {"max_epoch": 5, "max_update": 50}),
        ([MAX_UPDATE], {"max_epoch": 5, "max_update": 200}, {"max_update": 200}),  # it would end at 50, far from 0
        ([MAX_UPDATE], {"max_epoch": 5, "max_update": 20}, {"max_epoch": 5, "max_update": 20}),
        ([MAX_UPDATE, MAX_EPOCH], {"max_epoch": 2, "max_update": 200}, {"max_epoch": 2, "max_update": 20}),
        ([], {"max_epoch": 5, "max_update": 200}, {"max_epoch": 5, "max_update": 50}),
        ([], {"max_epoch": 5, "max_update": 20}, {"max_epoch": 5, "max_update": 20}),
        ([MAX_EPOCH], {"max_epoch": 5, "max_update": 20}, {"max_epoch": 5, "max_update": 50}),  # it would say nothing
        ([MAX_EPOCH], {"max_epoch": 0, "max_update": 20}, {"max_epoch": 0, "max_update": 20}),
    ],
)
def test_which_limit_holds(changed, before, after):
    own = config(**before)
    assert set_last_update(own, 40, changed) is None and own["optimization"] == after


def test_without_a_number_of_sentences_epochs_tell_nothing():
    own = config(rows=None, max_epoch=5, max_update=200)
    with pytest.raises(ValueError, match=f"--set {MAX_UPDATE} is needed: without dataset.batch_size"):
        set_last_update(own, 40, [MAX_EPOCH, MAX_UPDATE])
    set_last_update(own, 40, [MAX_UPDATE])
    assert own["optimization"] == {"max_update": 200}


@pytest.mark.parametrize("longest, tokens, epochs", [(9, 36, 50), (9, 35, None), (None, 36, None)])
def test_max_tokens_may_limit_no_batch(longest, tokens, epochs):
    """fairseq ends a batch before its rows times its longest are more."""
    own = config(max_epoch=5)
    own["dataset"]["max_tokens"] = tokens
    assert updates_of_epochs(own, 40, longest) == epochs
    if longest:
        lengths = numpy.full(40, longest)
        batches = data_utils.batch_by_size(numpy.arange(40), lambda i: longest, lengths, max_tokens=tokens, max_sentences=4)
        assert (len(batches) == 10) == (epochs == 50)


@pytest.mark.parametrize(
    "changed, before, after",
    [
        ([], {"max_epoch": 5, "max_update": 50}, {"max_epoch": 5, "max_update": 50}),  # there are 50 at least
        ([MAX_UPDATE], {"max_epoch": 5, "max_update": 51}, {"max_update": 51}),
        ([], {"max_epoch": 5, "max_update": 51}, None),
        ([MAX_EPOCH], {"max_epoch": 5, "max_update": 20}, None),
        ([MAX_EPOCH, MAX_UPDATE], {"max_epoch": 5, "max_update": 51}, None),
        ([MAX_EPOCH, MAX_UPDATE], {"max_epoch": 5, "max_update": 20}, {"max_epoch": 5, "max_update": 20}),
    ],
)
def test_which_limit_holds_where_tokens_make_batches_smaller(changed, before, after):
    own = config(**before)
    own["dataset"]["max_tokens"] = 8
    if after is None:
        with pytest.raises(ValueError, match=f"--set {MAX_UPDATE} is needed, and no --set {MAX_EPOCH}: dataset.max_tokens"):
            set_last_update(own, 40, changed)
    else:
        assert set_last_update(own, 40, changed) is None and own["optimization"] == after


def test_a_warm_up_ends_before_training_does():
    own = config(warmup=50, max_epoch=5)
    assert "warm-up of 5 updates and not 50" in set_last_update(own, 40, []) and own["lr_scheduler"]["warmup_updates"] == 5
    own = config(warmup=49, max_epoch=5)
    assert set_last_update(own, 40, []) is None and own["lr_scheduler"]["warmup_updates"] == 49
    with pytest.raises(ValueError, match="--set lr_scheduler.warmup_updates=50: training has 50 updates"):
        set_last_update(config(warmup=50, max_epoch=5), 40, ["lr_scheduler.warmup_updates"])
