//! What an engine gives, packed for one crossing per wake-up. `src/stream.ts` reads it.
//!
//! Events wait in the outbox until JS fetches them. There is at most one wake-up pending, and what a run gets meanwhile is joined to
//! what it has, so a JS thread that is busy finds one event per run, however many steps it missed.
//!
//! The record is a list of events in little-endian u32: kind, run, flags, prompt tokens, completion tokens, and the numbers of ids,
//! of log probabilities, of alternatives, of bytes of text and of bytes of JSON; then the ids, log probabilities, ids of
//! alternatives and their log probabilities; then the text and the JSON as UTF-8, each padded to 4 bytes. A prediction has the bytes of
//! its tensors in place of ids; it is packed as it comes, by the engine's thread.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use pillion_core::{Error, LogLevel, LogRecord, LogSource, Progress};
use pillion_engine::{EngineOutput, Finish, Outputs, RunOutput, TokenData};
use serde::Serialize;

use crate::predict::{Described, describe};

/// Log lines that wait for a JS thread that does not come; later ones are counted and dropped.
const MAX_LOGS: usize = 1000;

const KIND_RUN: u32 = 1;
const KIND_PROGRESS: u32 = 2;
const KIND_READY: u32 = 3;
const KIND_LOAD_FAILED: u32 = 4;
const KIND_LOG: u32 = 5;
const KIND_CLOSED: u32 = 6;
const KIND_PREDICTION: u32 = 7;

const FLAG_FINISH: u32 = 1;
const FLAG_ERROR: u32 = 2;
const FLAG_TOKENS: u32 = 4;

/// Collects an engine's outputs and wakes JS. `wake` must not block, and must not call back into the outbox.
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    wake: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Waiting {
    events: Vec<Event>,
    /// Where in `events` a run's outputs are joined.
    runs: HashMap<u32, usize>,
    logs: usize,
    dropped_logs: usize,
    wake_pending: bool,
    /// Large tensors of the predictions that JS has drained and not yet come for, by run.
    tensors: HashMap<u32, Vec<Vec<u8>>>,
}

/// What waits for JS.
enum Event {
    /// Packed when it is fetched, since more may be joined to it.
    Output(EngineOutput),
    Prediction {
        run: u32,
        described: Described,
    },
}

impl From<EngineOutput> for Event {
    fn from(output: EngineOutput) -> Self {
        match output {
            EngineOutput::Prediction(prediction) => {
                Self::Prediction { run: prediction.run, described: describe(prediction) }
            }
            other => Self::Output(other),
        }
    }
}

impl Outbox {
    pub(crate) fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { waiting: Mutex::default(), wake: Box::new(wake) }
    }

    /// Takes everything that waits, as one record.
    pub(crate) fn drain(&self) -> Vec<u32> {
        let mut waiting = self.lock().take();
        if waiting.dropped_logs > 0 {
            waiting.events.push(Event::Output(EngineOutput::Log(dropped_logs(waiting.dropped_logs))));
        }
        let mut record = Vec::new();
        for event in waiting.events {
            match event {
                Event::Output(output) => pack(&mut record, output),
                Event::Prediction { run, described } => {
                    pack_prediction(&mut record, run, &described);
                    if !described.large.is_empty() {
                        self.lock().tensors.insert(run, described.large);
                    }
                }
            }
        }
        record
    }

    /// The large tensors of a prediction that was drained, once.
    pub(crate) fn take_tensors(&self, run: u32) -> Vec<Vec<u8>> {
        self.lock().tensors.remove(&run).unwrap_or_default()
    }

    /// Adds outputs that do not come from the engine's thread.
    pub(crate) fn put(&self, outputs: Vec<EngineOutput>) {
        // Not under the lock, for which the JS thread may wait.
        let outputs: Vec<Event> = outputs.into_iter().map(Event::from).collect();
        let wake = {
            let mut waiting = self.lock();
            for output in outputs {
                waiting.add(output);
            }
            !waiting.events.is_empty() && !std::mem::replace(&mut waiting.wake_pending, true)
        };
        if wake {
            (self.wake)();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outputs for Outbox {
    fn deliver(&self, outputs: Vec<EngineOutput>) {
        self.put(outputs);
    }
}

impl Waiting {
    /// All events, and what belongs to them.
    fn take(&mut self) -> Self {
        let tensors = std::mem::take(&mut self.tensors);
        std::mem::replace(self, Self { tensors, ..Self::default() })
    }

    fn add(&mut self, event: Event) {
        match event {
            Event::Output(EngineOutput::Run(output)) => self.add_run(output),
            Event::Output(EngineOutput::Log(_)) if self.logs >= MAX_LOGS => self.dropped_logs += 1,
            other => {
                self.logs += usize::from(matches!(other, Event::Output(EngineOutput::Log(_))));
                self.events.push(other);
            }
        }
    }

    fn add_run(&mut self, output: RunOutput) {
        let finished = output.finish.is_some();
        let run = output.run;
        if let Some(Event::Output(EngineOutput::Run(earlier))) = self.runs.get(&run).map(|&at| &mut self.events[at]) {
            join(earlier, output);
        } else {
            self.runs.insert(run, self.events.len());
            self.events.push(Event::Output(EngineOutput::Run(output)));
        }
        if finished {
            // The number may be another run's before JS comes.
            self.runs.remove(&run);
        }
    }
}

fn join(earlier: &mut RunOutput, later: RunOutput) {
    earlier.text.push_str(&later.text);
    earlier.prompt_tokens = earlier.prompt_tokens.max(later.prompt_tokens);
    earlier.completion_tokens = earlier.completion_tokens.max(later.completion_tokens);
    earlier.finish = later.finish;
    match (&mut earlier.tokens, later.tokens) {
        (Some(into), Some(from)) => {
            into.ids.extend(from.ids);
            into.logprobs.extend(from.logprobs);
            into.top_ids.extend(from.top_ids);
            into.top_logprobs.extend(from.top_logprobs);
        }
        (into @ None, from) => *into = from,
        (Some(_), None) => {}
    }
}

fn dropped_logs(count: usize) -> LogRecord {
    LogRecord {
        level: LogLevel::Warn,
        source: LogSource::Rust,
        message: format!("{count} log lines were dropped, since the JS thread did not fetch them"),
        request_id: None,
    }
}

fn pack(record: &mut Vec<u32>, event: EngineOutput) {
    match event {
        EngineOutput::Run(output) => pack_run(record, &output),
        // Has an event of its own.
        EngineOutput::Prediction(_) => {}
        EngineOutput::Progress(progress) => pack_json(record, KIND_PROGRESS, &json::<Progress>(&progress)),
        EngineOutput::Log(log) => pack_json(record, KIND_LOG, &json::<LogRecord>(&log)),
        EngineOutput::LoadFailed(error) => pack_json(record, KIND_LOAD_FAILED, &error.to_json()),
        EngineOutput::Ready => pack_json(record, KIND_READY, ""),
        EngineOutput::Closed => pack_json(record, KIND_CLOSED, ""),
    }
}

fn pack_json(record: &mut Vec<u32>, kind: u32, json: &str) {
    record.extend([kind, 0, 0, 0, 0, 0, 0, 0, 0, json.len() as u32]);
    pack_bytes(record, json.as_bytes());
}

fn pack_prediction(record: &mut Vec<u32>, run: u32, described: &Described) {
    let Described { json, data, large } = described;
    let words = data.len().div_ceil(4) as u32;
    record.extend([KIND_PREDICTION, run, large.len() as u32, 0, 0, words, 0, 0, 0, json.len() as u32]);
    pack_bytes(record, data);
    pack_bytes(record, json.as_bytes());
}

fn pack_run(record: &mut Vec<u32>, output: &RunOutput) {
    let (flag, json) = match &output.finish {
        None => (0, String::new()),
        Some(Ok(finish)) => (FLAG_FINISH, json::<Finish>(finish)),
        Some(Err(error)) => (FLAG_ERROR, error.to_json()),
    };
    let none = TokenData::default();
    let tokens = output.tokens.as_ref().unwrap_or(&none);
    let flags = flag | if output.tokens.is_some() { FLAG_TOKENS } else { 0 };
    record.extend([
        KIND_RUN,
        output.run,
        flags,
        output.prompt_tokens,
        output.completion_tokens,
        tokens.ids.len() as u32,
        tokens.logprobs.len() as u32,
        tokens.top_ids.len() as u32,
        output.text.len() as u32,
        json.len() as u32,
    ]);
    record.extend(&tokens.ids);
    record.extend(tokens.logprobs.iter().map(|p| p.to_bits()));
    record.extend(&tokens.top_ids);
    record.extend(tokens.top_logprobs.iter().map(|p| p.to_bits()));
    pack_bytes(record, output.text.as_bytes());
    pack_bytes(record, json.as_bytes());
}

fn pack_bytes(record: &mut Vec<u32>, bytes: &[u8]) {
    let mut chunks = bytes.chunks_exact(4);
    record.extend(chunks.by_ref().map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])));
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let mut word = [0; 4];
        word[..rest.len()].copy_from_slice(rest);
        record.push(u32::from_le_bytes(word));
    }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value)
        .unwrap_or_else(|e| Error::internal(format!("an event could not be written: {e}")).to_json())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use pillion_core::forward::{Dtype, ForwardItem, Tensor};
    use pillion_engine::Prediction;

    use super::*;

    fn outbox() -> (Outbox, Arc<AtomicUsize>) {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&wakes);
        let outbox = Outbox::new(move || {
            counted.fetch_add(1, SeqCst);
        });
        (outbox, wakes)
    }

    fn text(run: u32, text: &str, completion_tokens: u32) -> EngineOutput {
        EngineOutput::Run(RunOutput { run, text: text.into(), completion_tokens, ..RunOutput::default() })
    }

    fn failed(run: u32) -> EngineOutput {
        EngineOutput::Run(RunOutput { run, finish: Some(Err(Error::internal("x"))), ..RunOutput::default() })
    }

    /// The headers and texts of a record.
    fn unpack(record: &[u32]) -> Vec<([u32; 10], String)> {
        let mut events = Vec::new();
        let mut at = 0;
        while at < record.len() {
            let header: [u32; 10] = record[at..at + 10].try_into().unwrap();
            let [.., ids, logprobs, top, text, json] = header;
            let text_at = at + 10 + (ids + logprobs + 2 * top) as usize;
            let bytes: Vec<u8> = record[text_at..].iter().flat_map(|w| w.to_le_bytes()).collect();
            events.push((header, String::from_utf8(bytes[..text as usize].to_vec()).unwrap()));
            at = text_at + (text.div_ceil(4) + json.div_ceil(4)) as usize;
        }
        events
    }

    #[test]
    fn one_wake_up_until_drained() {
        let (outbox, wakes) = outbox();
        outbox.deliver(vec![]);
        assert_eq!(wakes.load(SeqCst), 0);
        outbox.deliver(vec![text(1, "a", 1)]);
        outbox.deliver(vec![text(2, "b", 1)]);
        assert_eq!(wakes.load(SeqCst), 1);
        assert_eq!(unpack(&outbox.drain()).len(), 2);
        assert!(outbox.drain().is_empty());
        outbox.deliver(vec![text(1, "c", 2)]);
        assert_eq!(wakes.load(SeqCst), 2);
    }

    #[test]
    fn what_a_run_gets_meanwhile_is_joined() {
        let (outbox, _) = outbox();
        outbox.deliver(vec![text(1, "héll", 1), text(2, "other", 1)]);
        outbox.deliver(vec![text(1, "o 🌍", 2)]);
        let events = unpack(&outbox.drain());
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].1, "héllo 🌍");
        assert_eq!(events[0].0[4], 2);
        assert_eq!(events[1].1, "other");
    }

    #[test]
    fn a_number_that_is_used_again_is_another_run() {
        let (outbox, _) = outbox();
        outbox.deliver(vec![text(1, "old", 1), failed(1), text(1, "new", 1)]);
        let events = unpack(&outbox.drain());
        assert_eq!(events.len(), 2);
        assert_eq!((events[0].0[2], events[0].1.as_str()), (FLAG_ERROR, "old"));
        assert_eq!((events[1].0[2], events[1].1.as_str()), (0, "new"));
    }

    #[test]
    fn tokens_are_joined_by_column() {
        let (outbox, _) = outbox();
        let tokens = |id: u32| TokenData {
            ids: vec![id],
            logprobs: vec![-0.5],
            top_ids: vec![id, id + 1],
            top_logprobs: vec![-0.5, -1.5],
        };
        for id in [7, 9] {
            let output = RunOutput { run: 1, text: "é".into(), tokens: Some(tokens(id)), ..RunOutput::default() };
            outbox.deliver(vec![EngineOutput::Run(output)]);
        }
        let record = outbox.drain();
        assert_eq!(record[2], FLAG_TOKENS);
        assert_eq!(record[5..8], [2, 2, 4]);
        assert_eq!(record[10..12], [7, 9]);
        assert_eq!(record[12], (-0.5f32).to_bits());
        assert_eq!(record[14..18], [7, 8, 9, 10]);
        assert_eq!(unpack(&record)[0].1, "éé");
    }

    #[test]
    fn a_prediction_is_packed_between_the_others() {
        let (outbox, _) = outbox();
        let tensor = Tensor::new(Dtype::Uint8, vec![5], vec![1, 2, 3, 4, 5]).unwrap();
        let item = ForwardItem { json: "null".into(), tensors: vec![(None, tensor)] };
        let prediction = Prediction { run: 9, results: vec![Ok(item)] };
        outbox.deliver(vec![text(1, "a", 1), EngineOutput::Prediction(prediction), text(1, "b", 2)]);
        let record = outbox.drain();
        let events = unpack(&record);
        assert_eq!(events.iter().map(|e| e.0[0]).collect::<Vec<_>>(), [KIND_RUN, KIND_PREDICTION]);
        assert_eq!((events[0].1.as_str(), events[1].0[1], events[1].0[5]), ("ab", 9, 2));
        assert_eq!(record[21..23], [0x0403_0201, 5]);
        assert!(outbox.take_tensors(9).is_empty());
    }

    #[test]
    fn large_tensors_are_taken_apart_from_the_record() {
        let (outbox, _) = outbox();
        let prediction = |run: u32| {
            let tensor = Tensor::new(Dtype::Uint8, vec![1 << 20], vec![run as u8; 1 << 20]).unwrap();
            let item = ForwardItem { json: "null".into(), tensors: vec![(None, tensor)] };
            EngineOutput::Prediction(Prediction { run, results: vec![Ok(item)] })
        };
        outbox.deliver(vec![prediction(3), prediction(4)]);
        let record = outbox.drain();
        assert!(record.len() < 100);
        assert_eq!(unpack(&record).iter().map(|e| e.0[2]).collect::<Vec<_>>(), [1, 1]);
        outbox.deliver(vec![text(1, "a", 1)]);
        assert_eq!(unpack(&outbox.drain()).len(), 1);
        assert_eq!(outbox.take_tensors(4), [vec![4; 1 << 20]]);
        assert_eq!(outbox.take_tensors(3), [vec![3; 1 << 20]]);
        assert!(outbox.take_tensors(3).is_empty());
    }

    #[test]
    fn log_lines_are_bounded_and_the_loss_is_told() {
        let (outbox, _) = outbox();
        for _ in 0..MAX_LOGS + 5 {
            outbox.deliver(vec![EngineOutput::Log(dropped_logs(1))]);
        }
        let record = outbox.drain();
        assert_eq!(unpack(&record).len(), MAX_LOGS + 1);
        let bytes: Vec<u8> = record.iter().flat_map(|w| w.to_le_bytes()).collect();
        assert!(String::from_utf8_lossy(&bytes).contains("5 log lines were dropped"));
    }
}
