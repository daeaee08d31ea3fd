"""Make what goes to a GPU machine smaller: fairseq's wheel without what text models do not use, MiniLM in half precision.

python examples/benchmarks/gpu_wheels.py WHEELS [MINILM]             # gpu_wheels.sh calls it
"""

import fnmatch
import shutil
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Whole research projects, and compiled code for speech alignment, mixtures of experts and non-autoregressive models.
UNUSED = ("fairseq/examples/*", "alignment_train_*.so", "fairseq/libbase.*.so", "fairseq/libnat.*.so")


def without_unused(wheel: Path) -> None:
    """Leave `UNUSED` out of *wheel*, in place. Once more does nothing more."""
    smaller = wheel.with_suffix(".tmp")
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(line for line in lines if not is_unused(line.split(",")[0])).encode()
            if not is_unused(entry.filename):
                target.writestr(entry, content, zipfile.ZIP_DEFLATED)
    smaller.replace(wheel)


def is_unused(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in UNUSED)


def half_minilm(directory: Path) -> None:
    """Copy MiniLM's published files to *directory*, the weights in fp16."""
    sys.path[:0] = [str(HERE)]
    import encoder
    import torch
    from safetensors.torch import load_file, save_file

    source = encoder.minilm_directory()
    directory.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*.json"):
        shutil.copy(path, directory)
    weights = load_file(source / "model.safetensors")
    half = {name: w.half() if w.dtype == torch.float32 else w for name, w in weights.items()}
    save_file(half, directory / "model.safetensors", metadata={"format": "pt"})


def main(wheels: str, minilm: str = "") -> None:
    for wheel in Path(wheels).glob("ve_fairseq-*.whl"):
        without_unused(wheel)
    if minilm:
        half_minilm(Path(minilm))


if __name__ == "__main__":
    main(*sys.argv[1:])
