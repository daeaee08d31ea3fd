"""Configs that tests make in a short way are those of fairseq's own, whatever was asked for before."""

import pytest
import quick_config
import sentences
import texts
import toy
from fairseq.dataclass import utils

TRANSLATION = [
    "--optimizer sam",
    "--optimizer sam --sam-rho 0.1 --sam-adaptive --fp16 --lr 0.1,0.2 --update-freq 2,3",
    "--optimizer adam --adam-betas (0.9,0.98) --clip-norm 2.5",
    "--optimizer adam --adam-betas (0.8,0.98) --lr-scheduler inverse_sqrt --warmup-updates 4",
    "--optimizer adam --save-dir it's_here --sentence-avg --max-update 7 --patience 3",
    "--optimizer dsam --base-optimizer adam --weight-decay 0.1 --keep-best-checkpoints 2",
]


@pytest.fixture
def real(monkeypatch):
    """Makes a config in fairseq's own way."""

    def make(config, *what, **parts):
        with monkeypatch.context() as patch:
            patch.setattr(toy, "convert_namespace_to_omegaconf", utils.convert_namespace_to_omegaconf)
            return config(*what, **parts)

    return make


def assert_same(one, other):
    assert one == other and repr(one) == repr(other)


@pytest.mark.parametrize("order", [1, -1])
def test_translations_configs(translation_data, real, monkeypatch, order):
    monkeypatch.setattr(quick_config, "_made", {})
    for line in TRANSLATION[::order]:
        assert_same(toy.config(translation_data, *line.split()), real(toy.config, translation_data, *line.split()))
    assert len(quick_config._made) < len(TRANSLATION)


def test_other_tasks_and_models(sentence_data, text_data, real, monkeypatch):
    monkeypatch.setattr(quick_config, "_made", {})
    criterion = ["--criterion", "r3f_sentence_prediction"]
    for flags in ("--r3f-lambda 0.5", "--r3f-eps 0.1 --optimizer sgd"):
        model = [*sentences.MODEL, "--num-classes", "3"]
        what = (sentence_data / "classes", "--optimizer", "sam", *flags.split())
        parts = dict(model=model, criterion=criterion, task="sentence_prediction")
        assert_same(toy.config(*what, **parts), real(toy.config, *what, **parts))
    for model in texts.MODELS:
        for flags in ("--optimizer sam", "--optimizer sam --sample-break-mode eos --dropout 0.2"):
            assert_same(
                texts.config(text_data, *flags.split(), model=model), real(texts.config, text_data, *flags.split(), model=model)
            )
