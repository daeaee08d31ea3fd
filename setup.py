"""What the plugin needs, so that `pip install .` sets it up beside fairseq.

The package then lies in site-packages next to fairseq's own, which is where `fairseq-train --user-dir sharp_plugins`
looks when the current directory holds no `sharp_plugins`.
"""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup


def fairseq_is_installed():
    """Whether the Python that runs this already imports a fairseq.

    pip runs this file in an environment of its own that hides what is installed (by PYTHONPATH and PYTHONNOUSERSITE),
    so a fresh interpreter is asked, without those two.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    question = "import importlib.util as u, sys; s = u.find_spec('fairseq'); sys.exit(not (s and s.origin))"
    return subprocess.run([sys.executable, "-c", question], env=environment).returncode == 0


def has_ready_fairseq():
    """Whether ve-fairseq has a wheel for this Python and machine (its wheels want glibc 2.28)."""
    library, version = platform.libc_ver()
    return (
        (sys.platform, platform.machine()) == ("linux", "x86_64")
        and sys.implementation.name == "cpython"
        and sys.version_info[:2] in [(3, 11), (3, 12)]
        and library == "glibc"
        and [int(part) for part in version.split(".")[:2]] >= [2, 28]
    )


# fairseq itself is no longer developed: PyPI's 0.12.2 cannot be imported on Python 3.11 and newer. Two packages bring it
# mended, under the same import name. ve-fairseq is its last commit but for four files, and there are wheels alone;
# fairseq-fixed is some months older, and is compiled wherever the other has no wheel (3 minutes, with a C++ compiler).
FAIRSEQ = "ve-fairseq>=0.12.3" if has_ready_fairseq() else "fairseq-fixed>=0.12.3.1"

install_requires = [
    "torch>=2.1",  # the first with all the _foreach_ functions used here; no upper end, so that a torch already there stays
    "numpy",
    "pyyaml",  # settings, read by its safe loader
    "omegaconf",  # the configs that fairseq hands to its plugins, and that are saved in checkpoints
    "scipy>=1.9",  # GLUE's correlations, as in fairseq's sentence_prediction; permutation_test of the reports, tried with 1.9
    "scikit-learn",  # GLUE's F1 and Matthews correlation, the same
    "sentencepiece",  # the quickstart's subwords
    "sacrebleu>=2",  # the scores of data-to-text
    # The ASCII folding of the WebNLG challenge's script; other packages' tables differ from it in thousands of characters. It is
    # under the GPL: it is imported when the challenge's scores are computed and at no other time, and no part of it is copied.
    "Unidecode>=1.3",
    "tabulate>=0.8.9",  # Markdown tables; the same floor as sacrebleu's, which brings it
    "tensorboard",  # what torch's writer needs for --tensorboard-logdir; reads curves back for reports
    "safetensors>=0.4",  # LoRA's files in PEFT's layout, published checkpoints
    "tokenizers>=0.20",  # published tokenizers; the first with wheels for Python 3.13
    # What fairseq asks for besides, except torchaudio: so a fairseq that was installed without its requirements (--no-deps,
    # the way to leave torchaudio out) finds them here.
    "hydra-core",
    "bitarray",
    "cffi",
    "cython",
    "packaging",
    "regex",
    "tqdm",
]

# Where a fairseq is installed already, none is asked for: two would overwrite each other's files, and pip would add
# fairseq's torchaudio, which text models do not use, where it had been left out.
if not fairseq_is_installed():
    install_requires.append(FAIRSEQ)

init = Path(__file__).with_name("sharp_plugins") / "__init__.py"  # the version stands there, once

if __name__ == "__main__":  # examples/environment.sh reads FAIRSEQ
    setup(
        name="sharp_plugins",
        version=re.search(r'^__version__ = "(.+)"$', init.read_text(encoding="utf-8"), re.M)[1],
        description="Sharpness-aware optimizers for fairseq, as a --user-dir plugin",
        license="MIT",
        python_requires=">=3.10",
        packages=find_packages(include=["sharp_plugins", "sharp_plugins.*"]),
        package_data={
            "sharp_plugins": [
                "py.typed",
                "glue/configs/*/*.yaml",
                "sts/configs/*.yaml",
                "fewshot/settings/*/*.yaml",
                "fewshot/tasks/*/*.yaml",
                "cloze/layouts/*.yaml",
                "webnlg/settings/*.yaml",
                "webnlg/settings/*/*.yaml",
                "webnlg/manifests/*.txt",
            ]
        },
        install_requires=install_requires,
        extras_require={
            "examples": ["matplotlib", "pillow"],  # the pictures of sharp_plugins.runs and of examples/
            "test": ["pytest>=7", "pytest-xdist>=3"],
            "lint": ["ruff>=0.9", "mypy>=1.11"],  # ruff: the first with today's style of formatting
            "gguf": ["gguf>=0.17"],  # llama.cpp's files, of which it makes floats: published decoders
            "compare": ["transformers>=5", "peft>=0.18"],  # other implementations, which tests and benchmarks compare with
        },
    )
