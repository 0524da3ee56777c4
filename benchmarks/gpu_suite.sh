#!/usr/bin/env bash
# Runs all tests and benchmarks that need a GPU, on any machine that has one:
#
#     benchmarks/gpu_suite.sh OUTDIR [PLAN or STAGE...]
#
# Plans (default: first second variants standard full):
#     first      at most 6 minutes, do the kernels load, how right and fast are they: check patterns build quick tests
#     second     at most 5 minutes: tests sanitize counters huge race
# Stages:
#     check      the native kernels without torch: errors against float64, microseconds of each kernel
#     patterns   what memory yields by the order of accesses and the instructions that copy
#     build      the native extensions, unless they already load (a prebuilt tree)
#     tests      the tests marked gpu
#     sanitize   compute-sanitizer on every kernel, with small ragged shapes
#     counters   hardware counters of the large kernels, by Nsight Compute
#     huge       tensors of more than 2^31 elements
#     quick small standard full    the benchmarks: about 3, 3, 14 and 42 minutes
#     variants   the native kernels and their variants (gpu_programs.py) without torch, in turns
#     race       the races of standard, then those of full, which include torch.compile's max-autotune
#     report     the summary of what is in OUTDIR; needs no GPU
#
# The output is one folder in OUTDIR, named after the GPU and the digest of the kernels: log.txt, check.txt,
# tests.txt, sanitize.txt, counters.txt, benchmarks.json, summary.md and done.txt. The suite can be killed at
# any time and started again: measurements are kept, finished stages are not repeated. The later stages run
# even if one fails or takes too long.
set -uo pipefail

usage() { sed -n '2,27s/^# \?//p' "$0"; exit 2; }
[ $# -ge 1 ] || usage
out_dir=$(mkdir -p "$1" && cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- first second variants standard full
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
binary=build/gpu_check
export PYTHONUNBUFFERED=1 PATH=$PATH:/usr/local/cuda/bin TRITON_CACHE_DIR=build/triton
failed=() child= until=0

stop() { echo "gpu_suite.sh: $*" >&2; exit 1; }
say() { echo "[$(date -u +%H:%M:%S)] $*" | tee -a "$out/log.txt"; }
trap '[ -z "$child" ] || kill -TERM "$child"; exit 143' INT TERM HUP

# within SECONDS COMMAND...: ends the command and all its processes after SECONDS or at the plan's end.
within() {
  local limit=$1 left=$((until - SECONDS)) code
  shift
  [ "$until" -eq 0 ] || [ "$left" -gt "$limit" ] || limit=$left
  [ "$limit" -ge 3 ] || return 124
  timeout -k 5 "$limit" "$@" &
  child=$!
  wait "$child"
  code=$?
  child=
  return $code
}

# once NAME COMMAND...: runs the command unless it has succeeded in this folder. Its output goes to the log.
once() {
  local name=$1 began=$SECONDS code
  shift
  if grep -qxF "$name" "$out/done.txt" 2>/dev/null; then say "$name: already done"; return; fi
  say "$name ..."
  "$@" >>"$out/log.txt" 2>&1
  code=$?
  case $code in
    0) echo "$name" >>"$out/done.txt"; say "$name: ok, $((SECONDS - began)) s"; return ;;
    5) say "$name: nothing to run here: $(grep ^SKIPPED "$out/log.txt" | tail -1)"; return ;;
    9) say "$name: out of time, start again for the rest" ;;
    124 | 137) say "$name: cut off after $((SECONDS - began)) s, its results so far are kept" ;;
    *) say "$name: FAILED (status $code) after $((SECONDS - began)) s" ;;
  esac
  failed+=("$name")
}

compiled() { within 180 "$python" -m benchmarks.gpu_programs "${1-programs}" "$capability"; }

check() {
  compiled || return
  local code=0
  timed 90 $binary 16 || code=$?
  timed 30 $binary 1 || code=$?
  return $code
}

# timed SECONDS PROGRAM BATCH [MODE]: appends the output to check.txt, under the program's name.
timed() {
  echo "=== ${2##*/} $3" >>"$out/check.txt"
  within "$@" >>"$out/check.txt" 2>&1
}

# The present kernels and every variant of them, in turns. A variant may be wrong, but not without its times.
variants() {
  compiled programs && compiled variants || return
  local batch program before
  : >>"$out/check.txt"
  for batch in 16 1 16; do
    for program in $binary build/variants/*; do
      before=$(grep -c "^  whole, " "$out/check.txt")
      timed 30 "$program" $batch whole
      [ $(($(grep -c "^  whole, " "$out/check.txt") - before)) -eq 4 ] || return 1
    done
  done
}

patterns() { compiled && within 30 build/gpu_patterns >>"$out/check.txt" 2>&1; }

preflight() { "$python" -m benchmarks.preflight; }

build() {
  case $has in *native*) return 0 ;; esac
  FRS_BUILD=cuda TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$capability} \
    within 600 "$python" setup.py build_ext --inplace || return
  has=$(preflight) && case $has in *native*) return 0 ;; *) return 1 ;; esac
}

# pytests FILE LEAST SECONDS COMMAND...: appends the output to FILE. Fails if fewer than LEAST tests pass.
pytests() {
  local file=$out/$1 least=$2 limit=$3 before code passed
  shift 3
  echo >>"$file"  # an earlier run may have been cut off within a line
  before=$(wc -l <"$file")
  within "$limit" "$@" -v -ra -p no:cacheprovider >>"$file" 2>&1
  code=$?
  passed=$(tail -n +$((before + 1)) "$file" | grep -c PASSED)
  echo "$passed passed, at least $least wanted"
  [ $code -ne 5 ] || code=1  # no test was collected
  [ $code -ne 0 ] || [ "$passed" -ge "$least" ] || code=1
  return $code
}

tests() {
  local parallel=() count=$((memory / 6000)) cores
  cores=$(nproc)
  [ $count -lt "$cores" ] || count=$cores
  [ $count -lt 12 ] || count=12
  case $has in *xdist*) [ $count -lt 2 ] || parallel=(-n $count) ;; esac
  pytests tests.txt 600 600 "$python" -m pytest tests -m "gpu and not slow" --maxfail 40 --timeout 120 \
    "${parallel[@]}"
}

huge() {
  [ "$memory" -ge 60000 ] || { echo "needs 60 GB of GPU memory"; return 0; }
  pytests tests.txt 2 120 "$python" -m pytest tests/test_cuda.py tests/test_triton_gpu.py \
    tests/test_kl_triton.py -m "gpu and slow" --timeout 60
}

sanitize_kernels() {
  echo "== $1, gpu_check 2 tiny" >>"$out/sanitize.txt"
  local only=(--kernel-regex kns=frs)
  [ "$1" != initcheck ] || only=()  # it has to see what the other kernels write
  compiled && within 60 compute-sanitizer --tool "$1" --error-exitcode 99 "${only[@]}" \
    $binary 2 tiny >>"$out/sanitize.txt" 2>&1
}

sanitize_tests() {
  echo "== $1, pytest -m sanitize" >>"$out/sanitize.txt"
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 pytests sanitize.txt 8 90 compute-sanitizer --tool "$1" \
    --error-exitcode 99 --report-api-errors no \
    --kernel-regex "kns=frs|(loss|mask|mask_sums|single|factors|finish|scale|kl)_kernel" \
    "$python" -m pytest tests/test_triton_gpu.py tests/test_kl_triton.py tests/test_cuda.py \
    -m sanitize --timeout 80
}

# profile COMMAND...: succeeds if ncu has written a duration. Its status is that of the program that it kills.
profile() {
  local file=$out/counters.txt before code
  echo >>"$file"
  before=$(wc -l <"$file")
  within 60 ncu --clock-control none --kill yes --section SpeedOfLight --section Occupancy \
    --section WarpStateStats --section MemoryWorkloadAnalysis --print-details all "$@" >>"$file" 2>&1
  code=$?
  tail -n +$((before + 1)) "$file" | grep -c "Duration  *[a-z]" && return
  [ $code -ne 0 ] && return $code
  return 1
}

counters() { compiled && profile -k "regex:mask_kernel|loss_kernel" -c 6 $binary 16 once; }

counters_triton() {
  profile -k "regex:mask_kernel|loss_kernel" -c 2 "$python" -m pytest benchmarks/test_loss.py --size quick \
    -k loss-both-retinanet-800x1344-b16-bf16-nchw-triton -p no:cacheprovider
}

# measure SIZE SECONDS OP...: a part of a size, in a process of its own, so that a crash ends no other part.
measure() {
  local size=$1 limit=$2 files
  shift 2
  files=("${@/#/benchmarks/test_}")
  within "$limit" "$python" -m pytest "${files[@]/%/.py}" --size "$size" --into "$out/benchmarks.json" \
    -q -ra -p no:cacheprovider --timeout 300
}

benchmarks() {
  once "$1 race" measure "$1" "$2" race
  once "$1 loss" measure "$1" "$2" loss
  [ "$1" = quick ] || once "$1 step" measure "$1" "$2" step
  once "$1 others" measure "$1" "$2" mask imitation head kl
}

report() {
  local folder
  for folder in "$out_dir"/*/; do
    [ -e "$folder/log.txt" ] || continue
    "$python" -m benchmarks.summary "$folder" >"$folder/summary.part" &&
      mv "$folder/summary.part" "$folder/summary.md" && cat "$folder/summary.md"
  done
}

# plan SECONDS STAGE...: runs the stages, which share the time.
plan() {
  until=$((SECONDS + $1))
  shift
  local each
  for each in "$@"; do stage "$each"; done
  until=0
}

stage() {
  case $1 in
    first | second | check | patterns | variants | report) ;;
    *) [ -n "${has-}" ] || has=$(preflight) || stop "$has" ;;
  esac
  case $1 in
    first) plan 345 check patterns build quick tests ;;  # 15 seconds are for the report
    second) plan 285 tests sanitize counters huge race ;;
    check | patterns | variants | build | tests | huge) once "$1" "$1" ;;
    sanitize)
      for tool in memcheck racecheck synccheck initcheck; do once "sanitize $tool" sanitize_kernels $tool; done
      for tool in memcheck racecheck; do once "sanitize-tests $tool" sanitize_tests $tool; done
      ;;
    counters) once counters counters; once counters-triton counters_triton ;;
    quick) benchmarks quick 100 ;;
    small) benchmarks small 200 ;;
    standard) benchmarks standard 500 ;;
    full) benchmarks full 1500 ;;
    race) for size in standard full; do once "$size race" measure $size 500 race; done ;;
    report) ;;
    *) echo "there is no stage $1" >&2; usage ;;
  esac
}

if [ "$*" = report ]; then report; exit; fi
gpu=$(nvidia-smi --query-gpu=name,compute_cap,memory.total --format=csv,noheader,nounits | head -1) ||
  stop "nvidia-smi finds no GPU"
IFS=, read -r name capability memory <<<"${gpu//, /,}"
[[ $memory =~ ^[0-9]+$ ]] || memory=16000  # a GPU that shares the host's memory reports none
slug=$(tr '[:upper:]' '[:lower:]' <<<"$name" | tr -cs 'a-z0-9\n' - | sed 's/^-*//; s/-*$//')
sources=$("$python" -m benchmarks.sources cuda) || stop "$python does not run"
out=$out_dir/$slug-$sources
mkdir -p "$out"
echo >>"$out/log.txt"  # an earlier run may have been cut off within a line
clocks=$(nvidia-smi --query-gpu=driver_version,clocks.sm,clocks.max.sm --format=csv,noheader | head -1)
say "$name, $clocks: $*"
"$python" -m benchmarks.prebuild unpack "$capability" 2>&1 | tee -a "$out/log.txt"
for each in "$@"; do stage "$each"; done
report
[ ${#failed[@]} -eq 0 ] || { say "not done: ${failed[*]}"; exit 1; }
say "all done"
