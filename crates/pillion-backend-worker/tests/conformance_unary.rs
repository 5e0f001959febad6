//! The cases that every bridge passes, over the unary calls of `proto/worker.proto` in place of the stream: they are forms of the same
//! handler, which this shows by hand, since an engine uses the stream.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "tests; clippy knows only functions that are marked as such")]

#[allow(dead_code, clippy::all, clippy::pedantic, missing_docs, unreachable_pub, reason = "generated")]
mod proto {
    include!("../src/grpc/worker.v1.rs");
}
mod unary;

use pillion_core::Backend;
use pillion_testkit::conformance::{Bridge, Model, Subject};

struct Unary;

impl Subject for Unary {
    fn bridge(&self) -> Bridge {
        Bridge::GrpcUnary
    }

    fn backend(&self, model: &Model) -> Box<dyn Backend> {
        Box::new(unary::UnaryBackend::new(model.load_config()))
    }

    fn max_record_bytes(&self) -> Option<usize> {
        None
    }
}

pillion_testkit::conformance!(Unary);
