#!/usr/bin/env bash
# All measurements on one GPU, in ten minutes: benchmarks/gpu.sh DIRECTORY writes JSON and the printed tables there.
# Requires jax and optax; the training step also requires flax, and is skipped without it. A command that fails or
# exceeds its time limit does not stop the others.
set -uo pipefail
results=${1:?give a directory for the results}
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

for size in 60m 350m 1b; do
  measure 60 "step-$size" step --size $size --layouts stacked --steps 41 \
    --methods adamw adamw-again muon grassjump grassjump-unstored grasswalk subtrack galore-randomized \
    fira-randomized apollo ldadam frugal column_sgd
done
measure 50 step-unstacked step --size 60m --layouts unstacked --modes donated --methods adamw grassjump grasswalk apollo
measure 50 roofline-1b roofline --size 1b
measure 80 peak-1b peak --size 1b --methods adamw muon grassjump grassjump-unstored grasswalk apollo column_sgd
measure 50 compile compile_time --leaves 56 --repeats 1 --methods adamw grassjump grasswalk
if "$python" -c 'import flax' 2>/dev/null; then
  measure 100 train-1b train_step --model 1b --batch 32 --sequence 256 --dtype bfloat16 \
    --methods adamw grassjump grasswalk apollo
  measure 70 train-peak-1b train_step --model 1b --batch 32 --sequence 256 --dtype bfloat16 --peak \
    --methods adamw grassjump apollo
fi
