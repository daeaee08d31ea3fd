"""fairseq's own programs with a validation that generates: the best checkpoint by BLEU, a resumed run, two ranks."""

import prompts
import pytest
from processes import checkpoint, console, line, start, stats, train_ranks
from toy import PLUGIN

pytestmark = pytest.mark.slow

TASK = ["--task", "prompted_generation"]
EVAL = ["--eval-bleu", "--eval-bleu-args", '{"max_len_b": 20, "beam": 2}', "--batch-size", "8", "--batch-size-valid", "2"]
PARTS = {"model": prompts.MODEL, "criterion": ["--criterion", "cross_entropy"], "validates": True}


def train(data, save_dir, log, *flags):
    words = line(data, save_dir, *TASK, *EVAL, *flags, **PARTS)
    return stats(start(words, save_dir / log).succeed().text, "valid")


def test_the_best_checkpoint_by_bleu(data, learned, tmp_path):
    save_dir = tmp_path / "run"
    flags = "--optimizer sam --base-optimizer adam --sam-rho 0.5 --lr 0.02 --validate-interval-updates 3".split()
    flags += ["--best-checkpoint-metric", "bleu", "--maximize-best-checkpoint-metric", "--tensorboard-logdir", tmp_path / "board"]
    found = train(data, save_dir, "first.log", *flags, "--max-epoch", "1", "--finetune-from-model", learned)
    assert [entry["valid_num_updates"] for entry in found] == [3, 6] and all(entry["valid_gen_texts"] == 6 for entry in found)
    best = checkpoint(save_dir / "checkpoint_best.pt")["extra_state"]
    assert best["val_loss"] == pytest.approx(max(entry["valid_bleu"] for entry in found), abs=1e-3) and best["best"] > 1
    # What is not above the kept value is no new best one.
    found = train(data, save_dir, "second.log", *flags, "--max-epoch", "2", "--lr", "5", "--reset-lr-scheduler")
    assert found[-1]["valid_bleu"] < best["best"] == pytest.approx(found[-1]["valid_best_bleu"], abs=1e-3)
    assert checkpoint(save_dir / "checkpoint_best.pt")["extra_state"]["best"] == best["best"]
    # The weights of the checkpoint, not those of an ascent, wrote the texts.
    words = [data, "--user-dir", PLUGIN, *TASK, "--path", save_dir / "checkpoint_best.pt", "--cpu"]
    output = console("fairseq-validate", *words, "--batch-size", "2", "--log-format", "json", directory=tmp_path)
    assert stats(output, "valid")[-1]["valid_bleu"] == pytest.approx(best["best"], abs=1e-3)
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = board.EventAccumulator(str(tmp_path / "board" / "valid")).Reload()
    assert {"bleu", "chrf", "gen_seconds"} <= set(events.Tags()["scalars"])


def test_two_ranks_generate_together_what_one_generates(data, learned, tmp_path):
    """9 rows in 5 batches: a rank has one less, and takes part in the last step with another's batch."""
    flags = [
        "--optimizer",
        "sgd",
        "--lr",
        "0",
        "--max-epoch",
        "1",
        "--ddp-backend",
        "pytorch_ddp",
        "--finetune-from-model",
        learned,
    ]
    place = [*TASK, *EVAL, *flags, "--valid-subset", "valid,test"]
    first, _ = train_ranks(data, tmp_path, *place, **PARTS)
    one = prompts.ready(prompts.trainer(data, *EVAL, "--valid-subset", "valid,test"), learned)
    for subset, texts in (("valid", 6), ("test", 5)):
        (found,), wanted = stats(first.text, subset), prompts.validate(one, subset)
        assert found[f"{subset}_bleu"] == pytest.approx(wanted["bleu"], abs=1e-3) and wanted["bleu"] > 1
        assert found[f"{subset}_chrf"] == pytest.approx(wanted["chrf"], abs=1e-3)
        assert found[f"{subset}_gen_texts"] == texts
