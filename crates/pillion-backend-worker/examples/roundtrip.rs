//! What a step costs that does nothing: submitted in Rust, decoded and answered in a Python process.
//!
//! `cargo run --release -p pillion-backend-worker --example roundtrip [-- --free] [--rows N] [--rounds N] [--transport grpc]`. Pinned to one core unless `--free`.
//! `PILLION_PYTHON` names the interpreter. Two figures: until the backend's event (`answered`), and until the submitting thread has it
//! (`received`), which is one more change of threads. With `--kill N` it kills an idle worker N times instead, and measures until
//! the backend's event.

#![cfg_attr(not(target_os = "linux"), allow(unused))]
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::{
    collections::VecDeque,
    error::Error,
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use pillion_backend_worker::{Transport, WorkerBackend, WorkerOptions};
use pillion_core::{
    Backend, BackendEvent, BackendEvents, LoadConfig, LoadLimits, ModelSource,
    step::{ROW_SAMPLE, Row, Step},
};

const STEPS: usize = 20_000;
const WARMUP: usize = 2_000;

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let transport = match arguments.iter().position(|a| a == "--transport").and_then(|at| arguments.get(at + 1)) {
        Some(name) if name == "grpc" => Transport::Grpc,
        _ => Transport::Shm,
    };
    let number = |name: &str, default: usize| {
        let at = arguments.iter().position(|a| a == name);
        at.and_then(|at| arguments.get(at + 1)).and_then(|n| n.parse().ok()).unwrap_or(default)
    };
    if arguments.iter().any(|a| a == "--kill") {
        return kill(transport, number("--kill", 20));
    }
    let is_free = arguments.iter().any(|a| a == "--free");
    if !is_free {
        // Before any other thread or process is there, so that all of them get it.
        let mut core = rustix::thread::CpuSet::new();
        core.set(0);
        rustix::thread::sched_setaffinity(None, &core)?;
    }
    let rows = number("--rows", 32);
    let place = if is_free { "free" } else { "one core" };
    println!("{transport:?}, {rows} rows, {place}, microseconds");
    println!("{:>6} {:>13} {:>13} {:>13} {:>13}", "round", "answered p50", "p99", "received p50", "p99");
    for round in 1..=number("--rounds", 5) {
        let (mut answered, mut received) = measure(transport, rows)?;
        let [a, b] = [&mut answered, &mut received].map(|times| {
            times.sort_unstable();
            [times[times.len() / 2], times[times.len() * 99 / 100]].map(|t| t.as_secs_f64() * 1e6)
        });
        println!("{round:>6} {:>13.1} {:>13.1} {:>13.1} {:>13.1}", a[0], a[1], b[0], b[1]);
    }
    Ok(())
}

/// A queue whose reader sleeps at once: the channels of std and crossbeam first spin and yield, which on one core is time taken from the
/// worker.
#[derive(Default)]
struct Queue {
    events: Mutex<VecDeque<(BackendEvent, Instant)>>,
    bell: Condvar,
}

impl Queue {
    fn push(&self, event: BackendEvent) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push_back((event, Instant::now()));
        self.bell.notify_one();
    }

    fn pop(&self) -> (BackendEvent, Instant) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match events.pop_front() {
                Some(event) => return event,
                None => events = self.bell.wait(events).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// From the signal to the event, and from the event to the next worker that takes steps.
#[cfg(target_os = "linux")]
fn kill(transport: Transport, times: usize) -> Result<(), Box<dyn Error>> {
    let events = Arc::new(Queue::default());
    let mut options = options(transport);
    options.supervise.restart.max_restarts = u32::MAX;
    options.supervise.restart.backoff_max = Duration::ZERO;
    let mut backend = WorkerBackend::new(options);
    let to_queue = Arc::clone(&events);
    backend.start(BackendEvents::new(move |event| to_queue.push(event)))?;
    let next = |wanted: fn(&BackendEvent) -> bool| loop {
        match events.pop() {
            (BackendEvent::LoadFailed(error), _) => break Err(error),
            (event, at) if wanted(&event) => break Ok(at),
            _ => {}
        }
    };
    next(|event| matches!(event, BackendEvent::Ready(_)))?;
    let (mut noticed, mut replaced) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let pid = i32::try_from(backend.workers()[0].pid)?;
        let pid = rustix::process::Pid::from_raw(pid).ok_or("there is no worker")?;
        let start = Instant::now();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        let lost = next(|event| matches!(event, BackendEvent::WorkerLost(_)))?;
        noticed.push(lost - start);
        replaced.push(next(|event| matches!(event, BackendEvent::Ready(_)))? - lost);
    }
    for (name, mut times) in [("noticed", noticed), ("replaced", replaced)] {
        times.sort_unstable();
        let ms = |at: usize| times[at].as_secs_f64() * 1e3;
        println!("{name}: p50 {:.2} ms, p99 {:.2} ms", ms(times.len() / 2), ms(times.len() * 99 / 100));
    }
    backend.close(Duration::from_secs(10));
    next(|event| matches!(event, BackendEvent::Closed))?;
    Ok(())
}

/// Times until the backend's event, and until this thread has it.
fn measure(transport: Transport, rows: usize) -> Result<(Vec<Duration>, Vec<Duration>), Box<dyn Error>> {
    let events = Arc::new(Queue::default());
    let mut backend = WorkerBackend::new(options(transport));
    let to_queue = Arc::clone(&events);
    backend.start(BackendEvents::new(move |event| to_queue.push(event)))?;
    loop {
        match events.pop().0 {
            BackendEvent::Ready(_) => break,
            BackendEvent::LoadFailed(error) => return Err(error.into()),
            _ => {}
        }
    }
    let rows = (0..rows as u32).map(|slot| Row { slot, start: 100, count: 1, flags: ROW_SAMPLE }).collect();
    let mut step = Step { rows, ..Step::default() };
    let (mut answered, mut received) = (Vec::with_capacity(STEPS), Vec::with_capacity(STEPS));
    for id in 0..WARMUP + STEPS {
        step.step_id = id as u64;
        let start = Instant::now();
        backend.submit(&step)?;
        let at = loop {
            match events.pop() {
                (BackendEvent::StepDone(output), at) => {
                    assert_eq!((output.step_id, output.tokens.len()), (id as u64, step.rows.len()));
                    break at;
                }
                (BackendEvent::WorkerLost(error), _) => return Err(error.into()),
                _ => {}
            }
        };
        if id >= WARMUP {
            answered.push(at - start);
            received.push(start.elapsed());
        }
    }
    backend.close(Duration::from_secs(10));
    while !matches!(events.pop().0, BackendEvent::Closed) {}
    Ok((answered, received))
}

fn options(transport: Transport) -> WorkerOptions {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let limits = LoadLimits { max_context: None, max_batch_tokens: 64, max_running: 32, kv_cache_bytes: None };
    let model = ModelSource::Class { spec: "noop:Noop".to_owned(), options: serde_json::Value::Null };
    let load = LoadConfig { model, device: None, dtype: None, num_threads: 1, limits };
    let python = std::env::var("PILLION_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut options =
        WorkerOptions::new(python, vec![crate_dir.join("../../python"), crate_dir.join("examples")], load);
    options.transport = transport;
    "noop_worker".clone_into(&mut options.entry);
    options
}
