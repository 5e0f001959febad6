//! One request on its way through the engine: detokenizing, stop strings, clocks.

use std::{collections::BTreeMap, time::Instant};

use pillion_core::{
    Error, FinishReason, StopMatch, Usage,
    step::{StepOutput, TopLogprob},
};
use pillion_schedule::TokenEvent;
use pillion_tokenize::{DecodeOptions, DecodeStream, StopStrings, Tokenizer};

use crate::{
    event::NewRun,
    output::{Finish, RunOutput, TokenData},
};

/// What the engine keeps of a run from its tokenizing to its end.
pub(crate) struct Run {
    id: u32,
    request_id: String,
    pub(crate) deadline: Option<Instant>,
    /// Without a tokenizer there are ids and no text.
    decoder: Option<DecodeStream>,
    stop: Option<StopStrings>,
    stop_strings: Vec<String>,
    wants_tokens: bool,
    /// Alternatives per token, if log probabilities are wanted.
    logprobs: Option<u32>,
    prompt_tokens: u32,
    completion_tokens: u32,
    received: Instant,
    tokenized: Instant,
    scheduled: Option<Instant>,
    first_token: Option<Instant>,
    /// Workers that were lost while it ran.
    num_lost: u32,
    pending: RunOutput,
    /// Whether `pending` is in the engine's list of runs to deliver.
    pub(crate) is_touched: bool,
}

impl Run {
    pub(crate) fn new(new: &NewRun, tokenizer: Option<&Tokenizer>) -> Self {
        let params = new.sequence.params();
        Self {
            id: new.run,
            request_id: new.sequence.request_id().to_owned(),
            deadline: new.deadline,
            decoder: tokenizer
                .map(|t| t.decode_stream(DecodeOptions { skip_special_tokens: true, ..DecodeOptions::default() })),
            stop: (!params.stop.is_empty()).then(|| StopStrings::new(params.stop.clone())),
            stop_strings: params.stop.clone(),
            wants_tokens: params.tokens || params.logprobs.is_some(),
            logprobs: params.logprobs,
            prompt_tokens: new.sequence.prompt_ids().len() as u32,
            completion_tokens: 0,
            received: new.received,
            tokenized: new.tokenized,
            scheduled: None,
            first_token: None,
            num_lost: 0,
            pending: RunOutput::default(),
            is_touched: false,
        }
    }

    /// The run has entered a step.
    pub(crate) fn scheduled(&mut self, now: Instant) {
        self.scheduled.get_or_insert(now);
    }

    /// Its worker was lost; how often that has happened to it.
    pub(crate) fn lost(&mut self) -> u32 {
        self.num_lost += 1;
        self.num_lost
    }

    /// Takes a token in. The stop string that it completes, if one.
    pub(crate) fn push(&mut self, event: &TokenEvent, output: &StepOutput, now: Instant) -> Option<StopMatch> {
        self.first_token.get_or_insert(now);
        self.completion_tokens += 1;
        if self.wants_tokens {
            self.push_token_data(event, output);
        }
        if event.is_eos {
            return None;
        }
        let delta = self.decoder.as_mut()?.push(&[event.id]);
        self.push_text(&delta)
    }

    fn push_text(&mut self, delta: &str) -> Option<StopMatch> {
        let Some(stop) = &mut self.stop else {
            self.pending.text.push_str(delta);
            return None;
        };
        let index = stop.push(delta, &mut self.pending.text)?;
        Some(StopMatch::Text(self.stop_strings[index].clone()))
    }

    fn push_token_data(&mut self, event: &TokenEvent, output: &StepOutput) {
        let data = self.pending.tokens.get_or_insert_with(TokenData::default);
        data.ids.push(event.id);
        let Some(alternatives) = self.logprobs else { return };
        data.logprobs.push(output.logprobs.get(event.index).copied().unwrap_or(f32::NAN));
        let index = event.index as u32;
        let from = output.top.partition_point(|t| t.index < index);
        let top = output.top[from..].iter().take_while(|t| t.index == index);
        // Every token has equally many, so that the columns stay flat.
        let none = TopLogprob { index, id: event.id, logprob: f32::NAN };
        for t in top.chain(std::iter::repeat(&none)).take(alternatives as usize) {
            data.top_ids.push(t.id);
            data.top_logprobs.push(t.logprob);
        }
    }

    /// Ends the run well; gives its last output.
    pub(crate) fn finish(mut self, reason: FinishReason, stop_match: Option<StopMatch>, now: Instant) -> RunOutput {
        let mut stop_match = stop_match;
        let mut reason = reason;
        // Text after a stop string is no part of the answer; else what was held back is.
        if !matches!(stop_match, Some(StopMatch::Text(_))) {
            let tail = self.decoder.as_mut().map(DecodeStream::end).unwrap_or_default();
            if let Some(found) = self.push_text(&tail) {
                (reason, stop_match) = (FinishReason::Stop, Some(found));
            } else if let Some(stop) = &mut self.stop {
                stop.flush(&mut self.pending.text);
            }
        }
        let finish = Finish {
            finish_reason: reason,
            stop_match,
            usage: Usage::new(self.prompt_tokens, self.completion_tokens),
            timings: self.timings(now),
        };
        self.last_output(Ok(finish))
    }

    /// The caller's name for it.
    pub(crate) fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Ends the run with an error; text that was made stays readable.
    pub(crate) fn fail(self, error: Error) -> RunOutput {
        let error = error.with_request_id(self.request_id.clone());
        self.last_output(Err(error))
    }

    /// What has come together since the last time, if anything.
    pub(crate) fn take_output(&mut self) -> Option<RunOutput> {
        self.is_touched = false;
        let pending = std::mem::take(&mut self.pending);
        if pending.text.is_empty() && pending.tokens.is_none() {
            return None;
        }
        Some(self.stamp(pending))
    }

    fn last_output(mut self, finish: Result<Finish, Error>) -> RunOutput {
        let pending = std::mem::take(&mut self.pending);
        RunOutput { finish: Some(finish), ..self.stamp(pending) }
    }

    fn stamp(&self, output: RunOutput) -> RunOutput {
        RunOutput {
            run: self.id,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            ..output
        }
    }

    fn timings(&self, now: Instant) -> BTreeMap<&'static str, f64> {
        let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
        let mut timings = BTreeMap::from([
            ("tokenizeMs", ms(self.received, self.tokenized)),
            ("queueMs", ms(self.tokenized, self.scheduled.unwrap_or(now))),
            ("totalMs", ms(self.received, now)),
        ]);
        if let Some(first) = self.first_token {
            timings.insert("firstTokenMs", ms(self.received, first));
        }
        timings
    }

    pub(crate) fn completion_tokens(&self) -> u32 {
        self.completion_tokens
    }
}
