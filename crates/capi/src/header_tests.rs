//! The header, the code and `symbols.txt` say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use quote::ToTokens;

use crate::structs::*;

const HEADER: &str = include_str!("../include/chiaro.h");
const SYMBOLS: &str = include_str!("../symbols.txt");

/// A text without comments and with single spaces.
fn bare(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::new();
    while let Some(start) = rest.find("/*") {
        kept.push_str(&rest[..start]);
        rest = rest[start..].split_once("*/").map_or("", |(_, after)| after);
    }
    kept.push_str(rest);
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The header's functions by name: result and parameters' types.
fn of_header() -> BTreeMap<String, Vec<String>> {
    let bare = bare(HEADER);
    let declared = bare.split("CHIARO_API ").skip(1).filter(|text| text.starts_with(|c: char| c.is_alphabetic()));
    declared
        .filter_map(|text| text.split_once(';')?.0.split_once('('))
        .filter(|(before, _)| before.contains("chiaro_"))
        .map(|(before, parameters)| {
            let at = before.rfind("chiaro_").expect("filtered");
            // A result such as `chiaro_status chiaro_x`: the name comes last.
            let (result, name) = (before[..at].trim(), before[at..].trim());
            let parameters = parameters.trim_end_matches(')');
            let of = |parameter: &str| {
                let parameter = parameter.trim();
                let end = parameter.trim_end_matches(|c: char| c.is_alphanumeric() || c == '_').len();
                parameter[..end].trim().to_owned()
            };
            let kinds = if parameters == "void" { Vec::new() } else { parameters.split(',').map(of).collect() };
            (
                name.to_owned(),
                std::iter::once(result.to_owned()).chain(kinds).map(|kind| kind.replace(' ', "")).collect(),
            )
        })
        .collect()
}

/// A Rust type as C has it, without spaces.
fn c_type(kind: &str) -> String {
    let kind = kind.replace(' ', "");
    if let Some(inner) = kind.strip_prefix("*mut") {
        return format!("{}*", c_type(inner));
    }
    if let Some(inner) = kind.strip_prefix("*const") {
        let inner = c_type(inner);
        // C's const of a pointer stands behind it.
        return if inner.ends_with('*') { format!("{inner}const*") } else { format!("const{inner}*") };
    }
    let named = match kind.as_str() {
        "Status" => "chiaro_status",
        "usize" => "size_t",
        "u32" => "uint32_t",
        "u64" => "uint64_t",
        "i64" => "int64_t",
        "u8" => "uint8_t",
        "c_char" => "char",
        "c_void" => "void",
        "Handle<Engine>" => "chiaro_engine",
        "Handle<Model>" => "chiaro_model",
        "Handle<Job>" => "chiaro_job",
        "Handle<Image>" => "chiaro_image",
        "Handle<Fault>" => "chiaro_error",
        "DeviceInfo" => "chiaro_device_info",
        "EngineOptions" => "chiaro_engine_options",
        "Statistics" => "chiaro_statistics",
        "VulkanDevice" => "chiaro_vulkan_device",
        "LoadOptions" => "chiaro_load_options",
        "Request" | "structs::Request" => "chiaro_request",
        "Event" => "chiaro_event",
        "Option<WriteCallback>" => "chiaro_write_callback",
        "Option<EventCallback>" => "chiaro_event_callback",
        other => panic!("{other}: C has no such type"),
    };
    named.to_owned()
}

/// The code's functions by name.
fn of_code() -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).expect("sources") {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("a source");
        for item in syn::parse_file(&text).expect("Rust").items {
            let syn::Item::Fn(function) = item else { continue };
            if function.sig.abi.is_none() {
                continue;
            }
            let result = match &function.sig.output {
                syn::ReturnType::Default => "void".to_owned(),
                syn::ReturnType::Type(_, kind) => c_type(&kind.to_token_stream().to_string()),
            };
            let parameters = function.sig.inputs.iter().map(|input| match input {
                syn::FnArg::Typed(typed) => c_type(&typed.ty.to_token_stream().to_string()),
                syn::FnArg::Receiver(_) => unreachable!("functions alone"),
            });
            found.insert(function.sig.ident.to_string(), std::iter::once(result).chain(parameters).collect());
        }
    }
    found
}

#[test]
fn the_header_declares_what_the_code_has() {
    let (header, code) = (of_header(), of_code());
    assert!(header.len() > 40, "{header:?}");
    for (name, signature) in &code {
        assert_eq!(header.get(name), Some(signature), "{name}");
    }
    assert_eq!(header.keys().collect::<Vec<_>>(), code.keys().collect::<Vec<_>>());
    let listed: BTreeSet<&str> = SYMBOLS.lines().collect();
    assert_eq!(listed, code.keys().map(String::as_str).collect(), "symbols.txt");
}

#[test]
fn numbers_of_the_header_are_the_code_s() {
    let number = |name: &str| -> u32 {
        let found = HEADER.lines().find_map(|line| line.strip_prefix(&format!("#define {name} ")));
        found.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name}"))
    };
    let version = number("CHIARO_VERSION_MAJOR") * 1_000_000
        + number("CHIARO_VERSION_MINOR") * 1000
        + number("CHIARO_VERSION_PATCH");
    assert_eq!(version, crate::version::VERSION);
    assert_eq!(number("CHIARO_ABI_VERSION"), crate::version::ABI_VERSION);
    use crate::status::*;
    for (name, value) in [
        ("OK", OK),
        ("INVALID_ARGUMENT", INVALID_ARGUMENT),
        ("UNSUPPORTED", UNSUPPORTED),
        ("MODEL", MODEL),
        ("IO", IO),
        ("OUT_OF_MEMORY", OUT_OF_MEMORY),
        ("DEVICE", DEVICE),
        ("DEVICE_LOST", DEVICE_LOST),
        ("CANCELLED", CANCELLED),
        ("NON_FINITE", NON_FINITE),
        ("BUSY", BUSY),
        ("VERSION_MISMATCH", VERSION_MISMATCH),
        ("INTERNAL", INTERNAL),
    ] {
        assert_eq!(number(&format!("CHIARO_{name}")), value as u32, "{name}");
    }
}

/// Sizes and offsets as a C compiler has them, and as every other language that declares the structs by hand needs them.
#[test]
fn structs_lie_as_in_c() {
    let structs = [
        (DeviceInfo::NAME, size_of::<DeviceInfo>(), DeviceInfo::members()),
        (EngineOptions::NAME, size_of::<EngineOptions>(), EngineOptions::members()),
        (Statistics::NAME, size_of::<Statistics>(), Statistics::members()),
        (VulkanDevice::NAME, size_of::<VulkanDevice>(), VulkanDevice::members()),
        (Reader::NAME, size_of::<Reader>(), Reader::members()),
        (LoadOptions::NAME, size_of::<LoadOptions>(), LoadOptions::members()),
        (Request::NAME, size_of::<Request>(), Request::members()),
        (Event::NAME, size_of::<Event>(), Event::members()),
    ];
    let mut program = "#include \"chiaro.h\"\n#define IS(name, value) typedef char name[(value) ? 1 : -1]\n".to_owned();
    let mut checks = 0;
    for (name, size, members) in structs {
        checks += 1;
        writeln!(program, "IS(check_{checks}, sizeof({name}) == {size});").expect("text");
        for (member, offset) in members {
            checks += 1;
            writeln!(program, "IS(check_{checks}, offsetof({name}, {member}) == {offset});").expect("text");
        }
    }
    assert!(checks > 80);
    let compiles = |program: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("layout.c");
        std::fs::write(&file, program).expect("written");
        let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
        let mut cc = Command::new("cc");
        cc.args(["-std=c99", "-c", "-o"]).arg(folder.path().join("layout.o")).arg("-I").arg(include).arg(&file);
        let done = cc.output().expect("a C compiler");
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (well, said) = compiles(&program);
    assert!(well, "{said}");
    let off = program.replace("offsetof(chiaro_event, picture) == ", "offsetof(chiaro_event, picture) == 1");
    assert!(!compiles(&off).0, "the check finds nothing");
}
