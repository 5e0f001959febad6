//! What tests of the other crates share. Part of no release.

mod builders;
pub mod conformance;
mod holdings;
mod scripted;

pub use builders::{GenerateRequestBuilder, generate, worker_info};
pub use holdings::Holdings;
pub use scripted::{Script, ScriptedBackend};
