//! kill -9 of a worker, in the middle of 64 streams and while it has nothing to do.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bridge_bench::drive::Bridge;
use crossbeam_channel::{Receiver, Sender, unbounded};
use pillion_core::{
    Backend, BackendEvent, BackendEvents, Error, GenerateRequest, Limits, ModelSource, Prompt, SamplingOptions,
    WorkerStatus, forward::ForwardBatch, step::Step,
};
use pillion_engine::{Engine, EngineOptions, EngineOutput, Outputs};
use pillion_tokenize::Tokenizer;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::{Failure, Options, summary, tell};

const STREAMS: u32 = 64;
const PATIENCE: Duration = Duration::from_secs(600);

/// A backend whose losses are seen as they are told.
struct Watched {
    inner: Box<dyn Backend>,
    watch: Arc<Watch>,
}

struct Watch {
    pid: AtomicU32,
    lost: Sender<Instant>,
}

impl Backend for Watched {
    fn start(&mut self, events: BackendEvents) -> pillion_core::Result<()> {
        let watch = Arc::clone(&self.watch);
        let outer = events.clone();
        self.inner.start(outer.wrap(move |event| {
            match &event {
                BackendEvent::WorkerLost(_) => drop(watch.lost.send(Instant::now())),
                BackendEvent::Ready(info) => watch.pid.store(info.pid, Ordering::Release),
                _ => {}
            }
            events.send(event);
        }))
    }

    fn submit(&mut self, step: &Step) -> pillion_core::Result<()> {
        self.inner.submit(step)
    }

    fn submit_forward(&mut self, batch: &ForwardBatch) -> pillion_core::Result<()> {
        self.inner.submit_forward(batch)
    }

    fn rung(&mut self, count: u32, take: &mut dyn FnMut(BackendEvent)) {
        self.inner.rung(count, take);
    }

    fn max_in_flight(&self) -> usize {
        self.inner.max_in_flight()
    }

    fn abort(&mut self) {
        self.inner.abort();
    }

    fn close(&mut self, timeout: Duration) {
        self.inner.close(timeout);
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        self.inner.workers()
    }
}

/// What the engine gives, as text of each stream.
struct Texts {
    streams: Mutex<Vec<String>>,
    tokens: AtomicUsize,
    events: Sender<Event>,
}

enum Event {
    Ready,
    Ended(Result<(), Error>),
    Tokens,
    Closed,
}

impl Outputs for Texts {
    fn deliver(&self, outputs: Vec<EngineOutput>) {
        for output in outputs {
            let event = match output {
                EngineOutput::Ready => Event::Ready,
                EngineOutput::LoadFailed(error) => Event::Ended(Err(error)),
                EngineOutput::Closed => Event::Closed,
                EngineOutput::Run(run) => {
                    let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
                    streams[run.run as usize].push_str(&run.text);
                    self.tokens.fetch_add(1, Ordering::Relaxed);
                    run.finish.map_or(Event::Tokens, |finish| Event::Ended(finish.map(drop)))
                }
                _ => continue,
            };
            let _ = self.events.send(event);
        }
    }
}

struct Scene {
    engine: Engine,
    watch: Arc<Watch>,
    losses: Receiver<Instant>,
    texts: Arc<Texts>,
    events: Receiver<Event>,
    prompts: Vec<Vec<u32>>,
    max_tokens: f64,
    /// When a worker was killed last.
    died: Option<Instant>,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    for bridge in options.bridges()? {
        let mut scene = Scene::open(options, bridge)?;
        let wanted = scene.generate(None)?;
        let (mut busy, mut idle, mut differing) = (Vec::new(), Vec::new(), 0);
        for round in 0..options.rounds {
            // In the middle, at another place each time.
            let texts = scene.generate(Some((STREAMS as usize) * (2 + round % 3)))?;
            differing += texts.iter().zip(&wanted).filter(|(got, wanted)| got != wanted).count();
            busy.push(scene.noticed()?);
            let death = scene.kill()?;
            idle.push(scene.losses.recv_timeout(PATIENCE)?.saturating_duration_since(death));
        }
        tell(&json!({
            "what": "kill", "who": bridge.name(), "kills": options.rounds, "streams": STREAMS, "differing": differing,
            "of": STREAMS as usize * options.rounds, "busy": summary(&mut busy), "idle": summary(&mut idle),
        }));
        scene.close()?;
    }
    Ok(())
}

impl Scene {
    /// Waits until the model is loaded.
    fn open(options: &Options, bridge: Bridge) -> Result<Self, Failure> {
        let folder = options.all["model"].as_str().ok_or("kill needs a model")?;
        let tokenizer = Tokenizer::from_pretrained(Path::new(folder))?;
        let model = ModelSource::Pretrained { path: folder.to_owned(), trust_remote_code: false };
        let (lost, losses) = unbounded();
        let watch = Arc::new(Watch { pid: AtomicU32::new(0), lost });
        let backend = Watched { inner: options.setup.backend(bridge, model), watch: Arc::clone(&watch) };
        let (send, events) = unbounded();
        let texts = Arc::new(Texts { streams: Mutex::default(), tokens: AtomicUsize::new(0), events: send });
        let limits = Limits { max_running: STREAMS, ..Limits::default() };
        let engine_options = EngineOptions { limits, ..EngineOptions::default() };
        let outputs = Arc::<Texts>::clone(&texts);
        let engine = Engine::start(engine_options, Some(tokenizer), Box::new(backend), outputs)?;
        let vocabulary = options.all["vocabulary"].as_u64().unwrap_or(256) as u32;
        let prompts =
            (0..STREAMS).map(|s| (0..8 + s % 9).map(|i| (s * 131 + i * 17 + 40) % vocabulary).collect()).collect();
        let max_tokens = options.all["tokens"].as_f64().unwrap_or(16.0);
        let scene = Self { engine, watch, losses, texts, events, prompts, max_tokens, died: None };
        match scene.next()? {
            Event::Ready => Ok(scene),
            Event::Ended(Err(error)) => Err(error.into()),
            _ => Err("the engine did not become ready".into()),
        }
    }

    fn next(&self) -> Result<Event, Failure> {
        Ok(self.events.recv_timeout(PATIENCE)?)
    }

    /// The texts of all streams; the worker is killed once so many outputs have come.
    fn generate(&mut self, kill_after: Option<usize>) -> Result<Vec<String>, Failure> {
        *self.texts.streams.lock().unwrap_or_else(PoisonError::into_inner) = vec![String::new(); STREAMS as usize];
        self.texts.tokens.store(0, Ordering::Relaxed);
        for (run, prompt) in (0..).zip(&self.prompts) {
            let sampling = SamplingOptions {
                max_tokens: Some(self.max_tokens),
                temperature: Some(0.0),
                ignore_eos: true,
                ..SamplingOptions::default()
            };
            let prompt = Prompt::Ids(prompt.clone());
            self.engine.generate(run, GenerateRequest { request_id: format!("stream-{run}"), prompt, sampling });
        }
        let (mut ended, mut death) = (0, kill_after);
        while ended < STREAMS {
            match self.next()? {
                Event::Ended(result) => {
                    result?;
                    ended += 1;
                }
                Event::Closed => return Err("the engine closed".into()),
                Event::Ready | Event::Tokens => {}
            }
            if death.is_some_and(|after| self.texts.tokens.load(Ordering::Relaxed) >= after) {
                death = None;
                self.died = Some(self.kill()?);
            }
        }
        if death.is_some() {
            return Err("the streams ended before the worker was to be killed".into());
        }
        Ok(self.texts.streams.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// The moment before the signal was sent.
    fn kill(&self) -> Result<Instant, Failure> {
        let until = Instant::now() + PATIENCE;
        let pid = loop {
            match self.watch.pid.swap(0, Ordering::AcqRel) {
                0 if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
                pid => break pid,
            }
        };
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("there is no worker")?;
        let now = Instant::now();
        kill_process(pid, Signal::KILL)?;
        Ok(now)
    }

    /// How long after the last kill the loss was told.
    fn noticed(&mut self) -> Result<Duration, Failure> {
        let died = self.died.take().ok_or("nothing was killed")?;
        Ok(self.losses.recv_timeout(PATIENCE)?.saturating_duration_since(died))
    }

    fn close(self) -> Result<(), Failure> {
        self.engine.close(Duration::from_secs(5));
        while !matches!(self.next()?, Event::Closed) {}
        Ok(())
    }
}
