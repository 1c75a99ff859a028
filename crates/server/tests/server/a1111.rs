//! AUTOMATIC1111's interface: calls in the orders in which its clients make them (SillyTavern, `src/endpoints/stable-diffusion.js`; Open WebUI,
//! `routers/images.py`; the Photoshop plugin of AbdullahAlfaraj), and its fields.

use std::io::Write;

use serde_json::{Value, json};

use super::{Running, base64, from_base64, png, until};

fn draw(server: &Running, change: impl FnOnce(&mut Value)) -> super::Answer {
    let mut body = json!({ "prompt": "a red circle", "width": 64, "height": 64, "steps": 3, "seed": 5, "sampler_name": "Euler a" });
    change(&mut body);
    server.ask("POST", "/sdapi/v1/txt2img", Some(&body))
}

fn first(answer: &super::Answer) -> Vec<u8> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    from_base64(answer.json()["images"][0].as_str().expect("a picture"))
}

#[test]
fn silly_tavern() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    // It always sends Basic, with an empty name and password where there are none.
    let auth = [("Authorization", "Basic Og==")];
    let get = |path: &str| {
        let answer = server.ask_with("GET", path, &auth, None);
        assert_eq!(answer.status, 200, "{path}");
        answer.json()
    };
    assert_eq!(get("/sdapi/v1/options")["sd_model_checkpoint"], "demo");
    assert!(get("/sdapi/v1/samplers").as_array().is_some_and(|all| all.iter().any(|one| one["name"] == "DPM++ 2M")));
    assert!(get("/sdapi/v1/schedulers").as_array().is_some_and(|all| all.iter().any(|one| one["name"] == "karras")));
    assert_eq!(get("/sdapi/v1/sd-models")[0]["title"], "demo");
    for list in ["sd-vae", "upscalers", "latent-upscale-modes"] {
        assert!(get(&format!("/sdapi/v1/{list}")).is_array());
    }
    let set = server.ask_with("POST", "/sdapi/v1/options", &auth, Some(&json!({ "sd_model_checkpoint": "demo" })));
    assert_eq!((set.status, set.text()), (200, "{}".into()));
    let progress = get("/sdapi/v1/progress");
    assert_eq!((&progress["progress"], &progress["state"]["job_count"]), (&json!(0.0), &json!(0)));
    let answer = server.ask_with(
        "POST",
        "/sdapi/v1/txt2img",
        &auth,
        Some(&json!({
            "prompt": "a red circle", "negative_prompt": "fog", "sampler_name": "Euler a", "scheduler": "Automatic", "steps": 2, "cfg_scale": 7,
            "width": 64, "height": 64, "restore_faces": false, "enable_hr": false, "hr_upscaler": "Latent", "hr_scale": 2,
            "hr_additional_modules": [], "denoising_strength": 0.7, "hr_second_pass_steps": 0, "seed": -1, "override_settings": { "CLIP_stop_at_last_layers": 1 },
            "override_settings_restore_afterwards": true, "clip_skip": 1, "save_images": true, "send_images": true, "do_not_save_grid": false,
            "do_not_save_samples": false,
        })),
    );
    assert!(first(&answer).starts_with(b"\x89PNG"));
    assert_eq!(server.ask_with("POST", "/sdapi/v1/interrupt", &auth, None).text(), "{}");
}

#[test]
fn open_webui() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    // It reads the options, changes one, and sends all of them back.
    let mut options = server.ask("GET", "/sdapi/v1/options", None).json();
    options["sd_model_checkpoint"] = json!("demo");
    let set = server.ask("POST", "/sdapi/v1/options", Some(&options));
    assert_eq!((set.status, set.header("x-chiaro-warnings")), (200, None));
    let body = json!({ "prompt": "a red circle", "batch_size": 1, "width": 64, "height": 64, "steps": 2, "negative_prompt": "fog" });
    let answer = server.ask("POST", "/sdapi/v1/txt2img", Some(&body));
    assert!(first(&answer).starts_with(b"\x89PNG"));
    let info: Value = serde_json::from_str(answer.json()["info"].as_str().expect("a text")).expect("JSON in it");
    assert_eq!(
        (&info["prompt"], &info["negative_prompt"], &info["steps"]),
        (&json!("a red circle"), &json!("fog"), &json!(2))
    );
    assert!(info["infotexts"][0].as_str().is_some_and(|text| text.contains("Steps: 2")));
}

#[test]
fn photoshop() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    for path in [
        "progress?skip_current_image=true",
        "sd-models",
        "samplers",
        "options",
        "loras",
        "embeddings",
        "scripts",
        "script-info",
        "memory",
    ] {
        assert_eq!(server.ask("GET", &format!("/sdapi/v1/{path}"), None).status, 200, "{path}");
    }
    let image = base64(&png(96, 64, [200, 100, 50, 255]));
    let mask = base64(&png(96, 64, [0, 0, 0, 255]));
    let body = json!({
        "prompt": "a circle", "init_images": [image], "mask": mask, "denoising_strength": 0.5, "width": 96, "height": 64, "steps": 2,
        "mask_blur": 0, "inpainting_fill": 1, "inpaint_full_res": false, "resize_mode": 0, "include_init_images": true, "seed": 1,
        "inpainting_mask_invert": 0, "force_task_id": "task(1)",
    });
    let answer = server.ask("POST", "/sdapi/v1/img2img", Some(&body));
    let drawn = chiaro::image::decode_photo("x".as_ref(), &first(&answer)).expect("a picture");
    assert!(drawn.image.data.chunks_exact(3).all(|pixel| pixel == [200, 100, 50]), "black keeps all");
    let task =
        server.ask("POST", "/internal/progress", Some(&json!({ "id_task": "task(1)", "id_live_preview": -1 }))).json();
    assert_eq!((&task["completed"], &task["active"]), (&json!(true), &json!(false)));
    let info = server.ask("POST", "/sdapi/v1/png-info", Some(&json!({ "image": answer.json()["images"][0] }))).json();
    assert!(info["info"].as_str().is_some_and(|text| text.starts_with("a circle")), "{info}");
    assert_eq!(info["parameters"]["Steps"], "2");
}

#[test]
fn fields_do_what_they_say() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let plain = first(&draw(&server, |_| {}));
    assert!(first(&draw(&server, |_| {})) == plain, "the same seed");
    let pixels = |bytes: &[u8]| chiaro::image::decode_photo("x".as_ref(), bytes).expect("a picture").image;
    for (what, change) in [
        ("seed", json!({ "seed": 6 })),
        ("steps", json!({ "steps": 4 })),
        ("sampler", json!({ "sampler_name": "DPM++ 2M" })),
        ("scheduler", json!({ "scheduler": "Karras" })),
        ("cfg_scale", json!({ "cfg_scale": 2 })),
        ("subseed", json!({ "subseed": 1, "subseed_strength": 0.5 })),
        ("oms", json!({ "oms": false })),
        ("script", json!({ "alwayson_scripts": { "OMS": { "args": [{ "enabled": false }] } } })),
        ("oms prompt", json!({ "oms": { "prompt": "a solid white image", "guidance_scale": 4 } })),
    ] {
        let answer = draw(&server, |body| {
            body.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone())
        });
        assert!(pixels(&first(&answer)) != pixels(&plain), "{what}");
    }
    let two = draw(&server, |body| (body["batch_size"], body["n_iter"]) = (json!(1), json!(2)));
    let images = two.json()["images"].as_array().cloned().expect("pictures");
    assert_eq!(images.len(), 2);
    assert!(pixels(&from_base64(images[0].as_str().expect("a picture"))) == pixels(&plain));
    let info: Value = serde_json::from_str(two.json()["info"].as_str().expect("a text")).expect("JSON");
    assert_eq!(info["all_seeds"], json!([5, 6]));
    let large = draw(&server, |body| {
        (body["enable_hr"], body["hr_scale"], body["denoising_strength"]) = (json!(true), json!(2), json!(0.5))
    });
    let large = pixels(&first(&large));
    assert_eq!((large.width, large.height), (128, 128));
}

/// What is unknown is told and passed over; what is known and cannot be done is refused.
#[test]
fn nothing_is_passed_over_in_silence() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let answer = draw(&server, |body| body["new_field"] = json!(1));
    assert_eq!(answer.status, 200);
    assert!(answer.header("x-chiaro-warnings").is_some_and(|told| told.contains("new_field")));
    assert!(answer.json()["info"].as_str().is_some_and(|info| info.contains("new_field")));
    for (name, value) in [
        ("restore_faces", json!(true)),
        ("tiling", json!(true)),
        ("styles", json!(["x"])),
        ("script_name", json!("x/y plot")),
        ("s_churn", json!(1)),
        ("width", json!(65)),
        ("steps", json!(0)),
        ("steps", json!("x")),
        ("sampler_name", json!("Restart")),
        ("scheduler", json!("Nothing")),
        ("batch_size", json!(0)),
        ("n_iter", json!(1000)),
        ("oms", json!({ "promt": "x" })),
        ("prompt", json!(1)),
        ("cfg_scale", json!(-1)),
    ] {
        let answer = draw(&server, |body| body[name] = value.clone());
        assert_eq!(answer.status, 422, "{name}: {value}: {}", answer.text());
        let told = answer.json();
        assert!(["error", "detail", "body", "errors"].iter().all(|key| told.get(key).is_some()), "{told}");
    }
    let module =
        json!({ "ControlNet": { "args": [{ "enabled": true, "module": "canny", "model": "x", "image": "x" }] } });
    let answer = draw(&server, |body| body["alwayson_scripts"] = module);
    assert_eq!(answer.status, 422, "{}", answer.text());
}

#[test]
fn what_is_not_there_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    for path in ["/sdapi/v1/extra-single-image", "/sdapi/v1/extra-batch-images", "/sdapi/v1/interrogate"] {
        let answer = server.ask("POST", path, Some(&json!({ "image": "x" })));
        assert_eq!((answer.status, answer.json()["error"].clone()), (501, json!("not_implemented")), "{path}");
    }
    assert!(
        server.ask("GET", "/config", None).json()["version"]
            .as_str()
            .is_some_and(|version| version.starts_with("chiaro"))
    );
    assert_eq!(server.ask("GET", "/internal/ping", None).status, 200);
}

/// Only what is masked is drawn, at the size that was asked for, and put back.
#[test]
fn only_what_is_masked_is_drawn() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let mut mask = chiaro::image::Rgb8Image { width: 128, height: 128, data: vec![0; 128 * 128 * 3] };
    for y in 32..64 {
        mask.data[(y * 128 + 32) * 3..(y * 128 + 64) * 3].fill(255);
    }
    let (mask, _) = chiaro::image::encode_picture(chiaro::image::PictureFormat::Png, &mask, &[]).expect("a PNG");
    let body = json!({
        "prompt": "a black square", "init_images": [base64(&png(128, 128, [90, 120, 200, 255]))], "mask": base64(&mask), "mask_blur": 0,
        "inpaint_full_res": true, "inpaint_full_res_padding": 8, "inpainting_fill": 0, "denoising_strength": 1, "width": 64, "height": 64,
        "steps": 3, "seed": 1,
    });
    let answer = server.ask("POST", "/sdapi/v1/img2img", Some(&body));
    let drawn = chiaro::image::decode_photo("x".as_ref(), &first(&answer)).expect("a picture").image;
    assert_eq!((drawn.width, drawn.height), (128, 128));
    let mut changed = 0;
    for (at, pixel) in drawn.data.chunks_exact(3).enumerate() {
        let inside = (32..64).contains(&(at % 128)) && (32..64).contains(&(at / 128));
        assert!(inside || pixel == [90, 120, 200], "{at}: {pixel:?}");
        changed += usize::from(inside && pixel != [90, 120, 200]);
    }
    assert!(changed > 500, "{changed}");
}

/// Who goes away is not drawn for (SillyTavern relies on it), and interrupting gives what there is.
#[test]
fn callers_who_leave_are_not_drawn_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    let body = json!({ "prompt": "a circle", "width": 64, "height": 64, "steps": 1000 }).to_string();
    let state = |at: usize| server.ask("GET", "/v1/chiaro/jobs", None).json()["jobs"][at]["state"].clone();
    let head = format!(
        "POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = server.connect();
    stream.write_all(format!("{head}{body}").as_bytes()).expect("written");
    until("it runs", || state(0) == "running");
    drop(stream);
    until("it ends", || state(0) != "running");
    assert_eq!(state(0), "cancelled");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| draw(&server, |body| body["steps"] = json!(400)));
        until("it draws", || {
            server.ask("GET", "/sdapi/v1/progress", None).json()["state"]["sampling_step"].as_u64() > Some(0)
        });
        let progress = server.ask("GET", "/sdapi/v1/progress", None).json();
        assert_eq!(progress["state"]["sampling_steps"], 400, "{progress}");
        // Others' jobs are not stopped by it.
        server.ask_with("POST", "/sdapi/v1/interrupt", &[("X-Client-Id", "another")], None);
        assert_eq!(state(0), "running");
        server.ask("POST", "/sdapi/v1/interrupt", None);
        let answer = waiting.join().expect("a client");
        assert_eq!((answer.status, answer.json()["images"].as_array().map(Vec::len)), (200, Some(0)));
    });
}

/// A preview is drawn when somebody looks.
#[test]
fn progress_shows_the_picture() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| draw(&server, |body| body["steps"] = json!(300)));
        let image = loop {
            let progress = server.ask("GET", "/sdapi/v1/progress", None).json();
            if let Some(image) = progress["current_image"].as_str() {
                break from_base64(image);
            }
            assert!(!waiting.is_finished(), "no preview came");
        };
        assert!(image.starts_with(b"\x89PNG"));
        assert_eq!(waiting.join().expect("a client").status, 200);
    });
}
