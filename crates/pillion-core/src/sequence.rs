//! A request whose token ids are known and fit.

use crate::{
    error::{Error, ErrorCode, Result, Stage},
    validate::{SamplingParams, ValidRequest},
};

/// What the scheduler queues: made only from a [`ValidRequest`] and its ids, so that nothing later checks again.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    request_id: String,
    prompt_ids: Vec<u32>,
    params: SamplingParams,
    max_tokens: u32,
    priority: i32,
}

impl Sequence {
    /// Checks that prompt and answer fit `max_context`. Without `max_tokens` the answer may fill what the prompt leaves.
    pub fn new(request: ValidRequest, prompt_ids: Vec<u32>, max_context: u32) -> Result<Self> {
        let (request_id, params, priority) = request.into_parts();
        let refuse = |message: String| {
            Err(Error::new(ErrorCode::ContextLengthExceeded, message)
                .with_stage(Stage::Tokenize)
                .with_request_id(request_id.clone())
                .with_param("prompt"))
        };
        let prompt = prompt_ids.len();
        if prompt == 0 {
            return Err(Error::invalid("prompt", "a text with at least one token", "none")
                .with_stage(Stage::Tokenize)
                .with_request_id(request_id));
        }
        let room = (max_context as usize).saturating_sub(prompt);
        if room == 0 {
            return refuse(format!(
                "the prompt has {prompt} tokens and the context is {max_context}, which leaves no room for an answer"
            ));
        }
        let max_tokens = match params.max_tokens {
            Some(n) if n as usize > room => {
                return refuse(format!(
                    "the prompt has {prompt} tokens and maxTokens is {n}, more than the context of {max_context}"
                ));
            }
            Some(n) => n,
            None => room as u32,
        };
        Ok(Self { request_id, prompt_ids, params, max_tokens, priority })
    }

    /// The same sequence after `emitted` tokens of its answer, as a new prompt: what a new worker needs to go on where the last one ended.
    /// Sampling is by position, so the answer continues as it would have.
    #[must_use]
    pub fn resume(mut self, emitted: &[u32]) -> Self {
        self.prompt_ids.extend_from_slice(emitted);
        self.max_tokens = self.max_tokens.saturating_sub(emitted.len() as u32).max(1);
        self
    }

    /// The request that it answers.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The prompt's tokens; never empty.
    pub fn prompt_ids(&self) -> &[u32] {
        &self.prompt_ids
    }

    /// How to choose tokens and when to stop.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Tokens to give at most; at least 1.
    pub fn max_tokens(&self) -> u32 {
        self.max_tokens
    }

    /// Higher goes first.
    pub fn priority(&self) -> i32 {
        self.priority
    }
}
