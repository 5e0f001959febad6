//! The code that is generated from `proto/worker.proto` is kept in the tree, so that a build needs neither `protoc` nor a generator. This
//! shows that it is fresh; with `PILLION_UPDATE=1` it is written anew.

#![expect(clippy::unwrap_used, reason = "tests; clippy knows only functions that are marked as such")]

use std::{fmt::Write, fs, path::Path};

const HINT: &str = "run `PILLION_UPDATE=1 cargo test -p pillion-backend-worker --test proto`";

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn check(file: &str, wanted: &str) {
    let path = root().join(file);
    if std::env::var_os("PILLION_UPDATE").is_some() {
        fs::write(&path, wanted).unwrap();
    }
    assert!(fs::read_to_string(&path).is_ok_and(|text| text == wanted), "{file} is not fresh: {HINT}");
}

#[test]
fn the_generated_code_is_that_of_the_proto_file() {
    let files = protox::compile(["worker.proto"], [root().join("proto")]).unwrap();
    let mut bare = files.clone();
    // Comments are of no use at run time.
    bare.file.iter_mut().for_each(|file| file.source_code_info = None);
    let descriptor = protox::prost::Message::encode_to_vec(&bare);

    let out = tempfile::tempdir().unwrap();
    let builder = tonic_prost_build::configure().build_server(false).build_transport(false).out_dir(out.path());
    builder.compile_fds(files).unwrap();
    let rust = fs::read_to_string(out.path().join("pillion.worker.v1.rs")).unwrap();
    check("crates/pillion-backend-worker/src/grpc/worker.v1.rs", &rust);

    let mut python = String::from(
        "\"\"\"The descriptor of `proto/worker.proto`. Generated; `crates/pillion-backend-worker/tests/proto.rs` writes it anew.\"\"\"\n\n\
        from typing import Final\n\n__all__ = [\"DESCRIPTOR\"]\n\nDESCRIPTOR: Final = bytes.fromhex(\n    \"\"\"\n",
    );
    for line in descriptor.chunks(56) {
        python.push_str("    ");
        for byte in line {
            write!(python, "{byte:02x}").unwrap();
        }
        python.push('\n');
    }
    python.push_str("    \"\"\"\n)\n");
    check("python/pillion/transports/_worker_proto.py", &python);
}
