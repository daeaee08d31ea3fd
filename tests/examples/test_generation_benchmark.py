"""`examples/benchmarks/generation.py` at its smallest size: the outputs are transformers', and the tables come out."""

import importlib.util
import logging
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"
QUICK = "--quick --device cpu --max-len 4 --batches 1 3 --beams 1 2".split()

pytest.importorskip("transformers")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    # By its file: among the tests there is a directory of the same name.
    spec = importlib.util.spec_from_file_location("generation_benchmark", BENCHMARKS / "generation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    logging.disable(logging.NOTSET)  # the scripts silence fairseq


def test_the_tables(script, capsys, tmp_path):
    out = tmp_path / "out.md"
    script.main([*QUICK, "--rounds", "2", "--out", str(out)])
    text = capsys.readouterr().out
    assert out.read_text().strip() == text.strip()
    for beam in (1, 2):  # two batches of each size, and all their outputs equal
        assert f"| beam {beam}, batch 1 | ours / theirs |" in text and f"| beam {beam}, batch 3 | ours / theirs |" in text
    assert text.count("| 2 of 2 |") == 2 and text.count("| 6 of 6 |") == 2


def test_guesses_are_measured_where_both_make_them(script, capsys):
    script.main([*QUICK, "--rounds", "2", "--beams", "1", "--methods", "ours", "theirs", "ours-lookup", "theirs-lookup"])
    text = capsys.readouterr().out
    assert text.count("ours-lookup / theirs-lookup") == text.count("ours-lookup / theirs |") == 1
    assert text.count("| 2 of 2 |") == 4 and text.count("| ours / theirs |") == 2


def test_other_methods_make_no_guesses(script, monkeypatch):
    world, seen = script.world_of(script.arguments([*QUICK, "--methods", "ours", "ours-lookup"])), []
    monkeypatch.setattr(
        script, "ours_on", lambda model, world, prompts, generator, device: seen.append(generator.settings.lookup_tokens)
    )
    for method in ("ours", "ours-lookup"):
        script.run_of(method, world, world.prompts[:1], 1, "cpu")()
    assert seen == [0, script.GUESSES]


def test_fewer_batches_are_of_all_lengths(script, monkeypatch):
    args = script.arguments([*QUICK, "--rounds", "3"])
    world, seen, generators = script.world_of(args), [], []

    def note(method, world, prompts, beam, device, generator=None):
        seen.append([len(prompt) for prompt in prompts])
        generators.append(generator)
        return lambda: [[1]] * len(prompts)

    monkeypatch.setattr(script, "run_of", note)
    lengths = [len(prompt) for prompt in world.prompts]
    script.measure_case(world, ["ours"], 1, 1, args)
    assert seen[1:] == [[length] for length in (lengths[0], lengths[2], lengths[4])]  # the first one is not timed
    assert generators[0] is None and len(set(map(id, generators[1:]))) == 1  # and leaves no output to look guesses up in
