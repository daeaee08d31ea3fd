#!/usr/bin/env bash
# Runs and measures what wants a GPU, within nine minutes, and writes what it finds into OUT (README.md beside this file):
#
#   bash examples/benchmarks/gpu.sh --wheels WHEELS --out OUT
#
# It needs no network and no fairseq: a Python with torch, and the wheels that gpu_wheels.sh puts together elsewhere.
# --help has the rest; PYTHON is another Python than python3.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_stages.py" "$@"
