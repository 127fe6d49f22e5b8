#!/usr/bin/env bash
# Measurements on one GPU: benchmarks/gpu.sh DIRECTORY [PART ...] writes JSON and the printed tables there.
# The parts, at most five minutes each: step, train, memory, limits. All of them by default. One more, card, trains
# LLaMA-7B for 20 steps with the memory of a card of 24 GB, in INT8 and in bfloat16, and SIZE for 20 steps of each kind,
# plain and updated in the backward pass. It takes longer, and 30 GB of disk for checkpoints.
# Requires jax and optax; train, and half of memory, also require flax. A command that fails or exceeds its time limit
# does not stop the others. SIZE is the model. JOBS is how many contestants share the GPU, and the processors, while
# memory is measured.
set -uo pipefail
results=${1:?give a directory for the results}
shift
parts=("$@")
[ $# -gt 0 ] || parts=(step train memory limits)
size=${SIZE:-1b} jobs=${JOBS:-2}
mkdir -p "$results"
results=$(cd "$results" && pwd)
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
# A GPU's compiler tries many forms of each product: what it found is kept for the programs that follow.
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT

measure() {  # seconds, name, module, arguments
  local seconds=$1 name=$2 module=$3
  shift 3
  echo "== $name: $module $*"
  timeout "$seconds" "$python" -m "benchmarks.$module" --json "$results/$name.json" "$@" 2>&1 | tee "$results/$name.txt"
}

pretrain() {  # name, arguments
  local name=$1
  shift
  echo "== $name: pretrain $*"
  timeout "${CARD_SECONDS:-3600}" "$python" -m train pretrain --run-dir "$results/$name" --steps 20 --seq-len 256 \
    --precision bfloat16 --optimizer grassjump --basis blocks --save-every 1000 --eval-batches 1 --sample-tokens 0 \
    "$@" 2>&1 | tee "$results/$name.txt"
}

speeds() {  # names of runs
  "$python" - "$results" "$@" <<'END'
import json, pathlib, sys

for name in sys.argv[2:]:
    folder = pathlib.Path(sys.argv[1], name)
    summary, metrics = folder / "summary.json", folder / "metrics.jsonl"
    row = json.loads(summary.read_text()) if summary.exists() else {}
    speed, peak = row.get("tokens_per_second"), row.get("peak_memory_bytes")
    rows = map(json.loads, metrics.read_text().splitlines()) if metrics.exists() else []
    losses = [each.get("loss") for each in rows if "skipped" in each or "loss" in each]
    if None in losses or not losses:  # an update whose loss is not finite is skipped, and has none
        course = "LOSS NOT FINITE" if losses else "no update"
    else:
        course = f"loss {losses[0]:.3f} to {losses[-1]:.3f}" + ("" if losses[-1] < losses[0] else ", NOT FALLING")
    speed = f"{speed:,.0f} tokens/s" if speed else "not finished"
    print(f"{name}: {course}, {speed}, " + (f"{peak / 1e9:.2f} GB at the peak" if peak else "peak not reported"))
END
}

methods=(adamw adamw-again grassjump grasswalk apollo)
model=(--model "$size" --sequence 256 --dtype bfloat16)
for part in "${parts[@]}"; do
  export JAX_COMPILATION_CACHE_DIR=$cache
  case $part in
    step)
      measure 240 step step --size "$size" --layouts stacked --modes donated \
        --methods "${methods[@]}" muon fira-randomized grassjump-blocks grassjump-columns frugal ;;
    train)
      measure 300 train train_step "${model[@]}" --batch 32 --methods adamw grassjump grasswalk ;;
    memory)
      measure 150 peak peak --size "$size" --jobs "$jobs" --methods adamw grassjump apollo
      measure 150 train-peak train_step "${model[@]}" --batch 16 --remat --peak --jobs "$jobs" \
        --methods adamw grassjump ;;
    limits)
      measure 120 roofline roofline --size "$size" --methods adamw grassjump grasswalk apollo
      unset JAX_COMPILATION_CACHE_DIR
      measure 120 compile compile_time --leaves 56 --repeats 1 --methods adamw grassjump grasswalk ;;
    card)
      # JAX may take as much of this GPU as 24 GB are.
      total=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | head -n 1)  # MiB
      fraction=$(awk -v total="$total" 'BEGIN {printf "%.4f", 24e9 / 1048576 / total}')
      echo "== card: 24 GB of $total MiB are $fraction"
      XLA_PYTHON_CLIENT_MEM_FRACTION=$fraction pretrain card --model 7b --batch-size 8 --weights int8 \
        --update-in-backward --keep-every 4 --rank 1024 --mu-dtype float8 --nu-dtype float8
      pretrain plain --model "$size" --batch-size 16
      pretrain in-backward --model "$size" --batch-size 16 --update-in-backward
      pretrain in-backward-unclipped --model "$size" --batch-size 16 --update-in-backward --clip 0
      XLA_PYTHON_CLIENT_MEM_FRACTION=$fraction pretrain card-bfloat16 --model 7b --batch-size 8 \
        --update-in-backward --keep-every 4 --rank 1024 --mu-dtype float8 --nu-dtype float8
      speeds card card-bfloat16 plain in-backward in-backward-unclipped ;;
    *)
      echo "unknown part $part: give some of step, train, memory, limits, card" >&2
      exit 2 ;;
  esac
done
