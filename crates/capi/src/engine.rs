//! Engines: an opened device, what stays on it, and where to log.

use std::ffi::{c_char, c_void};
use std::path::PathBuf;
use std::sync::Arc;

use chiaro_core::engine;
use chiaro_core::gpu;
use chiaro_core::lookup::Places;
use chiaro_core::options::{Streaming, VaeTiling, WeightTypes};
use chiaro_core::{Device, Precision};
use serde_json::json;

use crate::handle::{Handle, Object, give, out};
use crate::status::{Fault, Status, border, border_of};
use crate::structs::{EngineOptions, LogCallback, Statistics, read, write, zeroed};
use crate::text::{c_text, give_json, given};

/// `chiaro_engine`.
pub(crate) struct Engine {
    pub(crate) engine: engine::Engine,
    pub(crate) places: Places,
    log: Log,
}

impl Object for Engine {
    const KIND: u64 = 0x6368_6961_0000_0002;
    const NAME: &'static str = "engine";
}

/// Where messages go.
struct Log {
    level: u32,
    callback: Option<LogCallback>,
    user: *mut c_void,
}

// SAFETY: the header says that the callback is called from several threads; `user` is the program's to share.
unsafe impl Send for Log {}
// SAFETY: as above.
unsafe impl Sync for Log {}

pub(crate) const WARNING: u32 = 1;
pub(crate) const INFO: u32 = 2;

impl Engine {
    /// Tells the program something worth knowing.
    pub(crate) fn log(&self, level: u32, message: &str) {
        if let Some(callback) = self.log.callback.filter(|_| level <= self.log.level) {
            let text = c_text(&message.replace('\n', " "));
            // SAFETY: the program gave it for this.
            unsafe { callback(level, text.as_ptr(), self.log.user) };
        }
    }

    #[cfg(test)]
    pub(crate) fn on(device: Device) -> Arc<Handle<Self>> {
        let log = Log { level: 0, callback: None, user: std::ptr::null_mut() };
        let engine = engine::Engine::new(device, engine::Residency::On);
        Handle::new(Engine { engine, places: Places::default(), log })
    }
}

/// A program's choices, read and checked; the device is not opened.
pub(crate) struct Choices {
    pub(crate) precision: Precision,
    /// As [`Device::first_that`] takes it.
    device: Option<String>,
    weights: WeightTypes,
    vae_tiling: VaeTiling,
    streaming: Streaming,
    residency: engine::Residency,
    hash_file: Option<PathBuf>,
    places: Places,
    log: Log,
}

/// One of some choices by number.
fn chosen<T: Copy, const N: usize>(name: &'static str, number: u32, choices: [T; N]) -> Result<T, Fault> {
    let found = choices.get(number as usize).copied();
    found.ok_or_else(|| Fault::argument(name, &format!("expected 0 to {}, got {number}", N - 1)))
}

impl Choices {
    /// # Safety
    /// `options` is NULL, or what it says and points to can be read.
    pub(crate) unsafe fn read(options: *const EngineOptions) -> Result<Self, Fault> {
        let default = zeroed::<EngineOptions>();
        // SAFETY: the caller's.
        let (options, texts) = unsafe {
            let options = if options.is_null() { default } else { read(options, default)? };
            let texts = [
                given(options.device, "device")?,
                given(options.pci, "pci")?,
                given(options.weights, "weights")?,
                given(options.model_folders, "model_folders")?,
                given(options.hash_file, "hash_file")?,
            ];
            (options, texts)
        };
        let [device, pci, weights, folders, hash_file] = texts;
        let residency = match options.residency {
            0 | 1 if options.resident_bytes > 0 => engine::Residency::Within(options.resident_bytes),
            0 | 1 => engine::Residency::On,
            2 => engine::Residency::Off,
            other => return Err(Fault::argument("residency", &format!("expected 0, 1 or 2, got {other}"))),
        };
        if options.log_level > INFO {
            return Err(Fault::argument("log_level", &format!("expected 0, 1 or 2, got {}", options.log_level)));
        }
        let weights = match weights {
            Some(text) => text.parse().map_err(|why| Fault::argument("weights", &format!("{why}")))?,
            None => WeightTypes::default(),
        };
        // SAFETY: the caller's: 16 and 8 bytes.
        let (uuid, luid) = unsafe {
            let uuid = options.uuid.cast::<[u8; 16]>();
            let luid = options.luid.cast::<[u8; 8]>();
            ((!uuid.is_null()).then(|| uuid.read_unaligned()), (!luid.is_null()).then(|| luid.read_unaligned()))
        };
        Ok(Choices {
            precision: chosen(
                "precision",
                options.precision,
                [Precision::Auto, Precision::F16, Precision::F32, Precision::Bf16],
            )?,
            device: named(device, uuid, luid, pci)?,
            weights,
            vae_tiling: chosen("vae_tiling", options.vae_tiling, [VaeTiling::Auto, VaeTiling::On, VaeTiling::Off])?,
            streaming: chosen(
                "stream_weights",
                options.stream_weights,
                [Streaming::Auto, Streaming::On, Streaming::Off],
            )?,
            residency,
            hash_file: hash_file.map(PathBuf::from),
            places: Places {
                models: folders.map(|folders| std::env::split_paths(folders).collect()).unwrap_or_default(),
                ..Places::default()
            },
            log: Log { level: options.log_level, callback: options.log, user: options.log_user },
        })
    }

    /// The device that was chosen.
    fn open(&self) -> Result<Device, Fault> {
        Ok(Device::choose(self.device.as_deref().unwrap_or("auto"), self.precision)?)
    }

    /// An engine on a device.
    pub(crate) fn engine(self, device: Device) -> Result<Arc<Handle<Engine>>, Fault> {
        let mut device =
            device.with_weights(self.weights).with_vae_tiling(self.vae_tiling).with_streaming(self.streaming)?;
        if let Some(path) = self.hash_file {
            device = device.with_hash_file(path);
        }
        let remarks = device.remarks().to_vec();
        let engine = Engine { engine: engine::Engine::new(device, self.residency), places: self.places, log: self.log };
        remarks.iter().for_each(|remark| engine.log(WARNING, remark));
        Ok(Handle::new(engine))
    }
}

/// The name of the device that is meant; by what tells it from others, its index.
fn named(
    name: Option<&str>,
    uuid: Option<[u8; 16]>,
    luid: Option<[u8; 8]>,
    pci: Option<&str>,
) -> Result<Option<String>, Fault> {
    let ways = [name.is_some(), uuid.is_some(), luid.is_some(), pci.is_some()];
    if ways.iter().filter(|way| **way).count() > 1 {
        return Err(Fault::argument("device", "expected at most one of device, uuid, luid and pci"));
    }
    if let Some(name) = name {
        return Ok(Some(name.to_owned()));
    }
    if ways == [false; 4] {
        return Ok(None);
    }
    let is_meant = |adapter: &gpu::AdapterInfo| {
        let own = &adapter.identity;
        uuid.is_some_and(|uuid| own.uuid == Some(uuid))
            || luid.is_some_and(|luid| own.luid == Some(luid))
            || pci.is_some_and(|pci| !own.pci.is_empty() && own.pci.eq_ignore_ascii_case(pci))
    };
    let found = gpu::adapters().into_iter().find(is_meant);
    found.map(|adapter| Some(adapter.index.to_string())).ok_or_else(|| {
        let which = if pci.is_some() {
            "pci"
        } else if uuid.is_some() {
            "uuid"
        } else {
            "luid"
        };
        Fault::argument(which, "no device has it")
    })
}

/// An engine on the device that `open` gives.
///
/// # Safety
/// `options` is NULL, or what it says and points to can be read; `engine` and `error` are NULL or can be written.
pub(crate) unsafe fn engine_on(
    open: impl FnOnce(&Choices) -> Result<Device, Fault>,
    options: *const EngineOptions,
    engine: *mut *mut Handle<Engine>,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border(error, || {
            out(engine, "engine")?;
            let choices = Choices::read(options)?;
            let device = open(&choices)?;
            give(engine, choices.engine(device)?);
            Ok(())
        })
    }
}

/// Opens a device.
///
/// # Safety
/// `options` is NULL, or what it says and points to can be read; `engine` and `error` are NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_engine_new(
    options: *const EngineOptions,
    engine: *mut *mut Handle<Engine>,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe { engine_on(Choices::open, options, engine, error) }
}

/// # Safety
/// `engine` is NULL or an engine.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_engine_retain(engine: *mut Handle<Engine>) -> *mut Handle<Engine> {
    // SAFETY: the caller's.
    unsafe { Handle::retain(engine) }
}

/// # Safety
/// `engine` is NULL or an engine that the caller owns.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_engine_release(engine: *mut Handle<Engine>) {
    // SAFETY: the caller's.
    unsafe { Handle::release(engine) }
}

/// What device it is.
///
/// # Safety
/// `engine` is NULL or an engine; the others are NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_engine_describe(
    engine: *const Handle<Engine>,
    json: *mut *mut c_char,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border_of(engine, error, |engine| {
            out(json, "json")?;
            let device = engine.value.engine.device();
            let told = json!({
                "device": device.name(), "storage": device.storage_name(), "weights": device.weights().to_string(),
                "remarks": device.remarks(),
            });
            give_json(json, &told);
            Ok(())
        })
    }
}

/// What it did so far and holds now.
///
/// # Safety
/// `engine` is NULL or an engine; the others are NULL or can be written; `statistics` says its size.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_engine_statistics(
    engine: *const Handle<Engine>,
    statistics: *mut Statistics,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border_of(engine, error, |engine| {
            let now = engine.value.engine.statistics();
            let told = Statistics {
                uploaded_bytes: now.uploaded_bytes,
                streamed_bytes: now.streamed_bytes,
                compiled_pipelines: now.compiled_pipelines,
                compiled_programs: now.compiled_programs,
                hits: now.hits,
                evictions: now.evictions,
                allocated_bytes: now.allocated_bytes,
                ..zeroed()
            };
            write(statistics, &told)
        })
    }
}

/// Gives up what nobody uses.
///
/// # Safety
/// `engine` is NULL or an engine; `error` is NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_engine_trim(
    engine: *mut Handle<Engine>,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border_of(engine, error, |engine| {
            engine.value.engine.release();
            Ok(())
        })
    }
}

/// Opens the device anew.
///
/// # Safety
/// `engine` is NULL or an engine; `error` is NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_engine_recover(
    engine: *mut Handle<Engine>,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe { border_of(engine, error, |engine| Ok(engine.value.engine.recover()?)) }
}
