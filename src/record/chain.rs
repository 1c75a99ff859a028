//! A network as a chain of recordings, for feature maps that are too large for the device.
//!
//! Between two [`Part`]s the whole map lies in host memory, in the type that it has on the device. A part is either recorded
//! whole, or once for a band of rows that is then run at each of its [`Window`](super::Window)s. A part holds one convolution,
//! so one row above and below is all that a band borrows from its neighbours. Norms between parts are over the whole map:
//! the host computes their moments and gives them to every band. So the result does not depend on the bands but for the
//! rounding of those moments, and there are no seams to hide.
//!
//! One part's program exists at a time: the device's peak is the largest part's. In host memory are a part's input, its result
//! and, inside a residual block, the block's input; rows that no later band reads are released as bands go on.

use std::sync::Arc;

use super::{
    Backend, Caps, ChainPlan, DType, DispatchTime, FeatureMap, Outputs, Program, Reach, Recording, Run, Shape, Tensor,
};
use crate::{Error, Remedy, Result};

/// Names inside a part's recording.
const MAP: &str = "map";
const MOMENTS: &str = "moments";
const RESIDUAL: &str = "residual";
const RESULT: &str = "result";

/// A network cut into parts, each reading what the one before made.
pub struct Chain<'m> {
    /// The name of the chain's input.
    pub input: &'static str,
    /// The shape of the chain's input: one image, f32.
    pub shape: Shape,
    /// The parts in order.
    pub parts: Vec<Part<'m>>,
    /// The name of the last part's result.
    pub output: &'static str,
}

/// The moments of a norm over a whole map, `[2, c]`: means and scales.
type Moments<'m> = Box<dyn Fn(&FeatureMap) -> Result<Vec<f32>> + Send + Sync + 'm>;

/// Records a part for a band, and gives its result.
type Record<'m> = Box<dyn Fn(&mut Recording, Band) -> Result<Tensor> + Send + 'm>;

/// One step of a chain.
pub struct Part<'m> {
    /// Where in the network.
    pub label: String,
    /// What one run of it covers.
    pub span: Span,
    /// What becomes of the map that it reads.
    pub residual: Residual,
    /// The norm at its entry, over the whole map.
    pub moments: Option<Moments<'m>>,
    /// Its dispatches.
    pub record: Record<'m>,
}

/// What one run of a part covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// The map.
    Whole,
    /// A band of rows.
    Rows(Reach),
}

/// A part's share in a residual block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// None.
    Unused,
    /// It is the first half: its input is kept for the second.
    Keep,
    /// It is the second half, and also reads what was kept.
    Add,
}

/// The inputs of a part's recording.
#[derive(Debug, Clone, Copy)]
pub struct Band {
    /// Rows of the map.
    pub map: Tensor,
    /// `[1, 1, 2, c]` in f32, where the part has a norm.
    pub moments: Option<Tensor>,
    /// The same rows of what was kept, for a part that adds it.
    pub residual: Option<Tensor>,
}

/// A map's shape and type, before it exists.
pub(super) type MapKind = (Shape, DType);

impl Part<'_> {
    /// The recording for `rows` rows of a map, and of what was kept.
    pub(super) fn record(
        &self,
        caps: &Caps,
        rows: usize,
        map: MapKind,
        kept: Option<MapKind>,
    ) -> Result<(Recording, Tensor)> {
        let mut rec = Recording::new(caps);
        let mut input =
            |name: &str, (shape, dtype): MapKind| rec.in_type(dtype, |rec| rec.input(name, Shape { h: rows, ..shape }));
        let residual = match (self.residual, kept) {
            (Residual::Add, Some(kept)) => Some(input(RESIDUAL, kept)),
            (Residual::Add, None) => {
                return Err(Error::shape("chain", format!("{}: nothing was kept for its residual", self.label)));
            }
            _ => None,
        };
        let map = input(MAP, map);
        let moments = self
            .moments
            .as_ref()
            .map(|_| rec.in_type(DType::F32, |rec| rec.input(MOMENTS, Shape::image(1, 1, 2, map.shape.c))));
        let result = (self.record)(&mut rec, Band { map, moments, residual })?;
        rec.output(RESULT, result);
        Ok((rec, result))
    }
}

/// A chain ready to run on a backend. It holds device memory only while it runs, and then one part at a time.
pub struct ChainProgram<'m> {
    /// Of each part, where they stay.
    weights: Option<Vec<Option<Box<dyn Send>>>>,
    chain: Chain<'m>,
    plan: ChainPlan,
    caps: Caps,
    backend: Arc<dyn Backend>,
}

impl<'m> ChainProgram<'m> {
    /// The chain as `plan`, made of it for `caps`, says.
    ///
    /// # Panics
    /// When the plan is another chain's.
    pub fn new(backend: Arc<dyn Backend>, caps: Caps, chain: Chain<'m>, plan: ChainPlan) -> Self {
        assert_eq!(chain.parts.len(), plan.parts.len(), "the plan is the chain's");
        ChainProgram { weights: None, chain, plan, caps, backend }
    }

    /// The same chain, whose weights stay on the device between its runs, all parts' together.
    #[must_use]
    pub fn keeping_weights(self) -> Self {
        let weights = self.chain.parts.iter().map(|_| None).collect();
        ChainProgram { weights: Some(weights), ..self }
    }

    /// Compiles every part in turn, without running it: the most bytes that one of them holds on the device.
    ///
    /// # Errors
    /// As [`Backend::compile`].
    pub fn allocate(&self) -> Result<u64> {
        (0..self.chain.parts.len()).map(|i| Ok(self.compile(i)?.allocated_bytes())).try_fold(0, |most, bytes| {
            let bytes: Result<u64> = bytes;
            bytes.map(|bytes| most.max(bytes))
        })
    }

    fn compile(&self, index: usize) -> Result<Box<dyn Program>> {
        let plan = &self.plan.parts[index];
        let (recording, _) = self.chain.parts[index].record(&self.caps, plan.rows, plan.map, plan.kept)?;
        self.backend.compile(recording)
    }

    /// Runs part `index` at each of its windows.
    fn run_part(
        &mut self,
        index: usize,
        map: &mut FeatureMap,
        kept: &mut Option<FeatureMap>,
        how: Run<'_>,
    ) -> Result<FeatureMap> {
        let (part, plan) = (&self.chain.parts[index], &self.plan.parts[index]);
        let moments = part.moments.as_ref().map(|moments| self.backend.install(|| moments(map))).transpose()?;
        if moments.iter().flatten().any(|v| !v.is_finite()) {
            let (stage, count) = (part.label.clone(), self.backend.install(|| map.non_finite()).max(1));
            return Err(Error::NonFinite { stage, count, detail: String::new(), remedies: Vec::new() });
        }
        let mut program = self.compile(index)?;
        let mut out = FeatureMap::new(plan.result.0, plan.result.1);
        let row = plan.result.0.w * plan.result.0.c;
        let mut released = 0;
        for window in &plan.windows {
            how.check()?;
            if part.residual != Residual::Keep {
                map.release(released..window.start);
            }
            let mut residual = None;
            if part.residual == Residual::Add
                && let Some(kept) = kept.as_mut()
            {
                kept.release(released..window.start);
                residual = Some(self.backend.install(|| kept.read(window.start..window.start + plan.rows)));
            }
            released = window.start;
            let band = self.backend.install(|| map.read(window.start..window.start + plan.rows));
            let mut inputs: Vec<(&str, &[f32])> = vec![(MAP, &band)];
            inputs.extend(moments.as_deref().map(|moments| (MOMENTS, moments)));
            inputs.extend(residual.as_deref().map(|residual| (RESIDUAL, residual)));
            let outputs = program.execute(&inputs, how)?;
            let kept_rows = window.of_band.start * row..window.of_band.end * row;
            self.backend.install(|| out.write(window.keep.clone(), &outputs[RESULT][kept_rows]));
        }
        if let Some(weights) = &mut self.weights {
            weights[index] = Some(program.weights());
        }
        Ok(out)
    }
}

impl Program for ChainProgram<'_> {
    /// # Errors
    /// As the parts' programs, and for [`Run::reuse`], as nothing is kept; [`Error::NonFinite`] as soon as a norm's moments are not finite.
    fn execute(&mut self, inputs: &[(&str, &[f32])], how: Run<'_>) -> Result<Outputs> {
        if how.reuse {
            return Err(Error::shape(
                "run",
                "expected a program that keeps features, got one in bands, which keeps none",
            ));
        }
        let &[(name, values)] = inputs else {
            return Err(Error::shape("run", format!("expected one input, {}, got {}", self.chain.input, inputs.len())));
        };
        let shape = self.chain.shape;
        if name != self.chain.input || values.len() != shape.len() {
            return Err(Error::shape(
                "run",
                format!("expected input {} of {shape}, got {name} of {} values", self.chain.input, values.len()),
            ));
        }
        let mut map = self.backend.install(|| FeatureMap::from_values(values, shape, DType::F32));
        let mut kept = None;
        for index in 0..self.chain.parts.len() {
            let made = self.run_part(index, &mut map, &mut kept, how)?;
            let read = std::mem::replace(&mut map, made);
            kept = (self.chain.parts[index].residual == Residual::Keep).then_some(read);
        }
        let values = self.backend.install(|| map.read(0..map.shape().h));
        Ok(Outputs::from([(self.chain.output.to_owned(), values)]))
    }

    fn run_profiled(&mut self, _: &[(&str, &[f32])]) -> Result<(Outputs, Vec<DispatchTime>)> {
        let what = "expected one program to time by dispatch, got one in bands";
        Err(Error::unsupported(&self.caps.name, what).advise([Remedy::Whole]))
    }

    fn allocated_bytes(&self) -> u64 {
        0
    }

    fn weights(self: Box<Self>) -> Box<dyn Send> {
        Box::new(self.weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::HostBackend;

    fn chain(residual: Residual) -> Chain<'static> {
        let part = Part {
            label: "one".into(),
            span: Span::Rows(Reach::Same),
            residual,
            moments: None,
            record: Box::new(|_, band| Ok(band.map)),
        };
        Chain { input: "x", shape: Shape::image(1, 3, 2, 4), parts: vec![part], output: "y" }
    }

    #[test]
    fn inputs_are_checked() {
        let caps = Caps::host();
        let plan = ChainPlan::new(&chain(Residual::Unused), &caps, u64::MAX).expect("a plan");
        let mut program = ChainProgram::new(Arc::new(HostBackend::default()), caps, chain(Residual::Unused), plan);
        let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        assert_eq!(program.run(&[("x", &values)]).expect("it runs")["y"], values);
        for inputs in
            [&[][..], &[("z", &values[..])], &[("x", &values[1..])], &[("x", &values[..]), ("x", &values[..])]]
        {
            let error = program.run(inputs).expect_err("refused").to_string();
            assert!(error.starts_with("run: expected") && error.contains('x'), "{error}");
        }
    }

    #[test]
    fn a_second_half_needs_a_first() {
        let error = ChainPlan::new(&chain(Residual::Add), &Caps::host(), 0).expect_err("refused").to_string();
        assert!(error.contains("one: nothing was kept"), "{error}");
    }
}
