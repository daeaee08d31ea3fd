"""The processes that tests start."""

import os

import pytest
from processes import fork


@pytest.mark.slow
def test_forks_have_fairseq_and_nothing_of_the_plugin(tmp_path):
    code = "import os, sys; plugin = [name for name in sys.modules if name.startswith('sharp_plugins')]\n"
    code += "print('fork_server' in sys.modules, 'fairseq.trainer' in sys.modules, plugin, os.environ.get('PYTHONPATH'))"
    assert fork(code, tmp_path / "log").succeed().text == f"True True [] {os.environ.get('PYTHONPATH')}\n"
