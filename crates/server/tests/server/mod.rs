//! A server with the demo model on the processor, and a client that sends exactly what a test writes.

mod a1111;
mod fuzz;
mod guard;
mod native;
mod openai;
mod openapi;
mod restart;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chiaro::lookup::Places;
use chiaro::{Device, Precision};
use chiaro_server::{Server, Settings, Stop};
use serde_json::{Value, json};

/// Longer than anything takes here.
const LONG: Duration = Duration::from_secs(120);

/// A server that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn at(folder: &Path, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new(folder.to_owned(), Places::default());
        settings.addresses = vec![([127, 0, 0, 1], 0).into()];
        settings.grace = Duration::from_secs(60);
        change(&mut settings);
        let device = Device::choose("cpu", Precision::Auto).expect("the processor is always there");
        let server = Server::open(settings, device).unwrap_or_else(|e| panic!("{e}"));
        let (address, stop) = (server.addresses()[0], Stop::new());
        let own = stop.clone();
        let thread = std::thread::spawn(move || server.run(&own).unwrap_or_else(|e| panic!("{e}")));
        Running { address, stop, thread: Some(thread) }
    }

    pub(crate) fn stop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server ends in order");
        }
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.ask_with(method, path, &[], body)
    }

    pub(crate) fn ask_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
        let body = body.map(Value::to_string);
        let kind = body.as_ref().map(|_| ("Content-Type", "application/json"));
        let mut all = headers.to_vec();
        all.extend(kind);
        self.send(method, path, &all, body.unwrap_or_default().as_bytes())
    }

    /// Sends a request as it is given, with a `Host` unless it has one.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() || method == "POST" {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        let mut stream = self.connect();
        stream.write_all(format!("{head}\r\n").as_bytes()).expect("a server that reads");
        // One that refuses does not read it all.
        let _ = stream.write_all(body);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        Answer::parse(&bytes)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("a server that listens");
        stream.set_read_timeout(Some(LONG)).expect("a timeout");
        stream
    }

    /// Waits for a job to end, and gives it as it stands then.
    pub(crate) fn wait(&self, id: &str) -> Value {
        let since = Instant::now();
        loop {
            let job = self.ask("GET", &format!("/v1/chiaro/jobs/{id}"), None).json();
            if ["completed", "failed", "cancelled"].iter().any(|state| job["state"] == *state) {
                return job;
            }
            assert!(since.elapsed() < LONG, "{job}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A number of the server's metrics.
    pub(crate) fn counter(&self, name: &str) -> f64 {
        let text = self.ask("GET", "/v1/chiaro/metrics", None).text();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        let line = line.unwrap_or_else(|| panic!("{name} in {text}"));
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
    }

    /// Hands a job in, and gives its id.
    pub(crate) fn submit(&self, job: &Value) -> String {
        let answer = self.ask("POST", "/v1/chiaro/jobs", Some(job));
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()["id"].as_str().expect("an id").to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let Some(end) = end else { panic!("no answer: {:?}", String::from_utf8_lossy(bytes)) };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let mut answer = Answer { status, head, body: bytes[end + 4..].to_vec() };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = unchunked(&answer.body);
        }
        answer
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.text()))
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let length =
            usize::from_str_radix(std::str::from_utf8(&bytes[..end]).expect("a length"), 16).expect("a length");
        if length == 0 {
            break;
        }
        body.extend(&bytes[end + 2..end + 2 + length]);
        bytes = &bytes[end + 4 + length..];
    }
    body
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A picture that takes little time.
pub(crate) fn small(prompt: &str, seed: u64) -> Value {
    json!({ "version": 1, "request": { "prompt": prompt, "width": 64, "height": 64, "num_inference_steps": 2, "seed": seed } })
}

/// A PNG of one colour.
pub(crate) fn png(width: u32, height: u32, pixel: [u8; 4]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().expect("a head");
    writer.write_image_data(&pixel.repeat((width * height) as usize)).expect("pixels");
    writer.finish().expect("a picture");
    bytes
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

pub(crate) fn from_base64(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
}
