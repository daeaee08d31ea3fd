"""Tables, and curves from TensorBoard directories such as fairseq writes."""

import pytest

from sharp_plugins.runs.curves import draw, last_of_each_update, read_run
from sharp_plugins.runs.table import markdown_table

SummaryWriter = pytest.importorskip("torch.utils.tensorboard").SummaryWriter


def write_events(directory, points):
    """points: {"valid/loss": [(update, value), ...]}; each call writes a file of its own, as a resumed run does."""
    for key, values in points.items():
        series, tag = key.split("/")
        with SummaryWriter(str(directory / series)) as writer:
            for update, value in values:
                writer.add_scalar(tag, value, update)
    return directory


def test_reads_all_scalars(tmp_path):
    points = {"train_inner/loss": [(100, 4.0), (200, 2.5)], "valid/loss": [(200, 3.0)]}
    assert read_run(write_events(tmp_path, points)) == points


def test_resumed_run_keeps_its_last_word():
    assert last_of_each_update([(100, 4.0), (200, 3.0), (100, 3.9), (300, 2.0)]) == [(100, 3.9), (200, 3.0), (300, 2.0)]


def test_draws_what_any_run_has(tmp_path):
    adam = {"train_inner/loss": [(1, 2.0), (2, 1.0)], "valid/loss": [(2, 1.5)]}
    sam = {**adam, "train_inner/sam_gap": [(1, 0.1), (2, 0.2)]}
    picture = tmp_path / "curves.png"
    assert draw({"Adam": adam, "SAM": sam}, picture) == ["train_inner/loss", "valid/loss", "train_inner/sam_gap"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    small = picture.stat().st_size
    assert draw({"Adam": adam}, picture) == ["train_inner/loss", "valid/loss"]
    assert picture.stat().st_size < small
    layer = "train_inner/balancedness_encoder.layers.0.self_attn.q_proj"
    bar = {"train_inner/bar_alpha": [(1, 0.5), (2, 0.4)], layer: [(1, 0.2), (2, 0.1)]}
    assert draw({"Adam": adam, "BAR": bar}, picture) == ["train_inner/loss", "valid/loss", "train_inner/bar_alpha", layer]


def test_nothing_to_draw_or_read(tmp_path):
    with pytest.raises(ValueError, match="anything to draw"):
        draw({"Adam": {"train_inner/wps": [(1, 2.0)]}}, tmp_path / "curves.png")
    with pytest.raises(FileNotFoundError, match="no such TensorBoard directory"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no TensorBoard events"):
        read_run(tmp_path)


def test_markdown_table():
    assert markdown_table(["method", "BLEU"], [["Adam", 61.257], ["a|b", None], ["SAM", 9]]) == (
        "| method   |   BLEU |\n|:---------|-------:|\n| Adam     |  61.26 |\n| a\\|b     |        |\n| SAM      |      9 |\n"
    )
    # Cells stay as they are, also those that look like other numbers.
    assert markdown_table(["seed", "share"], [["007", "1e5"]]).splitlines()[2] == "| 007    |     1e5 |"
    assert markdown_table(["a", "b"], []).splitlines() == ["| a   | b   |", "|-----|-----|"]
    with pytest.raises(ValueError, match="row 2 has 1 cells for 2 columns"):
        markdown_table(["a", "b"], [[1, 2], [3]])
