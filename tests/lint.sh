#!/usr/bin/env bash
# Style, likely bugs and types: ruff on all files, mypy on what users build on. Settings are in pyproject.toml.
#
#   bash tests/lint.sh         says what is wrong
#   bash tests/lint.sh --fix   mends what ruff can mend
set -euo pipefail
cd "$(dirname "$0")/.."
set_up_for=tests
source examples/environment.sh

if [ "${1:-}" = --fix ]; then
  python -m ruff check --fix .
  python -m ruff format .
else
  python -m ruff check .
  python -m ruff format --check .
fi
python -m mypy
