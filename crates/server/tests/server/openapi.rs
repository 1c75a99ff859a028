//! The description that is checked in is what the server serves.

use serde_json::Value;

use super::Running;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");

/// Every method and path.
pub(super) fn addresses() -> Vec<(String, String)> {
    let described: Value = serde_json::from_str(&chiaro_server::openapi()).expect("JSON");
    let paths = described["paths"].as_object().expect("paths");
    let of = |(path, operations): (&String, &Value)| {
        let methods = operations.as_object().expect("operations").keys();
        methods.map(|method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of).collect()
}

#[test]
fn the_file_is_what_is_served() {
    let described = chiaro_server::openapi();
    if std::env::var_os("CHIARO_RENEW_OPENAPI").is_some() {
        std::fs::write(FILE, &described).expect("written");
    }
    let file = std::fs::read_to_string(FILE).unwrap_or_default().replace("\r\n", "\n");
    assert!(file == described, "docs/openapi.json is not what is served; CHIARO_RENEW_OPENAPI=1 writes it anew");
    let folder = tempfile::tempdir().expect("a folder");
    let server = Running::at(folder.path(), |_| {});
    assert_eq!(server.ask("GET", "/v1/chiaro/openapi.json", None).text(), described);
    // Every address that is described is there, and every reference leads somewhere.
    for (method, path) in addresses() {
        let path = path.replace("{id}", "0").replace("{index}", "0").replace("{model}", "demo");
        assert_ne!(server.ask(&method, &path, None).status, 405, "{method} {path}");
    }
    let whole: Value = serde_json::from_str(&described).expect("JSON");
    for reference in described.split("\"$ref\": \"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(whole.pointer(reference).is_some(), "{reference}");
    }
}
