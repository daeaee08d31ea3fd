"""The figure of gains over a baseline: what its axis shows, and what it says of what goes beyond."""

import pytest
import study_engine
from matplotlib import pyplot

from sharp_plugins.runs.statistics import Comparison


def comparison(difference, half=0.5):
    return Comparison(8, 4, difference, (difference - half, difference + half), 0.5)


@pytest.fixture
def gains(monkeypatch):
    return study_engine.load(monkeypatch).gains


@pytest.fixture
def drawn(gains, tmp_path, monkeypatch):
    """Draw gains of these sizes, and return the axes."""

    def draw(*sizes):
        kept = []
        every = [gains.Gain(f"place {n}", "SAM", comparison(*size)) for n, size in enumerate(sizes)]
        with monkeypatch.context() as patch:
            patch.setattr(pyplot, "close", kept.append)
            gains.draw(every, "Adam", "Gains", tmp_path / "gains.png")
        [figure] = kept
        return figure.axes[0]

    yield draw
    pyplot.close("all")


@pytest.mark.parametrize("sizes", [[(0.1,)], [(1.0,), (-2.0,)], [(0.5,)] * 30, [(0.0, 0.0)] * 3])
def test_where_all_gains_are_alike_the_axis_shows_all(drawn, sizes):
    low, high = drawn(*sizes).get_xlim()
    assert all(low < size[0] - (size[1:] or [0.5])[0] and size[0] + (size[1:] or [0.5])[0] < high for size in sizes)
    assert not drawn(*sizes).texts


def test_a_wide_interval_ends_in_an_arrow_with_its_numbers(drawn):
    """Twenty gains end within 1.5 of zero: so much does the axis show, and a tenth more."""
    axes = drawn(*[(1.0,), (-1.0,)] * 10, (-0.5, 9.0), (-7.25,))
    assert axes.get_xlim() == pytest.approx((-1.65, 1.65))
    assert [text.get_text() for text in axes.texts] == ["-0.50 (-9.50 to +8.50)"] * 2 + ["-7.25 (-7.75 to -6.75)"]
    arrows = [(line.get_xdata()[0], line.get_marker()) for line in axes.lines if line.get_marker() in "<>"]
    assert arrows == [(pytest.approx(-1.65), "<"), (pytest.approx(1.65), ">"), (pytest.approx(-1.65), "<")]


def test_there_is_an_axis_without_gains(gains):
    assert gains.reach([]) is None
