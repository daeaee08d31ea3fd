"""The exit statuses and lines of the commands."""

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sharp_plugins.command_line import filled_directory, output_directory, output_file, run_command

ROOT = Path(__file__).resolve().parents[1]


def test_what_is_done_is_printed(capsys):
    assert run_command(lambda: "done") == 0
    assert capsys.readouterr() == ("done\n", "")


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, ImportError])
def test_what_a_user_can_mend_is_one_line(capsys, error):
    def work():
        raise error("no such thing")

    assert run_command(work) == 1
    assert capsys.readouterr() == ("", "error: no such thing\n")


def test_who_reads_the_output_may_stop():
    code = "from sharp_plugins.command_line import run_command as r; import sys; sys.exit(r(lambda: 'line\\n' * 200_000))"
    command = f"'{sys.executable}' -c \"{code}\" | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (141, "line\n", "")


def test_a_defect_is_shown_whole():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: str(1 / 0))


def test_a_file_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path, words in ((tmp_path, "it is a directory"), (tmp_path / "file" / "a" / "b.json", "file is a file, and no directory")):
        with pytest.raises(argparse.ArgumentTypeError, match=words):
            output_file(str(path))
    for path in (tmp_path / "file", tmp_path / "file" / "a" / "b"):
        with pytest.raises(argparse.ArgumentTypeError, match="file is a file, and no directory"):
            output_directory(str(path))
    assert output_directory(str(tmp_path)) == tmp_path
    assert output_file(str(tmp_path / "new" / "a.json")) == tmp_path / "new" / "a.json"


def test_a_device_is_no_place_for_a_file(tmp_path):
    """Written beside its place and moved there, a file would take the place of /dev/stdout."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", Path(os.devnull)):
        with pytest.raises(argparse.ArgumentTypeError, match=f"{path}: it is no regular file"):
            output_file(str(path))
    (tmp_path / "file").touch()
    (tmp_path / "below a file").symlink_to(tmp_path / "file" / "a.json")
    with pytest.raises(argparse.ArgumentTypeError, match="file is a file, and no directory"):
        output_file(str(tmp_path / "below a file"))
    (tmp_path / "to a file").symlink_to(tmp_path / "new.json")
    assert output_file(str(tmp_path / "to a file")) == tmp_path / "to a file"


@pytest.mark.parametrize("stream", [1, 2])
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/stderr", "log"])
def test_the_file_that_the_output_is_printed_to_is_not_replaced(tmp_path, stream, name):
    """It would lose what was printed, and what is printed later."""
    code = (
        "import sys; from sharp_plugins.command_line import output_file; print('first', file=sys.stderr); output_file(sys.argv[1])"
    )
    with open(tmp_path / "log", "w") as log:
        to = {"stdout": log if stream == 1 else subprocess.DEVNULL, "stderr": log if stream == 2 else subprocess.PIPE}
        path = tmp_path / "log" if name == "log" else name
        done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, text=True, **to)
    said = (done.stderr or "") + (tmp_path / "log").read_text()
    is_it = name in ("log", {1: "/dev/stdout", 2: "/dev/stderr"}[stream])
    assert done.returncode == 1 and f"{path}: it is {'the file that the output' if is_it else 'no regular file'}" in said


def test_where_nothing_can_be_written_is_told_before_any_work(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(dir / "tmpabc"))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "a.json")
    for name, place in (("new/a.json", tmp_path), ("link", tmp_path / "there")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"{name}: cannot be written in {place}: Permission denied"):
            output_file(str(tmp_path / name))
    for way in (output_directory, filled_directory):
        with pytest.raises(argparse.ArgumentTypeError, match=f"new/one: cannot be written in {tmp_path}: Permission denied"):
            way(str(tmp_path / "new" / "one"))
    assert output_directory(str(tmp_path)) == tmp_path  # all may be there already
    with pytest.raises(argparse.ArgumentTypeError, match=f"{tmp_path}: cannot be written in {tmp_path}: Permission denied"):
        filled_directory(str(tmp_path))


@pytest.mark.parametrize("way", [output_file, output_directory, filled_directory])
def test_a_name_that_the_system_refuses(monkeypatch, way):
    with pytest.raises(argparse.ArgumentTypeError, match="^the name is empty, as a variable that is not set is$"):
        way("")

    def refuse(path, **how):
        raise PermissionError(13, "Permission denied", str(path))

    with pytest.raises(argparse.ArgumentTypeError, match=f"^{'x' * 300}: File name too long$"):
        way("x" * 300)
    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(argparse.ArgumentTypeError, match="^there/a: Permission denied$"):
        way("there/a")


@pytest.mark.parametrize(
    "module, line",
    [
        ("glue", "evaluate model.pt DATA --json"),
        ("sts", "evaluate model.pt --data DATA --json"),
        ("cloze", "evaluate model.pt DATA --json"),
        ("cloze", "evaluate model.pt DATA --predictions"),
        ("candidates", "evaluate model.pt DATA --json"),
        ("candidates", "answers file --data DATA --json"),
        ("fewshot", "zero-shot BACKBONE SAMPLE --json"),
        ("webnlg", "score file --data DATA --json"),
        ("runs", "sharpness model.pt --json"),
        ("runs", "sharpness model.pt --plot"),
    ],
)
def test_every_command_looks_at_its_output_first(module, line, tmp_path, capsys):
    main = importlib.import_module(f"sharp_plugins.{module}.__main__").main
    with pytest.raises(SystemExit):
        main([*line.split(), str(tmp_path)])
    flag = line.split()[-1]
    assert f"argument {flag}: {tmp_path}: it is a directory, and a file is wanted" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "candidates prepare --backbone B",
        "cloze prepare --backbone B --layout sst-2",
        "fewshot prepare --backbone B --data D --tasks RTE",
        "glue prepare --backbone B --data D",
        "glue run --backbone B --data D",
        "prompted prepare --backbone B",
        "webnlg convert --data D",
        "webnlg prepare --data D",
    ],
)
def test_no_command_writes_to_the_current_directory_for_want_of_a_name(line, capsys):
    module, *words = line.split()
    main = importlib.import_module(f"sharp_plugins.{module}.__main__").main
    with pytest.raises(SystemExit):
        main([*words, "--out", ""])
    assert "argument --out: the name is empty, as a variable that is not set is" in capsys.readouterr().err
