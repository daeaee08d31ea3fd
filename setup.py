"""What the plugin needs, so that `pip install .` sets it up beside fairseq.

The package then lies in site-packages next to fairseq's own, which is where `fairseq-train --user-dir sharp_plugins`
looks when the current directory holds no `sharp_plugins`.
"""

import os
import subprocess
import sys

from setuptools import find_packages, setup


def fairseq_is_installed():
    """Whether the Python that runs this already imports a fairseq.

    pip runs this file in an environment of its own that hides what is installed (by PYTHONPATH and PYTHONNOUSERSITE),
    so a fresh interpreter is asked, without those two.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    question = "import importlib.util as u, sys; s = u.find_spec('fairseq'); sys.exit(not (s and s.origin))"
    return subprocess.run([sys.executable, "-c", question], env=environment).returncode == 0


install_requires = [
    "torch>=2.1",  # the first with all the _foreach_ functions used here; no upper end, so that a torch already there stays
    "numpy",
    "sentencepiece",
    "sacrebleu>=2",
    "tensorboard",  # what torch's writer needs for --tensorboard-logdir
    "safetensors>=0.4",  # LoRA's files in PEFT's layout, published checkpoints
    "tokenizers>=0.20",  # published tokenizers; the first with wheels for Python 3.13
]

# PyPI's "fairseq" 0.12.2 cannot be imported on Python 3.11 and newer; "fairseq-fixed" is the same code mended, under
# the same import name. Where a fairseq is installed already, neither is asked for: the two would overwrite each other's
# files, and pip would add fairseq's torchaudio, which text models do not use, where it had been left out.
if not fairseq_is_installed():
    install_requires.append("fairseq-fixed>=0.12.3.1")

setup(
    name="sharp_plugins",
    version="0.1.0",
    description="Sharpness-aware optimizers for fairseq, as a --user-dir plugin",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["sharp_plugins", "sharp_plugins.*"]),
    install_requires=install_requires,
    extras_require={
        "examples": ["matplotlib"],  # the pictures of sharp_plugins.report
        "test": ["pytest>=7", "pytest-xdist>=3"],
    },
)
