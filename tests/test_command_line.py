"""The exit statuses and lines of the commands."""

import pytest

from sharp_plugins.command_line import run_command


def test_what_is_done_is_printed(capsys):
    assert run_command(lambda: "done") == 0
    assert capsys.readouterr() == ("done\n", "")


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, ImportError])
def test_what_a_user_can_mend_is_one_line(capsys, error):
    def work():
        raise error("no such thing")

    assert run_command(work) == 1
    assert capsys.readouterr() == ("", "error: no such thing\n")


def test_a_defect_is_shown_whole():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: str(1 / 0))
