//! Attention to many tokens: right, or refused. Mesa's software driver ends loops after 65,535 turns without a word.

use chiaro::ops::{Attention, attention};
use chiaro::record::{AdapterKind, Backend, Caps, DType, HostBackend, Recording, Shape};
use chiaro::{ErrorCode, Result};

use crate::support::adapter;

const QUERIES: usize = 16;

fn record(caps: &Caps, keys: usize, head_dim: usize) -> Result<Recording> {
    let mut rec = Recording::new(caps);
    let q = rec.input("q", Shape::tokens(1, QUERIES, head_dim));
    let [k, v] = ["k", "v"].map(|name| rec.input(name, Shape::tokens(1, keys, head_dim)));
    let out = attention(&mut rec, q, k, v, Attention { heads: 1, causal: false })?;
    rec.output("out", out);
    Ok(rec)
}

fn values(len: usize, mut state: u32) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn many_keys_are_right_or_refused() {
    if std::env::var_os("CHIARO_TEST_AS_GPU").is_some() {
        println!(
            "a software driver that passes for a GPU is not refused, and ends its loops all the same: nothing was checked"
        );
        return;
    }
    let host = HostBackend::default();
    // A picture's side in latents, squared: of 64 channels in a UNet, of 512 in an autoencoder. Checks of bounds keep compilers from writing inner
    // loops out, so that there are more turns: with them, what is for tests alone is that much shorter.
    let all = [(64, 64), (128, 64), (181, 64), (256, 64), (64, 512), (80, 512), (128, 512)];
    for (checks, cases) in [(true, &all[..1]), (false, &all[..])] {
        let backend = adapter::open_with(DType::F32, chiaro::gpu::GpuOptions { checks, ..adapter::test_options() });
        let (mut right, mut refused) = (0, 0);
        for &(side, head_dim) in cases {
            let keys = side * side;
            let recording = match record(backend.caps(), keys, head_dim) {
                Ok(recording) => recording,
                Err(error) => {
                    assert_eq!(error.code(), ErrorCode::Unsupported, "{error}");
                    assert!(error.to_string().contains(&format!("attention to {keys} tokens")), "{error}");
                    refused += 1;
                    continue;
                }
            };
            let [q, k, v] = [(QUERIES, 1), (keys, 2), (keys, 3)].map(|(n, seed)| values(n * head_dim, seed));
            let inputs = [("q", q.as_slice()), ("k", &k), ("v", &v)];
            let run = |mut program: Box<dyn chiaro::record::Program>| -> Vec<f32> {
                program.run(&inputs).expect("it runs").remove("out").expect("a result")
            };
            let wanted = run(host.compile(record(host.caps(), keys, head_dim).expect("it fits")).expect("it compiles"));
            let got = run(backend.compile(recording).expect("it compiles"));
            let worst = got
                .iter()
                .zip(&wanted)
                .map(|(got, wanted)| (got - wanted).abs())
                .fold(0.0f32, |m, off| if off.is_nan() { f32::INFINITY } else { m.max(off) });
            assert!(worst < 1e-5, "{keys} keys of {head_dim}: off by {worst}");
            right += 1;
        }
        assert!(2 * right > cases.len(), "{right} right, {refused} refused");
        let gives_up = !checks && backend.caps().kind == AdapterKind::Software;
        assert_eq!(refused > 0, gives_up, "{refused} refused");
    }
}
