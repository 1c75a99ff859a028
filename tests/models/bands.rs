//! Autoencoders in bands against the same autoencoders whole, and against goldens.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use chiaro::models::{AutoencoderKl, AutoencoderKlConfig, names};
use chiaro::record::{Backend, Caps, Chain, ChainPlan, ChainProgram, Outputs, Program, Reach, Recording, Run, Span};

use super::bench::{Bench, cases, channels_last, config_text, families, input, weights};
use crate::support::golden::{Golden, compare};

/// A backend that sees how many bytes its programs hold at one time.
struct Watched {
    backend: &'static dyn Backend,
    held: Arc<AtomicU64>,
    most: Arc<AtomicU64>,
}

struct WatchedProgram {
    program: Box<dyn Program>,
    held: Arc<AtomicU64>,
}

impl Watched {
    fn new(backend: &'static dyn Backend) -> Self {
        Watched { backend, held: Arc::default(), most: Arc::default() }
    }
}

impl Backend for Watched {
    fn caps(&self) -> &Caps {
        self.backend.caps()
    }

    fn compile(&self, recording: Recording) -> chiaro::Result<Box<dyn Program>> {
        let program = self.backend.compile(recording)?;
        let held = self.held.fetch_add(program.allocated_bytes(), Ordering::Relaxed) + program.allocated_bytes();
        self.most.fetch_max(held, Ordering::Relaxed);
        Ok(Box::new(WatchedProgram { program, held: Arc::clone(&self.held) }))
    }
}

impl Program for WatchedProgram {
    fn execute(&mut self, inputs: &[(&str, &[f32])], how: Run<'_>) -> chiaro::Result<Outputs> {
        self.program.execute(inputs, how)
    }

    fn allocated_bytes(&self) -> u64 {
        self.program.allocated_bytes()
    }

    fn weights(self: Box<Self>) -> Box<dyn Send> {
        // No test here exchanges programs.
        Box::new(())
    }
}

impl Drop for WatchedProgram {
    fn drop(&mut self) {
        self.held.fetch_sub(self.program.allocated_bytes(), Ordering::Relaxed);
    }
}

/// One half of an autoencoder at one size, with an input.
#[derive(Clone, Copy)]
enum Half {
    Encode,
    Decode,
}

struct Work<'m> {
    vae: &'m Arc<AutoencoderKl>,
    half: Half,
    /// Height and width of the latents.
    size: (usize, usize),
    input: Vec<f32>,
}

impl<'m> Work<'m> {
    fn new(vae: &'m Arc<AutoencoderKl>, half: Half, size: (usize, usize)) -> Self {
        let (h, w) = size;
        let side = vae.config().pixels_per_latent();
        let values = match half {
            Half::Encode => vae.image_input(&waves(3 * side * side * h * w, 3 * side * w)),
            Half::Decode => waves(4 * h * w, 4 * w).iter().map(|v| 3.0 * v).collect(),
        };
        Work { vae, half, size, input: values }
    }

    fn name(&self) -> &'static str {
        match self.half {
            Half::Encode => names::IMAGE,
            Half::Decode => names::LATENTS,
        }
    }

    fn recording(&self, caps: &Caps) -> Recording {
        let ((h, w), side) = (self.size, self.vae.config().pixels_per_latent());
        let recording = match self.half {
            Half::Encode => self.vae.record_encode(caps, 1, side * h, side * w, false),
            Half::Decode => self.vae.record_decode(caps, 1, h, w, false),
        };
        recording.unwrap_or_else(|e| panic!("{e}"))
    }

    fn chain(&self, levels: usize) -> Chain<'m> {
        let ((h, w), side) = (self.size, self.vae.config().pixels_per_latent());
        match self.half {
            Half::Encode => self.vae.encode_chain(side * h, side * w, levels),
            Half::Decode => self.vae.decode_chain(h, w, levels),
        }
    }

    fn whole(&self, bench: &Bench) -> Vec<f32> {
        bench.run(self.recording(bench.backend.caps()), &[(self.name(), &self.input)]).remove(names::OUT).expect("out")
    }

    /// The result in bands of `rows` rows; what was allocated at one time must be what was planned.
    fn banded(&self, bench: &Bench, levels: usize, rows: usize) -> Vec<f32> {
        let chain = self.chain(levels);
        let plan = ChainPlan::of_rows(&chain, bench.backend.caps(), rows).unwrap_or_else(|e| panic!("{e}"));
        self.run(bench, chain, plan)
    }

    fn run(&self, bench: &Bench, chain: Chain<'m>, plan: ChainPlan) -> Vec<f32> {
        let watched = Arc::new(Watched::new(bench.backend));
        let planned = plan.peak_bytes();
        let caps = bench.backend.caps().clone();
        let mut program = ChainProgram::new(Arc::clone(&watched) as Arc<dyn Backend>, caps, chain, plan);
        let mut outputs = bench
            .alone(|| program.run(&[(self.name(), &self.input)]))
            .unwrap_or_else(|e| panic!("{}: {e}", bench.backend.caps().name));
        let most = watched.most.load(Ordering::Relaxed);
        assert!((most as f64 / planned as f64 - 1.0).abs() <= 0.02, "planned {planned}, held {most}");
        assert_eq!(watched.held.load(Ordering::Relaxed), 0, "nothing is held between runs");
        outputs.remove(names::OUT).expect("out")
    }
}

/// Values in -1…1 with edges, gradients and noise, whose means differ from row to row.
fn waves(len: usize, row: usize) -> Vec<f32> {
    let value = |i: usize| {
        let (y, x) = ((i / row) as f32, (i % row) as f32);
        let noise = (i as f32 * 12.9898).sin() * 43_758.547;
        0.4 * (0.3 * y).sin() + 0.3 * (0.11 * x).cos() + 0.3 * (2.0 * (noise - noise.floor()) - 1.0)
    };
    (0..len).map(value).collect()
}

fn vae(family: &str) -> Arc<AutoencoderKl> {
    let folder = Golden::open(family).path().join("vae");
    let (text, origin) = config_text(&folder);
    let config = AutoencoderKlConfig::from_json(&text, &origin).unwrap_or_else(|e| panic!("{e}"));
    let loaded = AutoencoderKl::load(config, &weights(&folder, "diffusion_pytorch_model.safetensors", "vae"));
    Arc::new(loaded.unwrap_or_else(|e| panic!("{e}")))
}

fn vaes() -> &'static [Arc<AutoencoderKl>] {
    static VAES: LazyLock<Vec<Arc<AutoencoderKl>>> = LazyLock::new(|| ["sd15", "sdxl"].map(vae).into());
    &VAES
}

fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())))
}

/// Peak signal to noise in dB, the peak being that of the reference's values.
fn psnr(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |a: &f32, b: &f32| (f64::from(*a) - f64::from(*b)).powi(2);
    let error = got.iter().zip(want).map(|(a, b)| square(a, b)).sum::<f64>() / got.len() as f64;
    20.0 * largest(want).log10() - 10.0 * error.log10()
}

/// Banded and whole within f32 rounding.
fn same(what: &str, got: &[f32], want: &[f32]) -> Result<f64, String> {
    compare(what, got, want, 1e-5 * largest(want))
}

#[test]
fn bands_are_the_whole_on_the_host() {
    let bench = Bench::host();
    let mut shifted = 0;
    for (vae, family) in vaes().iter().zip(["sd15", "sdxl"]) {
        for half in [Half::Encode, Half::Decode] {
            for (size, rows) in [((4, 6), 4), ((5, 4), 7), ((9, 3), 10), ((3, 5), 1000)] {
                let work = Work::new(vae, half, size);
                let want = work.whole(&bench);
                for levels in 1..=vae.levels() {
                    let chain = work.chain(levels);
                    let plan = ChainPlan::of_rows(&chain, bench.backend.caps(), rows).unwrap_or_else(|e| panic!("{e}"));
                    let last_starts = plan.parts.iter().filter_map(|part| part.windows.last());
                    shifted += last_starts.filter(|window| window.of_band.start > 2).count();
                    let what = format!("{family} {} {size:?}, {levels} levels, {rows} rows", work.name());
                    let got = work.run(&bench, chain, plan);
                    let worst = same(&what, &got, &want).unwrap_or_else(|e| panic!("{e}"));
                    if std::env::var_os("CHIARO_TEST_VERBOSE").is_some() {
                        println!("{what}: {worst:.1e} of {:.1}", largest(&want));
                    }
                }
            }
        }
    }
    assert!(shifted > 50, "only {shifted} parts have a last band that is moved up");
}

#[test]
fn bands_are_the_whole_on_the_gpu() {
    let bench = Bench::gpu();
    for (vae, half, levels, rows) in
        [(&vaes()[0], Half::Decode, 2, 12), (&vaes()[1], Half::Decode, 4, 9), (&vaes()[1], Half::Encode, 3, 13)]
    {
        let work = Work::new(vae, half, (5, 4));
        same("banded", &work.banded(&bench, levels, rows), &work.whole(&bench)).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn bands_are_the_whole_in_half_precision() {
    let bench = Bench::gpu_half();
    for (vae, half, levels, rows) in
        [(&vaes()[0], Half::Decode, 1, 9), (&vaes()[1], Half::Decode, 4, 12), (&vaes()[0], Half::Encode, 2, 13)]
    {
        let work = Work::new(vae, half, (5, 4));
        let (got, want) = (work.banded(&bench, levels, rows), work.whole(&bench));
        let psnr = psnr(&got, &want);
        println!("{}: {psnr:.1} dB", work.name());
        assert!(psnr >= 60.0, "{}: {psnr:.1} dB", work.name());
    }
}

/// The reference implementation's own pictures and moments.
#[test]
fn goldens_in_bands() {
    let bench = Bench::host();
    let mut checked = 0;
    for family in families() {
        let golden = Golden::open(&family);
        let cases = cases(&golden, "vae/", "/image");
        if cases.is_empty() {
            continue;
        }
        let vae = vae(&family);
        let side = vae.config().pixels_per_latent();
        for case in cases {
            let at = |leaf: &str| format!("vae/{case}/{leaf}");
            let halves = [
                (Half::Encode, at("image"), vae.image_input(&channels_last(&golden, &at("image"))), at("moments")),
                (Half::Decode, at("z"), input(&golden, &at("z")), at("decoded")),
            ];
            for (half, from, values, result) in halves {
                let shape = golden.shape(&from);
                let scale = if matches!(half, Half::Encode) { side } else { 1 };
                let (size, of_image) = ((shape[2] / scale, shape[3] / scale), values.len() / shape[0]);
                let mut got = Vec::new();
                for image in values.chunks(of_image) {
                    let work = Work { vae: &vae, half, size, input: image.to_vec() };
                    got.extend(work.banded(&bench, 1 + checked % vae.levels(), 10 + checked));
                }
                bench.check(&golden, &result, &got);
                checked += 1;
            }
        }
    }
    assert!(checked >= 8, "only {checked} goldens");
}

/// Rows beside the borders of the last parts' bands differ from the whole no more than others do.
#[test]
fn there_are_no_seams() {
    let bench = Bench::host();
    let work = Work::new(&vaes()[0], Half::Decode, (8, 8));
    let (want, caps) = (work.whole(&bench), bench.backend.caps());
    let chain = work.chain(2);
    let plan = ChainPlan::of_rows(&chain, caps, 14).unwrap_or_else(|e| panic!("{e}"));
    let height = 8 * work.size.0;
    let mut at_border = vec![false; height];
    for part in plan.parts.iter().filter(|part| part.result.0.h == height) {
        for window in &part.windows[1..] {
            at_border[window.keep.start - 1] = true;
            at_border[window.keep.start] = true;
        }
    }
    let got = work.run(&bench, chain, plan);
    let row = got.len() / height;
    let rms = |borders: bool| {
        let rows = got.chunks(row).zip(want.chunks(row)).zip(&at_border).filter(|(_, border)| **border == borders);
        let squares: Vec<f64> =
            rows.map(|((a, b), _)| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()).collect();
        assert!(squares.len() >= 8, "{} rows", squares.len());
        (squares.iter().sum::<f64>() / (squares.len() * row) as f64).sqrt()
    };
    let (at, away) = (rms(true), rms(false));
    println!("at borders {at:.2e}, elsewhere {away:.2e}");
    assert!(at <= 1.5 * away.max(1e-7), "at borders {at:.2e}, elsewhere {away:.2e}");
}

/// What the comparison is for: moments of some rows alone, or a halo that is not there, are seen.
#[test]
fn faults_are_seen() {
    let bench = Bench::host();
    for half in [Half::Encode, Half::Decode] {
        let work = Work::new(&vaes()[0], half, (6, 4));
        let (want, caps) = (work.whole(&bench), bench.backend.caps());
        let planned = |chain: &Chain<'_>| ChainPlan::of_rows(chain, caps, 12).unwrap_or_else(|e| panic!("{e}"));

        let mut chain = work.chain(2);
        for part in chain.parts.iter_mut().filter(|part| part.moments.is_some()) {
            let moments = part.moments.take().expect("it has some");
            part.moments = Some(Box::new(move |map| {
                let shape = chiaro::record::Shape { h: 12, ..map.shape() };
                moments(&chiaro::record::FeatureMap::from_values(&map.read(0..12), shape, map.dtype()))
            }));
        }
        let plan = planned(&chain);
        assert!(same("moments of a band", &work.run(&bench, chain, plan), &want).is_err());

        // Each part in turn: a band keeps its wrong first or last row.
        let mut tried = 0;
        for (index, above) in (0..work.chain(2).parts.len()).flat_map(|index| [(index, true), (index, false)]) {
            let chain = work.chain(2);
            let mut plan = planned(&chain);
            let part = &mut plan.parts[index];
            // What halves needs no row above.
            if part.windows.len() < 2 || (above && chain.parts[index].span == Span::Rows(Reach::Halved)) {
                continue;
            }
            if above {
                part.windows[1].keep.start -= part.windows[1].of_band.start;
                part.windows[1].of_band.start = 0;
            } else {
                part.windows[0].keep.end += 1;
                part.windows[0].of_band.end += 1;
                part.windows[1].keep.start += 1;
                part.windows[1].of_band.start += 1;
            }
            let label = part.label.clone();
            let verdict = same("a halo that is not there", &work.run(&bench, chain, plan), &want);
            assert!(verdict.is_err(), "{label}, above {above}: {verdict:?}");
            tried += 1;
        }
        assert!(tried > 15, "only {tried} parts are cut");
    }
}
