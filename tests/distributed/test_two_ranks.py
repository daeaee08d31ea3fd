"""Two real processes that train together over gloo, on this machine."""

import plain
import pytest
import torch
import toy
from processes import BACKENDS, EVERY_RANK, assert_close, assert_ranks_agree, last, stats, train, train_ranks, weights_of

pytestmark = pytest.mark.slow

# A large radius, so that a wrong ascent is far from the right one.
FLAGS = "--base-optimizer sgd --momentum 0.9 --lr 0.2 --sam-rho 0.2 --dropout 0".split()
FP16 = "--fp16 --fp16-no-flatten-grads".split()


# ---------------------------------------------------------------------- worker scope


@pytest.mark.parametrize("backend", BACKENDS)
def test_worker_scope_gives_each_rank_a_perturbation_of_its_own(translation_data, tmp_path, every_rank, backend):
    trainer = toy.build_trainer(translation_data, "--optimizer", "sam", *FLAGS, "--batch-size", "4", "--num-workers", "0")
    batches = list(trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=True))
    updates = [[[batch] for batch in batches[2 * number : 2 * number + 2]] for number in range(6)]
    objective = plain.OfCriterion(trainer.get_criterion())
    expected = plain.sam_of_workers(trainer.get_model(), objective, updates, rho=0.2, lr=0.2, momentum=0.9)
    flags = ["--optimizer", "sam", "--ddp-backend", backend, *FLAGS, *"--batch-size 4 --max-update 6".split()]
    train_ranks(translation_data, tmp_path, *flags, user_dir=every_rank)
    assert_ranks_agree(tmp_path)
    assert_close(weights_of(tmp_path, 0), expected, relative=1e-5)


def test_the_gradients_norm_is_that_of_the_ranks_own_by_their_tokens(translation_data, tmp_path, every_rank):
    trainer = toy.build_trainer(translation_data, "--optimizer", "sam", *FLAGS, "--batch-size", "4", "--num-workers", "0")
    batches = list(trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=True))[:2]
    model, criterion = trainer.get_model().train(), trainer.get_criterion()
    norms, sizes = [], []  # of the summed losses
    for batch in batches:
        loss, size = plain.summed_loss(model, criterion, [batch])
        norms.append(torch.cat([g.reshape(-1) for g in plain.gradients(loss, model)]).norm().item())
        sizes.append(size)
    runs = train_ranks(translation_data, tmp_path, "--optimizer", "sam", *FLAGS, *"--batch-size 4 --max-update 1".split())
    [entry] = stats(runs[0].text)
    assert entry["sam_grad_norm"] == pytest.approx(sum(norms) / sum(sizes), rel=2e-3)


# ---------------------------------------------------------------------- global scope in half precision

HALF = {"fp16": "--fp16 --fp16-no-flatten-grads --fp16-init-scale 4", "bf16": "--bf16"}


@pytest.mark.parametrize("precision", HALF)
def test_in_half_precision_two_ranks_climb_as_one(translation_data, tmp_path, precision):
    """The gradients that are shared are of the weights that the forward reads, and not of their master copies."""
    flags = f"--optimizer sam --batch-size 4 --max-update 1 --sam-rounding nearest {HALF[precision]}".split()
    [one] = stats(train(translation_data, tmp_path / "one", *flags, *FLAGS, "--update-freq", "2").text)
    found = {}
    for scope in ("global", "worker"):
        runs = train_ranks(translation_data, tmp_path / scope, *flags, *FLAGS, "--sam-scope", scope)
        [found[scope]] = stats(runs[0].text)
    assert found["global"]["sam_grad_norm"] == pytest.approx(one["sam_grad_norm"], rel=0.01)
    assert found["global"]["sam_gap"] == pytest.approx(one["sam_gap"], rel=0.05)
    # It can fail: a rank's own gradient is another one.
    assert found["worker"]["sam_grad_norm"] != pytest.approx(one["sam_grad_norm"], rel=0.05)


WITH_PARAMETERS = (
    EVERY_RANK
    + """
import functools
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion as Criterion

if not hasattr(Criterion, "_stock"):
    Criterion._stock = Criterion.__init__, Criterion.compute_loss

    @functools.wraps(Criterion.__init__)
    def __init__(self, *args, **kwargs):
        Criterion._stock[0](self, *args, **kwargs)
        self.scale = torch.nn.Parameter(torch.ones(1))

    def compute_loss(self, *args, **kwargs):
        loss, nll_loss = Criterion._stock[1](self, *args, **kwargs)
        return loss * self.scale, nll_loss

    Criterion.__init__, Criterion.compute_loss = __init__, compute_loss
"""
)


@pytest.mark.parametrize("method", ["sam", "dsam"])
def test_a_criterions_weights_are_perturbed_as_the_models(translation_data, tmp_path, method):
    """torch's DDP wraps a criterion with weights by itself. It shares no gradients in the ascent, as legacy_ddp does not."""
    user_dir = tmp_path / "with_parameters"
    user_dir.mkdir()
    (user_dir / "__init__.py").write_text(WITH_PARAMETERS)
    flags = [f"--optimizer={method}", *FLAGS, *"--batch-size 4 --max-update 3 --clip-norm 1".split()]
    for backend in ("pytorch_ddp", "legacy_ddp"):
        train_ranks(translation_data, tmp_path / backend, *flags, "--ddp-backend", backend, user_dir=user_dir)
        assert_ranks_agree(tmp_path / backend)
    ends = [weights_of(tmp_path / backend, 0) for backend in ("pytorch_ddp", "legacy_ddp")]
    assert_close(*ends, relative=1e-5)


# A buffer that each rank moves by a number of its own, as the statistics of a batch norm.
WITH_A_BUFFER = (
    EVERY_RANK
    + """
from fairseq.models.transformer import TransformerModel as Model

if not hasattr(Model, "_stock"):
    Model._stock = Model.__init__, Model.forward

    def __init__(self, *args, **kwargs):
        Model._stock[0](self, *args, **kwargs)
        self.register_buffer("moved", torch.zeros(()))

    def forward(self, *args, **kwargs):
        if self.training:
            print("moved", int(self.moved), flush=True)
            self.moved.add_(1 + 100 * torch.distributed.get_rank())
        return Model._stock[1](self, *args, **kwargs)

    Model.__init__, Model.forward = __init__, forward
"""
)


@pytest.mark.parametrize("method, passes", [("sam", 2), ("dsam", 3)])
def test_all_passes_see_the_buffers_of_the_first_rank(translation_data, tmp_path, method, passes):
    """torch's DDP sends them once, in the first pass, and the ascent's move is undone."""
    user_dir = tmp_path / "with_a_buffer"
    user_dir.mkdir()
    (user_dir / "__init__.py").write_text(WITH_A_BUFFER)
    flags = [f"--optimizer={method}", *FLAGS, *"--batch-size 4 --max-update 3 --broadcast-buffers".split()]
    runs = train_ranks(translation_data, tmp_path, *flags, "--ddp-backend", "pytorch_ddp", user_dir=user_dir)
    for run in runs:
        seen = [int(line.split()[1]) for line in run.text.splitlines() if line.startswith("moved")]
        assert seen == [update for update in range(3) for _ in range(passes)]


# ---------------------------------------------------------------------- empty shards, overflows


@pytest.fixture(scope="module")
def odd_data(tmp_path_factory):
    """5 batches of 4: in the last update of an epoch the second rank has nothing."""
    return toy.write_translation_data(tmp_path_factory.mktemp("odd"), sentences=20)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scope", ["worker", "global"])
def test_a_rank_without_data_follows(odd_data, tmp_path, every_rank, backend, scope):
    flags = f"--optimizer dsam --ddp-backend {backend} --sam-scope {scope} --batch-size 4 --max-epoch 2"
    runs = train_ranks(odd_data, tmp_path, *flags.split(), *FLAGS, user_dir=every_rank)
    assert_ranks_agree(tmp_path)
    entries = stats(runs[0].text)
    assert [entry["bsz"] for entry in entries] == [8, 8, 4, 8, 8, 4]
    for entry in entries:
        assert all(abs(value) < 1e6 for value in entry.values())  # neither infinite nor NaN
        assert entry["sam_radius"] == pytest.approx(0.2, rel=1e-3)
        assert entry["sam_skipped"] == 0


def test_an_update_with_an_empty_shard_equals_that_of_one_rank(odd_data, tmp_path, every_rank):
    flags = "--optimizer dsam --ddp-backend legacy_ddp --sam-scope global --batch-size 4 --max-epoch 1".split()
    two = stats(train_ranks(odd_data, tmp_path / "two", *flags, *FLAGS, user_dir=every_rank)[0].text)
    one = stats(train(odd_data, tmp_path / "one", *flags, *FLAGS, "--update-freq", "2").text)
    assert_close(weights_of(tmp_path / "two", 1), last(tmp_path / "one")["model"], relative=1e-5)
    for name in ("sam_gap", "sam_grad_norm", "dsam_r", "dsam_weight_max", "dsam_weight_entropy", "dsam_negative"):
        assert two[-1][name] == pytest.approx(one[-1][name], rel=1e-3, abs=2e-5), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scope", ["worker", "global"])
def test_ranks_skip_overflowed_fp16_updates_together(translation_data, tmp_path, every_rank, backend, scope):
    flags = f"--optimizer dsam --ddp-backend {backend} --sam-scope {scope} --batch-size 4 --max-update 4"
    flags = [*flags.split(), *FLAGS, *FP16, "--fp16-init-scale", str(2**17)]
    runs = train_ranks(translation_data, tmp_path, *flags, user_dir=every_rank)
    assert_ranks_agree(tmp_path)
    entries = stats(runs[0].text)
    assert entries[0]["loss_scale"] < 2**17
    assert "gradient overflow detected" in runs[0].text
    assert all(entry["sam_skipped"] == 0 and entry["sam_projection"] > 0.8 for entry in entries[1:])
