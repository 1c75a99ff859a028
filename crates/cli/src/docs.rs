//! The list of fields in `docs/OPTIONS.md` is made of the library's tables.

use std::path::Path;

use chiaro::order::{JOB, default_of, with_options};
use chiaro::pipeline::{Field, Kind, REQUEST};

/// What the list stands between.
const MARKS: [&str; 2] = ["<!-- fields: made by a test of crates/cli, see docs.rs -->", "<!-- end of fields -->"];

fn row(field: &Field, prefix: &str) -> String {
    // A bar would end a cell, a tag would not be seen.
    let cell = |text: &str| text.replace('|', "\\|").replace('<', "\\<");
    let option = field.option.map_or_else(String::new, |option| match field.value {
        "" => format!("`--{option}`"),
        value => format!("`--{option} {value}`"),
    });
    let takes = match field.kind {
        Kind::Named(_) => "a name".to_owned(),
        kind => kind.to_string(),
    };
    let default = default_of(field).unwrap_or_default();
    let cells = [
        format!("`{prefix}{}`", field.key),
        option,
        field.png.unwrap_or_default().to_owned(),
        takes,
        with_options(&default).into_owned(),
        with_options(field.about).into_owned(),
    ];
    format!("| {} |\n", cells.map(|text| cell(&text)).join(" | "))
}

fn list() -> String {
    let mut text = String::from(
        "\n| field of a job | option | in a picture's text | takes | default | what it is for |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    text.extend(JOB.iter().map(|field| row(field, "")));
    text.extend(REQUEST.iter().map(|field| row(field, "request.")));
    text + "\n"
}

/// `CHIARO_RENEW_DOCS=1 cargo test -p chiaro-cli docs` writes what is missing.
#[test]
fn the_page_of_options_has_the_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/OPTIONS.md");
    let page = std::fs::read_to_string(&path).expect("the page is there");
    let [begin, end] = MARKS.map(|mark| page.find(mark).unwrap_or_else(|| panic!("{mark}: not in the page")));
    let wanted = format!("{}{}{}", &page[..begin + MARKS[0].len()], list(), &page[end..]);
    if std::env::var_os("CHIARO_RENEW_DOCS").is_some() {
        std::fs::write(&path, &wanted).expect("writable");
    } else {
        assert!(page == wanted, "docs/OPTIONS.md: CHIARO_RENEW_DOCS=1 renews its list of fields");
    }
}
