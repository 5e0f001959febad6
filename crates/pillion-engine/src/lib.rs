//! The loop around a model: requests in, text out.
//!
//! One thread over one bounded queue of a closed event enum owns all state ([`core_loop`] is the pure part of it). It knows `dyn Backend`
//! only: neither Python nor Node nor HTTP. Tokenizing happens on the tokenizer's pool, never here; nothing here waits for a caller.

mod admit;
mod bell;
mod calls;
mod core_loop;
mod engine;
mod event;
mod intake;
mod metrics;
mod output;
mod run;
mod status;

pub use bell::Bell;
pub use engine::{Engine, EngineOptions};
pub use metrics::Metrics;
pub use output::{EngineOutput, Finish, Outputs, Prediction, RunOutput, TokenData};
pub use status::{EngineState, EngineStatus, Fallback, ModelStatus};
