#!/usr/bin/env bash
# A published decoder chooses among candidates: untrained, and after 20 updates of LoRA, with and without BAR: README.md beside this file.
# Sets the environment up, and prints each command. A second run does what is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source examples/smollm2.sh

if is_missing runs/superglue/COPA/val.jsonl; then
  curl -fL --retry 3 --create-dirs -o runs/superglue/COPA.zip https://dl.fbaipublicfiles.com/glue/superglue/data/v2/COPA.zip
  python -m zipfile -e runs/superglue/COPA.zip runs/superglue
fi
python -m sharp_plugins.fewshot run --backbone backbones/smollm2 --data runs/superglue --tasks COPA \
  --methods zero-shot lora lora-nbar --seeds 13 --set optimization.max_update=20 --out runs/fewshot-first-look
