#!/usr/bin/env bash
# Benchmarks for a machine with a GPU: ten minutes at most, one table.
#
#   benchmarks/gpu.sh            the kernels' tests against float64, then an update of each system
#   benchmarks/gpu.sh --quick    the same parts on tiny models, on a CPU too: whether the script itself works
#
# PYTHON is the interpreter, .venv/bin/python unless set; transformers and flash-linear-attention are measured beside
# where they are installed. The table is also written to build/gpu.txt.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
quick=()
if [ "${1:-}" = --quick ]; then quick=(--quick); shift; fi
[ $# -eq 0 ] || { echo "usage: benchmarks/gpu.sh [--quick]" >&2; exit 2; }

"$python" benchmarks/gpu_table.py --machine "${quick[@]}" || exit 2

echo "== kernels against float64"
if [ ${#quick[@]} -gt 0 ]; then
  tests=(tests/ops/test_triton_logit_gradients.py -m "not slow")
else
  tests=(tests/ops/test_triton_diagonal_scan.py tests/ops/test_triton_gated_linear.py
    tests/ops/test_triton_logit_gradients.py tests/ops/test_running_norm.py tests/ops/test_blocked_attention.py)
fi
timeout 150 "$python" -m pytest -q -x -p no:cacheprovider "${tests[@]}"
kernels=$?
[ $kernels -eq 124 ] && echo "the tests of the kernels were cut off after 150 s"

echo "== updates"
mkdir -p build
timeout 440 "$python" benchmarks/gpu_table.py "${quick[@]}" --seconds 420 | tee build/gpu.txt
table=${PIPESTATUS[0]}
[ $kernels -eq 0 ] && [ "$table" -eq 0 ]
