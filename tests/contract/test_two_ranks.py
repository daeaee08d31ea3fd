"""Two real processes that train together over gloo make the updates of one, with every method; and one of them may run out of
memory."""

import fnmatch

import plain
import pytest
import texts
import toy
from every_method import METHODS
from processes import BACKENDS, assert_close, assert_ranks_agree, last, stats, train, train_ranks, weights_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(toy.DEVICE != "cpu", reason="two ranks over gloo, on a CPU")]

FLAGS = "--base-optimizer sgd --momentum 0.9 --lr 0.1 --dropout 0 --batch-size 4".split()
# In these processes nobody declares pairs. The other two differ from methods that are tried by the scope and by dropout alone.
LEFT_OUT = ("bar-nbar", "bar-obar", "sam-global", "dsam-independent")
RUNS = [
    (name, backend)
    for name, method in METHODS.items()
    if name not in LEFT_OUT
    for backend in (BACKENDS if method.lora or not method.varies else BACKENDS[:1])
]
ALONE = {}  # method -> what one rank has made of the same sentences


def line_of(method):
    """The parts of a command line; with one perturbation for all ranks."""
    # The rate is such that LoRA's B, which begins at 0, becomes longer than A for some pair.
    scope = "--sam-scope global" if "sam" in method.logs else "--bar-monitor all --momentum 0 --lr 0.2"
    model = method.arch.split() or toy.MODEL
    if method.decoder:
        model += ["--unused-symbols", texts.UNUSED, *texts.LINES, "--task", "language_modeling"]
    return ["--optimizer", *method.flags.split(), *FLAGS, *scope.split(), "--max-update", "6"], model


@pytest.mark.parametrize("name, backend", RUNS)
def test_two_ranks_equal_one(translation_data, text_data, tmp_path, every_rank, name, backend):
    """fairseq deals batches to ranks in turn: two per update on one rank are the same sentences."""
    flags, model = line_of(METHODS[name])
    # As of a model with more weights than the ranks share at once.
    user_dir = tmp_path / "in_parts"
    user_dir.mkdir()
    code = (every_rank / "__init__.py").read_text()
    (user_dir / "__init__.py").write_text(f"{code}\nimport sharp_plugins.host.passes\n\nsharp_plugins.host.passes._BUCKET = 1000\n")
    data = text_data if METHODS[name].decoder else translation_data
    if name not in ALONE:
        run = train(data, tmp_path / "one", *flags, "--update-freq", "2", model=model)
        ALONE[name] = last(tmp_path / "one")["model"], stats(run.text)
    expected, entries = ALONE[name]
    runs = train_ranks(data, tmp_path / "two", *flags, "--ddp-backend", backend, user_dir=user_dir, model=model)
    assert_ranks_agree(tmp_path / "two")
    assert_close(weights_of(tmp_path / "two", 1), expected, relative=1e-4)
    together = stats(runs[0].text)
    assert len(together) == len(entries) == 6
    for one, two in zip(entries, together):
        assert one.keys() == two.keys()
        patterns = ["loss", "gnorm", "wpb", "balancedness_*", *METHODS[name].logs.split()]
        for shown in {found for pattern in patterns for found in fnmatch.filter(one, pattern)}:
            # As printed: some with 5 decimals, some with 4 digits.
            assert two[shown] == pytest.approx(one[shown], rel=1e-3, abs=2e-5), shown
    for pattern in METHODS[name].logs.split():
        assert fnmatch.filter(entries[0], pattern), pattern
    if "bar_shrinks_x" in entries[0]:  # both decisions occur, so that agreeing means something
        assert {entry["bar_shrinks_x"] for entry in entries} != {0.0}


# ---------------------------------------------------------------------- out of memory

# Rank 1 runs out of memory once, at the given forward pass.
OUT_OF_MEMORY = """
import torch
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion as Criterion

forward, passes = Criterion.forward, []


def fail_once(self, model, sample, reduce=True):
    if torch.distributed.get_rank() == 1 and model.training:
        passes.append(sample)
        if len(passes) == AT:
            raise RuntimeError("CUDA out of memory (injected)")
    return forward(self, model, sample, reduce)


Criterion.forward = fail_once
"""
# An update of two micro-batches is four passes: two for the ascent, two for the descent. These are of the second update.
LOST = {5: ("ascent", 0), 6: ("ascent", 1), 8: ("descent", 1)}


@pytest.mark.parametrize("at, scope", [(5, "worker"), (6, "global"), (8, "worker")])
def test_a_rank_out_of_memory_gives_up_its_gradients_and_the_others_go_on(translation_data, tmp_path, every_rank, at, scope):
    """The update is that of the gradients that are left, on both ranks."""
    user_dir = tmp_path / f"forgetful_at_{at}"  # fairseq imports the directory as a module of that name
    user_dir.mkdir()
    code = (every_rank / "__init__.py").read_text() + OUT_OF_MEMORY
    (user_dir / "__init__.py").write_text(code.replace("AT:", f"{at}:"))
    flags = f"--optimizer sam --sam-rho 0.2 --sam-scope {scope} --update-freq 2 --max-update 3".split()
    trainer = toy.build_trainer(translation_data, *flags, *FLAGS, "--num-workers", "0")
    batches = list(trainer.get_train_iterator(epoch=1).next_epoch_itr(shuffle=True))
    updates = [[[batches[4 * number + rank + 2 * part] for part in range(2)] for rank in range(2)] for number in range(3)]
    settings = dict(rho=0.2, lr=0.1, momentum=0.9, together=scope == "global")
    model, objective = trainer.get_model(), plain.OfCriterion(trainer.get_criterion())
    expected = plain.sam_of_workers(model, objective, updates, **settings, lost=(1, 1, *LOST[at]))
    without = plain.sam_of_workers(model, objective, updates, **settings)

    runs = train_ranks(translation_data, tmp_path, *flags, *FLAGS, "--ddp-backend", "legacy_ddp", user_dir=user_dir)
    assert "injected" in runs[1].text and "injected" not in runs[0].text
    assert [entry["num_updates"] for entry in stats(runs[0].text)] == [1, 2, 3]  # no update is lost
    assert_ranks_agree(tmp_path)
    assert_close(weights_of(tmp_path, 0), expected, relative=1e-5)
    with pytest.raises(AssertionError):  # the comparison can fail: what was given up shows
        assert_close(weights_of(tmp_path, 0), without, relative=1e-4)
