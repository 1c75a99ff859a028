//! What the compilers of AMD's and Intel's drivers make of the hot kernels, for GPUs that are not there: `offline amd|intel [PART OF A LABEL | FILE.wgsl]`, with
//! a driver that `run.sh` fetches. A kernel is translated as wgpu does it for the library. Nothing is executed: it tells no time.

mod amd;
mod driver;
#[allow(dead_code, reason = "shared with the tests, which have more to ask of it")]
#[path = "../../tests/kernels/form.rs"]
mod form;
mod intel;
mod kernels;
#[allow(dead_code, reason = "shared with the tests, which translate for other drivers too")]
#[path = "../../tests/kernels/targets.rs"]
mod targets;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let whose = arguments.next();
    let part = arguments.next().unwrap_or_default();
    match whose.as_deref() {
        Some("amd") => amd::report(&part),
        Some("intel") => intel::report(&part),
        Some("intel-kernel") => intel::compile(&part),
        _ => Err("expected amd or intel: run benches/offline/run.sh".into()),
    }
}
