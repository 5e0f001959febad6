//! What a caller asks for, before anything has been checked.

use serde::{Deserialize, Serialize};

use crate::forward::ForwardItem;

/// A request for text, as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// The caller's id, or one of ours.
    pub request_id: String,
    /// What to continue.
    pub prompt: Prompt,
    /// How to choose tokens and when to stop.
    pub sampling: SamplingOptions,
}

/// Inputs for a model that is no generator, as they came.
#[derive(Clone, Debug, PartialEq)]
pub struct PredictRequest {
    /// The caller's id, or one of ours.
    pub request_id: String,
    /// The inputs.
    pub items: Vec<ForwardItem>,
    /// From the call to the last result, in milliseconds.
    pub timeout_ms: Option<f64>,
}

/// What to continue.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Text, tokenized by us.
    Text {
        /// The text.
        text: String,
        /// Whether the tokenizer's special tokens (BOS) are added.
        add_special_tokens: bool,
    },
    /// Token ids, taken as they are.
    Ids(Vec<u32>),
}

/// The choices that a request may make. `None` means the model's default.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SamplingOptions {
    /// Tokens to give at most; as many as fit the context if absent.
    pub max_tokens: Option<f64>,
    /// 0 for greedy.
    pub temperature: Option<f64>,
    /// Keep the likeliest tokens that together reach this probability.
    pub top_p: Option<f64>,
    /// Keep this many of the likeliest tokens; 0 for all.
    pub top_k: Option<f64>,
    /// Keep tokens at least this likely, relative to the likeliest.
    pub min_p: Option<f64>,
    /// Makes sampling repeatable.
    pub seed: Option<f64>,
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// How many of the likeliest tokens to report beside the chosen one's log probability.
    pub logprobs: Option<f64>,
    /// Whether token ids are wanted in the answer.
    pub tokens: bool,
    /// Whether end-of-text tokens are ignored, so that the answer has `max_tokens` tokens; for measurements.
    pub ignore_eos: bool,
    /// From the call to the last token, in milliseconds.
    pub timeout_ms: Option<f64>,
    /// Whose share it counts against.
    pub tenant: Option<String>,
    /// Higher goes first; 0 if absent.
    pub priority: Option<f64>,
}

/// Why an answer ended. An error is never one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinishReason {
    /// An end-of-text token or a stop string.
    Stop,
    /// `max_tokens` or the context.
    Length,
    /// The model asked for tools.
    ToolCalls,
    /// The caller ended it.
    Abort,
}

/// What ended an answer whose reason is [`FinishReason::Stop`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StopMatch {
    /// An end-of-text token.
    Token(u32),
    /// A stop string.
    Text(String),
}

/// What a request used, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer, an end-of-text token included.
    pub completion_tokens: u32,
    /// Both.
    pub total_tokens: u32,
    /// Tokens of the prompt that were in the cache already.
    pub cached_prompt_tokens: u32,
    /// Tokens of the answer that are reasoning.
    pub reasoning_tokens: u32,
}

impl Usage {
    /// Counts of prompt and answer.
    pub fn new(prompt_tokens: u32, completion_tokens: u32) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            ..Self::default()
        }
    }
}
