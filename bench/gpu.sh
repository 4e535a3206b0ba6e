#!/usr/bin/env bash
# bench/gpu.sh {check|ops|encoder|train|tune|all} [CASE ...]: build, GPU tests, then one stage on this machine's GPU.
#
# Needs a CUDA device, and Python >= 3.11 with torch and triton; reaches for no network. Each stage stays under nine minutes:
# what does not fit any more is left out and named, and `bench/gpu.sh STAGE CASE` runs a case alone. A stage reports
# nothing unless tests/gpu pass; they run again whenever the sources or the GPU have changed.
#   PYTHON    interpreter to use (default: python3)
#   SECONDS_A_STAGE   time for the timed part of a stage (default: 360)
#   RESULTS   folder for the rows (default: bench/results)
set -euo pipefail
cd "$(dirname "$0")/.."
stage="${1:-}"
shift || true
python="${PYTHON:-python3}"
results="${RESULTS:-bench/results}"
work=build/gpu
mkdir -p "$work" "$results"
unset TRITON_INTERPRET LWM_FAST_GPU_TESTS
# The build comes before the checkout, whose lwm_fast has no compiled module.
export PYTHONSAFEPATH=1 PYTHONPATH="$PWD/$work/site:$PWD" PYTHONUNBUFFERED=1

build() {
    PYTHONPATH="" "$python" bench/gpu/build.py
}

# The sources and the GPU that the tests have passed on.
state() {
    { find csrc kernels lwm_fast tests/gpu tests/support -name '*.py' -o -name '*.cpp' -o -name '*.h' | LC_ALL=C sort | xargs cat
      "$python" -c 'import torch, triton; print(torch.cuda.get_device_name(0), torch.__version__, triton.__version__)'
    } | sha256sum | cut -d ' ' -f 1
}

tests() {
    if [ -f "$work/passed" ] && [ "$(cat "$work/passed")" = "$(state)" ]; then
        echo "GPU tests: passed before on these sources and this GPU"
    elif "$python" -m pytest tests/gpu -q -p no:cacheprovider --durations=5; then
        state > "$work/passed"
    else
        rm -f "$work/passed"
        echo "REFUSED: tests/gpu fail, so nothing is timed" >&2
        exit 1
    fi
}

# memcheck and racecheck on small shapes, each allocation on its own so that an overrun is seen.
sanitize() {
    if ! command -v compute-sanitizer > /dev/null; then
        echo "compute-sanitizer: not installed here, not run"
        return
    fi
    for tool in memcheck racecheck; do
        echo "compute-sanitizer --tool $tool"
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 200 compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$python" -m bench.gpu.small_shapes
    done
}

run_stage() {
    "$python" -m bench.gpu "$1" --out "$results" --seconds "${SECONDS_A_STAGE:-360}" "${@:2}"
}

case "$stage" in
    check)
        build
        rm -f "$work/passed"
        tests
        sanitize
        ;;
    ops | encoder | train | tune)
        build
        tests
        run_stage "$stage" "$@"
        ;;
    all) # about half an hour
        build
        rm -f "$work/passed"
        tests
        sanitize
        for each in ops encoder train; do run_stage "$each"; done
        ;;
    *)
        sed -n '2,11s/^# \{0,1\}//p' "$0"
        exit 2
        ;;
esac
