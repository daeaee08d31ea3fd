"""What fairseq's own task reads from the data that were made, symbol by symbol."""

import json
import shutil

import glue_files
import pytest
import torch
import toy
from glue_models import read_back

from sharp_plugins.glue.__main__ import main
from sharp_plugins.glue.binarize import prepare, read_prepared
from sharp_plugins.glue.tasks import TASKS
from sharp_plugins.runs.prepared import STAMP
from sharp_plugins.text.encoder_directory import load_backbone

BOS, EOS = 0, 2


def indices(dict_txt, sentence):
    """A sentence of whole words of the vocabulary: fairseq's indices are the lines of dict.txt, after four symbols."""
    lines = [line.rsplit(" ", 1)[0] for line in dict_txt.read_text(encoding="utf-8").splitlines()]
    return [4 + lines.index(word) for word in sentence.split()]


def bytes_indices(dict_txt, sentence):
    """The same with the tiny byte-level vocabulary: bytes, and the merges of " the"."""
    lines = [line.rsplit(" ", 1)[0] for line in dict_txt.read_text(encoding="utf-8").splitlines()]
    result = []
    for number, word in enumerate(sentence.split()):
        text = word if number == 0 else "Ġ" + word
        while text:
            piece = next(p for p in ("Ġthe", "Ġt", "he", text[0]) if text.startswith(p))
            result.append(4 + lines.index(piece))
            text = text[len(piece) :]
    return result


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("task", ["SST-2", "RTE"])
def test_the_stock_task_reads_sentences_and_pairs(request, tmp_path, kind, task):
    converted = request.getfixturevalue(kind)
    backbone = load_backbone(converted)
    assert (backbone.family, backbone.max_positions) == (kind, 256)
    written = glue_files.write_task(tmp_path / "data", task)
    prepared = prepare(tmp_path / "data", backbone, TASKS[task], tmp_path / "out", max_positions=256)
    encode = indices if kind == "bert" else bytes_indices
    for split, name in (("train", "train"), ("valid", "dev"), ("test", "test")):
        tokens, targets = read_back(prepared, backbone, split)
        for (sentences, label), found, target in zip(written[name], tokens, targets, strict=True):
            first, *second = [encode(converted / "dict.txt", sentence) for sentence in sentences]
            between = [EOS] if kind == "roberta" else []
            expected = [BOS, *first, EOS, *(between + second[0] + [EOS] if second else [])]
            assert found == expected
            if name != "test":
                assert target.tolist() == [list(TASKS[task].classes).index(label)]
            else:
                assert target is None
    assert prepared.rows == {"train": 32, "valid": 8, "test": 4} and prepared.stand_ins == []
    assert (tmp_path / "out" / "index" / "test.txt").read_text() == "0\n1\n2\n3\n"


def test_scores_are_fifths(bert, tmp_path):
    written = glue_files.write_task(tmp_path / "data", "STS-B", layouts=glue_files.PLAIN)
    backbone = load_backbone(bert)
    prepared = prepare(tmp_path / "data", backbone, TASKS["STS-B"], tmp_path / "out", max_positions=256)
    for split, name in (("train", "train"), ("valid", "dev"), ("test", "test")):
        _, targets = read_back(prepared, backbone, split)
        assert [value for (value,) in targets] == pytest.approx([float(label) / 5 for _, label in written[name]])


def test_mnli_has_two_development_and_two_test_sets(bert, tmp_path):
    rows = {}
    train, dev, test = glue_files.OFFICIAL["MNLI"]
    for name, layout, count in (
        ("train", train, 9),
        ("dev_matched", dev, 5),
        ("dev_mismatched", dev, 6),
        ("test_matched", test, 3),
        ("test_mismatched", test, 4),
    ):
        rows[name] = glue_files.make_rows("MNLI", count, seed=count)
        glue_files.write_file(tmp_path / "data" / "MNLI" / f"{name}.tsv", layout, rows[name])
    backbone = load_backbone(bert)
    prepared = prepare(tmp_path / "data", backbone, TASKS["MNLI"], tmp_path / "out", max_positions=256)
    assert prepared.rows == {"train": 9, "valid": 5, "valid1": 6, "test": 3, "test1": 4}
    _, targets = read_back(prepared, backbone, "valid1")
    assert [glue_files.CLASSES["MNLI"][t] for t in targets] == [label for _, label in rows["dev_mismatched"]]
    tokens, _ = read_back(prepared, backbone, "test1")
    assert len(tokens) == 4


def naive_cut(first, second, room):
    """BERT's own way, one word at a time from the longer one."""
    first, second = list(first), list(second)
    while len(first) + len(second) > room:
        if len(first) > len(second):
            first = first[:-1]
        else:
            second = second[:-1]
    return first, second


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_long_inputs_are_cut(request, tmp_path, kind):
    converted = request.getfixturevalue(kind)
    backbone = load_backbone(converted)
    pairs = [
        ("the cat sat on the mat", "dog"),
        ("cat", "dog runs on the mat"),
        ("the cat sat on", "the dog runs on"),
        ("cat sat", "dog"),
    ]
    rows = [(pair, "entailment") for pair in pairs]
    for name in ("train", "dev"):
        glue_files.write_file(tmp_path / "data" / "RTE" / f"{name}.tsv", glue_files.OFFICIAL["RTE"][0], rows)
    most = 8 if kind == "bert" else 16
    prepared = prepare(tmp_path / "data", backbone, TASKS["RTE"], tmp_path / "out", max_positions=most)
    tokens, _ = read_back(prepared, backbone, "train")
    encode, special = (indices, 3) if kind == "bert" else (bytes_indices, 4)
    cut = 0
    for pair, found in zip(pairs, tokens, strict=True):
        whole = [encode(converted / "dict.txt", sentence) for sentence in pair]
        first, second = naive_cut(*whole, most - special)
        between = [EOS] if kind == "roberta" else []
        assert found == [BOS, *first, EOS, *between, *second, EOS]
        assert len(found) == min(most, sum(map(len, whole)) + special)
        cut += sum(map(len, whole)) + special > most
    assert prepared.shortened["train"] == cut and 0 < cut < len(pairs)


@pytest.mark.parametrize("most", [4, 257])
def test_max_positions_must_fit(bert, tmp_path, most):
    glue_files.write_task(tmp_path / "data", "RTE")
    with pytest.raises(ValueError, match=rf"--max-positions must be from 5 to 256.* is {most}"):
        prepare(tmp_path / "data", load_backbone(bert), TASKS["RTE"], tmp_path / "out", max_positions=most)
    assert not (tmp_path / "out").exists()


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_second_call_does_nothing_until_something_changes(bert, tmp_path):
    data, out, task = tmp_path / "data", tmp_path / "out", TASKS["RTE"]
    glue_files.write_task(data, "RTE")
    backbone = load_backbone(bert)
    first = prepare(data, backbone, task, out, max_positions=256)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    second = prepare(data, backbone, task, out, max_positions=256)
    assert not first.done_before and second == first._replace(done_before=True)
    assert read_prepared(out) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before

    assert not prepare(data, backbone, task, out, max_positions=6).done_before
    assert read_prepared(out).shortened["train"] > 0
    rows = glue_files.make_rows("RTE", 5, seed=9)
    glue_files.write_file(data / "RTE" / "dev.tsv", glue_files.OFFICIAL["RTE"][1], rows)
    assert prepare(data, backbone, task, out, max_positions=6).rows["valid"] == 5
    # Another task's data are replaced too.
    glue_files.write_task(data, "CoLA")
    assert not prepare(data, backbone, TASKS["CoLA"], out, max_positions=6).done_before
    assert not (out / "input1").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


def test_an_error_leaves_what_was_there(bert, tmp_path):
    data, out, task = tmp_path / "data", tmp_path / "out", TASKS["RTE"]
    glue_files.write_task(data, "RTE")
    backbone = load_backbone(bert)
    prepare(data, backbone, task, out, max_positions=256)
    before = contents(out)
    with open(data / "RTE" / "dev.tsv", "a") as file:
        file.write("9\ta\tb\tperhaps\n")
    with pytest.raises(ValueError, match=r"dev\.tsv:10: .*'perhaps'"):
        prepare(data, backbone, task, out, max_positions=256)
    assert contents(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
    left_out = prepare(data, backbone, task, out, max_positions=256, skip_malformed=True)
    assert left_out.rows["valid"] == 8


def test_other_directories_are_not_overwritten(bert, tmp_path):
    glue_files.write_task(tmp_path / "data", "RTE")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="something else"):
        prepare(tmp_path / "data", load_backbone(bert), TASKS["RTE"], tmp_path / "out", max_positions=256)
    assert list(contents(tmp_path / "out").values()) == [b"mine"]
    with pytest.raises(FileNotFoundError, match="prepare"):
        read_prepared(tmp_path / "nowhere")
    # Nor what was put beside the data, when they are made anew.
    backbone = load_backbone(bert)
    prepare(tmp_path / "data", backbone, TASKS["RTE"], tmp_path / "new", max_positions=256)
    (tmp_path / "new" / "checkpoints").mkdir()
    prepare(tmp_path / "data", backbone, TASKS["RTE"], tmp_path / "new", max_positions=256)
    with pytest.raises(ValueError, match="new: holds other data, .* with them checkpoints, which"):
        prepare(tmp_path / "data", backbone, TASKS["RTE"], tmp_path / "new", max_positions=200)
    assert read_prepared(tmp_path / "new").source["max_positions"] == 256


# ---------------------------------------------------------------------- the backbone


@pytest.mark.parametrize("name", ["model.pt", "dict.txt", "tokenizer.json"])
def test_a_missing_file_of_the_backbone(bert, tmp_path, name):
    shutil.copytree(bert, tmp_path / "bert")
    (tmp_path / "bert" / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}.*--backbone.*sharp_plugins\.convert"):
        load_backbone(tmp_path / "bert")


def test_a_dictionary_of_another_length(bert, tmp_path):
    shutil.copytree(bert, tmp_path / "bert")
    with open(tmp_path / "bert" / "dict.txt", "a") as file:
        file.write("extra 1\n")
    with pytest.raises(ValueError, match=r"vocabulary does not fit: dict\.txt has \d+ symbols, and model\.pt \d+"):
        load_backbone(tmp_path / "bert")


def test_a_tokenizer_of_another_vocabulary(bert, roberta, tmp_path):
    shutil.copytree(bert, tmp_path / "mixed")
    for name in ("tokenizer.json", "special_tokens_map.json"):
        shutil.copyfile(roberta / name, tmp_path / "mixed" / name)
    with pytest.raises(ValueError, match="tokenizer does not fit: .* not in dict.txt"):
        load_backbone(tmp_path / "mixed")


def test_a_checkpoint_that_is_none(bert, tmp_path):
    shutil.copytree(bert, tmp_path / "bert")
    for content in (b"no checkpoint", (bert / "model.pt").read_bytes()[:5000]):
        (tmp_path / "bert" / "model.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.pt: cannot be read: it is (a text|cut off)"):
            load_backbone(tmp_path / "bert")
    torch.save({"cfg": {"model": {"_name": "sharp_bert_base"}}, "model": {}}, tmp_path / "bert" / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt: not a converted encoder"):
        load_backbone(tmp_path / "bert")


def test_a_checkpoint_of_another_architecture(bert, tmp_path):
    shutil.copytree(bert, tmp_path / "bert")
    state = torch.load(bert / "model.pt", weights_only=True)
    state["cfg"]["model"] = {**vars(state["cfg"]["model"]), "arch": "transformer"}
    torch.save(state, tmp_path / "bert" / "model.pt")
    with pytest.raises(ValueError, match="its architecture, transformer"):
        load_backbone(tmp_path / "bert")


# ---------------------------------------------------------------------- the command


def test_the_command(bert, tmp_path, capsys):
    glue_files.write_task(tmp_path / "data", "RTE")
    line = ["prepare", "--data", tmp_path / "data", "--backbone", bert, "--tasks", "RTE", "--out", tmp_path / "out"]
    line = [str(part) for part in [*line, "--max-positions", 6]]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "train: 32 rows of train.tsv, shortened" in printed and "warning:" in printed and "out/RTE: written" in printed
    stamp = json.loads((tmp_path / "out" / "RTE" / STAMP).read_text())
    assert stamp["rows"] == {"train": 32, "valid": 8, "test": 4}
    assert main(line) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main([*line[:-1], "7"]) == 1
    words = "holds data of other files or settings; choose another --out, or remove it"
    assert capsys.readouterr().err == f"error: {tmp_path / 'out' / 'RTE'}: {words}\n"
    (tmp_path / "data" / "RTE" / "train.tsv").write_text("")
    assert main([*line, "--out", str(tmp_path / "other")]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and "train.tsv: empty" in shown and "Traceback" not in shown


def test_the_command_on_several_tasks(bert, tmp_path, capsys):
    for task in list(TASKS)[:-1]:
        glue_files.write_task(tmp_path / "data", task)
    line = [str(part) for part in ["prepare", "--data", tmp_path / "data", "--backbone", bert, "--out", tmp_path / "out"]]
    line += ["--max-positions", "256"]
    assert main(line) == 1  # by default all: one is missing, and nothing is begun
    assert "RTE/train.tsv: not there" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main([*line, "--tasks", "CoLA", "WNLI"]) == 1
    assert "--tasks WNLI: there is no such task" in capsys.readouterr().err and not (tmp_path / "out").exists()
    glue_files.write_task(tmp_path / "data", "RTE")
    assert main(line) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(TASKS)
    printed = capsys.readouterr().out
    assert all(f"out/{task}: written" in printed for task in TASKS)
    assert all(read_prepared(tmp_path / "out" / task).rows["train"] == 32 for task in TASKS)


def test_it_trains(bert, tmp_path):
    glue_files.write_task(tmp_path / "data", "RTE", counts=(64, 8, 4))
    backbone = load_backbone(bert)
    prepared = prepare(tmp_path / "data", backbone, TASKS["RTE"], tmp_path / "out", max_positions=256)
    flags = ["--num-classes", 2, "--init-token", 0, "--optimizer", "adam", "--lr", "0.01", "--max-positions", 256]
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in backbone.sizes.items()]
    model = ["--arch", backbone.arch, *sizes]
    criterion = ["--criterion", "sentence_prediction"]
    trainer = toy.build_trainer(prepared.directory, *flags, model=model, criterion=criterion, task="sentence_prediction")
    (sample,) = toy.batches(trainer, [64])
    losses = [trainer.train_step([sample])["loss"] for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]
