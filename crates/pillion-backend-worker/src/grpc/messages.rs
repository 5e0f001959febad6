//! Steps as messages, and answers from them.

use pillion_core::{
    Error, Result,
    forward::{ForwardBatch, ForwardOutput},
    step::{self, RecordKind, Step, StepOutput},
};

use prost::Message;

use super::proto::{self, steps_reply::Reply, steps_request::Request};
use crate::link::Answer;

/// How steps are put into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As the step record of the other bridges, which a worker of ours reads as it is.
    Record,
    /// Field by field, for a worker that knows no records or other ones.
    Fields,
}

impl Form {
    /// For a worker that takes records of this version, 0 for none.
    pub(super) fn of(record_version: u32) -> Self {
        if record_version == u32::from(step::VERSION) { Self::Record } else { Self::Fields }
    }
}

/// The message that says what the step says.
pub(super) fn request(step: &Step, form: Form) -> proto::StepsRequest {
    let request = match form {
        Form::Record => {
            let mut record = Vec::new();
            step.encode_into(&mut record);
            Request::Record(record)
        }
        Form::Fields => Request::Step(message(step)),
    };
    proto::StepsRequest { request: Some(request) }
}

/// The message that says what the forward says.
pub(super) fn forward(batch: &ForwardBatch) -> Result<proto::StepsRequest> {
    let mut record = Vec::new();
    batch.encode_into(&mut record)?;
    Ok(proto::StepsRequest { request: Some(Request::Record(record)) })
}

/// Bytes of the step in it.
pub(super) fn size(request: &proto::StepsRequest) -> usize {
    match &request.request {
        Some(Request::Record(record)) => record.len(),
        Some(Request::Step(step)) => step.encoded_len(),
        None => 0,
    }
}

fn message(step: &Step) -> proto::Step {
    proto::Step {
        step_id: step.step_id,
        freed: step.freed.clone(),
        new: step.new.iter().map(sequence).collect(),
        prompts: step.prompts.clone(),
        copies: step.copies.iter().flat_map(|c| [c.from, c.to]).collect(),
        bitmask: step.bitmask.clone(),
        rows: step.rows.iter().flat_map(|r| [r.slot, r.start, r.count, r.flags]).collect(),
        request_ids: step.request_ids.clone(),
    }
}

fn sequence(n: &step::NewSequence) -> proto::NewSequence {
    proto::NewSequence {
        slot: n.slot,
        prompt_offset: n.prompt_offset,
        prompt_len: n.prompt_len,
        flags: n.flags,
        temperature: n.temperature,
        top_p: n.top_p,
        top_k: n.top_k,
        min_p: n.min_p,
        seed: n.seed,
        logprobs: n.logprobs,
        max_len: n.max_len,
        repetition_penalty: n.repetition_penalty,
        presence_penalty: n.presence_penalty,
    }
}

/// The answer in a message, to what was asked.
pub(super) fn answer(reply: proto::StepsReply, asked: Option<RecordKind>) -> Result<Answer> {
    match reply.reply {
        Some(Reply::Record(record)) if asked == Some(RecordKind::Forward) => {
            ForwardOutput::decode(&record).map(Answer::Forward)
        }
        reply => output(proto::StepsReply { reply }).map(Answer::Step),
    }
}

/// The answer to a step. Its sizes are checked as those of a record are.
fn output(reply: proto::StepsReply) -> Result<StepOutput> {
    let output = match reply.reply {
        Some(Reply::Step(output)) => output,
        Some(Reply::Record(record)) => return StepOutput::decode(&record),
        None => return Err(Error::internal("a message of the stream has no answer in it")),
    };
    let proto::StepOutput { step_id, forward_ns, tokens, logprobs, top, error } = output;
    if !logprobs.is_empty() && logprobs.len() != tokens.len() {
        return Err(Error::internal(format!("{} log probabilities for {} tokens", logprobs.len(), tokens.len())));
    }
    if let Some(t) = top.iter().find(|t| t.index as usize >= tokens.len()) {
        return Err(Error::internal(format!("an alternative for row {} of {}", t.index, tokens.len())));
    }
    let top = top.iter().map(|t| step::TopLogprob { index: t.index, id: t.id, logprob: t.logprob }).collect();
    let error = (!error.is_empty()).then(|| Error::from_json(&error));
    Ok(StepOutput { step_id, forward_ns, tokens, logprobs, top, error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_core::ErrorCode;

    #[test]
    fn a_packed_field_is_the_section_of_the_record() {
        let rows = vec![step::Row { slot: 1, start: 9, count: 1, flags: step::ROW_SAMPLE }];
        let step = Step { step_id: 5, freed: vec![3], rows, ..Step::default() };
        let mut record = Vec::new();
        step.encode_into(&mut record);
        let message = message(&step).encode_to_vec();
        // Field 2 and field 7, each with its length and then the bytes of its section.
        let freed = [&[0x12, 4], &record[80..84]].concat();
        let rows = [&[0x3a, 16], &record[84..]].concat();
        assert_eq!(message, [&[9, 5, 0, 0, 0, 0, 0, 0, 0][..], &freed, &rows].concat());
    }

    #[test]
    fn a_worker_that_takes_records_gets_them() {
        let step = Step { step_id: 7, freed: vec![1], ..Step::default() };
        let Some(Request::Record(record)) = request(&step, Form::of(u32::from(step::VERSION))).request else {
            panic!("a record was to come");
        };
        assert_eq!(Step::decode(&record).unwrap(), step);
        for other in [0, u32::from(step::VERSION) + 1] {
            assert!(matches!(request(&step, Form::of(other)).request, Some(Request::Step(m)) if m.freed == [1]));
        }
        let output = StepOutput { step_id: 7, tokens: vec![5], ..StepOutput::default() };
        let mut record = Vec::new();
        output.encode_into(&mut record);
        assert_eq!(super::output(proto::StepsReply { reply: Some(Reply::Record(record)) }).unwrap(), output);
    }

    fn reply(output: proto::StepOutput) -> proto::StepsReply {
        proto::StepsReply { reply: Some(Reply::Step(output)) }
    }

    #[test]
    fn an_answer_is_read_with_all_its_parts() {
        let message = proto::StepOutput {
            step_id: 4,
            forward_ns: 9,
            tokens: vec![3, 8],
            logprobs: vec![-1.0, -2.0],
            top: vec![proto::TopLogprob { index: 1, id: 8, logprob: -2.0 }],
            error: String::new(),
        };
        let got = output(reply(message)).unwrap();
        assert_eq!((got.step_id, got.forward_ns, got.tokens, got.top[0].id), (4, 9, vec![3, 8], 8));
        let error = Error::new(ErrorCode::PythonError, "x").to_json();
        let got = output(reply(proto::StepOutput { error, ..Default::default() })).unwrap();
        assert_eq!(got.error.unwrap().code(), ErrorCode::PythonError);
    }

    #[test]
    fn an_answer_that_cannot_be_is_refused() {
        let tokens = vec![1];
        let top = vec![proto::TopLogprob { index: 1, ..Default::default() }];
        for (message, part) in [
            (reply(proto::StepOutput { tokens: tokens.clone(), top, ..Default::default() }), "row 1 of 1"),
            (reply(proto::StepOutput { tokens, logprobs: vec![0.0; 2], ..Default::default() }), "2 log probabilities"),
            (proto::StepsReply { reply: None }, "no answer"),
            (proto::StepsReply { reply: Some(Reply::Record(b"PLLN".to_vec())) }, "a step record cannot be read"),
        ] {
            let error = output(message).unwrap_err();
            assert!(error.code() == ErrorCode::Internal && error.message().contains(part), "{error}");
        }
    }
}
