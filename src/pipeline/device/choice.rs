//! Which device a name means, and what comes next where one is of no use.

use std::sync::Arc;

use crate::gpu::{self, AdapterInfo, GpuBackend, GpuOptions, HostDevice};
use crate::pipeline::device::findings::{Findings, load_findings};
use crate::pipeline::device::tuning_file::load_tuning;
use crate::pipeline::device::{Device, Precision};
use crate::record::{AdapterKind, DType, HostBackend, Products};
use crate::{Error, Remedy, Result, Tier, Tiers};

impl Device {
    /// A device that a program has for its own pictures and lends: its callbacks, error scopes and polls stay the program's, it is never destroyed, and
    /// submissions are short, so that frames come between. Draw on a thread that shows nothing.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the names of what the device lacks; when `F16` is asked of one that was opened without 16-bit types.
    pub fn lent(host: HostDevice, precision: Precision) -> Result<Device> {
        let storage = if host.has_f16() && matches!(precision, Precision::Auto | Precision::F16) {
            DType::F16
        } else {
            DType::F32
        };
        let HostDevice { adapter, device, queue } = host;
        Device::new(Arc::new(GpuBackend::on(adapter, device, queue, storage, GpuOptions::default())?), precision)
    }

    /// The first device that `name` means and that opens, as [`first_that`](Self::first_that) tries them.
    ///
    /// # Errors
    /// As [`first_that`](Self::first_that).
    pub fn choose(name: &str, precision: Precision) -> Result<Device> {
        Device::first_that(name, precision, Ok)
    }

    /// What `attempt` makes of the first device that works. `name` is `auto` (discrete GPU, then integrated, then the host executor), `cpu`, a
    /// backend (`vulkan`, `metal`, `dx12`: the first GPU by that way), an adapter's index, or part of its name. A software adapter is
    /// taken only when named. What was found of a driver before ([`load_findings`]) and tiles that were measured on it are used.
    ///
    /// A device without the tier of a kernel that does not compile is tried next, whatever the name. With `auto`, where a device does not open, was found
    /// wrong, or has a kernel that does not compile in f32 either, the next one is tried, and the host executor at last.
    /// [`remarks`](Self::remarks) of the device then tell why.
    ///
    /// # Errors
    /// When the name fits no adapter (the message lists those there are), a named adapter does not open, `F16` is asked of a device without it, and
    /// what `attempt` gives.
    pub fn first_that<T>(name: &str, precision: Precision, attempt: impl FnMut(Device) -> Result<T>) -> Result<T> {
        Trials { precision, options: GpuOptions::default(), remarks: Vec::new(), attempt }.run(name)
    }
}

struct Trials<F> {
    precision: Precision,
    options: GpuOptions,
    /// Why a device or a tier was passed over.
    remarks: Vec<String>,
    attempt: F,
}

/// What came of an adapter.
enum Trial<T> {
    Done(Result<T>),
    /// It is of no use, and why.
    Useless(Error),
}

impl<T, F: FnMut(Device) -> Result<T>> Trials<F> {
    fn run(mut self, name: &str) -> Result<T> {
        if name.eq_ignore_ascii_case("cpu") {
            return self.on_host();
        }
        if !name.eq_ignore_ascii_case("auto") {
            let adapter = gpu::find_adapter(name)?;
            let findings = load_findings(&adapter).ok().flatten().unwrap_or_default();
            if let Some(why) = findings.refusal() {
                self.remarks.push(format!("{} was found wrong: {why}", adapter.name));
            }
            return match self.on_adapter(&adapter, &findings) {
                Trial::Done(result) => result,
                Trial::Useless(error) => Err(error),
            };
        }
        self.on_first(preferred(gpu::adapters()))
    }

    /// On the first adapter that works, else on the host executor.
    fn on_first(mut self, ways: Vec<(AdapterInfo, Findings)>) -> Result<T> {
        if ways.is_empty() {
            self.remarks.push("no hardware GPU found; a software one is used only when named".into());
        }
        for (adapter, findings) in ways {
            let why = match findings.refusal() {
                Some(why) => format!("its examination found {why}"),
                None => match self.on_adapter(&adapter, &findings) {
                    Trial::Done(result) => return result,
                    Trial::Useless(error) => error.to_string(),
                },
            };
            // Errors of a device begin with its name.
            let why = why.strip_prefix(&format!("{}: ", adapter.name)).unwrap_or(&why);
            self.remarks.push(format!("{} is not used: {why}", adapter.way()));
        }
        self.on_host()
    }

    fn on_host(&mut self) -> Result<T> {
        let products = match self.precision {
            Precision::Bf16 if Products::has_bf16() => Products::Bf16,
            _ => Products::F32,
        };
        let device = Device::new(Arc::new(HostBackend::new(products)), self.precision)?;
        (self.attempt)(device.with_remarks(self.remarks.clone()))
    }

    /// With all tiers that are not known to be wrong, then without those of kernels that do not compile.
    fn on_adapter(&mut self, adapter: &AdapterInfo, findings: &Findings) -> Trial<T> {
        let mut tiers = findings.tiers();
        for (tier, why) in findings.wrong.iter().filter(|(tier, _)| **tier != Tier::Single) {
            self.remarks.push(format!("{}: without {tier}, which its examination found wrong: {why}", adapter.name));
        }
        loop {
            let options = GpuOptions { tiers, max_binding_bytes: findings.max_binding_bytes, ..self.options };
            let backend = match GpuBackend::open(adapter, DType::F32, options) {
                Ok(backend) => backend,
                Err(error) => return Trial::Useless(error),
            };
            // A table that cannot be read costs speed, not the picture; who asks for the table learns what is wrong with it.
            let tuning = load_tuning(adapter).unwrap_or_default();
            let device = match self.device(adapter, backend, tiers) {
                Ok(device) => device.with_tuning(tuning),
                Err(error) => return Trial::Done(Err(error)),
            };
            match (self.attempt)(device) {
                Err(error @ Error::Kernel { tier: Tier::Single, .. }) => return Trial::Useless(error),
                Err(Error::Kernel { tier, message, .. }) if tiers.has(tier) => {
                    self.remarks.push(format!("without {tier}: {message}"));
                    tiers = tiers.without(tier);
                }
                result => return Trial::Done(result),
            }
        }
    }

    fn device(&self, adapter: &AdapterInfo, backend: GpuBackend, tiers: Tiers) -> Result<Device> {
        if self.precision == Precision::F16 && adapter.caps.shader_f16 && !tiers.has(Tier::Half) {
            let why = self.remarks.last().cloned().unwrap_or_default();
            return Err(Error::request("device.precision", format!("f16: {why}"))
                .advise([Remedy::AutomaticPrecision, Remedy::SinglePrecision]));
        }
        Ok(Device::new(Arc::new(backend), self.precision)?.with_remarks(self.remarks.clone()))
    }
}

/// Hardware, best first, with what is known of each: discrete before integrated before virtual. Of several ways to one GPU, the one that was found
/// right comes first, one that was found wrong last.
fn preferred(adapters: Vec<AdapterInfo>) -> Vec<(AdapterInfo, Findings)> {
    let known = |adapter: AdapterInfo| {
        let findings = load_findings(&adapter).ok().flatten();
        (adapter, findings)
    };
    let mut ways: Vec<_> =
        adapters.into_iter().filter(|adapter| adapter.kind != AdapterKind::Software).map(known).collect();
    // Ways of one GPU are of one kind, and stand in the order of preference.
    let rank = |(adapter, findings): &(AdapterInfo, Option<Findings>)| {
        let trust = match findings {
            Some(findings) if findings.refusal().is_some() => 2,
            Some(_) => 0,
            None => 1,
        };
        (adapter.kind.preference(), adapter.gpu, trust, adapter.index)
    };
    ways.sort_by_key(rank);
    ways.into_iter().map(|(adapter, findings)| (adapter, findings.unwrap_or_default())).collect()
}

#[cfg(all(test, feature = "demo"))]
#[path = "choice_tests.rs"]
mod tests;
