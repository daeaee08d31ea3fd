#!/usr/bin/env bash
# Data-to-text generation from scratch with Adam, SAM and delta-SAM: corpus, sentencepiece, fairseq, scores, curves.
# Each step is an ordinary command, printed before it runs. Run again, it goes on where it stopped.
set -euo pipefail

usage() {
  cat <<'END'
usage: examples/quickstart/run.sh [options] [-- flags for fairseq-train]

  --data DIR          a corpus: train, dev and test as .jsonl or .jsonl.gz (default: one is made)
  --out DIR           where everything is written (default: runs/quickstart)
  --methods "LIST"    what to train, in order, of: untrained adam sam dsam (default: these four), and of
                      lora lora-sam lora-nbar lora-obar, which fine-tune Adam's model with LoRA
  --size small|webnlg model and training preset (default: webnlg with --data, else small)
  --max-update N      updates of each method
  --epochs N          epochs of each method
  --minutes M         stop the training of each method after M minutes
  --vocab-size N      sentencepiece's vocabulary
  --rho R             radius of sam, dsam and lora-sam (default: 0.05)
  --seed N            seed of the training (default: 1); the made corpus is always the same
  --fp16              train in half precision (on a GPU)
  --threads N         CPU threads (default: $OMP_NUM_THREADS, else the cores that are free at the start)

A GPU is used if there is one. Flags after -- go to fairseq-train for every method, after the preset's.
END
}

fail() {
  echo "error: $*" >&2
  exit 1
}

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
HERE=examples/quickstart

# ---- options

absolute() { # absolute PATH: it was given relative to where the user is, but everything below runs in the root
  case "$1" in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac
}

DATA="" OUT="$ROOT/runs/quickstart" METHODS="untrained adam sam dsam" SIZE="" SEED=1 RHO=0.05
MAX_UPDATE="" EPOCHS="" MINUTES="" VOCAB="" FP16="" EXTRA=()

while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage && exit 0 ;;
    --fp16) FP16=1 && shift && continue ;;
    --) shift && EXTRA=("$@") && break ;;
    --data | --out | --methods | --size | --max-update | --epochs | --minutes | --vocab-size | --rho | --seed | --threads) ;;
    *) fail "unknown option $1 (flags for fairseq-train go after --); see --help" ;;
  esac
  [ $# -ge 2 ] && [ -n "$2" ] || fail "$1 needs a value"
  case "$1" in
    --data) DATA="$(absolute "$2")" ;;
    --out) OUT="$(absolute "$2")" ;;
    --methods) METHODS="$2" ;;
    --size) SIZE="$2" ;;
    --max-update) MAX_UPDATE="$2" ;;
    --epochs) EPOCHS="$2" ;;
    --minutes) MINUTES="$2" ;;
    --vocab-size) VOCAB="$2" ;;
    --rho) RHO="$2" ;;
    --seed) SEED="$2" ;;
    --threads) export OMP_NUM_THREADS="$2" ;;
  esac
  shift 2
done

whole() { # whole FLAG VALUE
  [ -z "$2" ] || [[ "$2" =~ ^[0-9]+$ ]] || fail "$1 must be a whole number, not '$2'"
}
decimal() { # decimal FLAG VALUE
  [ -z "$2" ] || [[ "$2" =~ ^[0-9]*\.?[0-9]+$ ]] || fail "$1 must be a number, not '$2'"
}
whole --max-update "$MAX_UPDATE" && whole --epochs "$EPOCHS" && whole --vocab-size "$VOCAB" && whole --seed "$SEED"
whole --threads "${OMP_NUM_THREADS:-}" && decimal --minutes "$MINUTES" && decimal --rho "$RHO"
SIZE="${SIZE:-$([ -n "$DATA" ] && echo webnlg || echo small)}"
[ -n "${METHODS// /}" ] || fail "--methods names no method"
for method in $METHODS; do
  case "$method" in
    untrained | adam | sam | dsam) ;;
    lora | lora-sam | lora-nbar | lora-obar)
      [[ " ${METHODS%%lora*} " = *" adam "* ]] || [ -e "$OUT/done/train-adam" ] ||
        fail "--methods: $method starts from Adam's model; put adam before it" ;;
    *) fail "--methods: unknown method '$method'" ;;
  esac
done
[ -z "$DATA" ] || [ -d "$DATA" ] || fail "--data: $DATA: no such directory"
[ -f "$ROOT/$HERE/presets/$SIZE.args" ] || fail "--size must be small or webnlg, not '$SIZE'"

cd "$ROOT"
source examples/environment.sh
mkdir -p "$OUT"

# shellcheck disable=SC2046  # one flag a word is meant
PRESET=($(grep -v '^#' "$HERE/presets/$SIZE.args"))
VOCAB="${VOCAB:-$(sed -n 's/^# vocab-size //p' "$HERE/presets/$SIZE.args")}"

# The results of two different runs must not mix in one directory.
record="data=$DATA size=$SIZE max-update=$MAX_UPDATE epochs=$EPOCHS minutes=$MINUTES vocab-size=$VOCAB rho=$RHO seed=$SEED"
record="$record fp16=$FP16 extra=${EXTRA[*]-}"
if [ -f "$OUT/options.txt" ] && [ "$(cat "$OUT/options.txt")" != "$record" ]; then
  fail "--out: $OUT holds a run with other options ($(cat "$OUT/options.txt")); choose another, or delete it"
fi
echo "$record" >"$OUT/options.txt"

# Threads, and how they wait: for a machine that may be busy. What you have set stays.
threads="$(python -m sharp_plugins.runs.threads "$OUT/threads.json")" || fail "the number of threads is unknown; see above"
eval "$threads"

# ---- helpers

step() { # step NAME FUNCTION [ARGUMENT]: run it unless it was finished before
  if [ -e "$OUT/done/$1" ]; then
    echo "== $1: done before"
  else
    echo "== $1"
    "$2" "${@:3}"
    mkdir -p "$OUT/done" && touch "$OUT/done/$1"
  fi
}

show() { # show COMMAND...: print it so that it can be pasted into a shell, then run it
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  "$@"
}

# ---- the steps

make_corpus() {
  show python $HERE/make_corpus.py --out "$OUT/corpus"
}

write_text() { # checks every line of the corpus on the way
  show python -m sharp_plugins.webnlg.corpus --data "$CORPUS" --out "$OUT/text"
}

train_sentencepiece() {
  show python $HERE/spm.py train --vocab-size "$VOCAB" --model "$OUT/spm" "$OUT/text/train.src" "$OUT/text/train.tgt"
}

encode() {
  show python $HERE/spm.py encode --model "$OUT/spm" --out "$OUT/pieces" "$OUT"/text/{train,dev,test}.{src,tgt}
}

preprocess() {
  rm -rf "$OUT/bin"
  show fairseq-preprocess --source-lang src --target-lang tgt --joined-dictionary --destdir "$OUT/bin" \
    --trainpref "$OUT/pieces/train" --validpref "$OUT/pieces/dev" --testpref "$OUT/pieces/test" \
    >"$OUT/preprocess.log" 2>&1 || { tail -n 20 "$OUT/preprocess.log" >&2; fail "fairseq-preprocess failed"; }
}

train() { # train METHOD; fairseq-train resumes from checkpoint_last.pt by itself
  local optimizer
  # The preset's model with updates of rank 8 on all its projections, and a new, longer step.
  local lora=(--arch lora --base-arch transformer --lora-rank 8 --lora-alpha 16 --lora-target '.*_proj|fc.' --lr 5e-3
    --finetune-from-model "$OUT/adam/checkpoints/checkpoint_best.pt")
  case "$1" in
    lora) optimizer=(--optimizer adam --adam-betas '(0.9, 0.98)' "${lora[@]}") ;;
    lora-sam)
      optimizer=(--optimizer sam --base-optimizer adam --adam-betas '(0.9, 0.98)' --sam-rho "$RHO" "${lora[@]}") ;;
    lora-nbar | lora-obar)
      optimizer=(--optimizer bar --bar-variant "${1#lora-}" --base-optimizer adam --adam-betas '(0.9, 0.98)'
        --bar-alpha 0.5 "${lora[@]}") ;;
    untrained) optimizer=(--optimizer adam --lr 0 --max-update 1) ;;
    adam) optimizer=(--optimizer adam --adam-betas '(0.9, 0.98)') ;;
    sam) optimizer=(--optimizer sam --base-optimizer adam --adam-betas '(0.9, 0.98)' --sam-rho "$RHO") ;;
    dsam) optimizer=(--optimizer dsam --base-optimizer adam --adam-betas '(0.9, 0.98)' --sam-rho "$RHO" --dsam-beta 3) ;;
  esac
  local limits=()
  [ -z "$EPOCHS" ] || limits+=(--max-epoch "$EPOCHS")
  [ -z "$MAX_UPDATE" ] || limits+=(--max-update "$MAX_UPDATE")
  [ -z "$MINUTES" ] || limits+=(--stop-time-hours "$(awk "BEGIN { print $MINUTES / 60 }")")
  [ "$1" = untrained ] || optimizer+=(${limits[@]+"${limits[@]}"} ${EXTRA[@]+"${EXTRA[@]}"})
  show fairseq-train "$OUT/bin" --user-dir sharp_plugins --source-lang src --target-lang tgt "${PRESET[@]}" \
    --seed "$SEED" $DEVICE --save-dir "$OUT/$1/checkpoints" --tensorboard-logdir "$OUT/$1/tensorboard" \
    --log-format simple --log-interval 100 "${optimizer[@]}" \
    2>&1 | tee -a "$OUT/$1.train.log" | grep --line-buffered -E '^\+|\| (train_inner|valid) \||Error|error:' \
    || fail "training $1 failed; see $OUT/$1.train.log"
}

merge() { # merge METHOD: LoRA's updates into the weights; what comes out is a checkpoint like any other
  show python -m sharp_plugins.lora merge "$OUT/$1/checkpoints/checkpoint_best.pt" "$OUT/$1/merged.pt"
}

generate() { # generate METHOD, with the checkpoint of the lowest loss on dev
  local model="$OUT/$1/checkpoints/checkpoint_best.pt"
  [[ "$1" != lora* ]] || model="$OUT/$1/merged.pt"
  # A batch size multiple above 1 makes some builds of fairseq lose the last sentences, hence the 1 here and in the presets.
  show fairseq-generate "$OUT/bin" --user-dir sharp_plugins --path "$model" \
    --gen-subset test --beam 5 --max-len-a 1.5 --max-len-b 20 --max-tokens 4000 --required-batch-size-multiple 1 \
    --remove-bpe sentencepiece $DEVICE >"$OUT/$1/generated.txt" 2>"$OUT/$1/generate.log" \
    || { tail -n 20 "$OUT/$1/generate.log" >&2; fail "fairseq-generate failed for $1"; }
}

report() {
  show env PYTHONPATH=. python $HERE/report.py --data "$CORPUS" --out "$OUT" --methods $METHODS
}

# ---- all of it

DEVICE="$(python -c 'import torch; print("" if torch.cuda.is_available() else "--cpu")')${FP16:+ --fp16}"
CORPUS="${DATA:-$OUT/corpus}"
[ -n "$DATA" ] || step make-corpus make_corpus
step text write_text
step sentencepiece train_sentencepiece
step encode encode
step preprocess preprocess
for method in $METHODS; do
  mkdir -p "$OUT/$method"
  step "train-$method" train "$method"
  [[ "$method" != lora* ]] || step "merge-$method" merge "$method"
  step "generate-$method" generate "$method"
done
echo "== results"
report
