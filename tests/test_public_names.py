"""What a user imports from sharp_plugins itself."""

import subprocess
import sys
from pathlib import Path

import pytest

import sharp_plugins

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", sharp_plugins.__all__)
def test_each_name_is_there_and_says_what_it_is(name):
    value = getattr(sharp_plugins, name)
    assert value.__name__ == name and value.__doc__
    assert name in dir(sharp_plugins)


def test_every_name_is_public_once():
    assert sorted(sharp_plugins.__all__) == sharp_plugins.__all__ == sorted({*sharp_plugins._HOMES, "register"})


def test_a_name_that_is_none_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'sharp_plugins' has no attribute 'Peturbation'"):
        sharp_plugins.Peturbation


def test_a_name_is_imported_when_it_is_used():
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import sharp_plugins
assert "torch" not in sys.modules
from sharp_plugins import declare_pair
assert "torch" in sys.modules and "sharp_plugins.networks.lora" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_stands_once_and_types_are_shipped():
    print_both = (
        f"import runpy, sys; sys.argv = ['setup.py', '--version']; runpy.run_path({str(ROOT / 'setup.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", print_both], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split()[-1] == sharp_plugins.__version__, done.stderr[-2000:]
    assert sharp_plugins.__version__ not in (ROOT / "setup.py").read_text()
    assert (ROOT / "sharp_plugins" / "py.typed").is_file()
