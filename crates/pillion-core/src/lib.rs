//! The domain's words: plain types, the one error list, the [`Backend`] trait and the step record.
//!
//! Nothing here starts a thread or does I/O, and nothing here knows of napi, `PyO3`, HTTP or a tokenizer engine.

pub mod abi;
mod backend;
mod error;
pub mod forward;
mod info;
mod limits;
mod record;
mod request;
mod sequence;
pub mod step;
mod validate;

pub use backend::{Backend, BackendEvent, BackendEvents, LogLevel, LogRecord, LogSource, Progress};
pub use error::{Error, ErrorCode, PythonException, Result, Stage, WorkerExit};
pub use info::{
    BridgeKind, GenerationDefaults, LoadConfig, LoadLimits, ModelInfo, ModelSource, PythonInfo, WorkerInfo,
    WorkerStatus,
};
pub use limits::Limits;
pub use request::{FinishReason, GenerateRequest, PredictRequest, Prompt, SamplingOptions, StopMatch, Usage};
pub use sequence::Sequence;
pub use validate::{SamplingParams, ValidPrediction, ValidRequest};

/// The version that Rust, the bridge and the Python package must share.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
