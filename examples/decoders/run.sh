#!/usr/bin/env bash
# A published decoder writes texts from facts, learns for 20 updates how, and writes them again: README.md beside this file. Sets
# the environment up, and prints each command. A second run makes no environment and no converted model again, trains no further, as
# checkpoint_last.pt has its 20 updates, and does the rest again; prepare finds its data made.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source examples/smollm2.sh

python examples/quickstart/make_corpus.py --out runs/decoders/corpus
python examples/decoders/make_prompts.py --corpus runs/decoders/corpus --out runs/decoders/text
python examples/decoders/make_prompts.py --file examples/decoders/inputs.jsonl --out runs/decoders/text
python -m sharp_plugins.prompted prepare --backbone backbones/smollm2 --format facts --out runs/decoders/data \
  --train runs/decoders/text/train.jsonl --valid runs/decoders/text/dev.jsonl --test runs/decoders/text/inputs.jsonl

fairseq-generate runs/decoders/data --user-dir sharp_plugins --task prompted_generation --path backbones/smollm2/model.pt \
  --gen-subset test --beam 4 --max-len-b 60

fairseq-train runs/decoders/data --user-dir sharp_plugins --task prompted_generation --save-dir runs/decoders/lora \
  --arch lora --base-arch sharp_smollm2_135m --lora-rank 8 --lora-alpha 16 --finetune-from-model backbones/smollm2/model.pt \
  --criterion cross_entropy --optimizer adam --lr 2e-3 --batch-size 8 --max-update 20 --log-interval 5 \
  --no-epoch-checkpoints --disable-validation
python -m sharp_plugins.lora merge runs/decoders/lora/checkpoint_last.pt runs/decoders/merged.pt

fairseq-generate runs/decoders/data --user-dir sharp_plugins --task prompted_generation --path runs/decoders/merged.pt \
  --gen-subset test --beam 4 --max-len-b 60
