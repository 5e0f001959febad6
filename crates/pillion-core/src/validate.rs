//! Checks a request's shape once. Length is checked where the [`crate::Sequence`] is made, since only then it is known.

use std::time::Duration;

use crate::{
    error::{Error, Result, Stage},
    forward::ForwardItem,
    info::GenerationDefaults,
    request::{GenerateRequest, PredictRequest, Prompt, SamplingOptions},
};

/// Stop strings that one request may name.
const MAX_STOP: usize = 16;
/// Bytes of one stop string.
const MAX_STOP_BYTES: usize = 1024;
/// Alternatives that may be reported per token.
const MAX_LOGPROBS: f64 = 20.0;
/// The largest integer that a JS number holds exactly.
const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;

/// How to choose tokens and when to stop, with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Tokens to give at most, if the caller said.
    pub max_tokens: Option<u32>,
    /// 0 for greedy.
    pub temperature: f32,
    /// 1 for all.
    pub top_p: f32,
    /// 0 for all.
    pub top_k: u32,
    /// 0 for all.
    pub min_p: f32,
    /// The counter-based generator's key; `None` when the caller gave none and the engine is to choose one.
    pub seed: Option<u64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Alternatives to report per token; `None` for no log probabilities at all.
    pub logprobs: Option<u32>,
    /// Whether token ids are wanted.
    pub tokens: bool,
    /// Whether end-of-text tokens are ignored.
    pub ignore_eos: bool,
}

/// A request whose shape is known to be good. Only [`GenerateRequest::validate`] makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidRequest {
    request_id: String,
    prompt: Prompt,
    params: SamplingParams,
    timeout: Option<Duration>,
    tenant: Option<String>,
    priority: i32,
}

/// Inputs whose shape is known to be good. Only [`PredictRequest::validate`] makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidPrediction {
    items: Vec<ForwardItem>,
    timeout: Option<Duration>,
}

impl PredictRequest {
    /// Checks every value.
    pub fn validate(self) -> Result<ValidPrediction> {
        let id = self.request_id;
        let check = || {
            check_request_id(&id)?;
            timeout(self.timeout_ms)
        };
        let timeout = check().map_err(|e| e.with_stage(Stage::Validate).with_request_id(id.clone()))?;
        Ok(ValidPrediction { items: self.items, timeout })
    }
}

impl ValidPrediction {
    /// From the call to the last result.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The inputs.
    pub fn into_items(self) -> Vec<ForwardItem> {
        self.items
    }
}

impl GenerateRequest {
    /// Checks every value and fills in the model's defaults.
    pub fn validate(self, defaults: &GenerationDefaults, vocab_size: u32) -> Result<ValidRequest> {
        let id = self.request_id.clone();
        self.check(defaults, vocab_size).map_err(|e| e.with_stage(Stage::Validate).with_request_id(id))
    }

    fn check(self, defaults: &GenerationDefaults, vocab_size: u32) -> Result<ValidRequest> {
        check_request_id(&self.request_id)?;
        check_prompt(&self.prompt, vocab_size)?;
        let params = sampling_params(&self.sampling, defaults)?;
        let o = &self.sampling;
        Ok(ValidRequest {
            request_id: self.request_id,
            prompt: self.prompt,
            params,
            timeout: timeout(o.timeout_ms)?,
            priority: integer(o.priority, "priority", -1000.0, 1000.0)?.map_or(0, |p| p as i32),
            tenant: self.sampling.tenant,
        })
    }
}

fn check_request_id(id: &str) -> Result<()> {
    if id.is_empty() || id.len() > 256 {
        return Err(Error::invalid("requestId", "a text of 1 to 256 bytes", format_args!("{} bytes", id.len())));
    }
    Ok(())
}

fn timeout(ms: Option<f64>) -> Result<Option<Duration>> {
    Ok(number(ms, "timeoutMs", 0.0, 86_400_000.0 * 365.0)?.map(|ms| Duration::from_secs_f64(ms / 1000.0)))
}

fn check_prompt(prompt: &Prompt, vocab_size: u32) -> Result<()> {
    match prompt {
        Prompt::Text { text, add_special_tokens: false } if text.is_empty() => {
            Err(Error::invalid("prompt", "a text that is not empty", "\"\""))
        }
        Prompt::Text { .. } => Ok(()),
        Prompt::Ids(ids) if ids.is_empty() => Err(Error::invalid("prompt", "at least one token id", "none")),
        Prompt::Ids(ids) => match ids.iter().position(|&id| id >= vocab_size) {
            Some(at) => Err(Error::invalid(
                "prompt",
                &format!("token ids below {vocab_size}"),
                format_args!("{} at index {at}", ids[at]),
            )),
            None => Ok(()),
        },
    }
}

#[expect(clippy::cast_sign_loss, reason = "the ranges below start at 0")]
fn sampling_params(o: &SamplingOptions, d: &GenerationDefaults) -> Result<SamplingParams> {
    if o.stop.len() > MAX_STOP {
        return Err(Error::invalid("stop", "at most 16 texts", o.stop.len()));
    }
    if let Some(stop) = o.stop.iter().find(|s| s.is_empty() || s.len() > MAX_STOP_BYTES) {
        return Err(Error::invalid("stop", "texts of 1 to 1024 bytes", format_args!("one of {} bytes", stop.len())));
    }
    let top_p = number(o.top_p, "topP", 0.0, 1.0)?;
    if top_p == Some(0.0) {
        return Err(Error::invalid("topP", "a number above 0 and up to 1", 0));
    }
    Ok(SamplingParams {
        max_tokens: integer(o.max_tokens, "maxTokens", 1.0, f64::from(u32::MAX))?.map(|n| n as u32),
        temperature: number(o.temperature, "temperature", 0.0, 100.0)?.map_or(d.temperature, |t| t as f32),
        top_p: top_p.map_or(d.top_p, |p| p as f32),
        top_k: integer(o.top_k, "topK", 0.0, f64::from(u32::MAX))?.map_or(d.top_k, |k| k as u32),
        min_p: number(o.min_p, "minP", 0.0, 1.0)?.map_or(d.min_p, |p| p as f32),
        seed: integer(o.seed, "seed", 0.0, MAX_SAFE_INTEGER)?.map(|s| s as u64),
        stop: o.stop.clone(),
        logprobs: integer(o.logprobs, "logprobs", 0.0, MAX_LOGPROBS)?.map(|n| n as u32),
        tokens: o.tokens,
        ignore_eos: o.ignore_eos,
    })
}

fn number(value: Option<f64>, param: &str, min: f64, max: f64) -> Result<Option<f64>> {
    match value {
        // Written so that NaN is refused too.
        Some(v) if !(v >= min && v <= max) => Err(Error::invalid(param, &format!("a number from {min} to {max}"), v)),
        _ => Ok(value),
    }
}

fn integer(value: Option<f64>, param: &str, min: f64, max: f64) -> Result<Option<f64>> {
    match value {
        Some(v) if !(v >= min && v <= max && v.fract() == 0.0) => {
            Err(Error::invalid(param, &format!("an integer from {min} to {max}"), v))
        }
        _ => Ok(value),
    }
}

impl ValidRequest {
    /// The caller's id, or one of ours.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// What to continue.
    pub fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    /// Takes the prompt out, to be tokenized without a copy.
    pub fn take_prompt(&mut self) -> Prompt {
        std::mem::replace(&mut self.prompt, Prompt::Ids(Vec::new()))
    }

    /// How to choose tokens and when to stop.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Gives the generator's key where the caller gave none.
    pub fn seed_or(&mut self, seed: impl FnOnce() -> u64) {
        self.params.seed.get_or_insert_with(seed);
    }

    /// From the call to the last token.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Whose share it counts against.
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// Higher goes first.
    pub fn priority(&self) -> i32 {
        self.priority
    }

    pub(crate) fn into_parts(self) -> (String, SamplingParams, i32) {
        (self.request_id, self.params, self.priority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    fn request(sampling: SamplingOptions) -> GenerateRequest {
        GenerateRequest { request_id: "r".into(), prompt: Prompt::Ids(vec![1, 2]), sampling }
    }

    fn refused(sampling: &SamplingOptions, param: &str) {
        let error = request(sampling.clone())
            .validate(&GenerationDefaults::default(), 10)
            .expect_err(&format!("{sampling:?} must be refused"));
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        assert_eq!(error.param(), Some(param), "{error}");
        assert_eq!(error.request_id(), Some("r"));
    }

    #[test]
    fn absurd_values_are_refused_by_name() {
        type O = SamplingOptions;
        for bad in [-1.0, f64::NAN, f64::INFINITY, 101.0] {
            refused(&O { temperature: Some(bad), ..O::default() }, "temperature");
        }
        for bad in [0.0, -0.1, 1.1, f64::NAN] {
            refused(&O { top_p: Some(bad), ..O::default() }, "topP");
        }
        for bad in [0.0, -3.0, 1.5, f64::NAN, 1e12] {
            refused(&O { max_tokens: Some(bad), ..O::default() }, "maxTokens");
        }
        for bad in [-1.0, 0.5, f64::INFINITY] {
            refused(&O { top_k: Some(bad), ..O::default() }, "topK");
            refused(&O { seed: Some(bad), ..O::default() }, "seed");
        }
        refused(&O { min_p: Some(1.5), ..O::default() }, "minP");
        refused(&O { logprobs: Some(21.0), ..O::default() }, "logprobs");
        refused(&O { timeout_ms: Some(-1.0), ..O::default() }, "timeoutMs");
        refused(&O { priority: Some(0.5), ..O::default() }, "priority");
        refused(&O { stop: vec![String::new()], ..O::default() }, "stop");
        refused(&O { stop: vec!["x".into(); 17], ..O::default() }, "stop");
    }

    #[test]
    fn defaults_are_the_models() {
        let defaults = GenerationDefaults { temperature: 0.5, top_p: 0.9, top_k: 7, min_p: 0.1 };
        let valid = request(SamplingOptions::default()).validate(&defaults, 10).unwrap();
        let p = valid.params();
        assert_eq!((p.temperature, p.top_p, p.top_k, p.min_p), (0.5, 0.9, 7, 0.1));
        assert_eq!(p.max_tokens, None);
        let greedy = SamplingOptions { temperature: Some(0.0), ..SamplingOptions::default() };
        let valid = request(greedy).validate(&defaults, 10).unwrap();
        assert!(valid.params().temperature.abs() < f32::EPSILON);
    }

    #[test]
    fn ids_outside_the_vocabulary_and_empty_prompts_are_refused() {
        let with = |prompt| GenerateRequest { request_id: "r".into(), prompt, sampling: SamplingOptions::default() };
        let d = GenerationDefaults::default();
        for prompt in [
            Prompt::Ids(vec![]),
            Prompt::Ids(vec![3, 10]),
            Prompt::Text { text: String::new(), add_special_tokens: false },
        ] {
            let error = with(prompt).validate(&d, 10).unwrap_err();
            assert_eq!(error.param(), Some("prompt"));
        }
        assert!(with(Prompt::Ids(vec![9])).validate(&d, 10).is_ok());
    }
}
