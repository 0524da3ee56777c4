#!/usr/bin/env bash
# Everything that needs a GPU, in one command, on any machine that has one:
#
#     benchmarks/gpu_suite.sh OUTDIR [STAGE...]
#
# Stages, all of them in this order if none is named:
#     build      the native extensions, unless they are built and load already (a prebuilt tree)
#     tests      the tests marked gpu
#     sanitize   compute-sanitizer (memcheck, racecheck, synccheck) on every native kernel at small ragged shapes
#     small standard full    the benchmarks: about 2, 8 and 30 minutes
#     report     the tables of everything measured so far, in OUTDIR/summary.md
#
# Safe to cut off at any time and to start again: a stage that is done for these kernel sources, and a part of
# the benchmarks that is done, are not repeated, and a failed stage does not keep the later ones from running.
# OUTDIR holds log.txt, tests.log, sanitize.log, small.json, standard.json, full.json, summary.md and done.
# Copy the largest JSON to benchmarks/results/, named as `python -m benchmarks.machine` says, and run
# `python -m benchmarks.report`.
set -uo pipefail

[ $# -ge 1 ] || { sed -n '2,20s/^# \?//p' "$0"; exit 2; }
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
stages=("$@")
[ $# -gt 0 ] || stages=(build tests sanitize small standard full report)
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1
parts=(race loss step "mask imitation head")

say() { echo "[$(date -u +%H:%M:%S)] $*" | tee -a "$out/log.txt"; }

sources() { "$python" -c 'from benchmarks.machine import digests; print(*digests("cuda").values(), sep="-")'; }

# once NAME COMMAND...: runs the command unless it has succeeded for these sources; its output goes to the log.
once() {
  local name=$1 key
  shift
  key="$name $(sources)"
  if grep -qxF "$key" "$out/done" 2>/dev/null; then say "$name: done before"; return 0; fi
  say "$name: $*"
  if "$@" >>"$out/log.txt" 2>&1; then
    echo "$key" >>"$out/done"
    say "$name: ok"
  else
    say "$name: FAILED, see $out"
    failed+=("$name")
    return 1
  fi
}

loads() { "$python" -c "
import sys
from frs_kernels.library import load_native
problem = load_native('cpu') or load_native('cuda')
print(problem or 'the native extensions load')
sys.exit(problem is not None)"; }

build() {
  if loads; then return 0; fi
  FRS_BUILD=cuda "$python" setup.py build_ext --inplace && loads
}

tests() { "$python" -m pytest tests -m gpu -ra >"$out/tests.log" 2>&1; }

sanitize() {
  local tool
  : >"$out/sanitize.log"
  for tool in memcheck racecheck synccheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" -m benchmarks.sanitize >>"$out/sanitize.log" 2>&1 ||
      return 1
  done
}

# measure SIZE OP...: a part of a size in a process of its own; its results go to the size's JSON at its end.
measure() {
  local size=$1 fresh code files
  shift
  files=("${@/#/benchmarks/test_}")
  files=("${files[@]/%/.py}")
  fresh=$(mktemp --suffix=.json)
  "$python" -m pytest "${files[@]}" --size "$size" --benchmark-json="$fresh" -q -ra -p no:cacheprovider
  code=$?
  [ -s "$fresh" ] && "$python" -m benchmarks.report merge "$out/$size.json" "$fresh"
  rm -f "$fresh"
  [ $code -eq 0 ] || [ $code -eq 5 ]  # 5: this size has nothing of this part
}

report() {
  local size
  for size in full standard small; do
    [ -s "$out/$size.json" ] || continue
    echo "# $size"
    "$python" -m benchmarks.report summary "$out/$size.json"
  done >"$out/summary.md"
}

failed=()
stop() { echo "gpu_suite.sh: $*" >&2; exit 1; }
has() { "$python" -c "$1" 2>/dev/null; }
has 'import torch' || stop "$python has no torch; name another one: PYTHON=.venv/bin/python"
has 'import torch; assert torch.cuda.is_available()' || stop "torch sees no GPU"
has 'import hypothesis, matplotlib, pytest_benchmark, pytest_timeout' ||
  stop "$python lacks a package: pip install hypothesis matplotlib pytest-benchmark pytest-timeout"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee -a "$out/log.txt"
for stage in "${stages[@]}"; do
  case $stage in
    build | tests | sanitize) once "$stage" "$stage" ;;
    small | standard | full)
      # shellcheck disable=SC2086  # a part is several words
      for part in "${parts[@]}"; do once "$stage ${part// /-}" measure "$stage" $part; done
      report
      ;;
    report) report ;;
    *) say "no stage is called $stage"; exit 2 ;;
  esac
done
report
cat "$out/summary.md"
[ ${#failed[@]} -eq 0 ] || { say "failed: ${failed[*]}"; exit 1; }
