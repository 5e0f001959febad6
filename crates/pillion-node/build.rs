//! Sets the linker flags of a Node addon, and tells it what it is built for.

fn main() {
    napi_build::setup();
    println!("cargo:rustc-env=PILLION_TARGET={}", std::env::var("TARGET").unwrap_or_default());
}
