//! The description of all addresses, written from the router's own list and the table of options.

use chiaro::order::{Field, JOB, Kind, REQUEST, Range};
use serde_json::{Map, Value, json};

use crate::routes;

/// All addresses and what they take and give, as OpenAPI 3.1 in JSON, the same text each time.
pub fn openapi() -> String {
    let mut paths = Map::new();
    for route in routes::all() {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        let mut operation = json!({
            "summary": route.about,
            "operationId": format!("{}{}", route.method, route.path.replace(['/', '-', '.'], "_").replace(['{', '}'], "")),
            "responses": { "200": answer(route.gives), "default": { "description": "What is wrong", "content": { "application/json": {
                "schema": { "$ref": format!("#/components/schemas/{}", error_of(route.path)) } } } } },
        });
        if let Some(name) = route.takes {
            let kind = if name.ends_with("Form") { "multipart/form-data" } else { "application/json" };
            operation["requestBody"] =
                json!({ "required": true, "content": { kind: { "schema": schema_named(name) } } });
        }
        let names: Vec<&str> =
            route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        if !names.is_empty() {
            let one =
                |name: &&str| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } });
            operation["parameters"] = names.iter().map(one).collect();
        }
        path[route.method] = operation;
    }
    let whole = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Chiaro", "version": env!("CARGO_PKG_VERSION"),
            "description": "Stable Diffusion with One More Step: our own interface, OpenAI's images, files and batches, AUTOMATIC1111's.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" }, "basic": { "type": "http", "scheme": "basic" },
                "header": { "type": "apiKey", "in": "header", "name": "X-Api-Key" },
            },
        },
        "security": [{}, { "bearer": [] }, { "basic": [] }, { "header": [] }],
    });
    format!("{whole:#}\n")
}

fn error_of(path: &str) -> &'static str {
    match crate::refusal::Dialect::of(path) {
        crate::refusal::Dialect::Native => "Error",
        crate::refusal::Dialect::OpenAi => "OpenAiError",
        crate::refusal::Dialect::A1111 => "A1111Error",
    }
}

fn answer(gives: &str) -> Value {
    let content = if gives.contains('/') {
        json!({ gives: { "schema": { "type": "string" } } })
    } else {
        json!({ "application/json": { "schema": schema_named(gives) } })
    };
    json!({ "description": "Done", "content": content })
}

/// A schema that is described below, or any object.
fn schema_named(name: &str) -> Value {
    if schemas().contains_key(name) {
        json!({ "$ref": format!("#/components/schemas/{name}") })
    } else {
        json!({ "type": "object" })
    }
}

fn schemas() -> Map<String, Value> {
    let text = json!({ "type": "string" });
    let flag = json!({ "type": "boolean" });
    let whole = json!({ "type": "integer" });
    let number = json!({ "type": "number" });
    let object = |fields: Value| json!({ "type": "object", "properties": fields });
    let error = object(json!({ "error": { "type": "object", "required": ["code", "message"], "properties": {
        "code": text, "message": text, "field": text, "needed_bytes": whole, "available_bytes": whole,
        "remedies": { "type": "array", "items": text } } } }));
    let image = object(json!({
        "index": whole, "url": text, "seed": whole, "width": whole, "height": whole, "bytes": whole, "mean": number, "sha256": text,
    }));
    let state = object(json!({
        "id": text, "state": { "enum": ["queued", "running", "completed", "failed", "cancelled"] }, "client": text, "from": text,
        "model": text, "prompt": text, "oms": flag, "count": whole, "position": { "type": ["integer", "null"] }, "created": number,
        "started": { "type": ["number", "null"] }, "ended": { "type": ["number", "null"] },
        "progress": object(json!({ "share": number, "eta_seconds": { "type": ["number", "null"] }, "image": whole, "step": whole, "steps": whole })),
        "preview": { "type": ["object", "null"] }, "images": { "type": "array", "items": image },
        "warnings": { "type": "array", "items": text }, "adapters": { "type": "array", "items": text }, "error": { "type": ["object", "null"] }, "job": reference("Job"), "plan": reference("Plan"),
    }));
    let plan = object(json!({
        "peak_bytes": whole, "limit_bytes": { "type": ["integer", "null"] }, "flops": whole, "seconds": { "type": ["number", "null"] },
        "width": whole, "height": whole, "stages": { "type": "array", "items": { "type": "object" } },
    }));
    let all = [
        ("Job", job()),
        (
            "Submission",
            object(
                json!({ "job": reference("Job"), "preview_every": { "type": "integer", "minimum": 0, "maximum": 1000 } }),
            ),
        ),
        ("JobState", state),
        ("JobList", object(json!({ "jobs": { "type": "array", "items": reference("JobState") }, "has_more": flag }))),
        ("Plan", plan),
        ("Move", object(json!({ "position": { "type": "integer", "minimum": 0 } }))),
        ("RecipeRequest", object(json!({ "image": { "type": "string", "contentEncoding": "base64" } }))),
        (
            "Recipe",
            object(
                json!({ "job": reference("Job"), "program": text, "model": text, "not_repeated": { "type": "array", "items": text } }),
            ),
        ),
        ("TokensRequest", object(json!({ "prompt": text, "model": text }))),
        ("Error", error),
        (
            "OpenAiError",
            object(json!({ "error": object(json!({ "message": text, "type": text, "param": text, "code": text })) })),
        ),
        ("A1111Error", object(json!({ "error": text, "detail": text, "body": text, "errors": text }))),
    ];
    all.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// A job's fields, from their table. What a server chooses itself is left out.
fn job() -> Value {
    let mut root = json!({ "type": "object", "additionalProperties": false, "properties": {} });
    let request = REQUEST.iter().map(|field| (format!("request.{}", field.key), field));
    let rows = JOB.iter().map(|field| (field.key.to_owned(), field)).chain(request);
    for (key, field) in rows {
        let top = key.split(['.', '[']).next().unwrap_or_default();
        if !matches!(top, "device" | "like" | "adapter_folder") {
            put(&mut root, &key, field);
        }
    }
    root
}

fn put(object: &mut Value, key: &str, field: &Field) {
    let (name, rest) = key.split_once('.').unwrap_or((key, ""));
    let (name, is_list) = name.strip_suffix("[]").map_or((name, false), |name| (name, true));
    let place = &mut object["properties"][name];
    let empty = || json!({ "type": "object", "additionalProperties": false, "properties": {} });
    match (is_list, rest.is_empty()) {
        (false, true) => *place = schema(field),
        (true, true) => *place = json!({ "type": "array", "items": schema(field) }),
        (false, false) => {
            if !place.is_object() {
                *place = empty();
            }
            put(place, rest, field);
        }
        (true, false) => {
            if !place.is_object() {
                *place = json!({ "type": "array", "items": empty() });
            }
            put(&mut place["items"], rest, field);
        }
    }
}

fn schema(field: &Field) -> Value {
    let range = |range: &Range| {
        let (low, high) = (
            if range.low_is_in { "minimum" } else { "exclusiveMinimum" },
            if range.high_is_in { "maximum" } else { "exclusiveMaximum" },
        );
        json!({ "type": "number", low: range.low, high: range.high })
    };
    let two = |items: Value| json!({ "type": "array", "items": items, "minItems": 2, "maxItems": 2 });
    let mut schema = match &field.kind {
        Kind::Switch => json!({ "type": "boolean" }),
        Kind::Whole { low, high, step } => {
            json!({ "type": "integer", "minimum": low, "maximum": high, "multipleOf": step })
        }
        Kind::Wholes { low, high } => two(json!({ "type": "integer", "minimum": low, "maximum": high })),
        Kind::Number(own) => range(own),
        Kind::Pair(own) => two(range(own)),
        Kind::OneOf(words) => json!({ "enum": words }),
        Kind::File => json!({ "type": "object", "required": ["bytes"], "properties": { "bytes": {
            "type": "string", "contentEncoding": "base64" } } }),
        Kind::Text | Kind::Named(_) | Kind::Place => json!({ "type": "string" }),
    };
    schema["description"] = field.about.into();
    schema
}
