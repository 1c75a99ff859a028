//! A compiled stage: run, and redone in f32 when half precision overflows.

use std::time::Instant;

use crate::image::Rgb8Image;
use crate::models::{Autoencoder, names};
use crate::pipeline::device::Device;
use crate::pipeline::device::programs::Lease;
use crate::pipeline::device::weight_types::{Part, Streaming};
use crate::pipeline::run::denoise::network_input;
use crate::pipeline::run::stage::{Identity, Stage};
use crate::pipeline::run::tiling::Form;
use crate::pipeline::run::watch::Watch;
use crate::record::{DType, DevicePicture, Outputs, PixelRange, Run, Shape};
use crate::{Error, ErrorCode, Remedy, Result};

/// A compiled stage. Dropping it releases its memory, or leaves it to those who come later ([`Residency`](crate::pipeline::Residency)).
pub(crate) struct OpenStage {
    stage: Stage,
    device: Device,
    storage: DType,
    /// `None` once it could not be compiled in f32.
    lease: Option<Lease>,
    /// What opening it has to tell the user.
    note: Option<String>,
    watch: Watch,
}

impl Stage {
    /// Compiles the stage and uploads its weights, or finds it compiled. Runs end early when `watch` asks for it, which is told how long it took.
    pub(crate) fn open(self, device: &Device, watch: &Watch) -> Result<OpenStage> {
        self.open_as(device, device.storage(), watch)
    }

    fn open_as(self, device: &Device, storage: DType, watch: &Watch) -> Result<OpenStage> {
        let lease = self.lease(device, storage);
        let (device, watch) = (device.clone(), watch.clone());
        let mut open = OpenStage { stage: self, device, storage, lease: None, note: None, watch };
        open.load(&lease, 0)?;
        open.lease = Some(lease);
        Ok(open)
    }
}

impl OpenStage {
    /// What runs.
    pub(crate) fn identity(&self) -> &Identity {
        self.stage.identity()
    }

    /// Opens another stage in place of this one. Weights that both use stay on the device; where programs do not stay, nothing else of the old one
    /// does.
    pub(crate) fn exchange(mut self, stage: Stage) -> Result<OpenStage> {
        let since = Instant::now();
        let weights = self.lease.take().and_then(Lease::exchange);
        self.watch.closed(self.stage.name, since);
        let (device, storage, watch) = (self.device.clone(), self.storage, self.watch.clone());
        // One that was widened stays so, if the limit of memory allows it.
        let wide = storage != device.storage();
        let fits = || {
            let form = stage.form(&device, storage)?;
            Result::Ok(form.peak_bytes() + stage.beside <= device.budget().unwrap_or(u64::MAX))
        };
        let storage = if wide && fits()? { storage } else { device.storage() };
        let open = stage.open_as(&device, storage, &watch);
        drop(weights);
        open
    }

    /// Compiles the program unless it is there; `count` values overflowed before, where it is one that was widened.
    fn load(&mut self, lease: &Lease, count: usize) -> Result<()> {
        if !lease.is_vacant() {
            return Ok(());
        }
        let since = Instant::now();
        let wide = self.storage != self.device.storage();
        let form = if wide { self.within_budget(count)? } else { self.stage.form(&self.device, self.storage)? };
        let (program, note) = self.stage.compile(&self.device, self.storage, form)?;
        lease.give(program);
        self.note = note;
        self.watch.opened(self.stage.name, since);
        Ok(())
    }

    /// Runs the stage once. A result that is not finite is computed again in f32 where the device's precision is automatic; `notes`
    /// then says so.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when f32 overflows too or widening is not allowed; whatever the device reports.
    pub(crate) fn run(&mut self, inputs: &[(&str, &[f32])], notes: &mut Vec<String>) -> Result<Outputs> {
        self.run_as(inputs, false, notes)
    }

    /// As [`run`](Self::run); with `reuse`, on the features of the last whole run. Redone in f32, it is whole.
    pub(crate) fn run_as(
        &mut self,
        inputs: &[(&str, &[f32])],
        reuse: bool,
        notes: &mut Vec<String>,
    ) -> Result<Outputs> {
        notes.extend(self.note.take());
        let count = match self.run_once(inputs, reuse)? {
            Ok(outputs) => return Ok(outputs),
            Err(count) => count,
        };
        if self.storage == DType::F16 && self.device.may_widen() {
            notes.push(format!("{}: {count} values overflowed in f16, redone in f32", self.stage.name));
            // The old lease first: what it held is not needed beside what comes.
            self.lease = None;
            self.storage = DType::F32;
            let lease = self.stage.lease(&self.device, DType::F32);
            self.load(&lease, count)?;
            self.lease = Some(lease);
            notes.extend(self.note.take());
            return self.run_once(inputs, false)?.map_err(|count| self.overflow(count));
        }
        Err(self.overflow(count))
    }

    /// Of the decoder of `vae`: x̃_0 `[c, h, w]` / scaling_factor → RGB of (width, height) pixels.
    pub(crate) fn decode(
        &mut self,
        vae: &Autoencoder,
        mut latents: Vec<f32>,
        shape: Shape,
        (width, height): (usize, usize),
        notes: &mut Vec<String>,
    ) -> Result<Rgb8Image> {
        vae.unscale_latents(&mut latents);
        let input = network_input(&latents, shape);
        let mut outputs = self.run(&[(names::LATENTS, &input)], notes)?;
        let mut pixels = outputs.remove(names::OUT).unwrap_or_default();
        vae.image_output(&mut pixels);
        Rgb8Image::from_unit_range(&pixels, width, height)
    }

    /// An output of the last run as a picture on the device; `None` where the program makes none there.
    pub(crate) fn picture(&mut self, output: &str, range: PixelRange) -> Option<DevicePicture> {
        let lease = self.lease.as_ref()?;
        let mut program = lease.take()?;
        let picture = program.picture(output, range).ok();
        lease.give(program);
        picture
    }

    /// The results, or how many values are not finite.
    fn run_once(&mut self, inputs: &[(&str, &[f32])], reuse: bool) -> Result<std::result::Result<Outputs, usize>> {
        let Some(lease) = self.lease.take() else {
            return Err(Error::Device(format!("{}: could not be compiled in f32 before", self.stage.name)));
        };
        let outputs = self.load(&lease, 0).and_then(|()| {
            // What runs in bands takes its memory now, part by part.
            let plan = self.stage.may_be_cut().then(|| self.stage.plan(&self.device).ok()).flatten();
            let bands = plan.filter(|plan| plan.bands.is_some());
            let _weights = bands.map(|plan| self.stage.make_room(&self.device, plan.peak_bytes()));
            let mut program = lease.take().expect("it was just loaded, and it is this job's turn");
            let since = Instant::now();
            let outputs = program.execute(inputs, Run { reuse, cancel: Some(&self.watch.cancel), ..Run::default() });
            self.watch.ran(self.stage.name, since);
            match &outputs {
                Err(error) if error.code() == ErrorCode::DeviceLost => self.device.programs().abandon(),
                _ => lease.give(program),
            }
            outputs
        });
        self.lease = Some(lease);
        match outputs {
            Ok(outputs) => Ok(match non_finite(&outputs) {
                0 => Ok(outputs),
                count => Err(count),
            }),
            // Bands find out before the end.
            Err(Error::NonFinite { count, .. }) => Ok(Err(count)),
            Err(error) => Err(error),
        }
    }

    /// The stage in f32 within the limit of memory that the user set, with weights that pass through where it must be so; refused where that is
    /// not enough.
    fn within_budget(&self, count: usize) -> Result<Form> {
        let form = self.stage.form(&self.device, DType::F32)?;
        let Some(allowed) = self.device.budget().map(|bytes| bytes.saturating_sub(self.stage.beside)) else {
            return Ok(form);
        };
        let may_stream = self.device.streaming() != Streaming::Off && self.stage.part != Part::Vae;
        let form = match form.peak_bytes() > allowed && may_stream {
            true => self.stage.form_within(&self.device, DType::F32, Some(allowed))?,
            false => form,
        };
        let needed = form.peak_bytes();
        if needed <= allowed {
            return Ok(form);
        }
        let detail = format!(
            " in f16, and in f32 it needs {} MiB, more than the limit of memory allows",
            needed.div_ceil(1 << 20)
        );
        let remedies = vec![Remedy::LargerLimit];
        Err(Error::NonFinite { stage: self.stage.name.into(), count, detail, remedies })
    }

    fn overflow(&self, count: usize) -> Error {
        let (detail, remedies) = match self.storage {
            DType::F16 => (" in f16", vec![Remedy::AutomaticPrecision, Remedy::SinglePrecision]),
            _ => (" in f32: the weights or the input are damaged", Vec::new()),
        };
        Error::NonFinite { stage: self.stage.name.into(), count, detail: detail.into(), remedies }
    }
}

impl Drop for OpenStage {
    fn drop(&mut self) {
        let since = Instant::now();
        if let Some(lease) = self.lease.take() {
            drop(lease);
            self.watch.closed(self.stage.name, since);
        }
    }
}

fn non_finite(outputs: &Outputs) -> usize {
    outputs.values().flatten().filter(|v| !v.is_finite()).count()
}
