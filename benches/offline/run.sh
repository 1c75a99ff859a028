#!/usr/bin/env bash
# run.sh amd|intel [PART OF A KERNEL'S LABEL | FILE.wgsl]: compiles the hot kernels, or final WGSL in a file, with Mesa's driver for GPUs that are not
# there, and prints a table for each in $GPUS. Fails if a kernel has a fault. CHIARO_OFFLINE_ISA=1 prints the code too, CHIARO_OFFLINE_WGSL=1 the text.
# $MESA is Debian's release that the driver comes from: trixie (Mesa 25.0, AMD's: later ones want another fake device), trixie-backports (26, Intel's).
# Driver and C library are unpacked in $CACHE, and for Intel Mesa's fake kernel device is built there, which Debian does not ship (a minute on two cores;
# wants python3 with venv and a C compiler); nothing is installed. Debian 12 or later, x86-64.
set -euo pipefail
case ${1:-} in
    # GCN, RDNA 2, 3, 3.5, 4.
    amd) gpus="vega10 navi21 navi31 gfx1150 gfx1201" mesa=trixie library=libvulkan_radeon.so ;;
    # Xe-LP, Arc A, Xe2, Xe3.
    intel) gpus="tgl dg2 bmg ptl" mesa=trixie-backports library=libvulkan_intel.so ;;
    *) echo "expected amd or intel" >&2 && exit 2 ;;
esac
gpus=${GPUS:-$gpus} mesa=${MESA:-$mesa}
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/chiaro-offline}
# Before the folder changes.
[[ ${2:-} != *.wgsl ]] || set -- "$1" "$(realpath "$2")"
cd "$(dirname "$0")/../.."
mkdir -p "$cache"

# apt_in FOLDER ARGUMENT ...: apt-get with FOLDER's own list of sources, state and archives.
apt_in() {
    local folder=$1
    shift
    apt-get -o "Dir::Etc::sourcelist=$folder/list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$folder/lists" \
        -o "Dir::State::status=$folder/status" -o "Dir::Cache::archives=$folder/debs" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o APT::Sandbox::User=root -o APT::Install-Recommends=false -qq "$@"
}

# folder_for FOLDER LINE ...: makes FOLDER with these lines as its list of sources, from where this system takes its packages.
folder_for() {
    local folder=$1
    shift
    mkdir -p "$folder/lists/partial" "$folder/debs/partial" "$folder/root"
    : >"$folder/status"
    printf '%s\n' "$@" >"$folder/list"
    apt_in "$folder" update
}

shim=$cache/shim/libintel_noop_drm_shim.so
# Of the Mesa in Debian 12's backports, whose source builds with the tools of Debian 12.
build_shim() {
    local folder=$cache/shim libraries package pc
    folder_for "$folder" "deb $uri bookworm main" "deb-src $uri bookworm-backports main"
    (cd "$folder/debs" && apt_in "$folder" download libdrm-dev libdrm2 bison flex m4 libexpat1-dev libexpat1 zlib1g-dev zlib1g)
    for package in "$folder"/debs/*.deb; do dpkg -x "$package" "$folder/root"; done
    libraries=$folder/root/usr/lib/x86_64-linux-gnu
    for pc in "$libraries"/pkgconfig/*.pc; do sed -i "s|^prefix=/usr|prefix=$folder/root/usr|" "$pc"; done
    # Links of the packages for building point into /lib, which is another place here.
    cp -a "$folder"/root/lib/x86_64-linux-gnu/lib{expat,z}.so.1* "$libraries/"
    for package in libexpat libz; do ln -sf "$package.so.1" "$libraries/$package.so"; done
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install -q meson ninja mako ply pyyaml packaging setuptools
    (cd "$folder" && apt_in "$folder" source --download-only --tar-only mesa)
    mkdir -p "$folder/mesa"
    tar xf "$folder"/mesa_*.orig.tar.xz -C "$folder/mesa" --strip-components=1
    (
        export PATH=$folder/venv/bin:$folder/root/usr/bin:$PATH M4=$folder/root/usr/bin/m4 BISON_PKGDATADIR=$folder/root/usr/share/bison
        export PKG_CONFIG_PATH=$libraries/pkgconfig
        meson setup "$folder/build" "$folder/mesa" -Dbuildtype=release -Dtools=drm-shim,intel -Dvulkan-drivers= -Dgallium-drivers= \
            -Dplatforms= -Dglx=disabled -Degl=disabled -Dgbm=disabled -Dopengl=false -Dgles1=disabled -Dgles2=disabled -Dllvm=disabled \
            -Dvalgrind=disabled -Dlibunwind=disabled -Dzstd=disabled -Dxmlconfig=disabled -Dgallium-va=disabled -Dgallium-vdpau=disabled \
            -Dvideo-codecs= -Dshader-cache=disabled >"$folder/setup.log"
        ninja -C "$folder/build" src/intel/tools/libintel_noop_drm_shim.so >"$folder/build.log"
    )
    cp "$folder/build/src/intel/tools/libintel_noop_drm_shim.so" "$shim"
}

driver=$cache/$mesa
# With all that it links to.
fetch_driver() {
    local package sources=("deb $uri ${mesa%-backports} main")
    [[ $mesa != *-backports ]] || sources+=("deb $uri $mesa main")
    folder_for "$driver" "${sources[@]}"
    apt_in "$driver" -y -t "$mesa" --download-only install mesa-vulkan-drivers libvulkan1 >"$driver/download.log"
    for package in "$driver"/debs/*.deb; do dpkg -x "$package" "$driver/root"; done
    touch "$driver/ready"
}

uri=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' | sed -n '/\/debian\/\?$/{p;q}')
[[ -e $driver/ready ]] || fetch_driver >&2
[[ $1 != intel || -e $shim ]] || build_shim >&2
# As tests/run builds it.
cargo build --quiet --workspace --all-features --locked --example offline

loader=$driver/root/usr/lib64/ld-linux-x86-64.so.2
[[ -e $loader ]] || loader=$driver/root/lib64/ld-linux-x86-64.so.2
libraries=$driver/root/usr/lib/x86_64-linux-gnu:$driver/root/lib/x86_64-linux-gnu:$driver/root/usr/lib
printf '{"ICD":{"api_version":"1.3.0","library_path":"%s"},"file_format_version":"1.0.0"}\n' \
    "$driver/root/usr/lib/x86_64-linux-gnu/$library" >"$driver/$1.json"
export VK_DRIVER_FILES=$driver/$1.json VK_ICD_FILENAMES=$driver/$1.json XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-${TMPDIR:-/tmp}}
export MESA_SHADER_CACHE_DISABLE=true INTEL_FORCE_PROBE='*'
start=("$loader" --library-path "$libraries")
[[ $1 != intel ]] || start+=(--preload "$shim")
# What a kernel's own process is started with.
export CHIARO_OFFLINE_RUNNER="${start[*]} target/debug/examples/offline"
for gpu in $gpus; do
    RADV_FORCE_FAMILY=$gpu INTEL_STUB_GPU_PLATFORM=$gpu "${start[@]}" target/debug/examples/offline "$@" || failed=1
done
exit "${failed:-0}"
