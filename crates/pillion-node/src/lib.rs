//! The Node addon: converts values, wires the parts, and is one of the two places that pick a backend. It decides nothing else.
//!
//! Nothing here runs long on the JS thread and nothing uses libuv's pool: strings are copied as they are, the work is done on the
//! tokenizer's pool or the engine's thread, and results come back as flat typed arrays. Errors cross as JSON, as the message of a JS
//! error that `src/errors.ts` turns into a class.
#![expect(clippy::needless_pass_by_value, reason = "values that come from JS are handed over")]
#![expect(unsafe_code, reason = "Node-API; each block says why it is sound")]

mod batch;
mod bridge;
mod columns;
mod cut;
mod desk;
mod doctor;
mod engine;
mod error;
mod exit;
mod fallback;
mod load;
mod options;
mod predict;
mod stream;
mod texts;
mod tokenizer;
mod turns;

use napi_derive::napi;

pub use doctor::{NativeAbout, about, survey_pythons};

/// The version of this binary; `native.ts` refuses one that is not the package's.
#[napi]
pub fn version() -> String {
    pillion_core::VERSION.to_owned()
}

/// Sees to a clean end of the process if Python runs in it. To be called when a model has been loaded, with its libraries, and once more
/// when the process begins to exit, with the status.
#[napi(catch_unwind)]
pub fn guard_exit(status: Option<i32>) {
    exit::guard(status);
}
