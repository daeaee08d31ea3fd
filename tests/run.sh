#!/usr/bin/env bash
# Sets everything up (see examples/environment.sh) and runs the tests, the slow ones too.
#
#   bash tests/run.sh                     all tests
#   bash tests/run.sh -m "not slow"       without those that start real fairseq processes
#   bash tests/run.sh -n 0 -k closed_form any pytest options; -n 0 runs in one process
set -euo pipefail
cd "$(dirname "$0")/.."
set_up_for=tests
source examples/environment.sh

# Two tests at a time, each on one thread: more would only share the same cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# At the end pytest lists the slowest tests, and then what failed, and what was skipped and why.
exec python -m pytest tests -n 2 --dist worksteal --durations 15 --durations-min 1 -r fEs "$@"
