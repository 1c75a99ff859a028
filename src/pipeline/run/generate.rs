//! A request under way: the legs of its itinerary, one unit of work at a time.
//!
//! [`Generation`] is an iterator: each `next` does one unit of work and says what it was, so that a caller draws a progress bar, streams, or stops
//! between two by dropping it. It owns all that it needs and can be sent to another thread; [`Generation::cancel_token`] stops it from any thread, also
//! inside a unit.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::image::Rgb8Image;
use crate::models::names;
use crate::pipeline::model::kind::Shown;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::png::parameters::{Picture, alone, infotext, parameters};
use crate::pipeline::request::{Request, Upscale};
use crate::pipeline::run::control_inputs::ControlInputs;
use crate::pipeline::run::denoise::Batch;
use crate::pipeline::run::event::Event;
use crate::pipeline::run::itinerary::{Itinerary, Leg, Pass, Work};
use crate::pipeline::run::open_stage::OpenStage;
use crate::pipeline::run::preview::Preview;
use crate::pipeline::run::resize;
use crate::pipeline::run::stage::Stage;
use crate::pipeline::run::starts::{Image, blank};
use crate::pipeline::run::text::{Encoded, KnownTexts};
use crate::pipeline::run::unet::Call;
use crate::pipeline::run::watch::{StageTime, Watch};
use crate::record::{Cancel, caught};
use crate::{Error, Result};

/// A request under way.
pub struct Generation {
    pub(crate) pipeline: Pipeline,
    pub(crate) asked: Request,
    pub(crate) itinerary: Itinerary,
    /// Number of the group that is being drawn.
    group: usize,
    /// What is left of its way.
    legs: VecDeque<Leg>,
    /// Units of the first of them that are done.
    done: usize,
    /// What each pass made for all pictures.
    pub(crate) made: Vec<Made>,
    texts: KnownTexts,
    /// The group's pictures as they stand.
    pub(crate) images: Vec<Image>,
    pub(crate) batch: Option<Batch>,
    /// Pictures of the group that were drawn first and are to be enlarged.
    drawn: Vec<Rgb8Image>,
    /// What the pictures of the group's next pass begin with, enlarged: pixels in -1…1, `[height, width, 3]`, or latents x̃_0, `[c, h, w]`.
    pub(crate) enlarged: Vec<Vec<f32>>,
    pub(crate) open: Option<OpenStage>,
    /// The decoder of previews, once one was drawn.
    pub(crate) preview: Option<Preview>,
    warnings: Vec<String>,
    pub(crate) notes: Vec<String>,
    pub(crate) watch: Watch,
    has_ended: bool,
}

/// What a pass need not make again for further pictures of its request.
pub(crate) struct Made {
    /// Its ControlNets' pictures.
    pub(crate) controls: ControlInputs,
    pub(crate) encoded: Option<Arc<Encoded>>,
    /// Of the request's picture, and of what of it is shown.
    pub(crate) moments: Option<Vec<Vec<f32>>>,
}

impl Made {
    /// # Errors
    /// When a control picture is missing or not whole.
    fn new(pass: &Pass) -> Result<Self> {
        let shape = pass.pipeline.latent_shape(pass.size);
        let controls = ControlInputs::new(&pass.request.controls, &pass.pipeline.controls, shape)?;
        Ok(Made { controls, encoded: None, moments: None })
    }
}

impl Pipeline {
    /// Starts a request. Nothing has run when this returns.
    ///
    /// # Errors
    /// When the request is out of range, asks for OMS without a module, or does not fit the model or the device.
    pub fn generate(&self, request: Request) -> Result<Generation> {
        let itinerary = Itinerary::new(self, &request)?;
        // A decoder that exceeds the device should not be found out after the last step.
        self.check_host_memory(&self.plan_of(&itinerary, &request)?)?;
        let mut warnings = self.notices(&request);
        warnings.extend(itinerary.passes[0].text.warnings().iter().cloned());
        // What cannot be drawn is told now, not after the first network has run.
        blank(&request, itinerary.groups[0].clone())?;
        self.hashes.begin();
        let made = itinerary.passes.iter().map(Made::new).collect::<Result<_>>()?;
        Ok(Generation {
            pipeline: self.clone(),
            legs: itinerary.legs(0).into(),
            group: 0,
            done: 0,
            made,
            texts: KnownTexts::default(),
            images: Vec::new(),
            batch: None,
            drawn: Vec::new(),
            enlarged: Vec::new(),
            open: None,
            preview: None,
            warnings,
            notes: Vec::new(),
            watch: Watch::default(),
            has_ended: false,
            asked: request,
            itinerary,
        })
    }
}

impl Generation {
    /// Where a picture's latents stand, `[4, height/8, width/8]`: variance-preserving before the first and after the last step, as its
    /// solver keeps them between. For previews and comparisons.
    pub fn latents(&self, image: usize) -> Option<&[f32]> {
        let at = image.checked_sub(self.first())?;
        match &self.batch {
            Some(batch) if batch.pictures.contains(&image) => Some(batch.solver(image).scaled_latents()),
            _ => self.images.get(at).map(|image| image.latents.as_slice()),
        }
    }

    /// What the caller should tell the user: words that did not fit, options that have no effect.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Stops the generation from any thread: it ends with [`Error::Cancelled`] soon after, also inside a step. Nothing of it stays.
    pub fn cancel_token(&self) -> Cancel {
        self.watch.cancel.clone()
    }

    /// Where its time went so far, stage by stage in the order in which they began. What is missing to the whole is host work between them: seeds,
    /// schedules, pictures.
    pub fn times(&self) -> Vec<StageTime> {
        self.watch.times()
    }

    /// Whether none of its networks is open on the device: before the first unit of work, between two networks, and after the last picture of a
    /// group. Another generation can then have the device's memory.
    pub fn is_idle(&self) -> bool {
        self.preview.is_none() && self.open.is_none()
    }

    /// The group's first picture.
    pub(crate) fn first(&self) -> usize {
        self.itinerary.groups[self.group].start
    }

    /// The pass that is under way.
    pub(crate) fn pass(&self) -> Option<&Pass> {
        self.legs.front().map(|leg| &self.itinerary.passes[leg.pass])
    }

    /// One unit of work, in this job's turn, on the device's threads.
    fn unit(&mut self) -> Result<Option<Event>> {
        self.in_turn(|job| {
            let Some(leg) = job.legs.front().cloned() else { return Ok(None) };
            let event = job.work(&leg)?;
            job.advance(&leg);
            Ok(event)
        })
    }

    /// A unit of the first leg is done.
    fn advance(&mut self, leg: &Leg) {
        self.done += 1;
        if self.done == leg.units() {
            self.done = 0;
            self.legs.pop_front();
            self.leave(leg);
        }
    }

    /// The step that comes next, if that is what comes next: its leg, which call of the UNet, and what that is.
    pub(crate) fn next_step(&self) -> Option<(Leg, usize, Call)> {
        let leg = self.legs.front().filter(|_| !self.has_ended)?;
        match &leg.work {
            Work::Denoise { calls, call } => Some((leg.clone(), calls.start + self.done, call.clone())),
            _ => None,
        }
    }

    /// The step that comes next was done with others': what a batch makes of its part of the output.
    pub(crate) fn done_together(&mut self, batch: Batch, leg: &Leg, at: usize, output: &[f32]) -> Result<Event> {
        let event = self.take_step(batch, leg, at, output);
        match &event {
            Ok(_) => self.advance(leg),
            Err(_) => self.has_ended = true,
        }
        event
    }

    /// Does something on the device's threads when it is this job's turn there.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when the job is stopped before that; what `work` gives, and a panic in it.
    pub(crate) fn in_turn<T: Send>(&mut self, work: impl FnOnce(&mut Self) -> Result<T> + Send) -> Result<T> {
        let device = self.pipeline.device().clone();
        let _turn = device.programs().turn(&self.watch.cancel)?;
        device.backend().install(|| caught("generate", || work(self)))
    }

    /// Closes what no leg that follows at once needs.
    fn leave(&mut self, leg: &Leg) {
        let goes_on = self.legs.front().is_some_and(|next| {
            let same = std::mem::discriminant(&next.work) == std::mem::discriminant(&leg.work);
            next.pass == leg.pass && same
        });
        if !goes_on {
            self.open = None;
            // Previews show what the UNet does; nothing lies beside other networks.
            self.preview = None;
        }
    }

    fn work(&mut self, leg: &Leg) -> Result<Option<Event>> {
        let done = self.done;
        match &leg.work {
            Work::Encode => self.encode(leg.pass).map(|()| None),
            Work::Start { told } => self.start(leg).map(|()| told.then_some(Event::Encoded)),
            Work::OneMoreStep => self.one_more_step(leg, leg.pictures.start + done).map(Some),
            Work::Denoise { calls, call } => self.denoise(leg, calls.start + done, call).map(Some),
            Work::Decode => self.decode(leg, leg.pictures.start + done).map(Some),
            Work::Enlarge => self.enlarge(leg).map(Some),
        }
    }

    /// Text: every distinct prompt once.
    fn encode(&mut self, pass: usize) -> Result<()> {
        let text = &self.itinerary.passes[pass].text;
        let encoded = text.encode(self.pipeline.device(), &mut self.texts, &self.watch, &mut self.notes)?;
        self.made[pass].encoded = Some(Arc::new(encoded));
        Ok(())
    }

    /// x̃_0 / scaling_factor → RGB: a picture, or one to be enlarged.
    fn decode(&mut self, leg: &Leg, at: usize) -> Result<Event> {
        let pass = &self.itinerary.passes[leg.pass];
        let (pipeline, size) = (pass.pipeline.clone(), pass.size);
        let is_last = leg.pass + 1 == self.itinerary.passes.len();
        let mut decoder = self.open_as(pipeline.decoder_stage(self.asked.count, size))?;
        let image = at - self.first();
        let (latents, shape) = (self.images[image].latents.clone(), pipeline.latent_shape(size));
        let mut drawn = decoder.decode(&pipeline.vae, latents, shape, size, &mut self.notes)?;
        // What is mixed with the picture that it started from is only in host memory.
        let is_whole = is_last && self.asked.image.as_ref().is_none_or(|init| init.mask.is_none());
        let on_device =
            (self.asked.on_device && is_whole).then(|| decoder.picture(names::OUT, pipeline.vae.pixel_range()));
        self.open = Some(decoder);
        if let Some(init) = &self.asked.image
            && self.asked.paste_back.unwrap_or(self.pipeline.kind.shown == Shown::Nothing)
        {
            init.paste_into(&mut drawn);
        }
        if !is_last {
            self.drawn.push(drawn);
            return Ok(Event::Enlarged { image: at });
        }
        let (owner, one) = (&self.pipeline, &self.images[image]);
        let again = alone(&self.asked, at, &one.noise);
        Ok(Event::Picture(Box::new(Picture {
            image: drawn,
            seed: again.seed,
            latents: one.latents.clone(),
            parameters: parameters(owner, &again, size)?,
            // AUTOMATIC1111 states the size of the first pass.
            infotext: infotext(owner, &again, owner.size(&again)?)?,
            notes: std::mem::take(&mut self.notes),
            on_device: on_device.flatten().map(Arc::new),
        })))
    }

    /// The first pass' pictures or latents at the size of the second.
    fn enlarge(&mut self, leg: &Leg) -> Result<Event> {
        let size = self.itinerary.passes[leg.pass].size;
        self.enlarged = match self.itinerary.upscale {
            Some(Upscale::Image) => {
                let unit = |image: Rgb8Image| image.data.iter().map(|v| f32::from(*v) / 127.5 - 1.0).collect();
                self.drawn.drain(..).map(|drawn| drawn.resized(size.0, size.1).map(unit)).collect::<Result<_>>()?
            }
            _ => {
                let from = self.pipeline.latent_shape(self.itinerary.passes[leg.pass - 1].size);
                let to = self.pipeline.latent_shape(size);
                let enlarged = |image: &Image| resize::bilinear(&image.latents, from.c, (from.h, from.w), (to.h, to.w));
                self.images.iter().map(enlarged).collect()
            }
        };
        Ok(Event::Enlarged { image: leg.pictures.end - 1 })
    }

    /// The network of a leg: the one that is open, or another in its place.
    pub(crate) fn open_as(&mut self, stage: Stage) -> Result<OpenStage> {
        match self.open.take() {
            Some(open) if open.identity() == stage.identity() => Ok(open),
            Some(open) => open.exchange(stage),
            None => stage.open(self.pipeline.device(), &self.watch),
        }
    }
}

impl Iterator for Generation {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.has_ended {
            if self.legs.is_empty() {
                self.has_ended = self.group + 1 == self.itinerary.groups.len();
                if !self.has_ended {
                    self.group += 1;
                    self.legs = self.itinerary.legs(self.group).into();
                }
                continue;
            }
            match self.unit() {
                Ok(None) => {}
                Ok(Some(event)) => return Some(Ok(event)),
                Err(error) => {
                    self.has_ended = true;
                    (self.open, self.preview) = (None, None);
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// What is missing where a pass was not begun as it should have been.
pub(crate) fn not_begun(what: &'static str) -> Error {
    Error::shape("generate", format!("{what}: a leg came before the one that it builds on"))
}
