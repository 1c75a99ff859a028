//! Attacks, each refused, and the server lives. What they are learned from stands beside them.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use chiaro_server::{Key, Settings};
use serde_json::json;

use super::{Running, base64, png, small};

const KEY: &str = "a-key-of-this-test-0123";

fn alive(server: &Running) {
    assert_eq!(server.ask("GET", "/v1/chiaro/health/live", None).status, 200);
}

/// CVE-2024-28224 (Ollama): a page's own name that leads to this machine.
#[test]
fn other_names_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |settings| settings.hosts.push("studio.lan".into()));
    for host in [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "192.168.1.2",
        "0.0.0.0",
    ] {
        let answer = server.send("GET", "/v1/chiaro/models", &[("Host", host)], b"");
        assert_eq!(answer.status, 421, "{host}");
        assert_eq!(server.send("GET", "/", &[("Host", host)], b"").status, 421, "{host}");
    }
    for host in ["localhost", "localhost:1", "127.0.0.1", "[::1]:5", "studio.lan"] {
        assert_eq!(server.send("GET", "/v1/chiaro/models", &[("Host", host)], b"").status, 200, "{host}");
    }
    let twice = server.send("GET", "/v1/chiaro/models", &[("Host", "localhost"), ("Host", "evil.example")], b"");
    assert_eq!(twice.status, 400);
    alive(&server);
}

/// ComfyUI's #4850, and `Origin: null` that passed its check (CVE-2026-56674); pages of other sites, whatever they send.
#[test]
fn pages_of_other_origins_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |settings| settings.origins.push("https://studio.example".into()));
    let own = format!("http://{}", server.address);
    for origin in [
        "null",
        "http://evil.example",
        "https://evil.example",
        "file://",
        "",
        "x",
        "http://localhost",
        "https://studio.example.evil",
        "http://studio.example",
        "https://studio.example:444",
        "chrome-extension://abc",
    ] {
        for (method, path) in
            [("GET", "/v1/chiaro/models"), ("POST", "/sdapi/v1/interrupt"), ("OPTIONS", "/v1/chiaro/jobs")]
        {
            let answer = server.send(method, path, &[("Origin", origin)], b"");
            assert_eq!(answer.status, 403, "{method} {path} from {origin:?}");
            assert!(answer.header("access-control-allow-origin").is_none());
        }
    }
    assert_eq!(server.send("GET", "/v1/chiaro/models", &[("Origin", &own)], b"").status, 200);
    let allowed = server.send(
        "GET",
        "/v1/chiaro/models",
        &[("Origin", "https://studio.example"), ("Sec-Fetch-Site", "cross-site")],
        b"",
    );
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (200, Some("https://studio.example")));
    assert!(allowed.header("access-control-allow-credentials").is_none());
    let before = server.send("OPTIONS", "/v1/chiaro/jobs", &[("Origin", "https://studio.example")], b"");
    assert_eq!(before.status, 204);
    for site in ["cross-site", "same-site", "x"] {
        assert_eq!(server.send("GET", "/v1/chiaro/models", &[("Sec-Fetch-Site", site)], b"").status, 403, "{site}");
    }
    let link = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")];
    assert_eq!(server.send("GET", "/", &link, b"").status, 200, "a link to the page");
    assert_eq!(server.send("GET", "/v1/chiaro/jobs", &link, b"").status, 403, "a link to data");
    let frame = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")];
    assert_eq!(server.send("GET", "/", &frame, b"").status, 403, "a frame");
    alive(&server);
}

/// What a page may send to another site without asking first: forms and plain text (InvokeAI PR#363, ComfyUI-Manager PR#2818).
#[test]
fn other_kinds_of_content_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let body = small("a circle", 1).to_string();
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json-patch+json",
        "x",
    ] {
        for path in ["/v1/chiaro/jobs", "/sdapi/v1/txt2img", "/v1/images/generations", "/sdapi/v1/options"] {
            assert_eq!(
                server.send("POST", path, &[("Content-Type", kind)], body.as_bytes()).status,
                415,
                "{kind} {path}"
            );
        }
    }
    assert_eq!(server.send("POST", "/v1/chiaro/jobs", &[], body.as_bytes()).status, 415, "no kind");
    // Nothing changes by looking.
    for path in ["/sdapi/v1/txt2img", "/sdapi/v1/interrupt", "/v1/chiaro/plan", "/v1/chiaro/models/refresh"] {
        assert_eq!(server.ask("GET", path, None).status, 405, "{path}");
    }
    assert!(server.ask("GET", "/v1/chiaro/jobs", None).json()["jobs"].as_array().expect("a list").is_empty());
}

/// CVE-2024-37032 (a path in a digest), Gradio's in A1111 (#12822) and Fooocus (#4198), ComfyUI PR#14734.
#[test]
fn names_and_ids_are_no_paths() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret.png");
    std::fs::write(&secret, png(64, 64, [1; 4])).expect("written");
    let server = Running::at(&folder.path().join("server"), |_| {});
    let paths = [
        "../secret",
        "..%2f..%2fsecret.png",
        "%2e%2e/secret",
        "/etc/passwd",
        "C:\\x",
        "..\\secret",
        secret.to_str().expect("UTF-8"),
        "demo/../../secret",
        "\u{0}",
        "a\nb",
        ".",
        "..",
    ];
    for name in paths {
        let mut job = small("a circle", 1);
        for place in ["name", "vae", "unet", "text_encoder", "refiner", "oms", "preview_vae"] {
            job["model"] = json!({ place: name });
            let answer = server.ask("POST", "/v1/chiaro/jobs", Some(&job));
            assert!((400..500).contains(&answer.status), "{place} {name:?}: {}", answer.text());
            let told = answer.text();
            assert!(!told.contains(folder.path().to_str().expect("UTF-8")) || name.contains("secret"), "{told}");
        }
        for extra in [
            json!({ "adapters": [{ "file": name }] }),
            json!({ "embeddings": [name] }),
            json!({ "like": name }),
            json!({ "adapter_folder": name }),
            json!({ "controls": [{ "net": name }] }),
            json!({ "image": { "file": name } }),
            json!({ "device": { "name": name } }),
        ] {
            let mut job = small("a circle", 1);
            for (key, value) in extra.as_object().expect("an object") {
                job[key] = value.clone();
            }
            let answer = server.ask("POST", "/v1/chiaro/jobs", Some(&job));
            assert!((400..500).contains(&answer.status), "{extra}: {}", answer.text());
        }
        let set = server.ask("POST", "/sdapi/v1/options", Some(&json!({ "sd_model_checkpoint": name })));
        assert_eq!(set.status, if name.trim().is_empty() { 200 } else { 404 }, "{name:?}: {}", set.text());
        assert!((400..500).contains(
            &server.ask("POST", "/v1/images/generations", Some(&json!({ "prompt": "x", "model": name }))).status
        ));
    }
    for path in [
        "/../Cargo.toml",
        "/page/../../x",
        "/v1/chiaro/jobs/../../../secret.png",
        "/v1/chiaro/jobs/%2e%2e",
        "/v1/chiaro/jobs/x/images/0",
        "/v1/chiaro/jobs/..%2f..%2fsecret/images/0",
        "/v1/files/..%2fx/content",
        "/v1/files/file-..%2f/content",
        "/v1/batches/batch_..%2f",
        "//etc/passwd",
    ] {
        assert_eq!(server.ask("GET", path, None).status, 404, "{path}");
    }
    let lora = server.ask("POST", "/v1/chiaro/jobs", Some(&small("a circle <lora:../../secret:1>", 1)));
    assert!((400..500).contains(&lora.status), "{}", lora.text());
    alive(&server);
}

/// A1111's pictures by URL, CVE-2026-45401 (redirects), -45400 (parsers): nothing is fetched, nothing is even looked up.
#[test]
fn addresses_are_not_fetched() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let trap = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    trap.set_nonblocking(true).expect("set");
    let here = trap.local_addr().expect("an address");
    for address in [
        format!("http://{here}/x.png"),
        format!("HTTPS://{here}/"),
        format!("http://a@{here}"),
        "file:///etc/passwd".into(),
        format!("//{here}/x"),
    ] {
        let image = json!([address]);
        for (path, body) in [
            ("/sdapi/v1/img2img", json!({ "prompt": "x", "init_images": image, "width": 64, "height": 64 })),
            (
                "/sdapi/v1/img2img",
                json!({ "prompt": "x", "init_images": [base64(&png(64, 64, [9; 4]))], "mask": address, "width": 64, "height": 64 }),
            ),
            ("/sdapi/v1/png-info", json!({ "image": address })),
            ("/v1/chiaro/recipe", json!({ "image": address })),
            ("/v1/images/edits", json!({ "prompt": "x", "image": address })),
            ("/v1/chiaro/jobs", json!({ "version": 1, "request": { "prompt": "x" }, "image": { "file": address } })),
        ] {
            let answer = server.ask("POST", path, Some(&body));
            assert!((400..500).contains(&answer.status), "{path} {address}: {} {}", answer.status, answer.text());
        }
    }
    assert!(trap.accept().is_err(), "somebody came");
    alive(&server);
}

/// Bodies that are too large, too deep, or unpack to more than they are.
#[test]
fn bodies_that_burst_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let json = [("Content-Type", "application/json")];
    let large = vec![b' '; (64 << 20) + 1];
    assert_eq!(server.send("POST", "/v1/chiaro/jobs", &json, &large).status, 413);
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    assert_eq!(server.send("POST", "/v1/chiaro/jobs", &json, &deep).status, 400);
    let nested = format!("{{\"version\":1,\"request\":{}1{}}}", "{\"a\":".repeat(100), "}".repeat(100));
    assert!((400..500).contains(&server.send("POST", "/v1/chiaro/jobs", &json, nested.as_bytes()).status));
    for broken in [&b"{"[..], b"\xff\xfe", b"null", b"[]", b"1", b"\"x\"", b"{\"a\":1e999}"] {
        for path in ["/v1/chiaro/jobs", "/v1/images/generations", "/sdapi/v1/txt2img", "/sdapi/v1/options"] {
            let status = server.send("POST", path, &json, broken).status;
            assert!((400..500).contains(&status), "{path} {broken:?}: {status}");
        }
    }
    // A PNG whose head promises 60000 × 60000 pixels.
    let mut bomb = png(8, 8, [0; 4]);
    bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    for bytes in [bomb, vec![0; 100], png(64, 64, [0; 4])[..60].to_vec()] {
        let body = json!({ "prompt": "x", "init_images": [base64(&bytes)], "width": 64, "height": 64 });
        let answer = server.ask("POST", "/sdapi/v1/img2img", Some(&body));
        assert!((400..500).contains(&answer.status), "{}", answer.text());
        let body =
            json!({ "version": 1, "request": { "prompt": "x" }, "image": { "file": { "bytes": base64(&bytes) } } });
        let answer = server.ask("POST", "/v1/chiaro/jobs", Some(&body));
        assert!((400..500).contains(&answer.status), "{} {}", answer.status, answer.text());
    }
    let many: String = (0..1000).map(|i| format!("X-{i}: x\r\n")).collect();
    let mut stream = server.connect();
    let _ = stream.write_all(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n").as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    alive(&server);
}

/// Clients that send a letter now and then do not keep others out.
#[test]
fn slow_clients_are_let_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let mut slow: Vec<_> = (0..64).map(|_| server.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET / HT").expect("written");
    }
    alive(&server);
    let since = Instant::now();
    let mut byte = [0; 256];
    let read = slow[0].read(&mut byte);
    assert!(read.is_ok(), "{read:?}");
    assert!(since.elapsed() < Duration::from_secs(40), "{:?}", since.elapsed());
}

/// Clients that ask and do not read are let go, too.
#[test]
fn clients_that_do_not_read_are_let_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let mut stream = server.connect();
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let asks = "GET /v1/chiaro/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    let since = Instant::now();
    let ended = loop {
        match stream.write(asks.as_bytes()) {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(e) => break e,
        }
        assert!(since.elapsed() < Duration::from_secs(60), "it is still there");
    };
    assert!(since.elapsed() > Duration::from_secs(5), "{ended}: at once");
    alive(&server);
}

#[test]
fn a_key_guards_every_address_but_the_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let server =
        Running::at(folder.path(), |settings: &mut Settings| settings.key = Some(Key::new(KEY).expect("a key")));
    let addresses = super::openapi::addresses();
    assert!(addresses.len() > 50, "{addresses:?}");
    let basic = base64(format!("anyone:{KEY}").as_bytes());
    for (method, path) in addresses {
        let path = path.replace("{id}", &"0".repeat(31)).replace("{index}", "0").replace("{model}", "demo");
        for wrong in [
            vec![],
            vec![("X-Api-Key", "a-key-of-this-test-0124")],
            vec![("Authorization", "Bearer x")],
            vec![("Authorization", "Basic eDp5")],
        ] {
            let answer = server.send(&method, &path, &wrong, b"");
            assert_eq!(answer.status, 401, "{method} {path} {wrong:?}");
            assert!(!answer.text().contains(KEY));
        }
    }
    let shown = [
        ("X-Api-Key", KEY.to_owned()),
        ("Authorization", format!("Bearer {KEY}")),
        ("Authorization", format!("Basic {basic}")),
    ];
    for (name, value) in &shown {
        assert_eq!(server.send("GET", "/v1/models", &[(name, value)], b"").status, 200, "{name}");
    }
    for path in ["/", "/page.js", "/page.css", "/favicon.ico"] {
        assert_eq!(server.ask("GET", path, None).status, 200, "{path}");
    }
    // Without a key of the server's, what clients always send is passed over.
    let open = Running::at(&folder.path().join("open"), |_| {});
    assert_eq!(open.send("GET", "/v1/models", &[("Authorization", "Basic Og==")], b"").status, 200);
}

/// What browsers are told of every answer; errors tell no path.
#[test]
fn every_answer_says_what_browsers_must_not_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    for (method, path, status) in [
        ("GET", "/", 200),
        ("GET", "/nothing", 404),
        ("GET", "/v1/models", 200),
        ("POST", "/sdapi/v1/txt2img", 422),
        ("PUT", "/v1/models", 405),
    ] {
        let answer = server.ask(method, path, None);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(
            policy.contains("default-src 'self'")
                && policy.contains("frame-ancestors 'none'")
                && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        assert!(answer.header("set-cookie").is_none() && answer.header("location").is_none());
    }
    let flags = server.ask("GET", "/sdapi/v1/cmd-flags", None);
    assert_eq!(flags.text(), "{}");
}
