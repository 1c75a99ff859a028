//! A job → what to load, and the request: strictness, versions, round trips, files as paths and as bytes.

use std::path::Path;

use chiaro::image::{Rgb8Image, write_png};
use chiaro::order::{Asked, ControlJob, File, ImageJob, JOB, Job, Preset, option_of};
use chiaro::pipeline::{Field, Kind, Places, REQUEST, Request, Source};
use chiaro::sampling::{OmsForm, SigmaSchedule, SolverKind, TimestepSpacing};
use serde_json::{Value, json};

/// A value of a field's kind, in its range and not its default.
fn sample(field: &Field) -> Value {
    match field.kind {
        Kind::Text => json!("some words"),
        Kind::Switch => json!(true),
        Kind::Whole { low, high, step: 1 } => json!((low + 2).min(high)),
        Kind::Whole { low, step, .. } => json!(low + step),
        Kind::Wholes { low, .. } => json!([low + 2, low + 3]),
        Kind::Number(range) => json!(range.low + (range.high - range.low) / 4.0),
        Kind::Pair(range) => json!([range.low, range.low + (range.high - range.low) / 2.0]),
        Kind::OneOf(words) => json!(words.last().expect("a word")),
        Kind::Named(parse) => {
            let known = ["a1111", "heun", "karras", "q4_0", "comfy"];
            json!(known.into_iter().find(|name| parse(name).is_ok()).expect("a name of the kind"))
        }
        Kind::Place | Kind::File => json!("some/where"),
    }
}

/// Puts a value at a key of the rows; lists have one entry.
fn put(value: &mut Value, key: &str, new: Value) {
    let mut place = value;
    for name in key.split('.') {
        let (name, is_list) = name.strip_suffix("[]").map_or((name, false), |name| (name, true));
        if !place[name].is_object() && !place[name].is_array() {
            place[name] = if is_list { json!([{}]) } else { json!({}) };
        }
        place = if is_list { &mut place[name][0] } else { &mut place[name] };
    }
    *place = new;
}

/// Every row with its place in a job. An OMS form is a word or an object: the word is left out.
fn rows() -> Vec<(String, &'static Field)> {
    let request = REQUEST.iter().filter(|field| field.key != "oms.form");
    JOB.iter().map(|f| (f.key.to_owned(), f)).chain(request.map(|f| (format!("request.{}", f.key), f))).collect()
}

/// A job in which every field is said.
fn whole() -> Value {
    let mut job = json!({});
    for (key, field) in rows() {
        put(&mut job, &key, sample(field));
    }
    job["version"] = json!(1);
    job
}

fn refused(job: &Value) -> String {
    Job::from_json(&job.to_string()).expect_err("it is refused").to_string()
}

#[test]
fn every_row_is_read_and_written() {
    let job = whole();
    let read = Job::from_json(&job.to_string()).expect("every field is known");
    let written: Value = serde_json::from_str(&read.to_json()).expect("JSON");
    assert_eq!(written, job, "nothing is lost, nothing is added");
    assert_eq!(Job::from_json(&read.to_json()).expect("its own"), read);
    let inside: Vec<Job> = serde_json::from_value(json!([job])).expect("as a part of other JSON");
    assert_eq!(inside, [read]);
    // What is null says nothing, as what is absent.
    let nothing = json!({ "version": 1, "model": { "vae": null }, "request": { "seed": null }, "like": null });
    assert_eq!(Job::from_json(&nothing.to_string()).expect("nulls"), Job::default());
    let bare: Value = serde_json::from_str(&Job::default().to_json()).expect("JSON");
    assert_eq!(bare, json!({ "version": 1 }));
}

#[test]
fn a_misspelt_key_names_its_place_and_the_nearest() {
    for (key, _) in rows() {
        let (before, last) = key.rsplit_once('.').map_or(("", key.as_str()), |(before, last)| (before, last));
        let last = last.trim_end_matches("[]");
        if last.len() < 4 {
            continue;
        }
        // Two letters change places.
        let mut letters: Vec<char> = last.chars().collect();
        let at = letters.len() / 2;
        let at = (at..letters.len() - 1).find(|at| letters[*at] != letters[at + 1]).unwrap_or(at - 1);
        letters.swap(at, at + 1);
        let wrong: String = letters.into_iter().collect();
        let mut job = json!({ "version": 1 });
        put(&mut job, &if before.is_empty() { wrong.clone() } else { format!("{before}.{wrong}") }, json!(1));
        let place = if before.is_empty() { wrong } else { format!("{}.{wrong}", before.replace("[]", "[0]")) };
        let told = refused(&job);
        assert_eq!(told, format!("{place}: unknown, did you mean {last}?"), "{key}");
    }
    for (job, told) in [
        (json!({ "version": 1, "request": { "promt": "x" } }), "request.promt: unknown, did you mean prompt?"),
        // The command's names, and fields of other objects.
        (
            json!({ "version": 1, "request": { "steps": 4 } }),
            "request.steps: unknown, did you mean num_inference_steps?",
        ),
        (json!({ "version": 1, "steps": 4 }), "steps: unknown, did you mean request.num_inference_steps?"),
        (json!({ "version": 1, "prompt": "x" }), "prompt: unknown, did you mean request.prompt?"),
        (json!({ "version": 1, "vae": "x" }), "vae: unknown, did you mean model.vae?"),
        (
            json!({ "version": 1, "adapters": [{ "file": "a" }, { "weigth": 1 }] }),
            "adapters[1].weigth: unknown, did you mean weight?",
        ),
    ] {
        assert_eq!(refused(&job), told);
    }
    assert!(refused(&json!({ "version": 1, "device": { "qqqqq": 1 } })).contains("there are name, precision"));
}

#[test]
fn values_of_another_kind_or_out_of_range_name_their_place() {
    for (key, value, told) in [
        ("request.num_inference_steps", json!(0), "request.num_inference_steps: expected 1 to 1000, got 0"),
        ("request.guidance_scale", json!("7"), "request.guidance_scale: expected a number from 0 to 100, got \"7\""),
        (
            "request.width",
            json!(100),
            "request.width: expected a multiple of 8 from 64 to 8192, got 100; the nearest is 104",
        ),
        ("request.hires", json!(2), "request.hires: expected an object with scale, strength, steps, upscale"),
        ("adapters", json!({}), "adapters: expected a list"),
        ("controls[].weight", json!(1000), "controls[0].weight: expected a number from -100 to 100, got 1000"),
        ("model", json!("sd15"), "model: expected an object with name, vae, unet"),
        ("like", json!({ "bytes": "*" }), "like: expected bytes in base64"),
        ("request.sampler", json!("ddimm"), "request.sampler: unknown sampler \"ddimm\"; did you mean ddim"),
        ("preset", json!("quick"), "preset: expected lcm or turbo or lightning or hyper, got \"quick\""),
    ] {
        let mut job = json!({ "version": 1 });
        put(&mut job, key, value);
        assert!(refused(&job).starts_with(told), "{key}: {}", refused(&job));
    }
    assert!(Job::from_json("[]").is_err() && Job::from_json("{").is_err());
}

#[test]
fn another_version_is_refused_by_name() {
    for (version, words) in
        [(json!(2), "got 2"), (json!("1"), "got \"1\""), (json!(0), "got 0"), (Value::Null, "got none")]
    {
        let told = refused(&json!({ "version": version, "what_is_new": 1 }));
        assert!(told.starts_with("version: expected 1") && told.contains(words), "{told}");
    }
    assert!(refused(&json!({})).starts_with("version: expected 1, got none"));
}

#[test]
fn each_row_reaches_the_request_and_comes_back() {
    for field in REQUEST {
        let mut job = json!({ "version": 1, "request": { "prompt": "x" } });
        // What says nothing by itself.
        for (object, needed, value) in [
            ("hires.", "hires.scale", json!(2)),
            ("variation.", "variation.strength", json!(0.5)),
            ("deep_cache.", "deep_cache.interval", json!(3)),
            ("token_merging.", "token_merging.ratio", json!(0.5)),
        ] {
            if field.key.starts_with(object) {
                put(&mut job, &format!("request.{needed}"), value);
            }
        }
        let value = match field.key {
            // By itself it is refused: the demo model's schedule leaves a trace.
            "place" => json!([1, 3]),
            "sigmas" => {
                put(&mut job, "request.sampler", json!("euler"));
                sample(field)
            }
            "eta" => {
                put(&mut job, "request.sampler", json!("euler_ancestral"));
                sample(field)
            }
            "zero_terminal_snr" | "refiner_start" => continue,
            _ => sample(field),
        };
        put(&mut job, &format!("request.{}", field.key), value.clone());
        let read = Job::from_json(&job.to_string()).unwrap_or_else(|e| panic!("{}: {e}", field.key));
        let order = read.order(&Places::default()).unwrap_or_else(|e| panic!("{}: {e}", field.key));
        let written = serde_json::to_value(&order.request).expect("JSON");
        let found = field.key.split('.').fold(&written, |value, name| &value[name]);
        assert_eq!(found, &value, "{}", field.key);
        let again = Job { request: Asked::of(&order.request), ..Job::default() };
        let again = Job::from_json(&again.to_json()).expect("its own").order(&Places::default()).expect("the same");
        assert_eq!(serde_json::to_value(&again.request).expect("JSON"), written, "{}", field.key);
    }
}

/// What serde writes of a request, and no row has, would be read as nothing.
#[test]
fn every_field_of_a_request_has_its_row() {
    let full = Request { oms: Some(chiaro::pipeline::OmsRequest::default()), ..Request::default() };
    let written = serde_json::to_value(full).expect("JSON");
    for name in written.as_object().expect("an object").keys() {
        let known = |field: &Field| field.key == name || field.key.starts_with(&format!("{name}."));
        assert!(name == "controls" || REQUEST.iter().any(known), "{name}");
    }
    let mut options: Vec<&str> = JOB.iter().chain(REQUEST).filter_map(|field| field.option).collect();
    options.sort_unstable();
    let count = options.len();
    options.dedup();
    assert_eq!(options.len(), count, "one row for an option");
    assert_eq!((option_of("num_inference_steps"), option_of("place"), option_of("x")), (Some("steps"), None, None));
}

fn picture(path: &Path, value: u8) -> Vec<u8> {
    let data = (0..64 * 64 * 3).map(|i| (i % 251) as u8 ^ value).collect();
    write_png(path, &Rgb8Image { width: 64, height: 64, data }, &[], false).expect("writable");
    std::fs::read(path).expect("readable")
}

#[test]
fn bytes_and_paths_give_equal_requests() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let (image, mask) = (picture(&at("a.png"), 0), picture(&at("b.png"), 99));
    let job = |image: File, mask: File, seen: File| {
        let mut job =
            Job { image: Some(ImageJob { file: image, mask: Some(mask), strength: Some(0.5) }), ..Job::default() };
        let net = Some(folder.path().to_string_lossy().into_owned());
        job.controls = Some(vec![ControlJob { net, image: Some(seen), end: Some(0.5), ..ControlJob::default() }]);
        job.request.set("prompt", "x").expect("a prompt");
        job
    };
    let paths = job(at("a.png").into(), at("b.png").into(), at("b.png").into());
    let bytes = job(File::Bytes(image), File::Bytes(mask.clone()), File::Bytes(mask));
    let read = Job::from_json(&bytes.to_json()).expect("its own");
    assert_eq!(read, bytes);
    let [paths, bytes] = [paths, read].map(|job| job.order(&Places::default()).expect("an order"));
    assert_eq!(paths.request.image, bytes.request.image);
    assert_eq!(paths.request.controls, bytes.request.controls);
    assert!(paths.request.image.is_some() && paths.request.controls[0].image.is_some());
    assert_eq!(paths.load.key(), bytes.load.key());
    let mut broken = Job {
        image: Some(ImageJob { file: File::Bytes(vec![1, 2, 3]), mask: None, strength: None }),
        ..Job::default()
    };
    broken.request.set("prompt", "x").expect("a prompt");
    let told = broken.order(&Places::default()).expect_err("no picture").to_string();
    assert!(told.starts_with("bytes: "), "{told}");
}

#[test]
fn presets_and_names_fill_what_is_not_asked() {
    let order =
        |json: Value| Job::from_json(&json.to_string()).expect("a job").order(&Places::default()).expect("an order");
    let turbo =
        order(json!({ "version": 1, "preset": "turbo", "request": { "prompt": "x", "num_inference_steps": 2 } }));
    let request = &turbo.request;
    assert_eq!((request.sampler, request.num_inference_steps), (Some(SolverKind::EulerAncestral), 2));
    assert_eq!((request.timestep_spacing, request.guidance_scale), (Some(TimestepSpacing::Trailing), 1.0));
    let own = order(json!({ "version": 1, "preset": "turbo", "request": { "sampler": "DPM++ 2M Karras" } })).request;
    assert_eq!(
        (own.sampler, own.sigmas, own.timestep_spacing),
        (Some(SolverKind::DpmPp2m), Some(SigmaSchedule::Karras), None)
    );
    let lcm = order(json!({ "version": 1, "request": { "sampler": "lcm" } })).request;
    assert_eq!(lcm.num_inference_steps, 4);
    assert!(matches!(turbo.load.model, Source::DemoModel) && turbo.load.oms.is_some());
    // The demo module's own weight, until one is asked for.
    let weight = |json| order(json).request.oms.expect("the demo module").guidance_scale;
    assert_eq!(weight(json!({ "version": 1, "request": { "oms": { "prompt": "dark" } } })), 1.25);
    assert_eq!(weight(json!({ "version": 1, "request": { "oms": { "guidance_scale": 2 } } })), 2.0);
    let form = order(json!({ "version": 1, "request": { "oms": { "form": "official" } } }))
        .request
        .oms
        .expect("a module")
        .form;
    assert_eq!(form, OmsForm::Official);
    let refused =
        |json: Value| Job::from_json(&json.to_string()).expect("a job").order(&Places::default()).expect_err("refused");
    let told = refused(json!({ "version": 1, "model": { "oms": "off" }, "request": { "oms": { "prompt": "x" } } }))
        .to_string();
    assert!(told.starts_with("oms.prompt: needs a module, add `model.oms`"), "{told}");
    let told = refused(json!({ "version": 1, "request": { "variation": { "seed": 1 } } })).to_string();
    assert_eq!(told, "variation.seed: says nothing without `variation.strength`");
    assert!(
        refused(json!({ "version": 1, "model": { "name": "no/such" } }))
            .to_string()
            .starts_with("no/such: no such file")
    );
    let mut asked = Asked::default();
    assert!(asked.set("guidance_scale", f64::NAN).is_err_and(|e| e.to_string().contains("no finite number")));
    assert!(asked.set("promt", "x").is_err() && asked.is_empty());
    assert_eq!(Preset::Lcm, serde_json::from_value(json!("lcm")).expect("by its name"));
}

#[test]
fn orders_share_what_is_loaded_where_all_of_it_is_the_same() {
    let key = |json: Value| {
        let mut whole = json!({ "version": 1, "request": { "prompt": "x" } });
        for (name, value) in json.as_object().expect("an object") {
            whole[name] = value.clone();
        }
        Job::from_json(&whole.to_string()).expect("a job").order(&Places::default()).expect("an order").load.key()
    };
    let plain = key(json!({}));
    assert_eq!(plain, key(json!({ "request": { "prompt": "another", "seed": 7, "width": 64 } })));
    assert_eq!(plain, key(json!({ "model": { "name": "demo", "oms": "demo" }, "device": { "name": "AUTO" } })));
    let others = [
        json!({ "model": { "oms": "off" } }),
        json!({ "model": { "prediction": "sample" } }),
        json!({ "device": { "name": "cpu" } }),
        json!({ "device": { "weights": "q4_0" } }),
        json!({ "device": { "vram": 1 << 30 } }),
        json!({ "adapters": [{ "file": "a.safetensors" }] }),
        json!({ "adapters": [{ "file": "a.safetensors", "weight": 0.5 }] }),
        json!({ "embeddings": ["a.safetensors"] }),
    ];
    let keys: std::collections::HashSet<_> = others.iter().cloned().map(key).chain([plain]).collect();
    assert_eq!(keys.len(), others.len() + 1);
}

/// Drawn before records had a form: it is read as what it was, to the last digit.
#[test]
fn pictures_without_a_form_of_record_are_repeated_as_they_were() {
    let golden = |name: &str| Path::new(crate::ROOT).join("tests/golden/records").join(name);
    let docs = Path::new(crate::ROOT).join("docs/images/house.png");
    for path in [golden("unversioned.png"), docs] {
        let texts = chiaro::image::png_text(&path).expect("readable");
        let (_, record) = texts.iter().find(|(keyword, _)| keyword == "chiaro").expect("our record");
        let record: Value = serde_json::from_str(record).expect("JSON");
        assert!(record.get("record").is_none(), "it is an old one");
        let order = Job { like: Some(path.into()), ..Job::default() }.order(&Places::default()).expect("an order");
        let mut written = serde_json::to_value(&order.request).expect("JSON");
        // Fields that are newer than the picture have their defaults.
        let default = serde_json::to_value(Request::default()).expect("JSON");
        let fields = written.as_object_mut().expect("an object");
        fields.retain(|name, value| record["request"].get(name).is_some() || *value != default[name]);
        assert_eq!(written, record["request"]);
    }
}
