//! Where a request's time went, stage by stage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chiaro::pipeline::{Device, OmsSource, Pipeline, Precision, Request, Residency, Source};
use chiaro::record::HostBackend;

#[test]
fn each_stage_says_where_its_time_went() {
    let device = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32 is everywhere");
    device.set_residency(Residency::On);
    let oms = OmsSource::demo();
    let pipeline = Pipeline::load(&Source::DemoModel, Some(&oms), device).expect("the demo model");
    let request = Request {
        width: Some(64),
        height: Some(64),
        num_inference_steps: 3,
        count: 2,
        oms: Some(oms.request()),
        ..Request::default()
    };
    let planned: Vec<_> = pipeline.plan(&request).expect("planned").iter().map(|s| (s.name, s.runs)).collect();
    for is_first in [true, false] {
        let started = Instant::now();
        let mut drawn = pipeline.generate(request.clone()).expect("the request fits");
        assert_eq!(drawn.times(), [], "nothing has run");
        for event in drawn.by_ref() {
            event.expect("drawn");
        }
        let (passed, times) = (started.elapsed(), drawn.times());
        let found: Vec<_> = times.iter().map(|time| (time.stage, time.runs)).collect();
        assert_eq!(found, planned);
        let sum: Duration = times.iter().map(|time| time.opening + time.running + time.closing).sum();
        assert!(sum <= passed, "{sum:?} of {passed:?}: {times:?}");
        for time in &times {
            assert!(time.running > Duration::ZERO, "{times:?}");
            assert_eq!(time.opening > Duration::ZERO, is_first, "what stays is not opened again: {times:?}");
        }
    }
}
