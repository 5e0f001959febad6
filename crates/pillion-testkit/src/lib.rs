//! What tests of the other crates share. Part of no release.

mod builders;
mod scripted;

pub use builders::{GenerateRequestBuilder, generate, worker_info};
pub use scripted::{Script, ScriptedBackend};
