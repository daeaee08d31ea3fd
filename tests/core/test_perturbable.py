"""Parameters that torch's own sharding has really made, with one process over gloo."""

import pytest
import torch
from torch import nn

from sharp_plugins.core.perturbation import Perturbation

distributed = pytest.importorskip("torch.distributed", reason="this torch has no torch.distributed")


@pytest.fixture(scope="module")
def one_process():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def model():
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def refused(params, words):
    with pytest.raises(ValueError, match=f"parameter 0 of .* is {words}.*whole in each process"):
        Perturbation(params, 0.05)


def test_fully_shard_is_refused_by_name(one_process):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("this torch has no fully_shard")
    mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
    sharded = fsdp.fully_shard(model(), mesh=mesh)
    refused(sharded.parameters(), "a DTensor .torch's fully_shard")


@pytest.mark.parametrize("use_orig_params", [False, True])
def test_fully_sharded_data_parallel_is_refused_by_name(one_process, use_orig_params):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    sharded = fsdp.FullyShardedDataParallel(model(), device_id=torch.device("cpu"), use_orig_params=use_orig_params)
    refused(sharded.parameters(), "a parameter of FullyShardedDataParallel")


@pytest.mark.parametrize(
    "mark, words", [({"ds_id": 3}, "a parameter of DeepSpeed's"), ({"tensor_model_parallel": True}, "a parameter of Megatron's")]
)
def test_other_libraries_marks_are_known(mark, words):
    """By the attributes that these libraries set on a parameter; they are not installed here."""
    part = model()
    for name, value in mark.items():
        setattr(part[0].weight, name, value)
    refused(part.parameters(), words)


def test_distributed_data_parallel_is_not(one_process):
    replicated = nn.parallel.DistributedDataParallel(model())
    replicated(torch.ones(1, 4)).sum().backward()
    with Perturbation(replicated.parameters(), 0.05).climb() as ball:
        assert ball.ascent.grad_norm > 0


def test_frozen_shards_are_left_out(one_process):
    part = model()
    part[0].weight._fsdp_flattened = True
    part[0].weight.requires_grad_(False)
    Perturbation(part.parameters(), 0.05)
