//! What the linker is told: the name under which programs find the library (SONAME = major), and that it is never unmapped.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let of = |name: &str| std::env::var(name).unwrap_or_default();
    let major = of("CARGO_PKG_VERSION_MAJOR");
    match of("CARGO_CFG_TARGET_OS").as_str() {
        "macos" | "ios" => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libchiaro.{major}.dylib");
        }
        "windows" => {}
        _ => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libchiaro.so.{major}");
            // A thread of a driver that still ends must find its code: dlclose() then leaves the library where it is.
            println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
        }
    }
}
