//! What the engine's tests share: an [`Outputs`] that collects, and an engine around it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crossbeam_channel::{Receiver, Sender, unbounded};
use pillion_backend_echo::{EchoBackend, EchoOptions};
use pillion_core::{Backend, Error, Limits, PredictRequest, forward::ForwardItem};
use pillion_engine::{Engine, EngineOptions, EngineOutput, Finish, Outputs, TokenData};
use pillion_testkit::{Script, ScriptedBackend};
use pillion_tokenize::Tokenizer;

const PATIENCE: Duration = Duration::from_secs(20);

struct Collect(Sender<EngineOutput>);

impl Outputs for Collect {
    fn deliver(&self, outputs: Vec<EngineOutput>) {
        for output in outputs {
            let _ = self.0.send(output);
        }
    }
}

/// An engine and what it gave.
pub struct Bench {
    pub engine: Option<Engine>,
    outputs: Receiver<EngineOutput>,
    /// What came of other runs while one was waited for.
    kept: VecDeque<EngineOutput>,
}

/// Everything that a run gave.
#[derive(Debug, Default)]
pub struct Whole {
    pub text: String,
    pub tokens: TokenData,
    pub deltas: usize,
    pub completion_tokens: u32,
    pub finish: Option<Result<Finish, Error>>,
}

impl Whole {
    pub fn ok(self) -> (String, Finish) {
        (self.text, self.finish.expect("ended").expect("ended well"))
    }

    pub fn err(self) -> Error {
        self.finish.expect("ended").expect_err("ended with an error")
    }
}

fn run_of(output: &EngineOutput) -> Option<u32> {
    match output {
        EngineOutput::Run(output) => Some(output.run),
        EngineOutput::Prediction(prediction) => Some(prediction.run),
        _ => None,
    }
}

impl Bench {
    pub fn new(backend: Box<dyn Backend>, limits: Limits) -> Self {
        let (send, outputs) = unbounded();
        let options = EngineOptions { limits, model_name: "test".into(), ..EngineOptions::default() };
        let engine = Engine::start(options, Some(Tokenizer::byte()), backend, Arc::new(Collect(send))).expect("starts");
        Self { engine: Some(engine), outputs, kept: VecDeque::new() }
    }

    pub fn echo(options: EchoOptions) -> Self {
        let mut bench = Self::new(Box::new(EchoBackend::new(options)), Limits::default());
        bench.wait_ready();
        bench
    }

    pub fn scripted(max_in_flight: usize, limits: Limits) -> (Self, Script) {
        let (backend, script) = ScriptedBackend::new(max_in_flight);
        (Self::new(Box::new(backend), limits), script)
    }

    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("not dropped")
    }

    pub fn next(&mut self) -> EngineOutput {
        self.outputs.recv_timeout(PATIENCE).expect("the engine gives an output")
    }

    pub fn wait_ready(&mut self) {
        self.wait_for(|o| matches!(o, EngineOutput::Ready));
    }

    pub fn wait_closed(&mut self) {
        self.wait_for(|o| matches!(o, EngineOutput::Closed));
    }

    pub fn wait_for(&mut self, wanted: impl Fn(&EngineOutput) -> bool) -> EngineOutput {
        loop {
            match self.next() {
                output if wanted(&output) => return output,
                output if run_of(&output).is_some() => self.kept.push_back(output),
                _ => {}
            }
        }
    }

    /// The next output of a run, be it kept or yet to come.
    fn next_of(&mut self, run: u32) -> EngineOutput {
        if let Some(at) = self.kept.iter().position(|output| run_of(output) == Some(run)) {
            return self.kept.remove(at).expect("found");
        }
        self.wait_for(|output| run_of(output) == Some(run))
    }

    /// Begins a call of `predict` with these items.
    pub fn predict(&self, run: u32, items: &[&str]) {
        self.predict_within(run, items, None);
    }

    pub fn predict_within(&self, run: u32, items: &[&str], timeout_ms: Option<f64>) {
        let items = items.iter().map(|json| ForwardItem { json: (*json).to_owned(), tensors: Vec::new() }).collect();
        let request_id = format!("call-{run}");
        let request = PredictRequest { request_id: request_id.clone(), items, timeout_ms };
        self.engine().predict_from(run, request_id, move || Ok(request));
    }

    /// Waits for the results of a call; each as its JSON.
    pub fn results(&mut self, run: u32) -> Vec<Result<String, Error>> {
        let output = self.next_of(run);
        match output {
            EngineOutput::Prediction(p) => p.results.into_iter().map(|r| r.map(|item| item.json)).collect(),
            other => panic!("{other:?} where results were expected"),
        }
    }

    /// Waits for the end of a run and joins all that it gave.
    pub fn whole(&mut self, run: u32) -> Whole {
        let mut whole = Whole::default();
        loop {
            let output = match self.next_of(run) {
                EngineOutput::Run(output) => output,
                other => panic!("{other:?} where a run was expected"),
            };
            whole.deltas += 1;
            whole.text += &output.text;
            whole.completion_tokens = output.completion_tokens;
            if let Some(tokens) = output.tokens {
                whole.tokens.ids.extend(tokens.ids);
                whole.tokens.logprobs.extend(tokens.logprobs);
                whole.tokens.top_ids.extend(tokens.top_ids);
                whole.tokens.top_logprobs.extend(tokens.top_logprobs);
            }
            if output.finish.is_some() {
                whole.finish = output.finish;
                return whole;
            }
        }
    }
}
