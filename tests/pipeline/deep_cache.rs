//! Features that are kept over calls of the UNet.

use std::sync::{Arc, Mutex};

use chiaro::models::{Shortcuts, Unet, UnetConfig, names};
use chiaro::pipeline::{
    ControlRequest, DeepCache, Device, Event, Hires, InitImage, Overrides, Picture, Pipeline, Precision, Request,
    Source, Upscale,
};
use chiaro::record::{Backend, Caps, DType, HostBackend, Outputs, Program, Recording, Role, Run, plan};
use chiaro::sampling::SolverKind;
use chiaro::weights::{WeightFile, WeightType, Weights};

use crate::support::golden::root;
use crate::support::{adapter, xl_folder};

const SHAPE: [usize; 3] = [2, 8, 8];

fn unet(family: &str) -> Unet {
    let folder = root().join(family).join("unet");
    let text = std::fs::read_to_string(folder.join("config.json")).expect("readable");
    let config = UnetConfig::from_json(&text, "unet").unwrap_or_else(|e| panic!("{e}"));
    let file = WeightFile::open(folder.join("diffusion_pytorch_model.safetensors")).unwrap_or_else(|e| panic!("{e}"));
    Unet::load(config, &Weights::new(Arc::new(file), "unet", WeightType::Keep)).unwrap_or_else(|e| panic!("{e}"))
}

fn reusable(unet: &Unet, backend: &dyn Backend, depth: usize) -> chiaro::Result<Recording> {
    let shortcuts = Shortcuts { depth: Some(depth), merging: None };
    unet.record_shortened(backend.caps(), SHAPE, 77, &[], shortcuts, false)
}

type Inputs = Vec<(String, Vec<f32>)>;

/// Values of no particular order for every input.
fn inputs(recording: &Recording, seed: usize) -> Inputs {
    let values = |(name, len): (&str, usize)| {
        (name.to_owned(), (0..len).map(|i| ((i * 31 + seed * 17) as f32 * 0.71).sin()).collect())
    };
    recording.inputs().map(values).collect()
}

fn borrowed(inputs: &Inputs) -> Vec<(&str, &[f32])> {
    inputs.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect()
}

fn whole(program: &mut dyn Program, inputs: &Inputs) -> Vec<f32> {
    program.run(&borrowed(inputs)).unwrap_or_else(|e| panic!("{e}")).remove(names::OUT).expect("an output")
}

fn reusing(program: &mut dyn Program, inputs: &Inputs) -> Vec<f32> {
    program.run_reusing(&borrowed(inputs)).unwrap_or_else(|e| panic!("{e}")).remove(names::OUT).expect("an output")
}

/// The finest level around a given state, without the marks of a recording for reuse: the state that enters the last block of the way
/// up becomes an input, and what leads to it is taken out by its module's name.
fn finest_level(unet: &Unet, backend: &dyn Backend) -> (Recording, String) {
    let [n, h, w] = SHAPE;
    let mut recording = unet.record(backend.caps(), n, h, w, 77, true).unwrap_or_else(|e| panic!("{e}"));
    let coarser = unet.config().block_out_channels.len() - 1;
    let entering = format!("up_blocks.{}", coarser - 1);
    let state = recording.outputs.iter().find(|o| o.name == entering).expect("a tap").tensor;
    recording.outputs.retain(|output| output.name == names::OUT);
    recording.tensors[state.storage()].role = Role::Input("entering".into());
    let up: Vec<String> = (0..coarser).map(|i| format!("up_blocks.{i}.")).collect();
    let down: Vec<String> = (1..=coarser).map(|i| format!("down_blocks.{i}.")).collect();
    let is_deep = |label: &str| {
        let named = up.iter().chain(&down).any(|block| label.starts_with(block.as_str()));
        named || label.starts_with("mid_block.") || label.starts_with("down_blocks.0.downsamplers.")
    };
    let early = recording.dispatches[..recording.prologue].iter().filter(|d| is_deep(&d.label)).count();
    recording.prologue -= early;
    recording.dispatches.retain(|dispatch| !is_deep(&dispatch.label));
    (recording, entering)
}

/// Against a composition of two recordings, on a second set of inputs: the kept state is the first set's, everything else the second's.
fn check(backend: &dyn Backend, limit: Option<u64>) {
    for family in ["sd15", "sdxl"] {
        let unet = unet(family);
        let [n, h, w] = SHAPE;
        let layers = unet.record(backend.caps(), n, h, w, 77, true).unwrap_or_else(|e| panic!("{e}"));
        let (old, new) = (inputs(&layers, 0), inputs(&layers, 1));
        let (shallow, entering) = finest_level(&unet, backend);
        let down = |i: usize| format!("down_blocks.0.resnets.{i}.");
        let count = (0..).take_while(|&i| layers.dispatches.iter().any(|d| d.label.starts_with(&down(i)))).count();
        let mut tapped = backend.compile(layers).unwrap_or_else(|e| panic!("{e}"));
        let state = tapped.run(&borrowed(&old)).unwrap_or_else(|e| panic!("{e}")).remove(&entering).expect("a tap");
        let full_new = whole(&mut *tapped, &new);
        // Inputs of the part alone: those that only the deep levels read are gone with them.
        let mut own = new.clone();
        own.push(("entering".into(), state));
        let want = whole(&mut *backend.compile(shallow).unwrap_or_else(|e| panic!("{e}")), &own);

        let mut recording = reusable(&unet, backend, count + 1).unwrap_or_else(|e| panic!("{e}"));
        recording.memory_limit = limit;
        assert_eq!(plan(&recording).expect("planned").stream.is_some(), limit.is_some(), "{family}");
        let mut program = backend.compile(recording).unwrap_or_else(|e| panic!("{e}"));
        let refused = program.run_reusing(&borrowed(&old)).expect_err("nothing is kept yet").to_string();
        assert!(refused.contains("expected a whole run before"), "{refused}");
        let full_old = whole(&mut *program, &old);
        assert_eq!(reusing(&mut *program, &old), full_old, "{family}: the same inputs, the same bits");
        for _ in 0..2 {
            assert_eq!(reusing(&mut *program, &new), want, "{family}: the composition");
        }
        assert_ne!(want, full_new, "{family}: the old state matters");
        assert_eq!(whole(&mut *program, &new), full_new, "{family}: a whole run is whole");
        assert_eq!(reusing(&mut *program, &new), full_new, "{family}: and is kept");
    }
}

#[test]
fn a_run_on_kept_features_is_the_shallow_part_around_them() {
    check(&HostBackend::default(), None);
}

#[test]
fn so_it_is_on_a_gpu_and_with_streamed_weights() {
    let backend = adapter::open(DType::F32);
    check(&backend, None);
    check(&backend, Some(0));
}

/// Every depth keeps its bits on inputs that repeat, and computes less the smaller it is.
#[test]
fn every_depth_repeats_what_repeats() {
    let (backend, unet) = (HostBackend::default(), unet("sd15"));
    let mut kept = Vec::new();
    for depth in 1..=unet.most_depth() {
        let recording = reusable(&unet, &backend, depth).unwrap_or_else(|e| panic!("{e}"));
        kept.push(recording.dispatches.len() - recording.deep.len());
        let given = inputs(&recording, 3);
        let mut program = backend.compile(recording).unwrap_or_else(|e| panic!("{e}"));
        let want = whole(&mut *program, &given);
        assert_eq!(reusing(&mut *program, &given), want, "depth {depth}");
    }
    assert!(kept.len() > 3 && kept.is_sorted_by(|a, b| a < b), "{kept:?}");
    for depth in [0, unet.most_depth() + 1] {
        let refused = reusable(&unet, &backend, depth).err().expect("refused").to_string();
        assert!(refused.contains("deep-cache: expected a depth from 1 to"), "{refused}");
    }
}

fn demo() -> Pipeline {
    let device = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32 is everywhere");
    Pipeline::load(&Source::DemoModel, None, device).expect("the demo model is whole")
}

fn request(deep_cache: Option<DeepCache>) -> Request {
    Request {
        prompt: "a red circle".into(),
        width: Some(64),
        height: Some(64),
        num_inference_steps: 4,
        guidance_scale: 4.0,
        sampler: Some(SolverKind::Heun),
        seed: 5,
        deep_cache,
        ..Request::default()
    }
}

fn draw(pipeline: &Pipeline, request: &Request) -> Vec<Picture> {
    let events = pipeline.generate(request.clone()).expect("the request fits");
    events
        .filter_map(|event| match event.expect("the run succeeds") {
            Event::Picture(picture) => Some(*picture),
            _ => None,
        })
        .collect()
}

fn cache(interval: usize, depth: usize) -> Option<DeepCache> {
    Some(DeepCache { interval, depth })
}

#[test]
fn an_interval_of_one_is_off_and_others_are_not() {
    let pipeline = demo();
    let off = draw(&pipeline, &request(None)).remove(0);
    assert_eq!(draw(&pipeline, &request(cache(1, 2))).remove(0).latents, off.latents);
    assert_ne!(draw(&pipeline, &request(cache(2, 2))).remove(0).latents, off.latents);
    // Guidance that ends makes the network another one, whose first call is whole.
    let single = |cache| Request { sampler: Some(SolverKind::Ddim), guidance_interval: (0.0, 0.25), ..request(cache) };
    let steps = |cache| {
        let mut run = pipeline.generate(single(cache)).expect("it fits");
        let mut trace = Vec::new();
        while let Some(event) = run.next() {
            if matches!(event.expect("the run succeeds"), Event::Step { .. }) {
                trace.push(run.latents(0).expect("a picture").to_vec());
            }
        }
        trace
    };
    let (plain, kept) = (steps(None), steps(cache(4, 2)));
    assert_eq!(plain[..2], kept[..2]);
    assert_ne!(plain[2], kept[2]);
}

/// Groups do not see each other's features; a picture's request draws it again.
#[test]
fn pictures_of_a_batch_are_those_drawn_alone() {
    let pipeline = demo();
    let together = draw(&pipeline, &Request { count: 3, batch: 2, ..request(cache(3, 2)) });
    assert_eq!(together.len(), 3);
    for picture in together {
        let again: Request = serde_json::from_value(picture.parameters["request"].clone()).expect("a request");
        assert_eq!(again.deep_cache, cache(3, 2));
        assert!(picture.infotext.contains("DeepCache: \"3:2\""), "{}", picture.infotext);
        let alone = draw(&pipeline, &again).remove(0);
        let worst = alone.latents.iter().zip(&picture.latents).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3, "seed {}: {worst}", picture.seed);
    }
}

/// Computes on the host, and counts the UNet's runs: whole, and on kept features.
#[derive(Default)]
struct Counting {
    host: HostBackend,
    runs: Arc<Mutex<[usize; 2]>>,
}

struct Counted {
    program: Box<dyn Program>,
    /// `None` for other networks.
    runs: Option<Arc<Mutex<[usize; 2]>>>,
}

impl Backend for Counting {
    fn caps(&self) -> &Caps {
        self.host.caps()
    }

    fn compile(&self, recording: Recording) -> chiaro::Result<Box<dyn Program>> {
        let is_time = |role: &Role| matches!(role, Role::Input(name) if name == names::TIME_PROJ);
        let runs = recording.tensors.iter().any(|tensor| is_time(&tensor.role)).then(|| Arc::clone(&self.runs));
        Ok(Box::new(Counted { program: self.host.compile(recording)?, runs }))
    }
}

impl Counted {
    fn count(&self, kind: usize) {
        if let Some(runs) = &self.runs {
            runs.lock().expect("no test panics in here")[kind] += 1;
        }
    }
}

impl Program for Counted {
    fn execute(&mut self, inputs: &[(&str, &[f32])], how: Run<'_>) -> chiaro::Result<Outputs> {
        self.count(usize::from(how.reuse));
        self.program.execute(inputs, how)
    }

    fn allocated_bytes(&self) -> u64 {
        self.program.allocated_bytes()
    }

    fn weights(self: Box<Self>) -> Box<dyn Send> {
        self.program.weights()
    }
}

/// The plan's whole runs and runs on kept features are those that are made: in both passes, from a picture, with a refiner, and where
/// guidance ends.
#[test]
fn runs_are_as_planned() {
    let (base, refiner) = (xl_folder::sdxl(), xl_folder::refiner());
    let with_refiner = Overrides { refiner: Some(refiner.path().to_owned()), ..Overrides::default() };
    let check = |source: &Source, overrides: &Overrides, request: Request, want: [usize; 2]| {
        let backend = Counting::default();
        let made = Arc::clone(&backend.runs);
        let device = Device::new(Arc::new(backend), Precision::F32).expect("f32 is everywhere");
        let pipeline = Pipeline::load_with(source, overrides, None, device).unwrap_or_else(|e| panic!("{e}"));
        let plans = pipeline.plan(&request).unwrap_or_else(|e| panic!("{e}"));
        let unets = || plans.iter().filter(|plan| plan.name == "UNet");
        let reusing: usize = unets().map(|plan| plan.reusing_runs).sum();
        assert_eq!([unets().map(|plan| plan.runs).sum::<usize>() - reusing, reusing], want);
        for plan in unets() {
            let (whole, kept) = (plan.flops, plan.reusing.flops);
            assert!(0 < kept && kept < whole && plan.reusing.dispatches < plan.dispatches, "{plan:?}");
            let runs = [plan.runs - plan.reusing_runs, plan.reusing_runs].map(|runs| runs as u64);
            assert_eq!(plan.total_flops(), whole * runs[0] + kept * runs[1] + plan.once.flops);
        }
        draw(&pipeline, &request);
        assert_eq!(*made.lock().expect("nobody panicked"), want);
    };
    let none = Overrides::default();
    let demo = |request| Request { sampler: Some(SolverKind::Ddim), num_inference_steps: 5, ..request };
    let kept = || demo(request(cache(3, 1)));
    check(&Source::DemoModel, &none, kept(), [2, 3]);
    check(&Source::DemoModel, &none, Request { count: 3, batch: 2, ..kept() }, [4, 6]);
    check(&Source::DemoModel, &none, Request { guidance_interval: (0.0, 0.4), ..kept() }, [2, 3]);
    let hires = Hires { scale: 1.5, strength: 0.6, steps: None, upscale: Upscale::Latent };
    check(&Source::DemoModel, &none, Request { hires: Some(hires.clone()), ..kept() }, [3, 5]);
    let drawn = draw(&self::demo(), &request(None)).remove(0).image;
    let image = InitImage::new(&drawn, None, 0.8).expect("a picture of its own size");
    check(&Source::DemoModel, &none, Request { image: Some(image), ..kept() }, [2, 2]);
    // 5 steps, of which the base draws 3; the second pass's 3 begin below the switch.
    let refined = Request { refiner_start: 0.4, hires: Some(hires), ..kept() };
    check(&Source::Folder(base.path().to_owned()), &with_refiner, refined, [3, 5]);

    let device = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32 is everywhere");
    let pipeline = Pipeline::load_with(&Source::Folder(base.path().to_owned()), &with_refiner, None, device)
        .unwrap_or_else(|e| panic!("{e}"));
    let refused = pipeline.plan(&request(cache(2, 99))).expect_err("refused").to_string();
    assert!(refused.contains("deep-cache: expected a depth from 1 to"), "{refused}");
}

#[test]
fn what_does_not_go_is_refused() {
    let pipeline = demo();
    let refused = |request: &Request| pipeline.plan(request).expect_err("refused").to_string();
    assert!(refused(&request(cache(0, 2))).contains("deep_cache.interval: expected 1 to 1000, got 0"));
    assert!(refused(&request(cache(2, 0))).contains("deep_cache.depth: expected 1 to 65536, got 0"));
    assert!(refused(&request(cache(2, 99))).contains("deep-cache: expected a depth from 1 to"));
    let controlled = Request { controls: vec![ControlRequest::default()], ..request(cache(2, 2)) };
    assert!(controlled.validate().expect_err("refused").to_string().contains("does not go with ControlNets"));
    for text in ["", "x", "3:", "3:x", "-1", "3:2:1"] {
        assert!(text.parse::<DeepCache>().is_err(), "{text}");
    }
    assert_eq!("3".parse(), Ok(DeepCache { interval: 3, depth: DeepCache::DEPTH }));
    assert_eq!("5:1".parse(), Ok(DeepCache { interval: 5, depth: 1 }));
    // What is kept takes memory, and the plan knows.
    let lanes = |request: &Request| -> usize {
        let plans = pipeline.plan(request).expect("it fits");
        plans.iter().find(|plan| plan.name == "UNet").expect("a UNet").memory.lanes.iter().sum()
    };
    assert!(lanes(&request(cache(2, 2))) >= lanes(&request(None)));
}
