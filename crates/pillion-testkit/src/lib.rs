//! What tests of the other crates share. Part of no release.

mod builders;
pub mod conformance;
mod scripted;

pub use builders::{GenerateRequestBuilder, generate, worker_info};
pub use scripted::{Script, ScriptedBackend};
