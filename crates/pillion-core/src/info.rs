//! What the two sides tell each other once, at load: as JSON, since it is rare and read by people too.

use serde::{Deserialize, Serialize};

/// Ways from Rust to Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BridgeKind {
    /// `CPython` inside this process.
    Embedded,
    /// A Python process over shared memory.
    Shm,
    /// A Python process over gRPC.
    Grpc,
}

/// What to load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ModelSource {
    /// A folder with `config.json` and safetensors weights.
    #[serde(rename_all = "camelCase")]
    Pretrained {
        /// The folder, absolute.
        path: String,
        /// Whether Python code in the folder may run.
        trust_remote_code: bool,
    },
    /// A user's class, as `path/to/file.py:Name` or `module:Name`.
    Class {
        /// Where the class is.
        spec: String,
        /// What it finds as `context.options` when it is loaded.
        options: serde_json::Value,
    },
}

/// What the Python handler is told to load. Written by Rust, read by `pillion.worker`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadConfig {
    /// What to load.
    pub model: ModelSource,
    /// A torch device, such as `cpu` or `cuda:0`; Python chooses if absent.
    pub device: Option<String>,
    /// A torch dtype, such as `float32`; Python chooses the one that is fast on the device if absent.
    pub dtype: Option<String>,
    /// Intra-op threads; set before torch is imported.
    pub num_threads: u32,
    /// The part of the engine's limits that shapes the cache.
    pub limits: LoadLimits,
}

/// The part of [`crate::Limits`] that the worker needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadLimits {
    /// As in [`crate::Limits`].
    pub max_context: Option<u32>,
    /// As in [`crate::Limits`].
    pub max_batch_tokens: u32,
    /// As in [`crate::Limits`].
    pub max_running: u32,
    /// As in [`crate::Limits`].
    pub kv_cache_bytes: Option<u64>,
}

/// The worker's answer when it is ready. Written by `pillion.worker`, read by Rust.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerInfo {
    /// The Python package's version; must equal [`crate::VERSION`].
    pub version: String,
    /// The step record's version; must equal [`crate::step::VERSION`].
    pub step_version: u16,
    /// The worker's process.
    pub pid: u32,
    /// The interpreter, if there is one.
    #[serde(default)]
    pub python: Option<PythonInfo>,
    /// The model that was loaded.
    pub model: ModelInfo,
}

/// The interpreter as `status()` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PythonInfo {
    /// Its path.
    pub executable: String,
    /// Its version, as `3.11.7`.
    pub version: String,
    /// Versions of the packages that matter to the model.
    pub packages: std::collections::BTreeMap<String, String>,
}

/// What was loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelInfo {
    /// A short name: the folder's last part, or the class.
    pub name: String,
    /// What it can do: `generate`, `embed`, `classify`, `predict`.
    pub tasks: Vec<String>,
    /// How decode is batched, best first: `slots` or `single`.
    #[serde(default)]
    pub tier: Option<String>,
    /// Why a better tier was not taken.
    #[serde(default)]
    pub tier_reason: Option<String>,
    /// The weights' dtype.
    #[serde(default)]
    pub dtype: Option<String>,
    /// The device that they are on.
    #[serde(default)]
    pub device: Option<String>,
    /// Tokens of prompt and answer that one sequence may have.
    pub max_context: u32,
    /// Ids that the model can give; 0 for a model that gives none.
    pub vocab_size: u32,
    /// Sequences that can be in the cache at once.
    pub num_slots: u32,
    /// Tokens that the cache holds, over all slots.
    pub kv_tokens: u64,
    /// Ids that end the text.
    pub eos_token_ids: Vec<u32>,
    /// Sampling when the request does not say.
    #[serde(default)]
    pub defaults: GenerationDefaults,
}

/// Sampling defaults of the model's `generation_config.json`, already resolved: `temperature` 0 when it says not to sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GenerationDefaults {
    /// 0 means greedy.
    pub temperature: f32,
    /// 1 means all.
    pub top_p: f32,
    /// 0 means all.
    pub top_k: u32,
    /// 0 means all.
    pub min_p: f32,
}

impl Default for GenerationDefaults {
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0 }
    }
}

/// One worker as `status()` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerStatus {
    /// Its process; this process for the embedded bridge.
    pub pid: u32,
    /// `starting`, `ready`, `busy`, `lost` or `closed`.
    pub state: String,
    /// How often it was started anew.
    pub restarts: u32,
    /// Its resident memory.
    pub rss_bytes: u64,
}
