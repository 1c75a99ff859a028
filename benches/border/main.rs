//! What the borders cost: a later picture of the demo model on the processor, from Rust, C and Python, in turns.
//!
//! `cargo build --release -p chiaro-capi && cargo bench --bench border`. `CHIARO_BENCH_PYTHON` names a Python that has the wheel;
//! `CHIARO_BENCH_ROUNDS` (7) and `CHIARO_BENCH_PICTURES` (3) how often.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use chiaro::engine::{Engine, ModelKey, Residency};
use chiaro::options::PromptSyntax;
use chiaro::{Device, Event, OmsSource, Precision, Request, Source};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Seconds of later pictures from Rust.
fn from_rust(pictures: usize) -> chiaro::Result<Vec<f64>> {
    let engine = Engine::new(Device::choose("cpu", Precision::Auto)?, Residency::On);
    let oms = OmsSource::demo();
    let pipeline = engine.load(&ModelKey::new(Source::DemoModel).with_oms(oms.clone()))?;
    let request = Request {
        prompt: "a red ball".into(),
        prompt_syntax: PromptSyntax::A1111,
        num_inference_steps: 8,
        oms: Some(oms.request()),
        ..Request::default()
    };
    let mut seconds = Vec::new();
    for _ in 0..=pictures {
        let began = Instant::now();
        for event in pipeline.generate(request.clone())? {
            if let Event::Picture(picture) = event? {
                std::hint::black_box(picture.image.data.clone());
            }
        }
        seconds.push(began.elapsed().as_secs_f64());
    }
    Ok(seconds.split_off(1))
}

/// Seconds that a program prints.
fn from_program(command: &mut Command) -> Vec<f64> {
    let done = command.output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).lines().map(|line| line.parse().expect("seconds")).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> chiaro::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.parent()?.to_owned()));
    let target = target.expect("a folder of builds");
    let program = target.join("later-picture");
    let mut cc = Command::new("cc");
    cc.args(["-std=c99", "-D_POSIX_C_SOURCE=199309L", "-O2", "-I"]).arg(root.join("crates/capi/include"));
    cc.arg(root.join("benches/border/later.c")).arg("-o").arg(&program).arg(target.join("libchiaro.so"));
    assert!(cc.status().is_ok_and(|status| status.success()), "first: cargo build --release -p chiaro-capi");
    // Under the name that it has for programs.
    let named = target.join(concat!("libchiaro.so.", env!("CARGO_PKG_VERSION_MAJOR")));
    std::fs::copy(target.join("libchiaro.so"), named).expect("a copy");
    let (rounds, pictures) = (number("CHIARO_BENCH_ROUNDS", 7), number("CHIARO_BENCH_PICTURES", 3));
    let python = std::env::var_os("CHIARO_BENCH_PYTHON");
    let mut ratios: [Vec<f64>; 2] = Default::default();
    let mut rust_seconds = Vec::new();
    for _ in 0..rounds {
        let rust = median(from_rust(pictures)?);
        let mut c = Command::new(&program);
        c.arg(pictures.to_string()).env("LD_LIBRARY_PATH", &target);
        ratios[0].push(median(from_program(&mut c)) / rust);
        if let Some(python) = &python {
            let mut script = Command::new(python);
            script.arg(root.join("benches/border/later.py")).arg(pictures.to_string());
            ratios[1].push(median(from_program(&mut script)) / rust);
        }
        rust_seconds.push(rust);
    }
    println!("a later picture, demo model, 256x256, 8 steps, processor; {rounds} rounds of {pictures} pictures");
    println!("Rust    {:.3} s", median(rust_seconds));
    for (name, ratios) in ["C", "Python"].into_iter().zip(ratios).filter(|(_, ratios)| !ratios.is_empty()) {
        let (least, most) = ratios.iter().fold((f64::MAX, 0.0f64), |(low, high), r| (low.min(*r), high.max(*r)));
        println!("{name:<7} {:.4} of Rust's ({least:.4} to {most:.4})", median(ratios));
    }
    Ok(())
}
