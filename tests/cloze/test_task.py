"""``--task cloze``: batches, what is refused before anything trains, and evaluation."""

import json
import math

import clozes
import published
import pytest
import torch
import toy

from sharp_plugins.cloze.config import ClozeConfig
from sharp_plugins.cloze.prepared import read_prepared
from sharp_plugins.cloze.task import Cloze


def test_rows_come_in_random_order_in_training_alone(data):
    task = Cloze.setup_task(ClozeConfig(data=str(data)))
    orders = {}
    for split in ("train", "valid"):
        task.load_dataset(split)
        dataset = task.dataset(split)
        orders[split] = dataset.ordered_indices()
        assert sorted(orders[split]) == list(range(len(dataset)))
        assert bool((dataset.sizes[orders[split]][1:] >= dataset.sizes[orders[split]][:-1]).all()) == (split == "valid")
    assert orders["train"].tolist() != task.dataset("train").ordered_indices().tolist()


def test_batches(data):
    task = Cloze.setup_task(ClozeConfig(data=str(data)))
    task.load_dataset("test")
    dataset = task.dataset("test")
    sample = dataset.collater([dataset[1], dataset[0]])
    toy.check_that_it_can_be_pinned(sample)
    # "xxxxxz"-like rows: <s>, letters, ĠIt Ġwas <mask> . </s>; the shorter one is padded with 1
    tokens, masked = sample["net_input"]["src_tokens"], sample["net_input"]["masked_tokens"]
    assert tokens.shape == (2, 13) and tokens[1, -1] == 1 and sample["net_input"]["src_lengths"].tolist() == [13, 12]
    assert masked.sum(1).tolist() == [1, 1] and tokens[masked].tolist() == [342, 342]
    assert sample["target"].tolist() == [1, 0] and sample["ntokens"] == 25 and sample["nsentences"] == 2
    assert dataset.collater([]) == {}


@pytest.mark.parametrize("criterion", ["sentence_prediction", "masked_lm", "rdrop_sentence_prediction"])
def test_other_criterions_are_refused(data, criterion):
    with pytest.raises(ValueError, match=f"--criterion {criterion}: --task cloze has cloze, rdrop_cloze"):
        clozes.trainer(data, criterion=criterion)


@pytest.mark.parametrize("criterion", ["cloze", "rdrop_cloze"])
def test_the_criterion_wants_the_task(translation_data, criterion):
    with pytest.raises(ValueError, match="predicts a word at a mask, .*use --task cloze"):
        toy.build_trainer(translation_data, "--optimizer", "sgd", *toy.SGD, criterion=["--criterion", criterion])


def test_a_model_without_masks_is_refused(data):
    with pytest.raises(ValueError, match="--task cloze trains masked language models"):
        clozes.trainer(data, model=toy.MODEL)


def test_splits_that_are_not_there(data, backbone, tmp_path):
    with pytest.raises(FileNotFoundError, match="no data of valid2;"):
        clozes.trainer(data, "--valid-subset", "valid,valid2")
    with pytest.raises(FileNotFoundError, match="cloze.json: not there; `python -m sharp_plugins.cloze prepare`"):
        clozes.trainer(tmp_path)


def test_rows_that_are_longer_than_the_model(data):
    model = ["16" if word == "256" else word for word in clozes.MODEL]
    clozes.trainer(data, model=model)
    model = ["12" if word == "256" else word for word in clozes.MODEL]
    with pytest.raises(ValueError, match="--max-positions 12: .* has sequences of 13 tokens"):
        clozes.trainer(data, model=model)
    assert clozes.trainer(data, model=clozes.MODEL[:-2]).get_model().max_positions() == 256  # the data's model's


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Backbones without a head, and with another vocabulary."""
    directory = tmp_path_factory.mktemp("others")
    without = clozes.convert(clozes.write_published(directory / "p1", lm_head=False), directory / "without")
    other = clozes.convert(published.write_roberta(directory / "p2", lm_head=True), directory / "other")
    return without, other


@pytest.mark.parametrize("flag", ["--finetune-from-model", "--restore-file"])
def test_checkpoints_that_do_not_fit(data, others, flag):
    without, other = others
    with pytest.raises(ValueError, match="model.pt: it has no masked-language-model head, .*encoder.lm_head"):
        clozes.trainer(data, flag, without / "model.pt")
    with pytest.raises(ValueError, match="its dict.txt and tokenizer.json are another model's"):
        clozes.trainer(data, flag, other / "model.pt")


def test_an_untied_head_is_not_read_as_a_tied_one(data, backbone, tmp_path):
    """Both tables would be read into one."""
    state = torch.load(backbone / "model.pt", weights_only=False)
    state["model"]["encoder.lm_head.weight"] = state["model"]["encoder.lm_head.weight"] + 1
    torch.save(state, tmp_path / "untied.pt")
    for choice in ("tied", "frozen"):
        with pytest.raises(ValueError, match=f"--train-lm-head {choice}: .*untied.pt has an output layer that is not its table"):
            clozes.trainer(data, "--finetune-from-model", tmp_path / "untied.pt", "--train-lm-head", choice, model=clozes.LORA)
    clozes.trainer(data, "--finetune-from-model", tmp_path / "untied.pt", model=clozes.LORA)
    with pytest.raises(ValueError, match="--untie-weights-roberta is the opposite of --train-lm-head tied"):
        clozes.trainer(data, "--train-lm-head", "tied", model=[*clozes.MODEL, "--untie-weights-roberta"])


def test_data_that_were_changed(data, tmp_path):
    import shutil

    copy = shutil.copytree(data, tmp_path / "copy")
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="tokenizer.json: it is not the one that the data were made with"):
        read_prepared(copy)
    shutil.copyfile(data / "tokenizer.json", copy / "tokenizer.json")
    stamp = json.loads((copy / "cloze.json").read_text())
    for change in ({"words": [1]}, {"words": [1, 999]}, {"facts": []}, {"version": 0}, {"words": ["a", "b"]}):
        (copy / "cloze.json").write_text(json.dumps({**stamp, **change}))
        with pytest.raises(ValueError, match="cloze.json|written by another version"):
            read_prepared(copy)


# ---------------------------------------------------------------------- evaluation


def test_evaluate_a_backbone(data, backbone, tmp_path, capsys):
    words = ["evaluate", backbone / "model.pt", data, "--json", tmp_path / "s.json", "--predictions", tmp_path / "p.jsonl"]
    assert clozes.main(*words, "--batch-size", "5") == 0
    told = capsys.readouterr().out
    scores = json.loads((tmp_path / "s.json").read_text())
    assert set(scores) == {"valid", "test"} and set(scores["valid"]) == {"accuracy", "loss", "examples"}
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows if row["split"] == "valid"] == [label for _, label in clozes.toy_rows(12, 50)]
    for split, found in scores.items():
        mine = [row for row in rows if row["split"] == split]
        logits = torch.tensor([[row["logits"]["0"], row["logits"]["1"]] for row in mine], dtype=torch.float64)
        targets = torch.tensor([int(row["label"]) for row in mine])
        assert found["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, targets).item() / math.log(2), abs=1e-6)
        assert [str(i) for i in logits.argmax(1).tolist()] == [row["prediction"] for row in mine]
        assert found["accuracy"] == pytest.approx(100 * sum(row["label"] == row["prediction"] for row in mine) / len(mine))
        assert f"{split}: accuracy {found['accuracy']:.2f}" in told and found["examples"] == len(mine)


def test_another_layout_than_the_training_s_is_told(data, backbone, tmp_path, capsys):
    from sharp_plugins.cloze.checks import state_of

    state = torch.load(backbone / "model.pt", weights_only=False)
    trained_on = state_of(read_prepared(data))
    torch.save({**state, "task_state": {"cloze": trained_on}}, tmp_path / "same.pt")
    trained_on["layout"] = {**trained_on["layout"], "max_length": 99}
    torch.save({**state, "task_state": {"cloze": trained_on}}, tmp_path / "other.pt")
    for name, is_told in (("same", False), ("other", True)):
        assert clozes.main("evaluate", tmp_path / f"{name}.pt", data) == 0
        assert ("other.pt was trained with another layout" in capsys.readouterr().out) == is_told


def test_memory_that_is_not_there_is_told_in_a_line(data, backbone, monkeypatch, capsys):
    def predict(self, split, batch):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("sharp_plugins.cloze.evaluate.Checkpoint.predict", predict)
    path = backbone / "model.pt"
    assert clozes.main("evaluate", path, data) == 1
    words = "cannot be evaluated: CUDA out of memory; a smaller --batch-size takes less memory"
    assert capsys.readouterr().err == f"error: {path}: {words}\n"


def test_scores_are_printed_though_they_cannot_be_written(data, backbone, tmp_path, monkeypatch, capsys):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sharp_plugins.cloze.__main__.write_text", full)
    assert clozes.main("evaluate", backbone / "model.pt", data, "--json", tmp_path / "scores.json") == 1
    shown = capsys.readouterr()
    assert "test: accuracy " in shown.out and "No space left" in shown.err


def test_batches_of_one_predict_the_same(data, backbone):
    from sharp_plugins.cloze.evaluate import Checkpoint

    checkpoint = Checkpoint(backbone / "model.pt", read_prepared(data))
    one, many = (checkpoint.predict("train", batch).logits for batch in (1, 64))
    torch.testing.assert_close(one, many, rtol=1e-5, atol=1e-5)


def test_rows_that_are_longer_than_the_model_are_refused_before_any_split_is_scored(backbone, tmp_path, capsys):
    """The data may be another model's, with the same vocabulary and more positions."""
    small = clozes.convert(clozes.write_published(tmp_path / "p", max_position_embeddings=18), tmp_path / "small")
    short, long = clozes.toy_rows(4), [(["x" * 40], "1")]
    rows = {"valid": short, "test": short + long}
    files = {split: clozes.write_lines(tmp_path / f"{split}.jsonl", of) for split, of in rows.items()}
    clozes.prepare(backbone, tmp_path / "data", "sst-2", **files)
    line = ["evaluate", small / "model.pt", tmp_path / "data", "--json", tmp_path / "scores.json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharp_plugins.cloze.evaluate.Checkpoint.predict", None)
        assert clozes.main(*line) == 1
    words = "the longest row of test has 46 tokens, and the model 16 positions; prepare the data again with `--max-length 16`"
    assert f"error: {tmp_path / 'data'}: {words}" in capsys.readouterr().err
    assert clozes.main(*line, "--splits", "valid") == 0


def test_what_evaluate_refuses(data, backbone, others, tmp_path, capsys):
    without, other = others

    def error(*words):
        assert clozes.main("evaluate", *words) == 1
        return capsys.readouterr().err

    assert "it has no masked-language-model head" in error(without / "model.pt", data)
    assert "are another model's" in error(other / "model.pt", data)
    assert "--splits dev: " in error(backbone / "model.pt", data, "--splits", "dev")
    train = tmp_path / "train-alone"
    clozes.prepare(backbone, train, "sst-2", train=clozes.write_lines(tmp_path / "train.jsonl", clozes.toy_rows(4)))
    assert "has training data alone: --splits train evaluates on them" in error(backbone / "model.pt", train)
    assert "--batch-size must be 1 or larger" in error(backbone / "model.pt", data, "--batch-size", "0")
    assert "not there" in error(tmp_path / "no.pt", data)
    assert "cloze.json: not there" in error(backbone / "model.pt", tmp_path)
    (tmp_path / "text.pt").write_text("x")
    assert "cannot be read" in error(tmp_path / "text.pt", data)
