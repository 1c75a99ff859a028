#!/usr/bin/env bash
# gpu.sh [PART OF THE ADAPTER'S NAME] [WORK FOLDER]: everything that needs a real GPU, in one go, for a machine that has one for an hour.
#
#   1. the whole test suite on that adapter; goldens and ops again without cooperative matrices, so that every tier that it offers is run;
#   2. kernels at Stable Diffusion's shapes;
#   3. a step of full-size Stable Diffusion 1.5 at SIZE² (512), f16, and its decoder;
#   4. stable-diffusion.cpp's Vulkan back end and PyTorch beside it, where PYTHON and VULKAN_PYTHON have them, and one large product: PASS or FAIL
#      for each ratio that is asked for (benches/peers/gpu.py).
#
# Results go to WORK FOLDER/report.md; a part that fails is said there, and the next ones still run. PARTS="2 3" picks some.
set -uo pipefail
cd "$(dirname "$0")/.."
adapter=${1:-}
work=${2:-target/gpu}
size=${SIZE:-512}
python=${PYTHON:-python3}
parts=${PARTS:-1 2 3 4}
mkdir -p "$work"
report=$work/report.md
failed=0
device=${adapter:-0}

has() { case " $parts " in *" $1 "*) true ;; *) false ;; esac }
say() { printf '%s\n' "$*" | tee -a "$report"; }
part() { # title, command ...
    local title=$1 status
    shift
    say "" "## $title" '```'
    "$@" 2>&1 | tee -a "$report"
    status=${PIPESTATUS[0]}
    say '```'
    [ "$status" = 0 ] || { say "FAILED with status $status"; failed=1; }
}

: >"$report"
say "# On a GPU" "" "\`$(git rev-parse --short HEAD 2>/dev/null || echo unknown)\`, SIZE $size"
part "Devices" cargo run --release --locked --quiet -- devices
if has 1; then
    part "Tests" env ${adapter:+CHIARO_TEST_ADAPTER="$adapter"} cargo test --release --all-features --locked -- --test-threads 4
    part "Tests without matrices" env ${adapter:+CHIARO_TEST_ADAPTER="$adapter"} CHIARO_TEST_NO_MATRICES=1 cargo test --release --all-features \
        --locked --test tests -- --test-threads 4 gpu_with on_the_gpu_in_half golden_runs_on_the_gpu
fi
if has 2; then
    part "Kernels" env CHIARO_BENCH_DEVICES="$device" cargo bench --locked --bench ops
    part "Kernels, half precision" env CHIARO_BENCH_DEVICES="$device" CHIARO_BENCH_PRECISION=f16 cargo bench --locked --bench ops
fi
if has 3; then
    [ -e "$work/random_sd15/unet" ] || part "Model" cargo run --release --locked --example random_sd15 -- "$work/random_sd15"
    part "UNet step, guidance pair" env CHIARO_BENCH_DEVICES="$device" CHIARO_BENCH_MODEL="$work/random_sd15" CHIARO_BENCH_SIZE="$size" \
        CHIARO_BENCH_STEPS=12 cargo bench --locked --bench unet_step
    part "Decoder" env CHIARO_BENCH_DEVICES="$device" CHIARO_BENCH_MODEL="$work/random_sd15" CHIARO_BENCH_SIZE="$size" CHIARO_BENCH_BANDS=0 \
        cargo bench --locked --bench vae
fi
if has 4 && ! "$python" -c "import torch, diffusers, safetensors" 2>/dev/null; then
    say "" "SKIPPED: $python has no torch, diffusers and safetensors; name one that has them: PYTHON"
elif has 4; then
    part "Others" "$python" benches/peers/gpu.py --work "$work/peers" --size "$size" --gpu "$device" \
        ${VULKAN_PYTHON:+--vulkan-python "$VULKAN_PYTHON"}
fi
say "" "Report: $report"
exit "$failed"
