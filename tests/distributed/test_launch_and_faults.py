"""Ways to start two ranks, and a fault on one of them."""

import sys

import pytest
from processes import execute, last, line, stats, train_ranks

pytestmark = pytest.mark.slow

FLAGS = "--base-optimizer sgd --lr 0.1 --batch-size 4".split()


def test_torchrun_starts_and_trains(translation_data, tmp_path):
    # fairseq takes rank and world size from torchrun's environment only where there are GPUs to count. On a CPU the flags
    # name them, and torchrun's variables fill them in.
    place = "--distributed-init-method env:// --distributed-backend gloo --distributed-no-spawn"
    place += " --distributed-world-size $WORLD_SIZE --distributed-rank $RANK --ddp-backend legacy_ddp"
    arguments = line(translation_data, tmp_path / "run", "--optimizer", "dsam", *FLAGS, "--max-update", "3")
    script = tmp_path / "train.sh"
    quoted = " ".join(f"'{argument}'" for argument in arguments)
    code = "from fairseq_cli.train import cli_main; cli_main()"
    script.write_text(f'exec "{sys.executable}" -c "{code}" {quoted} {place}\n')
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    output = execute([*torchrun, "--no-python", "bash", script], tmp_path)
    entries = stats(output)
    assert [entry["num_updates"] for entry in entries] == [1, 2, 3]
    assert all(entry["bsz"] == 8 and "sam_gap" in entry for entry in entries)


# Rank 1 runs out of memory once, at the given forward pass of its second update.
OUT_OF_MEMORY = """
import sharp_plugins
import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from sharp_plugins.criterions import stock

sharp_plugins.register()


@register_criterion("forgetful", dataclass=LabelSmoothedCrossEntropyCriterionConfig)
class Forgetful(LabelSmoothedCrossEntropyCriterion):
    passes = 0

    def fail_once(self, model):
        if torch.distributed.get_rank() == 1 and model.training:
            self.passes += 1
            if self.passes == {at}:
                raise RuntimeError("CUDA out of memory (injected)")

    def forward(self, model, sample, reduce=True):
        self.fail_once(model)
        return super().forward(model, sample, reduce)

    def sentence_losses(self, model, sample):
        self.fail_once(model)
        return stock.cross_entropy(self, model, sample)
"""

# SAM makes 2 passes an update (ascent, descent), δ-SAM 3 (random point, ascent, descent).
FAULTS = {"sam": 3, "dsam-random": 4, "dsam-ascent": 5}


@pytest.mark.parametrize("backend", ["legacy_ddp", "pytorch_ddp"])
@pytest.mark.parametrize("fault, scope", [("sam", "worker"), ("dsam-random", "global"), ("dsam-ascent", "worker")])
def test_one_rank_out_of_memory_in_the_ascent_does_not_stop_the_others(translation_data, tmp_path, backend, fault, scope):
    # A name of its own: fairseq imports the directory as a module of that name.
    user_dir = tmp_path / f"forgetful_{backend}_{fault}".replace("-", "_")
    user_dir.mkdir()
    (user_dir / "__init__.py").write_text(OUT_OF_MEMORY.replace("{at}", str(FAULTS[fault])))
    flags = f"--optimizer {fault.split('-')[0]} --sam-scope {scope} --ddp-backend {backend} --max-update 4"
    criterion = "--criterion forgetful --label-smoothing 0.1".split()
    # A collective that only one of them enters would hang, which counts as a failure.
    runs = train_ranks(translation_data, tmp_path, *FLAGS, *flags.split(), user_dir=user_dir, criterion=criterion)
    assert "injected" in runs[1].text
    entries = stats(runs[0].text)
    # No update is lost: the rank takes part without an ascent of its own, or with what the others found.
    assert [entry["num_updates"] for entry in entries] == [1, 2, 3, 4]
    assert all(abs(value) < 1e6 for entry in entries for value in entry.values())
    assert all(value.isfinite().all() for value in last(tmp_path)["model"].values())
