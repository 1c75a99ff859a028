//! The C library as programs use it: compiled with a C and a C++ compiler against the header, run against the built library.

#![cfg(target_os = "linux")]

// As the library's tests call it.
extern crate chiaro_core as chiaro;

#[path = "../../../tests/support/mod.rs"]
#[allow(dead_code, reason = "the library's tests use the rest")]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use support::single_file::write;
use support::smallest::{attentions, smallest};

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What the programs need, built once: the library under the name that they ask for, and the command.
struct Built {
    folder: tempfile::TempDir,
    command: PathBuf,
}

/// A command without what cargo says of the package that it tests: build scripts that ask for it would be run again, and all that is built on them.
fn outside_of_cargo(program: &str) -> Command {
    let mut command = Command::new(program);
    let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"];
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    for name in names.filter(|name| of_package.iter().any(|start| name.starts_with(start))) {
        command.env_remove(name);
    }
    command
}

fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut cargo = outside_of_cargo(env!("CARGO"));
        // With an example, so that features are those of `cargo test`, and nothing is compiled twice.
        let targets = ["--lib", "--bins", "--example", "one_picture"];
        cargo.args(["build", "--workspace", "--all-features", "--locked", "--quiet"]).args(targets);
        cargo.current_dir(root().join("../.."));
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo runs").success(), "the library does not build");
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("../../target"), PathBuf::from);
        let (library, command) = (target.join(profile).join("libchiaro.so"), target.join(profile).join("chiaro"));
        let folder = tempfile::tempdir().expect("a folder");
        let major = env!("CARGO_PKG_VERSION_MAJOR");
        let named = folder.path().join(format!("libchiaro.so.{major}"));
        std::fs::copy(library, &named).expect("the library");
        std::os::unix::fs::symlink(named, folder.path().join("libchiaro.so")).expect("a link");
        Built { folder, command }
    })
}

fn library() -> PathBuf {
    built().folder.path().join("libchiaro.so")
}

fn succeeded(what: &str, done: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "{what}: {}\n{}{}", done.status, text(&done.stdout), text(&done.stderr));
}

/// Compiles a program of this folder or of the samples.
fn compiled(source: &str, more: &[&str]) -> PathBuf {
    let source = root().join(source);
    let name = source.file_stem().expect("a name").to_string_lossy().into_owned() + &more.concat().replace('/', "");
    let program = built().folder.path().join(name);
    let is_cpp = source.extension().is_some_and(|ending| ending == "cpp");
    let mut compiler = Command::new(if is_cpp { "c++" } else { "cc" });
    let standard: &[&str] =
        if is_cpp { &["-std=c++17"] } else { &["-std=c99", "-D_DEFAULT_SOURCE", "-D_POSIX_C_SOURCE=200809L"] };
    compiler.args(standard).args(["-Wall", "-Wextra", "-Werror", "-g"]);
    compiler.arg("-I").arg(root().join("include")).arg(source).arg("-o").arg(&program);
    compiler.arg("-L").arg(built().folder.path()).args(more).args(["-lchiaro", "-lpthread", "-ldl", "-lm"]);
    compiler.arg(format!("-Wl,-rpath,{}", built().folder.path().display()));
    succeeded("compiler", &compiler.output().expect("a compiler"));
    program
}

/// Runs a program, which prints nothing that the library says; gives what it prints itself.
fn run(program: &Path, words: &[&str], device: &str) -> String {
    let mut command = Command::new(program);
    let done =
        command.args(words).env("CHIARO_TEST_DEVICE", device).env("XDG_RUNTIME_DIR", "/tmp").output().expect("it runs");
    succeeded(&program.display().to_string(), &done);
    assert_eq!(String::from_utf8_lossy(&done.stderr), "", "printed by the library");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// The software driver of the tests, or whatever GPU there is.
const GPU: &str = "vulkan";

#[test]
fn the_header_compiles_as_c99_and_as_cpp11() {
    let folder = tempfile::tempdir().expect("a folder");
    let pedantic = ["-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsyntax-only"];
    for (compiler, standard, name) in [("cc", "-std=c99", "once.c"), ("c++", "-std=c++11", "once.cpp")] {
        let inits = "chiaro_device_info a = CHIARO_DEVICE_INFO_INIT; chiaro_engine_options b = CHIARO_ENGINE_OPTIONS_INIT;\n\
                     chiaro_statistics c = CHIARO_STATISTICS_INIT; chiaro_vulkan_device d = CHIARO_VULKAN_DEVICE_INIT;\n\
                     chiaro_reader e = CHIARO_READER_INIT; chiaro_load_options f = CHIARO_LOAD_OPTIONS_INIT;\n\
                     chiaro_request g = CHIARO_REQUEST_INIT; chiaro_event h = CHIARO_EVENT_INIT;\n";
        for text in ["#include \"chiaro.h\"\n", "#include \"chiaro.h\"\n#include \"chiaro.h\"\n"] {
            let file = folder.path().join(name);
            std::fs::write(&file, format!("{text}{inits}")).expect("written");
            let mut command = Command::new(compiler);
            command.arg(standard).args(pedantic).arg("-I").arg(root().join("include")).arg(file);
            succeeded(compiler, &command.output().expect("a compiler"));
        }
    }
}

#[test]
fn symbols_are_those_that_are_listed() {
    let done = Command::new("nm").args(["-D", "--defined-only"]).arg(library()).output().expect("nm");
    succeeded("nm", &done);
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let mut found: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    found.sort_unstable();
    let listed = std::fs::read_to_string(root().join("symbols.txt")).expect("the list");
    assert_eq!(found, listed.lines().collect::<Vec<_>>());
    let done = Command::new("readelf").args(["-d", "-W"]).arg(library()).output().expect("readelf");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        text.contains(concat!("[libchiaro.so.", env!("CARGO_PKG_VERSION_MAJOR"), "]")) && text.contains("NODELETE"),
        "{text}"
    );
}

const PICTURE: &[&str] =
    &["a red ball", "--device", "cpu", "--width", "64", "--height", "64", "--steps", "3", "--seed", "7", "-o"];

#[test]
fn pictures_have_the_command_s_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    let by_command = |name: &str, words: &[&str]| {
        let done = Command::new(&built().command).args(words).arg(place(name)).output().expect("the command");
        succeeded("chiaro", &done);
        std::fs::read(place(name)).expect("a picture")
    };
    let wanted = by_command("command.png", PICTURE);
    let done =
        Command::new("python3").arg(root().join("tests/c/picture.py")).arg(library()).arg(place("ctypes.png")).output();
    succeeded("ctypes", &done.expect("python3"));
    assert_eq!(std::fs::read(place("ctypes.png")).expect("a picture"), wanted, "by ctypes");
    // The samples, as they are.
    let wanted = by_command("eight.png", &["a red ball", "--device", "cpu", "--steps", "8", "--seed", "0", "-o"]);
    let program = compiled("examples/one_picture.c", &["-pedantic"]);
    let c = place("c.png");
    let done = Command::new(program).arg(&c).args(["a red ball", "demo", "cpu"]).output().expect("it runs");
    succeeded("one_picture", &done);
    assert!(String::from_utf8_lossy(&done.stderr).contains("step 8 of 8"), "{done:?}");
    assert_eq!(std::fs::read(c).expect("a picture"), wanted, "by C");
    let program = compiled("examples/jobs.cpp", &[]);
    let done = Command::new(program).arg(folder.path()).arg("cpu").output().expect("it runs");
    succeeded("jobs", &done);
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        text.contains("a solid black image: done, 8 steps") && text.contains("a green circle: cancelled, "),
        "{text}"
    );
    assert_eq!(std::fs::read(place("0.png")).expect("a picture"), wanted, "by C++");
    assert!(!place("3.png").exists());
}

/// The smallest checkpoint in one file, of numbers that mean nothing.
fn single_file() -> PathBuf {
    let path = built().folder.path().join("smallest.safetensors");
    let mut state = 1u32;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        half::f16::from_f32((state >> 8) as f32 / (1 << 24) as f32 * 0.2 - 0.1)
    };
    let mut entries = [smallest(), attentions()].concat();
    for entry in &mut entries {
        if entry.name.ends_with("token_embedding.weight") {
            entry.shape[0] = 49408;
        } else if entry.name.ends_with("positional_embedding") {
            entry.shape[0] = 77;
        }
        let count = entry.shape.iter().product::<usize>();
        entry.bytes = Some((0..count).flat_map(|_| number().to_le_bytes()).collect());
    }
    write(&path, &entries);
    path
}

#[test]
fn what_the_header_promises_holds() {
    let program = compiled("tests/c/behaviour.c", &[]);
    let model = single_file().display().to_string();
    run(&program, &[&model], "cpu");
    // Where a file's bytes come from makes no difference there.
    run(&program, &[], GPU);
}

#[test]
fn any_call_gives_a_status() {
    let calls = std::env::var("CHIARO_TEST_CALLS")
        .unwrap_or_else(|_| if support::part::everything() { "20000" } else { "6000" }.into());
    assert_eq!(run(&compiled("tests/c/fuzz.c", &[]), &[&calls], "cpu"), format!("{calls} calls\n"));
}

/// Files that are cut or changed anywhere are a status, never the end of the process.
#[test]
fn damaged_files_give_a_status() {
    let folder = tempfile::tempdir().expect("a folder");
    let golden = root().join("../../tests/golden");
    let sources = [
        "formats/types.safetensors",
        "formats/types.gguf",
        "formats/nested.pt",
        "formats/lightning.ckpt",
        "embeddings/easyneg.pt",
    ];
    let mut paths: Vec<PathBuf> = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        let bytes = std::fs::read(golden.join(source)).expect("a golden");
        let ending = Path::new(source).extension().expect("an ending").to_string_lossy().into_owned();
        let mut put = |what: &str, bytes: &[u8]| {
            let path = folder.path().join(format!("{number}-{what}.{ending}"));
            std::fs::write(&path, bytes).expect("written");
            paths.push(path);
        };
        for part in 0..12 {
            put(&format!("cut{part}"), &bytes[..bytes.len() * part / 12]);
            let mut changed = bytes.clone();
            let at = (part * 7919) % bytes.len().min(400);
            changed[at] ^= 1 << (part % 8);
            put(&format!("changed{part}"), &changed);
        }
    }
    paths.extend([folder.path().to_owned(), PathBuf::from("/dev/null"), PathBuf::from("/nowhere")]);
    let words: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let text = run(&compiled("tests/c/files.c", &[]), &words.iter().map(String::as_str).collect::<Vec<_>>(), "cpu");
    assert_eq!(text, format!("{} files\n", paths.len()));
}

/// The address and leak sanitizers, in the program: what it is given and what is left over. The library itself would have to be built with a compiler
/// that is not released.
#[test]
fn sanitizers_find_nothing() {
    let program = compiled("tests/c/fuzz.c", &["-fsanitize=address"]);
    // Drivers, and what loads them, are not ours.
    let mut command = Command::new(program);
    command.arg("500").env("VK_DRIVER_FILES", "/nowhere.json").env("VK_LOADER_LAYERS_DISABLE", "~all~");
    succeeded("sanitizers", &command.output().expect("it runs"));
}

#[test]
fn cancelled_jobs_leave_nothing_behind() {
    let times = std::env::var("CHIARO_TEST_CANCELS").unwrap_or_else(|_| "24".into());
    let program = compiled("tests/c/cancel.c", &[]);
    for device in ["cpu", GPU] {
        print!("{device}: {}", run(&program, &[&times], device));
    }
}

#[test]
fn the_library_comes_and_goes() {
    let copy = built().folder.path().join("copy.so");
    std::fs::copy(library(), &copy).expect("a copy");
    let program = compiled("tests/c/dlopen.c", &[]);
    let words = [library().display().to_string(), copy.display().to_string()];
    print!("{}", run(&program, &words.each_ref().map(String::as_str), "cpu"));
}

/// The static library as one object whose names all begin with the version's: two link into one program.
#[test]
fn two_versions_link_into_one_program() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    let done = |what: &str, command: &mut Command| {
        let done = command.current_dir(folder.path()).output().unwrap_or_else(|e| panic!("{what}: {e}"));
        succeeded(what, &done);
    };
    let symbols = root().join("symbols.txt");
    let names = std::fs::read_to_string(&symbols).expect("the list");
    let archive = built().command.with_file_name("libchiaro.a");
    done("ld", Command::new("ld").args(["-r", "-o", "whole.o", "--whole-archive"]).arg(archive));
    let mut parts = Vec::new();
    let compiler = || {
        let mut cc = Command::new("cc");
        cc.args(["-std=c99", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Werror", "-c"]);
        cc.arg("-I").arg(root().join("include")).arg(root().join("tests/c/versions.c"));
        cc
    };
    for version in ["older", "newer"] {
        let (map, header) = (format!("{version}.map"), format!("{version}.h"));
        let lines = |line: &dyn Fn(&str) -> String| names.lines().map(line).collect::<String>();
        std::fs::write(place(&map), lines(&|name| format!("{name} {version}_{name}\n"))).expect("written");
        std::fs::write(place(&header), lines(&|name| format!("#define {name} {version}_{name}\n"))).expect("written");
        let library = format!("lib_{version}.o");
        let keep = format!("--keep-global-symbols={}", symbols.display());
        done("objcopy", Command::new("objcopy").args([&keep, "whole.o", &library]));
        done("objcopy", Command::new("objcopy").arg(format!("--redefine-syms={map}")).arg(&library));
        let program = format!("{version}.o");
        done("cc", compiler().args(["-include", &header, &format!("-DDRAW={version}"), "-o", &program]));
        parts.extend([library, program]);
    }
    done("cc", compiler().args(["-o", "main.o"]));
    let system = ["-lpthread", "-ldl", "-lm", "-lgcc_s"];
    done("cc", Command::new("cc").arg("main.o").args(parts).args(system).args(["-o", "both"]));
    assert_eq!(run(&place("both"), &[], "cpu"), "drawn, equal\n");
}

#[test]
fn a_vulkan_device_is_lent_and_given_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = compiled("tests/c/vulkan.c", &["-lvulkan"]);
    let picture = folder.path().join("lent.png").display().to_string();
    let text = run(&program, &[&picture], GPU);
    assert!(text.contains("timelineSemaphore"), "{text}");
    assert!(std::fs::metadata(picture).is_ok());
}

/// Blocks of a language under a heading of the guide.
fn blocks(heading: &str, language: &str) -> Vec<String> {
    let guide = std::fs::read_to_string(root().join("../../docs/EMBEDDING.md")).expect("the guide");
    let part = guide.split_once(&format!("\n## {heading}\n")).expect("the heading").1;
    let part = part.split("\n## ").next().expect("a part");
    let fence = format!("\n```{language}\n");
    let fenced = part.split(fence.as_str()).skip(1);
    fenced.map(|rest| rest.split("\n```").next().expect("an end").to_owned()).collect()
}

/// Done in a fresh folder as it stands there, but with the library as tests have it.
#[test]
fn the_guide_is_followed() {
    built();
    let folder = tempfile::tempdir().expect("a folder");
    let steps = [blocks("C", "sh"), blocks("C++17", "sh")].concat();
    assert_eq!(steps.len(), 2);
    let mut shell = outside_of_cargo("bash");
    shell.args(["-euo", "pipefail", "-c", &steps.join("\n")]).current_dir(folder.path());
    shell
        .env("CHIARO", root().join("../.."))
        .env("CHIARO_PROFILE", if cfg!(debug_assertions) { "debug" } else { "release" });
    succeeded("the guide", &shell.output().expect("bash"));
    for picture in ["ball.png", "0.png", "1.png", "2.png"] {
        assert!(folder.path().join(picture).is_file(), "{picture}");
    }
    // The installed folder serves CMake too; its version is this one.
    let config = std::fs::read_to_string(folder.path().join("installed/lib/cmake/chiaro/chiaroConfigVersion.cmake"));
    assert!(config.expect("a package").contains(concat!("\"", env!("CARGO_PKG_VERSION"), "\"")));
    // What it shows of C is C.
    let shown = blocks("C", "c");
    assert_eq!(shown.len(), 2);
    let program = format!(
        "#include <chiaro.h>\n#include <stdio.h>\nint main(void)\n{{\n{}\n{}\nreturn 0;\n}}\n",
        shown[0], shown[1]
    );
    std::fs::write(folder.path().join("shown.c"), program).expect("written");
    let mut compiler = Command::new("cc");
    compiler.args(["-std=c99", "-Wall", "-Werror", "-fsyntax-only", "-I"]).arg(root().join("include"));
    succeeded("cc", &compiler.arg("shown.c").current_dir(folder.path()).output().expect("cc"));
}

/// Memory that is lost or read wrongly, as valgrind sees it: on the processor, whose code is all ours.
#[test]
fn valgrind_finds_nothing() {
    let program = compiled("tests/c/fuzz.c", &[]);
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite", "--quiet"]);
    // Drivers, and what loads them, are not ours.
    valgrind.env("VK_DRIVER_FILES", "/nowhere.json").env("VK_LOADER_LAYERS_DISABLE", "~all~");
    succeeded("valgrind", &valgrind.arg(program).arg("100").output().expect("valgrind"));
}
