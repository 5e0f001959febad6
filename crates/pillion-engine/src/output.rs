//! What an engine gives back.

use std::collections::BTreeMap;

use pillion_core::{Error, FinishReason, LogRecord, Progress, StopMatch, Usage, forward::ForwardItem};
use serde::Serialize;

/// Takes what the engine gives. Called at most once per step from the engine's thread, and now and then from the thread that called
/// [`crate::Engine::generate`] or from the tokenizer's pool, when a request is refused. Must not block.
pub trait Outputs: Send + Sync {
    /// Takes a step's outputs, in order.
    fn deliver(&self, outputs: Vec<EngineOutput>);
}

/// One thing that happened.
#[derive(Debug)]
pub enum EngineOutput {
    /// A part of loading was done.
    Progress(Progress),
    /// The model is loaded.
    Ready,
    /// The model did not load; the engine is closed.
    LoadFailed(Error),
    /// A line for the user's logger.
    Log(LogRecord),
    /// Text, tokens or the end of a run. Also the end of a call of `predict` that failed as a whole or was aborted.
    Run(RunOutput),
    /// The end of a call of `predict`.
    Prediction(Prediction),
    /// The engine is closed; nothing follows.
    Closed,
}

/// What one step gave to one run.
#[derive(Debug, Default)]
pub struct RunOutput {
    /// Whose.
    pub run: u32,
    /// The text since the last output; may be empty.
    pub text: String,
    /// Tokens of the prompt; 0 until they are known.
    pub prompt_tokens: u32,
    /// Tokens of the answer so far.
    pub completion_tokens: u32,
    /// The tokens since the last output, if the request wants them.
    pub tokens: Option<TokenData>,
    /// Set once, in the run's last output.
    pub finish: Option<Result<Finish, Error>>,
}

/// What a call of `predict` gave.
#[derive(Debug)]
pub struct Prediction {
    /// Whose.
    pub run: u32,
    /// One for each input, in order.
    pub results: Vec<Result<ForwardItem, Error>>,
}

/// Tokens as flat columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenData {
    /// The tokens, an end-of-text token included.
    pub ids: Vec<u32>,
    /// One per token, or none if not asked for.
    pub logprobs: Vec<f32>,
    /// Equally many alternatives per token, or none.
    pub top_ids: Vec<u32>,
    /// As `top_ids`.
    pub top_logprobs: Vec<f32>,
}

/// How a run ended well.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finish {
    /// Why.
    pub finish_reason: FinishReason,
    /// What ended it, if the reason is `stop`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_match: Option<StopMatch>,
    /// In tokens.
    pub usage: Usage,
    /// In milliseconds: `tokenizeMs`, `queueMs`, `firstTokenMs`, `totalMs`; the last two from the call on.
    pub timings: BTreeMap<&'static str, f64>,
}
