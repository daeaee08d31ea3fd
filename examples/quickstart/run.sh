#!/usr/bin/env bash
# Data-to-text generation from scratch with Adam, SAM and delta-SAM. Sets the environment up, makes a corpus, and calls
# `python -m sharp_plugins.webnlg run`, which prints each of its commands. Run again, it goes on where it stopped.
set -euo pipefail

usage() {
  cat <<'END'
usage: examples/quickstart/run.sh [flags of python -m sharp_plugins.webnlg run]

  --methods M ...   what to train, of: untrained base sam dsam (default: these four), and of
                    lora lora-sam lora-nbar lora-obar, which fine-tune base's model with LoRA
  --seeds N ...     random seeds (default: 1)
  --data DIR        a corpus: see sharp_plugins/webnlg/readers/README.md (default: one is made)
  --out DIR         where everything is written (default: runs/quickstart)
  --size SIZE       model and training: small or webnlg (default: webnlg with --data, else small)
  --vocab-size N    sentencepiece's vocabulary
  --minutes M       stop each training after M minutes
  --set KEY=VALUE   change a setting, such as optimization.max_update=100, optimization.max_epoch=2,
                    optimizer.sam_rho=0.1 or, on a GPU, common.fp16=true; may be given several times

A GPU is used if there is one. OMP_NUM_THREADS chooses the CPU threads (default: the cores that are free).
The guides beside this script and in sharp_plugins/runs have the other flags.
END
}

fail() {
  echo "error: $*" >&2
  exit 1
}

# Before the set-up, which may take minutes: words of the script that was here before, and misspelt ones.
for word in "$@"; do
  case "${word%%=*}" in
    --methods | --seeds | --tasks | --data | --out | --size | --vocab-size | --minutes | --set | --sweep | --jobs | --devices) ;;
    --cpu | --keep-checkpoints | --help) ;;
    --seed) fail "--seed: it is --seeds now, and takes several" ;;
    --max-update) fail "--max-update: it is --set optimization.max_update=N now" ;;
    --epochs) fail "--epochs: it is --set optimization.max_epoch=N now" ;;
    --rho) fail "--rho: it is --set optimizer.sam_rho=R now" ;;
    --fp16) fail "--fp16: it is --set common.fp16=true now" ;;
    --threads) fail "--threads: it is OMP_NUM_THREADS=N before the command now" ;;
    --) fail "--: flags of fairseq-train are settings now, such as --set model.dropout=0.3" ;;
    adam) fail "adam: this method is called base now" ;;
    --*) fail "unknown option $word; see --help" ;;
  esac
done

here="$PWD"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
out="$root/runs/quickstart" is_made=1 previous=""
for word in "$@"; do
  case "$word" in
    -h | --help) usage && exit 0 ;;
    --data | --data=*) is_made="" ;;
    --out=*) out="${word#--out=}" ;;
  esac
  [ "$previous" != --out ] || out="$word"
  previous="$word"
done

cd "$root"
source examples/environment.sh
cd "$here" # the user's paths are relative to it; the environment has a copy of the plugin
if [ -n "$is_made" ]; then
  # The test set is written last, and each file appears when it is complete.
  [ -f "$out/corpus/test.jsonl" ] || (set -x && python "$root/examples/quickstart/make_corpus.py" --out "$out/corpus")
  set -- --data "$out/corpus" --size small "$@"
fi
exec python -m sharp_plugins.webnlg run --out "$out" "$@"
