#!/usr/bin/env bash
# run.sh [PART OF A KERNEL'S LABEL]: compiles the hot kernels with AMD's driver of Mesa for GPUs that are not there, and prints a table for
# each family in $FAMILIES. Fetches the newest driver that Debian offers into $CACHE; nothing is installed. CHIARO_AMD_ISA=1 prints the code.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/chiaro-amd}
families=${FAMILIES:-vega10 navi21 navi31 gfx1150 gfx1201}
if [ ! -e "$cache/radv.json" ]; then
    mkdir -p "$cache"
    (cd "$cache" && apt-get download -qq mesa-vulkan-drivers/stable-backports 2>/dev/null || (cd "$cache" && apt-get download -qq mesa-vulkan-drivers))
    dpkg -x "$cache"/mesa-vulkan-drivers*.deb "$cache/root"
    driver=$(echo "$cache"/root/usr/lib/*/libvulkan_radeon.so)
    printf '{"ICD":{"api_version":"1.3.0","library_path":"%s"},"file_format_version":"1.0.0"}\n' "$driver" >"$cache/radv.json"
fi
cargo build --release --quiet --locked --example amd
for family in $families; do
    RADV_FORCE_FAMILY=$family RADV_DEBUG=nocache VK_DRIVER_FILES=$cache/radv.json VK_ICD_FILENAMES=$cache/radv.json \
        target/release/examples/amd "$@" || failed=1
done
exit "${failed:-0}"
