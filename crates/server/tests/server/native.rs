//! Our own interface.

use std::io::{BufRead, BufReader, Write};

use serde_json::{Value, json};

use super::{Running, base64, png, small, until};

#[test]
fn a_job_goes_its_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let mut job = small("a solid black image", 7);
    job["request"]["count"] = json!(2);
    let answer = server.ask("POST", "/v1/chiaro/jobs", Some(&json!({ "job": job, "preview_every": 1 })));
    assert_eq!(answer.status, 202, "{}", answer.text());
    let handed = answer.json();
    let id = handed["id"].as_str().expect("an id");
    assert!(handed["plan"]["peak_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{handed}");
    let events = server.ask("GET", &format!("/v1/chiaro/jobs/{id}/events"), None).text();
    let names: Vec<&str> = events.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    for name in ["queued", "started", "encoded", "one_more_step", "step", "preview", "image", "ended"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert_eq!(names.last(), Some(&"ended"));
    // From where one was interrupted on.
    let ids: Vec<&str> = events.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    let rest = server
        .ask_with("GET", &format!("/v1/chiaro/jobs/{id}/events"), &[("Last-Event-ID", ids[ids.len() - 3])], None)
        .text();
    assert_eq!(rest.matches("event: ").count(), 2, "{rest}");
    let done = server.wait(id);
    assert_eq!(
        (&done["state"], &done["oms"], done["images"].as_array().map(Vec::len)),
        (&json!("completed"), &json!(true), Some(2))
    );
    let mut means = Vec::new();
    for image in done["images"].as_array().expect("pictures") {
        let answer = server.ask("GET", image["url"].as_str().expect("an address"), None);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("image/png")));
        assert_eq!(Some(answer.body.len() as u64), image["bytes"].as_u64());
        let recipe = server.ask("POST", "/v1/chiaro/recipe", Some(&json!({ "image": base64(&answer.body) }))).json();
        assert_eq!(recipe["job"]["request"]["prompt"], "a solid black image", "{recipe}");
        assert_eq!(recipe["job"]["request"]["seed"], image["seed"]);
        means.push(image["mean"].as_f64().expect("a number"));
    }
    assert!(means.iter().all(|mean| (0.0..=1.0).contains(mean)), "{means:?}");
    assert_eq!(server.ask("GET", &format!("/v1/chiaro/jobs/{id}/images/2"), None).status, 404);
    let removed = server.ask("DELETE", &format!("/v1/chiaro/jobs/{id}"), None).json();
    assert_eq!(removed["removed"], true);
    assert_eq!(server.ask("GET", &format!("/v1/chiaro/jobs/{id}"), None).status, 404);
    assert!(!folder.path().join("jobs").join(id).exists());
}

/// The same picture as the library draws, and again the same.
#[test]
fn pictures_are_the_librarys() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let job = small("a red circle", 3);
    let ids = [server.submit(&job), server.submit(&job)];
    let drawn = ids.map(|id| {
        server.wait(&id);
        server.ask("GET", &format!("/v1/chiaro/jobs/{id}/images/0"), None).body
    });
    assert!(drawn[0] == drawn[1]);
    let job = chiaro::order::Job::from_json(&job.to_string()).expect("a job");
    let order = job.order(&chiaro::lookup::Places::default()).expect("an order");
    let device = chiaro::Device::choose("cpu", chiaro::Precision::Auto).expect("the processor");
    let pipeline =
        chiaro::Pipeline::load_with(&order.load.model, &order.load.overrides, order.load.oms.as_ref(), device)
            .expect("a model");
    let pictures =
        pipeline.generate(order.request).expect("a request").filter_map(|event| match event.expect("drawn") {
            chiaro::Event::Picture(picture) => Some(picture.png().expect("a PNG")),
            _ => None,
        });
    assert!(pictures.collect::<Vec<_>>() == [drawn[0].clone()]);
}

/// Requests of a model that is loaded cost no upload.
#[test]
fn the_second_picture_uploads_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let counter = |name: &str| server.counter(name);
    server.wait(&server.submit(&small("a red circle", 1)));
    let before = (counter("chiaro_uploaded_bytes_total"), counter("chiaro_compiled_programs_total"));
    assert!(before.0 > 0.0 && before.1 > 0.0, "{before:?}");
    for seed in 2..5 {
        server.wait(&server.submit(&small("a blue circle", seed)));
    }
    assert_eq!((counter("chiaro_uploaded_bytes_total"), counter("chiaro_compiled_programs_total")), before);
    assert_eq!(counter("chiaro_images_total"), 4.0);
    assert_eq!(counter("chiaro_job_seconds_count"), 4.0);
}

#[test]
fn repeats_with_a_key_are_one_job() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let hand_in = |client: &str, key: &str| {
        let headers = [("Idempotency-Key", key), ("X-Client-Id", client)];
        let answer = server.ask_with("POST", "/v1/chiaro/jobs", &headers, Some(&small("a circle", 1)));
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()["id"].clone()
    };
    let first = hand_in("a", "k");
    assert_eq!(hand_in("a", "k"), first);
    assert_ne!(hand_in("a", "l"), first);
    assert_ne!(hand_in("b", "k"), first);
    let long = "x".repeat(300);
    let refused =
        server.ask_with("POST", "/v1/chiaro/jobs", &[("Idempotency-Key", &long)], Some(&small("a circle", 1)));
    assert_eq!(refused.status, 400);
}

#[test]
fn waiting_jobs_are_moved_and_cancelled_and_the_queue_has_an_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |settings| (settings.max_queue, settings.together) = (3, 1));
    let mut long = small("a circle", 1);
    long["request"]["num_inference_steps"] = json!(1000);
    let running = server.submit(&long);
    until("it runs", || server.ask("GET", &format!("/v1/chiaro/jobs/{running}"), None).json()["state"] == "running");
    let waiting: Vec<String> = (0..3).map(|seed| server.submit(&small("a square", seed))).collect();
    let full = server.ask("POST", "/v1/chiaro/jobs", Some(&small("a square", 9)));
    assert_eq!(full.status, 429, "{}", full.text());
    assert!(
        full.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok()).is_some_and(|seconds| seconds > 0)
    );
    let position = |id: &str| server.ask("GET", &format!("/v1/chiaro/jobs/{id}"), None).json()["position"].clone();
    assert_eq!(position(&waiting[2]), 2);
    let moved = server.ask("PATCH", &format!("/v1/chiaro/jobs/{}", waiting[2]), Some(&json!({ "position": 0 })));
    assert_eq!((moved.status, moved.json()["position"].clone()), (200, json!(0)), "{}", moved.text());
    assert_eq!(position(&waiting[0]), 1);
    for id in waiting.iter().chain([&running]) {
        assert_eq!(server.ask("DELETE", &format!("/v1/chiaro/jobs/{id}"), None).json()["cancelled"], true);
        assert_eq!(server.wait(id)["state"], "cancelled");
    }
    let again = server.ask("PATCH", &format!("/v1/chiaro/jobs/{running}"), Some(&json!({ "position": 0 })));
    assert_eq!(again.status, 409);
}

#[test]
fn what_is_wrong_is_told_with_its_field() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |settings| settings.memory_bytes = Some(64 << 20));
    let with = |change: &dyn Fn(&mut Value)| {
        let mut job = small("a circle", 1);
        change(&mut job);
        let answer = server.ask("POST", "/v1/chiaro/jobs", Some(&job));
        (answer.status, answer.json()["error"].clone())
    };
    let (status, error) = with(&|job| job["request"]["promt"] = json!("x"));
    assert_eq!(status, 422);
    assert!(error["message"].as_str().is_some_and(|told| told.contains("did you mean prompt?")), "{error}");
    let (status, error) = with(&|job| job["request"]["width"] = json!(65));
    assert_eq!((status, &error["field"]), (422, &json!("request.width")));
    assert_eq!(with(&|job| job["request"]["count"] = json!(65)).0, 422);
    assert_eq!(with(&|job| job["request"]["prompt"] = json!("")).0, 422);
    assert_eq!(with(&|job| job["version"] = json!(2)).0, 422);
    assert_eq!(with(&|job| job["model"] = json!({ "name": "nothing" })).0, 404);
    let (status, error) = with(&|job| {
        job["request"]["width"] = json!(2048);
        job["request"]["height"] = json!(2048);
    });
    assert_eq!((status, &error["code"]), (413, &json!("out_of_memory")), "{error}");
    assert!(error["needed_bytes"].as_u64() > error["available_bytes"].as_u64(), "{error}");
    assert!(server.ask("GET", "/v1/chiaro/jobs", None).json()["jobs"].as_array().is_some_and(Vec::is_empty));
    assert_eq!(std::fs::read_dir(folder.path().join("jobs")).expect("a folder").count(), 0);
}

#[test]
fn lists_are_truthful() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let models = server.ask("GET", "/v1/chiaro/models", None).json();
    assert_eq!((&models["default"], &models["models"][0]["name"]), (&json!("demo"), &json!("demo")));
    assert!(
        server.ask("GET", "/v1/chiaro/samplers", None).json()["samplers"].as_array().is_some_and(|all| all.len() > 15)
    );
    let count = |prompt: &str| {
        server.ask("POST", "/v1/chiaro/tokens", Some(&json!({ "prompt": prompt }))).json()["tokenizers"][0]["count"]
            .clone()
    };
    assert_eq!((count(""), count("a red circle")), (json!(0), json!(3)));
    let plan = server.ask("POST", "/v1/chiaro/plan", Some(&small("a circle", 1))).json();
    assert!(plan["stages"].as_array().is_some_and(|stages| stages.len() >= 3), "{plan}");
    assert_eq!(server.ask("GET", "/v1/chiaro/health/ready", None).status, 200);
    let device = server.ask("GET", "/v1/chiaro/device", None).json();
    assert_eq!(device["name"], "cpu", "{device}");
}

/// A picture to start from, as base64 and as a data URI, and its mask.
#[test]
fn pictures_start_from_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let (image, mask) = (png(64, 64, [200, 30, 30, 255]), png(64, 64, [0, 0, 0, 255]));
    let mut job = small("a blue square", 5);
    job["image"] = json!({ "file": { "bytes": base64(&image) }, "mask": format!("data:image/png;base64,{}", base64(&mask)), "strength": 1 });
    let done = server.wait(&server.submit(&job));
    assert_eq!(done["state"], "completed", "{done}");
    assert!(done["job"]["image"]["file"]["bytes"].is_number(), "{done}");
    // Nothing is repainted where the mask is black.
    let answer = server.ask("GET", done["images"][0]["url"].as_str().expect("an address"), None);
    let drawn = chiaro::image::decode_photo("x".as_ref(), &answer.body).expect("a picture");
    assert!(drawn.image.data.chunks_exact(3).all(|pixel| pixel == [200, 30, 30]));
}

/// Jobs of one size share forwards, others are drawn beside them; one that is stopped on the way changes nothing of the others, and each picture is
/// the one that it is alone.
#[test]
fn shared_forwards_are_seen_in_no_picture() {
    let folder = tempfile::tempdir().expect("a folder");
    let jobs: Vec<Value> = (0..8)
        .map(|at| {
            let mut job = small(["a red circle", "a solid black image", "a blue square", "a house"][at % 4], at as u64);
            job["request"]["num_inference_steps"] = json!(12 + 3 * at);
            if at == 5 {
                job["request"]["width"] = json!(96);
            }
            if at == 6 {
                job["request"]["guidance_scale"] = json!(3);
                job["model"] = json!({ "oms": "off" });
            }
            job
        })
        .collect();
    let mut drawn = Vec::new();
    for together in [1, 4] {
        let server = Running::at(&folder.path().join(together.to_string()), |settings| settings.together = together);
        let mut stopped = small("a star", 9);
        stopped["request"]["num_inference_steps"] = json!(900);
        let stopped = server.submit(&stopped);
        until("it runs", || {
            server.ask("GET", &format!("/v1/chiaro/jobs/{stopped}"), None).json()["state"] == "running"
        });
        let ids: Vec<String> = jobs.iter().map(|job| server.submit(job)).collect();
        if together > 1 {
            until("forwards are shared", || server.counter("chiaro_shared_forwards_total") > 3.0);
        }
        assert_eq!(server.ask("DELETE", &format!("/v1/chiaro/jobs/{stopped}"), None).json()["cancelled"], true);
        drawn.push(ids.iter().map(|id| server.wait(id)["images"][0]["sha256"].clone()).collect::<Vec<_>>());
        assert_eq!(server.wait(&stopped)["state"], "cancelled");
        let (forwards, steps) =
            (server.counter("chiaro_shared_forwards_total"), server.counter("chiaro_shared_steps_total"));
        assert!(
            if together == 1 { forwards == 0.0 } else { steps >= 2.0 * forwards && steps > 100.0 },
            "{forwards}, {steps}"
        );
    }
    assert_eq!(drawn[0], drawn[1]);
    assert!(drawn[0].iter().all(Value::is_string), "{drawn:?}");
}

/// Many clients at once: each gets what it asked for, once.
#[test]
fn many_clients_lose_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let ids: Vec<String> = std::thread::scope(|scope| {
        let hand_in = |client: u64| {
            let server = &server;
            scope.spawn(move || {
                let name = format!("client {client}");
                let mut ids = Vec::new();
                for seed in 0..2 {
                    let answer = server.ask_with(
                        "POST",
                        "/v1/chiaro/jobs",
                        &[("X-Client-Id", &name)],
                        Some(&small("a circle", client * 2 + seed)),
                    );
                    assert_eq!(answer.status, 202, "{}", answer.text());
                    ids.push(answer.json()["id"].as_str().expect("an id").to_owned());
                }
                ids
            })
        };
        let threads: Vec<_> = (0..16).map(hand_in).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a client")).collect()
    });
    for (at, id) in ids.iter().enumerate() {
        let done = server.wait(id);
        assert_eq!((&done["state"], &done["images"][0]["seed"]), (&json!("completed"), &json!(at)), "{done}");
    }
    let listed = server.ask("GET", "/v1/chiaro/jobs?limit=500&state=completed", None).json();
    assert_eq!(listed["jobs"].as_array().map(Vec::len), Some(32));
}

/// A connection that stays open is answered again and again.
#[test]
fn connections_are_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let mut stream = server.connect();
    for _ in 0..3 {
        stream.write_all(b"GET /v1/chiaro/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("written");
        let mut reader = BufReader::new(&stream);
        let mut line = String::new();
        reader.read_line(&mut line).expect("an answer");
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        while !line.trim().is_empty() {
            line.clear();
            reader.read_line(&mut line).expect("headers");
        }
        let mut body = [0; 15];
        std::io::Read::read_exact(&mut reader, &mut body).expect("a body");
    }
}
