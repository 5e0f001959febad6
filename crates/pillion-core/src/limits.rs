//! The bounds that an engine keeps.

use serde::{Deserialize, Serialize};

/// Everything in an engine is bounded by one of these; full means refused at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Limits {
    /// Tokens of prompt and answer together; the model's own context if smaller or not given.
    pub max_context: Option<u32>,
    /// Tokens that one step may compute.
    pub max_batch_tokens: u32,
    /// Sequences that run at once, each with a slot in the worker's cache.
    pub max_running: u32,
    /// Requests that may wait.
    pub max_queued_requests: u32,
    /// Prompt tokens that may wait, over all waiting requests.
    pub max_queued_tokens: u64,
    /// Bytes of the inputs of `predict` that wait or run.
    pub max_queued_bytes: u64,
    /// Bytes of KV cache in the worker; a quarter of the memory that is free at load if not given.
    pub kv_cache_bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_context: None,
            max_batch_tokens: 2048,
            max_running: 32,
            max_queued_requests: 1024,
            max_queued_tokens: 1 << 20,
            max_queued_bytes: 256 << 20,
            kv_cache_bytes: None,
        }
    }
}
