//! Prompt to picture on each device, without and with One More Step, all stages included.
//!
//! `CHIARO_BENCH_DEVICES=cpu,0 cargo bench --bench end_to_end`

mod support;

use std::time::Instant;

use chiaro::pipeline::{OmsRequest, Request};

fn main() -> chiaro::Result<()> {
    for name in support::devices() {
        let pipeline = support::pipeline(&name)?;
        for oms in [None, pipeline.has_oms().then(OmsRequest::default)] {
            let label = if oms.is_some() { "with OMS" } else { "without OMS" };
            let request = Request { prompt: "a red circle on a black background".into(), oms, ..Request::default() };
            let mut seconds = Vec::new();
            for _ in 0..support::setting("CHIARO_BENCH_RUNS", 3) {
                let start = Instant::now();
                for event in pipeline.generate(request.clone())? {
                    event?;
                }
                seconds.push(start.elapsed().as_secs_f64());
            }
            let [least, median, most] = support::spread(seconds);
            println!("{}, {label}: {median:.2} s ({least:.2} to {most:.2})", pipeline.device().describe());
        }
    }
    Ok(())
}
