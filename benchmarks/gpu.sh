#!/usr/bin/env bash
# All measurements on one GPU, in ten minutes: benchmarks/gpu.sh DIRECTORY writes JSON and the printed tables there.
# Requires jax and optax; the training step also requires flax, and is skipped without it. A command that fails or
# exceeds its time limit does not stop the others. SIZE is the model, JOBS how many contestants share the GPU while
# memory is measured: an AdamW step of 1b takes 30 GB.
set -uo pipefail
results=${1:?give a directory for the results}
size=${SIZE:-1b} jobs=${JOBS:-2}
mkdir -p "$results"
results=$(cd "$results" && pwd)
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}

measure() {  # seconds, name, module, arguments
  local seconds=$1 name=$2 module=$3
  shift 3
  echo "== $name: $module $*"
  timeout "$seconds" "$python" -m "benchmarks.$module" --json "$results/$name.json" "$@" 2>&1 | tee "$results/$name.txt"
}

methods=(adamw adamw-again grassjump grasswalk apollo)
model=(--model "$size" --sequence 256 --dtype bfloat16)
if "$python" -c 'import flax' 2>/dev/null; then
  measure 150 train train_step "${model[@]}" --batch 32 --methods "${methods[@]}"
  measure 100 train-peak train_step "${model[@]}" --batch 16 --remat --peak --jobs "$jobs" \
    --methods adamw grassjump grasswalk apollo
fi
measure 120 step step --size "$size" --layouts stacked --modes donated --methods "${methods[@]}" muon fira-randomized
measure 100 peak peak --size "$size" --jobs "$jobs" --methods adamw muon grassjump grassjump-unstored grasswalk apollo
measure 70 roofline roofline --size "$size" --methods adamw grassjump grasswalk apollo
measure 70 compile compile_time --leaves 56 --repeats 1 --methods adamw grassjump grasswalk
