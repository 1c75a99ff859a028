//! Requests that nobody would send: whatever they are, no answer is the server's own failure, and it lives.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::{Running, base64, png, small};

/// Requests: more where everything is tested, or as many as `CHIARO_FUZZ_REQUESTS` says.
const MANY: usize = 10_000;
const FEW: usize = 1_000;

/// Small numbers of chance, the same each time (Steele, Lea, Flood: SplitMix).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end.max(1) as u64) as usize
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Values that programs trip over.
fn odd(chance: &mut Chance) -> Value {
    let all = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1e308),
        json!(-0.0),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.1),
        json!(65),
        json!(8192),
        json!(""),
        json!("x"),
        json!("é\u{0}\u{202e}"),
        json!("../../etc/passwd"),
        json!("http://127.0.0.1:1/"),
        json!("a".repeat(5000)),
        json!("<lora:x:1>"),
        json!("(((((((((("),
        json!("[a:b:0.5]"),
        json!("nan"),
        json!([]),
        json!([[]]),
        json!({}),
        json!({ "a": { "b": [1] } }),
        json!("data:image/png;base64,AAAA"),
        json!([null]),
        json!("Euler a"),
        json!("karras"),
        json!("64x64"),
        json!({ "bytes": "AAAA" }),
        json!("demo"),
    ];
    chance.of(&all).clone()
}

/// Changes a value somewhere.
fn change(value: &mut Value, chance: &mut Chance, names: &[&str]) {
    match value {
        Value::Object(map) if chance.below(5) > 0 && !map.is_empty() => {
            let key = map.keys().nth(chance.below(map.len())).cloned().unwrap_or_default();
            match chance.below(6) {
                0 => {
                    map.remove(&key);
                }
                1 => {
                    map.insert((*chance.of(names)).to_owned(), odd(chance));
                }
                _ => change(&mut map[&key], chance, names),
            }
        }
        Value::Array(list) if chance.below(3) > 0 && !list.is_empty() => {
            let at = chance.below(list.len());
            change(&mut list[at], chance, names);
        }
        other => *other = odd(chance),
    }
}

/// Sends a request on a connection that stays, and gives the answer's status; `None` where the server closed it.
fn ask(stream: &mut BufReader<TcpStream>, head: &str, body: &[u8]) -> Option<u16> {
    let head = format!("{head}Host: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.get_mut().write_all(&[head.as_bytes(), body].concat()).ok()?;
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let status = line.split(' ').nth(1)?.parse().ok()?;
    let mut length = 0;
    let mut closes = false;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).ok()?;
        let lower = header.to_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        closes |= lower.starts_with("connection: close") || lower.starts_with("transfer-encoding");
        if header.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    assert!(!closes || length == 0 || status >= 400, "{head}");
    Some(status)
}

#[test]
fn no_request_is_the_servers_failure() {
    let folder = tempfile::tempdir().expect("a folder");
    // Most go to a server that has no memory to draw in: it refuses what is right after it has read, ordered and planned it.
    let servers = [None, Some(1)].map(|memory_bytes| {
        Running::at(&folder.path().join(format!("{memory_bytes:?}")), |settings| {
            settings.max_queue = 4;
            settings.memory_bytes = memory_bytes;
        })
    });
    let picture = base64(&png(64, 64, [1, 2, 3, 4]));
    let a1111 = json!({
        "prompt": "a circle", "negative_prompt": "x", "width": 64, "height": 64, "steps": 1, "cfg_scale": 7, "seed": 1, "subseed": 2, "sampler_name": "Euler a",
        "scheduler": "Karras", "batch_size": 1, "n_iter": 1, "enable_hr": false, "hr_scale": 2, "init_images": [picture], "mask": picture, "mask_blur": 4,
        "inpainting_fill": 0, "inpaint_full_res": true, "override_settings": { "CLIP_stop_at_last_layers": 1 }, "oms": { "prompt": "x", "guidance_scale": 2 },
        "alwayson_scripts": { "ControlNet": { "args": [{ "enabled": true, "image": picture, "model": "x" }] } },
    });
    let openai = json!({ "prompt": "a circle", "n": 1, "size": "64x64", "steps": 1, "output_format": "png", "image": picture, "mask": picture, "oms": true });
    let mut job = small("a circle", 1);
    job["request"]["num_inference_steps"] = json!(1);
    job["image"] = json!({ "file": { "bytes": picture }, "strength": 0.5 });
    job["adapters"] = json!([{ "file": "x", "weight": 1 }]);
    let bases = [
        ("/v1/chiaro/jobs", job.clone()),
        ("/v1/chiaro/plan", json!({ "job": job, "preview_every": 1 })),
        ("/sdapi/v1/txt2img", a1111.clone()),
        ("/sdapi/v1/img2img", a1111),
        ("/v1/images/generations", openai.clone()),
        ("/v1/images/edits", openai),
        (
            "/sdapi/v1/options",
            json!({ "sd_model_checkpoint": "demo", "sd_vae": "Automatic", "CLIP_stop_at_last_layers": 1 }),
        ),
        ("/v1/chiaro/tokens", json!({ "prompt": "(a:1.2) [b|c]", "model": "demo" })),
        ("/v1/chiaro/recipe", json!({ "image": picture })),
        ("/sdapi/v1/png-info", json!({ "image": picture })),
        ("/internal/progress", json!({ "id_task": "x", "id_live_preview": 0 })),
        (
            "/v1/batches",
            json!({ "input_file_id": "x", "endpoint": "/v1/images/generations", "completion_window": "24h" }),
        ),
    ];
    let names = [
        "prompt",
        "width",
        "seed",
        "request",
        "model",
        "oms",
        "image",
        "n",
        "steps",
        "mask",
        "version",
        "controls",
        "hr_resize_x",
        "x",
    ];
    let addresses = super::openapi::addresses();
    let asked = std::env::var("CHIARO_FUZZ_REQUESTS").ok().map(|count| count.parse().expect("a number"));
    let count = asked.unwrap_or(if std::env::var_os("CHIARO_TEST_ALL").is_some() { MANY } else { FEW });
    let mut chance = Chance(7);
    let mut streams = [0, 1].map(|at: usize| BufReader::new(servers[at].connect()));
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    for round in 0..count {
        let which = usize::from(!round.is_multiple_of(10));
        let (head, body) = match chance.below(8) {
            0 => {
                let (method, path) = chance.of(&addresses);
                let id = *chance.of(&[
                    "0",
                    "..",
                    "%2e%2e%2f",
                    "file-x",
                    "batch_x",
                    "0000000000000000000000000000000",
                    "%00",
                    "é",
                ]);
                let path = path.replace("{id}", id).replace("{index}", id).replace("{model}", id);
                let query = *chance.of(&[
                    "",
                    "?limit=x",
                    "?limit=999999999999999999999",
                    "?before=%ff",
                    "?after=-1",
                    "?state=,",
                ]);
                // What a job tells does not end.
                if path.ends_with("/events") || !path.is_ascii() {
                    continue;
                }
                (format!("{method} {path}{query} HTTP/1.1\r\n"), Vec::new())
            }
            kind => {
                let (path, mut body) = chance.of(&bases).clone();
                for _ in 0..=chance.below(3) {
                    change(&mut body, &mut chance, &names);
                }
                let mut bytes = body.to_string().into_bytes();
                if kind == 1 && !bytes.is_empty() {
                    let at = chance.below(bytes.len());
                    bytes[at] = chance.below(256) as u8;
                }
                // A stream's answer has no length.
                if bytes.windows(8).any(|window| window == b"\"stream\"") {
                    continue;
                }
                (format!("POST {path} HTTP/1.1\r\nContent-Type: application/json\r\n"), bytes)
            }
        };
        let status = match ask(&mut streams[which], &head, &body) {
            Some(status) => status,
            None => {
                streams[which] = BufReader::new(servers[which].connect());
                ask(&mut streams[which], &head, &body).unwrap_or(0)
            }
        };
        *statuses.entry(status).or_default() += 1;
        // What is not there at all, such as upscalers, is 501.
        assert!(
            status < 500 || status == 501,
            "round {round}: {status} for {head}{}",
            String::from_utf8_lossy(&body).chars().take(2000).collect::<String>()
        );
    }
    for server in &servers {
        assert_eq!(server.ask("GET", "/v1/chiaro/health/ready", None).status, 200);
    }
    let refused: usize = statuses.range(400..500).map(|(_, count)| count).sum();
    let done = statuses.get(&200).copied().unwrap_or(0);
    assert!(refused > count / 4 && done > count / 50, "{statuses:?}");
}
