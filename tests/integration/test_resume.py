"""Stopping, being killed and going on; starting from other runs' checkpoints. With real `fairseq-train` processes."""

import shutil
import signal

import pytest
import torch
from processes import assert_equal, assert_same_training, checkpoint, fork, last, line, start, stats, train

pytestmark = pytest.mark.slow

# 16 batches an epoch. The toy model has dropout 0.1.
DSAM = "--optimizer dsam --lr 0.01 --clip-norm 0.5 --batch-size 4".split()
SAM = "--optimizer sam --lr 0.01 --batch-size 8".split()
ADAM = "--optimizer adam --lr 0.01 --batch-size 8".split()
FP16 = "--fp16 --fp16-no-flatten-grads".split()


@pytest.mark.parametrize(
    "flags",
    [
        "--lr-scheduler inverse_sqrt --warmup-updates 3 --store-ema --ema-decay 0.9",
        # The scale overflows at first, and then doubles after every 3 updates.
        "--fp16 --fp16-no-flatten-grads --fp16-init-scale 16384 --fp16-scale-window 3",
        "--bf16",
        "--amp --amp-scale-window 3",
        "--memory-efficient-fp16 --fp16-init-scale 16384 --fp16-scale-window 3",
        "--sam-interval 2 --store-ema --ema-decay 0.9 --ema-update-freq 3",  # it stops after two updates of three
        "--sam-start 7 --sam-interval 2",
        "--optimizer sam --sam-start 7",
        "--base-optimizer sgd --momentum 0.9 --sam-adaptive --sam-rho 0.5",
    ],
    ids=["fp32", "fp16", "bf16", "amp", "memory-efficient", "intervals", "start", "start of SAM", "adaptive"],
)
def test_resuming_in_the_middle_of_an_epoch_equals_never_having_stopped(translation_data, tmp_path, flags):
    flags = [*DSAM, *flags.split(), "--save-interval-updates", "5"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(translation_data, parts, *flags, "--max-update", "5")
    assert last(parts)["extra_state"]["train_iterator"]["iterations_in_epoch"] >= 5
    resumed = train(translation_data, parts, *flags, "--max-update", "10")
    assert "@ 5 updates" in resumed.text
    uninterrupted = train(translation_data, whole, *flags, "--max-update", "10")
    assert_same_training(parts, whole)
    if "ema" in last(whole)["extra_state"]:
        assert_equal(last(parts)["extra_state"]["ema"], last(whole)["extra_state"]["ema"], "ema")
    if "--fp16" in flags:
        assert len({entry["loss_scale"] for entry in stats(uninterrupted.text)}) > 1
    # Nothing of the update in which it went on depends on having been stopped.
    shown = {"loss", "gnorm", "sam_gap", "sam_grad_norm", "sam_radius", "dsam_r", "dsam_negative", "lr"}
    after = stats(uninterrupted.text)[-5:]
    assert [{k: entry[k] for k in shown & entry.keys()} for entry in stats(resumed.text)] == [
        {k: entry[k] for k in shown & entry.keys()} for entry in after
    ]


@pytest.mark.parametrize("flags", [[], ["--update-ordered-indices-seed"]])
def test_resuming_in_a_later_epoch_equals_never_having_stopped(translation_data, tmp_path, flags):
    # fairseq itself forms other batches when it starts in a later epoch than the first, whatever the optimizer.
    flags = [*DSAM, "--update-freq", "2", *flags]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for last_update in ("11", "13"):
        train(translation_data, parts, *flags, "--max-update", last_update)
    train(translation_data, whole, *flags, "--max-update", "13")
    assert last(whole)["extra_state"]["train_iterator"]["epoch"] == 2
    assert_same_training(parts, whole)


def test_a_learning_rate_that_waits_for_better_epochs_goes_on_waiting(translation_data, tmp_path):
    # Better would be twice the first epoch's loss. The third epoch without it, which is the fourth of all, ends the waiting.
    flags = "--lr-scheduler reduce_lr_on_plateau --lr-patience 2 --lr-shrink 0.5".split()
    flags += "--maximize-best-checkpoint-metric --lr-threshold 1".split()
    for save_dir, last_epoch in (("parts", 3), ("parts", 5), ("whole", 5)):
        run = train(translation_data, tmp_path / save_dir, *SAM, *flags, "--max-epoch", last_epoch, validates=True)
    assert [entry["train_lr"] for entry in stats(run.text, "train")] == [0.01] * 4 + [0.005]
    assert_same_training(tmp_path / "parts", tmp_path / "whole")


# Its decoder's output is scaled by a number that it draws from NumPy, as wav2vec 2.0 draws which layers to drop.
DRAWS_FROM_NUMPY = """
import numpy
import sharp_plugins
from fairseq.models.transformer import TransformerModel as Model

sharp_plugins.register()

if not hasattr(Model, "_stock"):
    Model._stock = Model.forward

    def forward(self, *args, **kwargs):
        x, extra = Model._stock(self, *args, **kwargs)
        return x * (0.5 + numpy.random.random() if self.training else 1), extra

    Model.forward = forward
"""


def test_a_model_goes_on_drawing_from_numpy(translation_data, tmp_path):
    user_dir = tmp_path / "draws_from_numpy"
    user_dir.mkdir()
    (user_dir / "__init__.py").write_text(DRAWS_FROM_NUMPY)
    flags = [*SAM, "--num-workers", "1"]
    for save_dir, last_update in (("parts", 3), ("parts", 5), ("whole", 5)):
        train(translation_data, tmp_path / save_dir, *flags, "--max-update", last_update, user_dir=user_dir)
    assert_same_training(tmp_path / "parts", tmp_path / "whole")


def test_patience_goes_on_where_it_was(translation_data, tmp_path):
    # With a learning rate of 0 no validation is better than the first one: the third is the second without an improvement.
    flags = [*SAM, *"--lr 0 --batch-size 32 --patience 2".split()]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(translation_data, parts, *flags, "--max-epoch", "2", validates=True)
    resumed = train(translation_data, parts, *flags, validates=True)
    train(translation_data, whole, *flags, validates=True)
    assert "@ 4 updates" in resumed.text and "hasn't improved for last 2 runs" in resumed.text
    assert last(whole)["optimizer_history"][-1]["num_updates"] == 6
    assert_same_training(parts, whole)


def test_a_run_that_measures_bleu_can_be_resumed(translation_data, tmp_path):
    # fairseq's counts of n-grams are NumPy arrays, which no checkpoint may hold.
    flags = [*ADAM, *"--eval-bleu --eval-bleu-detok space --save-interval-updates 3".split(), "--eval-bleu-args", '{"beam": 1}']
    flags += "--best-checkpoint-metric bleu --maximize-best-checkpoint-metric --batch-size-valid 4".split()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(translation_data, parts, *flags, "--max-update", "3", validates=True)
    resumed = train(translation_data, parts, *flags, "--max-update", "6", validates=True)
    uninterrupted = train(translation_data, whole, *flags, "--max-update", "6", validates=True)
    assert "@ 3 updates" in resumed.text
    assert_same_training(parts, whole)
    for key in ("best", "val_loss"):
        assert last(parts)["extra_state"][key] == last(whole)["extra_state"][key]
    counts = [
        {name: meter for _, name, _, meter in last(run)["extra_state"]["metrics"]["valid"] if name.startswith("_bleu")}
        for run in (parts, whole)
    ]
    assert_equal(*counts)
    assert len(counts[0]) == 4
    for key in ("valid_bleu", "valid_best_bleu"):
        assert stats(resumed.text, "valid")[-1][key] == stats(uninterrupted.text, "valid")[-1][key]


# 10 updates are an epoch and a bit. δ-SAM begins at the sixth.
KILLED = [*DSAM[:-1], "1", *"--update-freq 8 --save-interval-updates 3 --max-update 10 --sam-start 0.5".split()]
# It stops inside an update, and so is sure to be killed there: 5 updates of 8 passes, 2 of δ-SAM's 31, and 20 of the next.
HELD = """
import itertools, sys, time, torch
from fairseq.models.transformer import TransformerModel
from fairseq_cli import train

passes = itertools.count(1)

def hold(module, given, found):
    if isinstance(module, TransformerModel) and next(passes) == 5 * 8 + 2 * 31 + 20:
        print("held", flush=True)
        time.sleep(600)

torch.nn.modules.module.register_module_forward_hook(hook=hold)
sys.argv = ["fairseq-train", *ARGUMENTS]
train.cli_main()
"""


@pytest.fixture(scope="module")
def never_killed(translation_data, tmp_path_factory):
    save_dir = tmp_path_factory.mktemp("never_killed")
    found = train(translation_data, save_dir, *KILLED)
    assert [entry["num_updates"] for entry in stats(found.text) if "sam_gap" in entry] == [6, 7, 8, 9, 10]
    return save_dir


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(translation_data, tmp_path, never_killed, name):
    run = fork(f"ARGUMENTS = {line(translation_data, tmp_path, *KILLED)}\n{HELD}", tmp_path / "killed.log")
    run.wait_for("held")
    if name == "SIGTERM":
        run.process.terminate()
    else:
        run.process.kill()
    run.wait()
    assert run.process.exitcode == -getattr(signal, name)
    assert len(stats(run.text)) == 7
    state = last(tmp_path)
    assert state["optimizer_history"][-1]["num_updates"] == 6
    assert all(value.isfinite().all() for value in state["model"].values())
    train(translation_data, tmp_path, *KILLED)
    assert_same_training(tmp_path, never_killed)


# ---------------------------------------------------------------------- other runs' checkpoints


@pytest.fixture(scope="module")
def adam_run(translation_data, tmp_path_factory):
    save_dir = tmp_path_factory.mktemp("adam")
    train(translation_data, save_dir, *ADAM, "--max-update", "4")
    return save_dir


@pytest.fixture
def copy_of_adam_run(adam_run, tmp_path):
    shutil.copy(adam_run / "checkpoint_last.pt", tmp_path)
    return tmp_path


def test_an_adam_checkpoint_goes_on_with_dsam_and_a_new_optimizer(translation_data, copy_of_adam_run):
    run = train(translation_data, copy_of_adam_run, *DSAM, "--reset-optimizer", "--max-update", "8")
    # The weights and the place in the data go on; the count of updates belongs to the optimizer and starts anew.
    assert [entry["num_updates"] for entry in stats(run.text)] == list(range(1, 9))
    state = last(copy_of_adam_run)
    assert state["last_optimizer_state"]["sharp_plugins"]["optimizer"] == "dsam"


def test_finetuning_starts_from_the_weights_alone(translation_data, adam_run, tmp_path):
    source = adam_run / "checkpoint_last.pt"
    flags = ["--finetune-from-model", source, "--max-update", "1", "--lr", "0"]
    run = train(translation_data, tmp_path, *DSAM, *flags)
    assert stats(run.text)[0]["num_updates"] == 1
    # A learning rate of 0: what is saved are the weights that training began with, and not those of the ascent.
    assert_equal(last(tmp_path)["model"], checkpoint(source)["model"], "model")


def test_optimizer_overrides_reach_the_base_optimizer(translation_data, tmp_path):
    train(translation_data, tmp_path, *DSAM, "--max-update", "2")
    overrides = ["--optimizer-overrides", "{'lr': 0.01, 'weight_decay': 0.5}"]
    train(translation_data, tmp_path, *DSAM, "--max-update", "3", *overrides)
    (group,) = last(tmp_path)["last_optimizer_state"]["param_groups"]
    assert group["weight_decay"] == 0.5


def test_an_adam_checkpoint_is_not_taken_for_one_of_sam(translation_data, copy_of_adam_run):
    run = start(line(translation_data, copy_of_adam_run, *SAM), copy_of_adam_run / "log")
    assert "--reset-optimizer" in run.fail()


def test_an_adam_checkpoint_is_not_taken_for_one_of_sam_under_fp16(translation_data, tmp_path):
    # fairseq compares class names, and that of the mixed-precision wrapper is the same for all optimizers.
    train(translation_data, tmp_path, *ADAM, *FP16, "--max-update", "2")
    message = start(line(translation_data, tmp_path, *SAM, *FP16), tmp_path / "log").fail()
    assert "--reset-optimizer" in message and "--optimizer sam" in message


def test_a_checkpoint_of_another_base_optimizer_is_not_taken(translation_data, tmp_path):
    train(translation_data, tmp_path, *SAM, "--max-update", "2")
    flags = [*SAM, *"--base-optimizer sgd --max-update 4".split()]
    message = start(line(translation_data, tmp_path, *flags), tmp_path / "log").fail()
    assert "--reset-optimizer" in message and "--base-optimizer sgd" in message


def test_a_checkpoint_needs_no_plugin_to_be_read(translation_data, tmp_path):
    # The safe loader names every class that it would have to be allowed to build.
    train(translation_data, tmp_path, *DSAM, *FP16, "--max-update", "1")
    unsafe = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", lambda path: [])
    assert set(unsafe(str(tmp_path / "checkpoint_last.pt"))) <= {"argparse.Namespace"}
