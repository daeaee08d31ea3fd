"""Sentence vectors on a GPU under AMP, which the settings have: the losses before and after an update are those of fp32."""

import pairs
import pytest
import toy
from on_gpu import DEVICE, PRECISIONS, needs_gpu

pytestmark = needs_gpu("AMP is off on a CPU")


def losses(backbone, criterion, *flags):
    steady = "--batch-size 4 --lr 0.01 --dropout 0 --attention-dropout 0".split()
    cfg = pairs.config(backbone, *steady, *flags, criterion=criterion)
    cfg.common.cpu = DEVICE == "cpu"
    trainer = toy.trainer_from(cfg)
    return [float(trainer.train_step([pairs.sample(trainer)])["loss"]) for _ in range(2)]


@pytest.mark.parametrize("how", ["cls", "mean --length-groups 3", "mean-padded --encode-rows 3"])
@pytest.mark.parametrize("criterion", ["contrastive", "r3f_contrastive"])
@pytest.mark.parametrize("optimizer", ["sgd", "dsam --base-optimizer sgd --sam-rho 0.05"])
def test_amp_learns_as_fp32_does(tmp_path, optimizer, criterion, how):
    backbone = pairs.write_backbone(tmp_path)
    flags = ["--optimizer", *optimizer.split(), "--pooling", *how.split()]
    flags += ["--r3f-eps", "1e-3"] if criterion == "r3f_contrastive" else []
    whole = losses(backbone, criterion, *flags, *PRECISIONS["fp32"])
    assert losses(backbone, criterion, *flags, *PRECISIONS["amp"]) == pytest.approx(whole, abs=0.05)
