//! The GPU that the tests run on.

use chiaro::gpu::{AdapterInfo, GpuBackend, GpuOptions, adapters, choose_adapter};
use chiaro::record::{AdapterKind, Caps, DType, Vendor};

use super::part;

/// The adapter that `CHIARO_TEST_ADAPTER` names (a number or a part of a name), else the first hardware one, else the
/// first of all. With `CHIARO_TEST_AS_GPU` a software adapter passes for a GPU, so that the kernels of GPUs are chosen, with
/// `CHIARO_TEST_AS_GPU=intel` for one of Intel's; with `CHIARO_TEST_NO_MATRICES` it has no cooperative matrices, so that the next tier's are.
///
/// # Panics
/// When there is none: a GPU test that is skipped looks like one that passed.
pub(crate) fn test_adapter() -> AdapterInfo {
    let wanted = std::env::var("CHIARO_TEST_ADAPTER").ok();
    let chosen = choose_adapter(wanted.as_deref()).unwrap_or_else(|e| panic!("CHIARO_TEST_ADAPTER: {e}"));
    let mut adapter = chosen.or_else(|| adapters().into_iter().next()).expect(
        "no GPU driver was found; install the software one: apt-get install mesa-vulkan-drivers libvulkan1 \
         (Debian, Ubuntu), dnf install mesa-vulkan-drivers (Fedora), or set VK_DRIVER_FILES to the file of another",
    );
    if let Some(vendor) = std::env::var_os("CHIARO_TEST_AS_GPU") {
        adapter.kind = AdapterKind::Integrated;
        adapter.caps.kind = AdapterKind::Integrated;
        if vendor == "intel" {
            adapter.caps.vendor = Vendor::Intel;
        }
    }
    if std::env::var_os("CHIARO_TEST_NO_MATRICES").is_some() {
        adapter.caps.matrices.clear();
    }
    adapter
}

/// The test adapter's device, with [`test_options`].
pub(crate) fn open(storage: DType) -> GpuBackend {
    open_with(storage, test_options())
}

/// The test adapter's device with only what WebGPU guarantees.
pub(crate) fn open_restricted() -> GpuBackend {
    open_with(DType::F32, GpuOptions { restrict_to_webgpu: true, ..test_options() })
}

/// The test adapter's device, opened with `options`.
pub(crate) fn open_with(storage: DType, options: GpuOptions) -> GpuBackend {
    let adapter = test_adapter();
    GpuBackend::open(&adapter, storage, options).unwrap_or_else(|e| panic!("{adapter}: {e}"))
}

/// The test adapter's device as a release build opens it: the kernels that users run, which take half the time on a software driver.
pub(crate) fn open_as_released(storage: DType) -> GpuBackend {
    open_with(storage, GpuOptions { checks: false, poison: false, ..GpuOptions::default() })
}

/// Poison, in a release build too. Checks, with which a software driver compiles a third longer, where everything is tested: users run kernels
/// without them.
pub(crate) fn test_options() -> GpuOptions {
    GpuOptions { checks: part::everything(), poison: true, ..GpuOptions::default() }
}

/// What a discrete GPU of the usual size can do, with no driver behind it: for what is chosen by capabilities alone.
pub(crate) fn discrete_caps() -> Caps {
    Caps {
        kind: AdapterKind::Discrete,
        max_workgroup_bytes: 48 << 10,
        max_invocations: 1024,
        subgroups: true,
        subgroup_size: (32, 32),
        ..Caps::webgpu()
    }
}
