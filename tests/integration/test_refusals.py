"""Bad input ends a real `fairseq-train` before it trains, with a message that says which flag is at fault."""

import pytest
from processes import line, start

pytestmark = pytest.mark.slow

ALIGNMENT = "--criterion label_smoothed_cross_entropy_with_alignment --label-smoothing 0.1".split()


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--optimizer sam --sam-rho -1", "--sam-rho"),
        ("--optimizer sam --sam-rho nan", "--sam-rho"),
        ("--optimizer sam --sam-interval 0", "--sam-interval"),
        ("--optimizer sam --sam-start 0.75", "--sam-start 0.75 is a share of the run"),
        ("--optimizer sam --sam-start 2.5 --max-update 9", "--sam-start must be"),
        ("--optimizer dsam --sam-start -1", "--sam-start must be"),
        ("--optimizer sam --sam-eta -1", "--sam-eta"),
        ("--optimizer sam --sam-scope everywhere", "--sam-scope"),
        ("--optimizer dsam --dsam-beta -1", "--dsam-beta"),
        ("--optimizer sam --base-optimizer nosuch", "--base-optimizer nosuch"),
        ("--optimizer sam --base-optimizer sam", "--base-optimizer sam"),
        ("--optimizer sam --base-optimizer sgd --adam-betas (0.9,0.98)", "--adam-betas"),
        ("--optimizer sam --ddp-backend fully_sharded", "--ddp-backend fully_sharded"),
        ("--optimizer sam --ddp-backend slowmo", "--ddp-backend slowmo"),
        ("--optimizer sam --use-bmuf", "--use-bmuf"),
        ("--optimizer sam --tpu", "--tpu"),
        ("--optimizer sam --zero-sharding os", "--zero-sharding os"),
        ("--optimizer sam --sam-rho", "--sam-rho"),
    ],
)
def test_a_bad_setting_is_refused_by_name(translation_data, tmp_path, flags, words):
    arguments = line(translation_data, tmp_path, *flags.split(), "--lr", "0.01", "--batch-size", "8")
    run = start(arguments, tmp_path / "log")
    message = run.fail()
    assert words in message.split("error:")[-1], message[-3000:]
    assert "Traceback" not in message and "begin training" not in message
    assert not (tmp_path / "checkpoint_last.pt").exists()


def test_dsam_refuses_a_criterion_without_sentence_losses_and_lists_those_with_them(translation_data, tmp_path):
    flags = "--optimizer dsam --lr 0.01 --batch-size 8".split()
    run = start(line(translation_data, tmp_path, *flags, criterion=ALIGNMENT), tmp_path / "log")
    message = run.fail()
    assert "--optimizer dsam" in message and "--criterion" in message
    for name in ("cross_entropy", "label_smoothed_cross_entropy", "masked_lm", "sentence_prediction"):
        assert name in message.split("Supported are")[-1]
    assert "begin training" not in message
