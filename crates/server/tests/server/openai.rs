//! OpenAI's interface.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Running, base64, from_base64, png};

fn request() -> Value {
    json!({ "prompt": "a red circle", "model": "demo", "size": "64x64", "steps": 2, "seed": 5 })
}

#[test]
fn pictures_are_generated() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let mut body = request();
    body["n"] = json!(2);
    let answer = server.ask("POST", "/v1/images/generations", Some(&body));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let told = answer.json();
    assert_eq!(
        (told["data"].as_array().map(Vec::len), &told["size"], &told["output_format"]),
        (Some(2), &json!("64x64"), &json!("png"))
    );
    let first = from_base64(told["data"][0]["b64_json"].as_str().expect("a picture"));
    assert!(first.starts_with(b"\x89PNG"));
    for (format, magic) in [("jpeg", &b"\xff\xd8"[..]), ("webp", b"RIFF")] {
        let mut body = request();
        body["output_format"] = json!(format);
        let told = server.ask("POST", "/v1/images/generations", Some(&body)).json();
        assert!(from_base64(told["data"][0]["b64_json"].as_str().expect("a picture")).starts_with(magic), "{format}");
    }
    let mut body = request();
    body["response_format"] = json!("url");
    let told = server.ask("POST", "/v1/images/generations", Some(&body)).json();
    let url = told["data"][0]["url"].as_str().expect("an address").to_owned();
    let path = url.strip_prefix(&format!("http://{}", server.address)).expect("this server's");
    assert!(server.ask("GET", path, None).body == first);
    assert_eq!(server.ask("GET", "/v1/models", None).json()["data"][0]["id"], "demo");
    assert_eq!(server.ask("GET", "/v1/models/demo", None).json()["id"], "demo");
    assert_eq!(server.ask("GET", "/v1/models/x", None).status, 404);
}

#[test]
fn errors_are_openais() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    for (name, value, status) in [
        ("n", json!(11), 400),
        ("size", json!("65x64"), 400),
        ("size", json!("large"), 400),
        ("prompt", Value::Null, 400),
        ("model", json!("dall-e-3"), 404),
        ("background", json!("transparent"), 400),
        ("output_format", json!("gif"), 400),
        ("partial_images", json!(9), 400),
        ("steps", json!(0), 400),
    ] {
        let mut body = request();
        body[name] = value.clone();
        let answer = server.ask("POST", "/v1/images/generations", Some(&body));
        let error = answer.json()["error"].clone();
        assert_eq!(answer.status, status, "{name} {value}: {error}");
        assert!(error["message"].is_string() && error["type"] == "invalid_request_error", "{error}");
    }
    let mut body = request();
    body["wish"] = json!(1);
    assert!(
        server
            .ask("POST", "/v1/images/generations", Some(&body))
            .header("x-chiaro-warnings")
            .is_some_and(|told| told.contains("wish"))
    );
}

#[test]
fn pictures_are_streamed() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let mut body = request();
    (body["stream"], body["partial_images"], body["steps"]) = (json!(true), json!(2), json!(6));
    let text = server.ask("POST", "/v1/images/generations", Some(&body)).text();
    let events: Vec<(String, Value)> = text
        .split("\n\n")
        .filter_map(|block| {
            let name = block.lines().find_map(|line| line.strip_prefix("event: "))?;
            let data = block.lines().find_map(|line| line.strip_prefix("data: "))?;
            Some((name.to_owned(), serde_json::from_str(data).expect("JSON")))
        })
        .collect();
    let (last, partial) = events.split_last().expect("events");
    assert_eq!(last.0, "image_generation.completed");
    assert!(from_base64(last.1["b64_json"].as_str().expect("a picture")).starts_with(b"\x89PNG"));
    assert!(last.1["usage"]["total_tokens"].is_number());
    assert!((1..=2).contains(&partial.len()), "{}", partial.len());
    for (at, (name, event)) in partial.iter().enumerate() {
        assert_eq!((name.as_str(), &event["partial_image_index"]), ("image_generation.partial_image", &json!(at)));
        assert!(from_base64(event["b64_json"].as_str().expect("a picture")).starts_with(b"\x89PNG"));
    }
}

/// A form of fields and files.
pub(super) fn form(fields: &[(&str, Option<&str>, &[u8])]) -> (String, Vec<u8>) {
    let border = "border-of-parts-7c1";
    let mut body = Vec::new();
    for (name, file, content) in fields {
        let file = file.map_or_else(String::new, |file| format!("; filename=\"{file}\""));
        body.extend(format!("--{border}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").bytes());
        body.extend(*content);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{border}--\r\n").bytes());
    (format!("multipart/form-data; boundary={border}"), body)
}

/// What is transparent in the mask is changed, and nothing else.
#[test]
fn pictures_are_edited() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let image = png(64, 64, [10, 200, 90, 255]);
    let mut half = Vec::new();
    let mut encoder = png::Encoder::new(&mut half, 64, 64);
    encoder.set_color(png::ColorType::Rgba);
    let pixels: Vec<u8> = (0..64 * 64).flat_map(|at| [0, 0, 0, if at % 64 < 32 { 0 } else { 255 }]).collect();
    encoder.write_header().expect("a head").write_image_data(&pixels).expect("pixels");
    let fields = [
        ("prompt", None, &b"a black square"[..]),
        ("image[]", Some("a.png"), &image),
        ("mask", Some("m.png"), &half),
        ("size", None, b"64x64"),
        ("steps", None, b"3"),
        ("seed", None, b"2"),
    ];
    let (kind, body) = form(&fields);
    let answer = server.send("POST", "/v1/images/edits", &[("Content-Type", &kind)], &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let drawn = from_base64(answer.json()["data"][0]["b64_json"].as_str().expect("a picture"));
    let drawn = chiaro::image::decode_photo("x".as_ref(), &drawn).expect("a picture").image;
    let same = |at: usize| drawn.data[at * 3..at * 3 + 3] == [10, 200, 90];
    assert!((0..64 * 64).filter(|at| at % 64 >= 32).all(same));
    assert!((0..64 * 64).filter(|at| at % 64 < 32).filter(|at| !same(*at)).count() > 1000);
    let (kind, body) = form(&fields[..1]);
    assert_eq!(server.send("POST", "/v1/images/edits", &[("Content-Type", &kind)], &body).status, 400);
    let (kind, body) = form(&[("prompt", None, b"x"), ("image", Some("a.png"), b"no picture")]);
    assert_eq!(server.send("POST", "/v1/images/edits", &[("Content-Type", &kind)], &body).status, 400);
    let json = json!({ "prompt": "x", "image": base64(&image), "steps": 2 });
    assert_eq!(server.ask("POST", "/v1/images/edits", Some(&json)).status, 200);
}

/// Files in, batches through, results out; again after a restart.
#[test]
fn batches_are_drawn() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Running::at(folder.path(), |_| {});
    let mut text = String::new();
    for at in 0..5 {
        let mut body = request();
        body["seed"] = json!(at);
        if at == 3 {
            body["n"] = json!(0);
        }
        text += &format!(
            "{}\n",
            json!({ "custom_id": format!("line {at}"), "method": "POST", "url": "/v1/images/generations", "body": body })
        );
    }
    let (kind, body) = form(&[("purpose", None, b"batch"), ("file", Some("../in.jsonl"), text.as_bytes())]);
    let file = server.send("POST", "/v1/files", &[("Content-Type", &kind)], &body);
    assert_eq!(file.status, 200, "{}", file.text());
    let file = file.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(server.ask("GET", &format!("/v1/files/{file}/content"), None).text(), text);
    let wanted = json!({ "input_file_id": file, "endpoint": "/v1/images/generations", "completion_window": "24h" });
    let batch = server.ask("POST", "/v1/batches", Some(&wanted));
    assert_eq!(batch.status, 200, "{}", batch.text());
    let path = format!("/v1/batches/{}", batch.json()["id"].as_str().expect("an id"));
    // The server ends in between, and goes on.
    server.stop();
    let server = Running::at(folder.path(), |_| {});
    let since = Instant::now();
    let done = loop {
        let batch = server.ask("GET", &path, None).json();
        if batch["status"] == "completed" {
            break batch;
        }
        assert!(batch["status"] == "in_progress" && since.elapsed() < Duration::from_secs(60), "{batch}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(done["request_counts"], json!({ "total": 5, "completed": 4, "failed": 1 }));
    let content = |name: &str| {
        let id = done[name].as_str().expect("a file");
        let text = server.ask("GET", &format!("/v1/files/{id}/content"), None).text();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<Value>>()
    };
    let good = content("output_file_id");
    assert_eq!(
        good.iter().map(|line| line["custom_id"].clone()).collect::<Vec<_>>(),
        ["line 0", "line 1", "line 2", "line 4"]
    );
    for line in &good {
        assert_eq!(line["response"]["status_code"], 200);
        assert!(line["response"]["body"]["data"][0]["b64_json"].is_string());
    }
    let bad = content("error_file_id");
    assert_eq!((bad.len(), &bad[0]["response"]["status_code"]), (1, &json!(422)));
    let jobs = server.ask("GET", "/v1/chiaro/jobs?limit=500", None).json();
    assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(4), "no line was drawn twice");
    assert_eq!(server.ask("DELETE", &format!("/v1/files/{file}"), None).json()["deleted"], true);
    assert_eq!(server.ask("GET", &format!("/v1/files/{file}"), None).status, 404);
}
