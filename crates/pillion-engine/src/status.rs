//! An engine as `status()` shows it.

use std::sync::Arc;

use pillion_core::{BridgeKind, ErrorCode, ModelInfo, PythonInfo, WorkerInfo, WorkerStatus, forward::TensorStore};
use serde::Serialize;

/// Where an engine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineState {
    /// Loading; requests wait.
    Starting,
    /// Loaded.
    Ready,
    /// Fewer workers than there should be.
    Degraded,
    /// Closing; what runs may finish.
    Draining,
    /// Closed.
    Closed,
    /// The model did not load or its worker is gone for good.
    Failed,
}

/// A way to Python that was tried before the one in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fallback {
    /// Which.
    pub bridge: BridgeKind,
    /// Why not, as a code.
    pub code: ErrorCode,
    /// Why not, in words.
    pub reason: String,
}

/// Everything that `status()` shows.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineStatus {
    /// Where in its life.
    pub state: EngineState,
    /// The way to Python; `None` for a model that needs none.
    pub bridge: Option<BridgeKind>,
    /// Ways that were tried first.
    pub fallbacks: Vec<Fallback>,
    /// The model.
    pub model: ModelStatus,
    /// The interpreter, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub python: Option<PythonInfo>,
    /// Workers, this process included if Python is embedded.
    pub workers: Vec<WorkerStatus>,
    /// Requests with a slot.
    pub running: u32,
    /// Requests without one.
    pub waiting: u32,
    /// Their prompt tokens.
    pub waiting_tokens: u64,
}

/// The model as `status()` shows it.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "as in pillion_core::ModelInfo")]
pub struct ModelStatus {
    pub name: String,
    pub tasks: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_context: Option<u32>,
}

impl From<&ModelInfo> for ModelStatus {
    fn from(m: &ModelInfo) -> Self {
        Self {
            name: m.name.clone(),
            tasks: m.tasks.clone(),
            tier: m.tier.clone(),
            tier_reason: m.tier_reason.clone(),
            dtype: m.dtype.clone(),
            device: m.device.clone(),
            kv_tokens: Some(m.kv_tokens).filter(|n| *n > 0),
            max_context: Some(m.max_context).filter(|n| *n > 0),
        }
    }
}

/// The part of the status that changes seldom.
#[derive(Debug)]
pub(crate) struct StatusBoard {
    pub(crate) state: EngineState,
    pub(crate) info: Option<WorkerInfo>,
    pub(crate) workers: Vec<WorkerStatus>,
    /// That of the worker that is there now.
    pub(crate) tensor_store: Option<Arc<dyn TensorStore>>,
}

/// Resident memory of a process, in bytes; 0 where it cannot be told.
pub(crate) fn rss_bytes(pid: u32) -> u64 {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return 0 };
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
