#!/usr/bin/env bash
# A first look at data-to-text with a published decoder: SmolLM2 learns for 8 updates with LoRA and with LoRA and BAR, writes texts for
# 16 inputs, and is scored. README.md beside this file. Sets the environment up, and prints each command. Run again, it goes on
# where it stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source examples/smollm2.sh

python examples/quickstart/make_corpus.py --out runs/webnlg-first-look/corpus
python -m sharp_plugins.webnlg run --backbone backbones/smollm2 --data runs/webnlg-first-look/corpus --out runs/webnlg-first-look \
  --methods lora lora-nbar --seeds 1 --dev-inputs 16 --test-inputs 16 \
  --set optimization.max_update=8 --set lr_scheduler.warmup_updates=2 --set common.log_interval=1
