//! Calls of `predict` on their way through the engine.

use std::{sync::Arc, time::Instant};

use pillion_core::{Error, ErrorCode, FinishReason, Usage, forward::ForwardOutput};

use super::{EngineCore, call_too_late};
use crate::{
    calls::EndedCall,
    event::NewCall,
    metrics::Counters,
    output::{EngineOutput, Finish, Prediction, RunOutput},
};

impl EngineCore {
    pub(super) fn add_call(&mut self, new: NewCall, now: Instant) {
        let run = new.run;
        if self.shared.admission.is_aborted(run) {
            return self.end_call(run, Ok(FinishReason::Abort));
        }
        if new.deadline.is_some_and(|at| at <= now) {
            return self.end_call(run, Err(call_too_late().with_request_id(new.request_id)));
        }
        if let Some(at) = new.deadline {
            self.deadlines.push(std::cmp::Reverse((at, run)));
        }
        let ended = self.calls.add(new);
        self.finish_calls(ended);
    }

    pub(super) fn forward_done(&mut self, output: ForwardOutput) {
        let counters = Arc::clone(&self.shared.counters);
        Counters::add(&counters.forwards, 1);
        Counters::add(&counters.forwards_failed, u64::from(output.error.is_some()));
        self.learn(output.forward_ns);
        if let Some(error) = &output.error {
            let names = self.calls.names_in_flight(Some(output.forward_id));
            self.tell_failed(&format!("forward {}", output.forward_id), error, &names);
        }
        let ended = self.calls.answered(output);
        self.finish_calls(ended);
    }

    /// Submits one forward if anything waits for it. Gives whether it did.
    pub(super) fn submit_forward(&mut self) -> bool {
        // Behind a pass that runs, more callers come together than were there when it began, so a second one is submitted only when it is full.
        if self.calls.num_in_flight() > 0 && self.calls.num_waiting() < self.max_items {
            return false;
        }
        let Some(batch) = self.calls.next_batch(self.max_items) else { return false };
        if let Err(error) = self.backend.submit_forward(&batch) {
            if error.code() == ErrorCode::WorkerLost {
                // It has not been sent, so it may well be sent to the next worker, of which we shall hear.
                self.calls.put_back(batch);
                return false;
            }
            let ended = self.calls.refused(&error);
            self.finish_calls(ended);
            return true;
        }
        Counters::add(&self.shared.counters.forward_items, batch.items.len() as u64);
        for run in self.calls.runs_entered() {
            self.shared.admission.started(run);
        }
        true
    }

    pub(super) fn calls_lost(&mut self, error: &Error) {
        let ended = self.calls.lost(error);
        self.finish_calls(ended);
    }

    /// Ends a call before its results are there. False if there is no such call.
    pub(super) fn drop_call(&mut self, run: u32, finish: Result<FinishReason, Error>) -> bool {
        let Some(request_id) = self.calls.remove(run) else { return false };
        self.end_call(run, finish.map_err(|e| e.with_request_id(request_id)));
        true
    }

    fn end_call(&mut self, run: u32, finish: Result<FinishReason, Error>) {
        let finish = finish.map(|finish_reason| Finish {
            finish_reason,
            stop_match: None,
            usage: Usage::default(),
            timings: std::collections::BTreeMap::new(),
        });
        self.end(RunOutput { run, finish: Some(finish), ..RunOutput::default() });
    }

    fn finish_calls(&mut self, ended: impl IntoIterator<Item = EndedCall>) {
        for EndedCall { run, results } in ended {
            let counters = &self.shared.counters;
            let has_failed = !results.is_empty() && results.iter().all(Result::is_err);
            Counters::add(if has_failed { &counters.failed } else { &counters.finished }, 1);
            self.shared.admission.ended(run);
            self.outputs.push(EngineOutput::Prediction(Prediction { run, results }));
        }
    }
}
