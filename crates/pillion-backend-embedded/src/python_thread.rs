//! The process's one Python thread: a bounded queue of a closed set of jobs, run one after the other.
//!
//! Every backend of the process puts its jobs here and none waits for them. The thread is made by the first backend and never ends; the
//! process may exit while it runs.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Sender, bounded};
use pillion_core::{
    BackendEvent, Error, ErrorCode, LogLevel, LogRecord, LogSource, Result, Stage, VERSION, WorkerInfo,
    forward::{ForwardOutput, Tensor},
    step::{self, RecordKind, StepOutput},
};

use crate::{
    client::{Client, KEEP, MAX_IN_FLIGHT, closed},
    interpreter::Interpreter,
    job_queue::{Habit, JobQueue},
    loader,
    tensors::Reserved,
};

/// The repr of a list 900 deep, which Python's recursion limit allows, overflows the usual 2 MiB.
const STACK_BYTES: usize = 16 << 20;
/// Backends that may be open at once.
const MAX_CLIENTS: usize = 64;
/// Each backend has at most one load, its steps and one close in the queue, so there is always room for them.
const QUEUE: usize = MAX_CLIENTS * (MAX_IN_FLIGHT + 2);
/// A log line is cut here; a library may print a whole tensor.
const MAX_LOG: usize = 64 << 10;

/// What the thread can be asked to do.
pub(crate) enum Job {
    /// Start the interpreter if none runs, and load the client's model.
    Open(Arc<Client>),
    /// Run the record of a step or a forward.
    Run { client: Arc<Client>, kind: RecordKind, id: u64, record: Vec<u8>, tensors: Vec<Tensor> },
    /// Unload the client's model. `done` is dropped when that is done.
    Close { client: Arc<Client>, done: Sender<()> },
    /// Run what Python runs at the end of a process, unless `cancelled` by then.
    Shutdown { cancelled: Arc<AtomicBool>, done: Sender<Result<()>> },
    /// Panic inside the bridge.
    TestPanic { done: Sender<Result<()>> },
    /// Run a record again and again, with the model that was opened last.
    TimeCalls { record: Vec<u8>, calls: usize, done: Sender<Result<Vec<Duration>>> },
}

/// The process's side of the thread.
struct Process {
    jobs: Option<Arc<JobQueue<Job>>>,
    /// Backends that are open; the one that was served last comes last, and gets what Python says.
    clients: Vec<Arc<Client>>,
    next_id: u64,
}

static PROCESS: Mutex<Process> = Mutex::new(Process { jobs: None, clients: Vec::new(), next_id: 1 });

/// Counts the client in and makes the thread if there is none.
pub(crate) fn join(new: impl FnOnce(u64) -> Client) -> Result<Arc<Client>> {
    let mut process = process();
    if process.clients.len() >= MAX_CLIENTS {
        return Err(Error::new(
            ErrorCode::BridgeUnavailable,
            format!("{MAX_CLIENTS} engines share this process's interpreter already"),
        )
        .with_remedy("close an engine before loading another"));
    }
    if process.jobs.is_none() {
        let jobs = Arc::new(JobQueue::new(QUEUE));
        let queue = Arc::clone(&jobs);
        let run = move || run(&queue);
        thread::Builder::new()
            .name("pillion-python".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(run)
            .map_err(|e| Error::new(ErrorCode::OutOfMemory, format!("the Python thread could not be made: {e}")))?;
        process.jobs = Some(jobs);
    }
    let client = Arc::new(new(process.next_id));
    process.next_id += 1;
    // In front: what Python says goes on to the one that is served now.
    process.clients.insert(0, Arc::clone(&client));
    Ok(client)
}

/// The thread's queue, after [`join`].
pub(crate) fn queue() -> Option<Arc<JobQueue<Job>>> {
    process().jobs.clone()
}

/// Runs Python's `atexit` functions and flushes its streams, for the end of the process. False if Python was busy for `timeout`, or
/// if one of them raised; true if no interpreter runs.
///
/// The interpreter is not finalized, but what has been shut down stays so: start no backend after this.
pub fn shutdown(timeout: Duration) -> bool {
    let Some(jobs) = queue() else { return true };
    let cancelled = Arc::new(AtomicBool::new(false));
    let (done, result) = bounded(1);
    if jobs.push(Job::Shutdown { cancelled: Arc::clone(&cancelled), done }).is_err() {
        return false;
    }
    let result = result.recv_timeout(timeout);
    cancelled.store(true, Ordering::Relaxed);
    matches!(result, Ok(Ok(())))
}

/// Panics inside the bridge and gives the error that came of it: for tests, here and in Node, that nothing unwinds across the border.
#[doc(hidden)]
pub fn test_panic() -> Result<()> {
    let (done, result) = bounded(1);
    let sent = queue().map(|jobs| jobs.push(Job::TestPanic { done }));
    match (sent, result.recv()) {
        (Some(Ok(())), Ok(result)) => result,
        _ => Err(Error::internal("no Python thread took the job")),
    }
}

/// Runs a record so many times on the Python thread, with the model that was opened last, and gives each call's time: for the benchmark,
/// which shows what of a step is the way to the thread and back.
#[doc(hidden)]
pub fn time_calls(record: &[u8], calls: usize) -> Result<Vec<Duration>> {
    let (done, result) = bounded(1);
    let sent = queue().map(|jobs| jobs.push(Job::TimeCalls { record: record.to_vec(), calls, done }));
    match (sent, result.recv()) {
        (Some(Ok(())), Ok(result)) => result,
        _ => Err(Error::internal("no Python thread took the job")),
    }
}

fn run(queue: &JobQueue<Job>) {
    let (mut worker, mut habit) = (Worker::default(), Habit::default());
    loop {
        let job = queue.take(worker.is_awaited.then_some(&mut habit));
        worker.run(job);
    }
}

/// What only the Python thread has.
#[derive(Default)]
struct Worker {
    interpreter: Interpreter,
    /// The bridge's handle of each client's model.
    handles: HashMap<u64, u64>,
    output: Vec<u8>,
    /// Whether somebody waits for what was answered last.
    is_awaited: bool,
}

impl Worker {
    fn run(&mut self, job: Job) {
        match job {
            Job::Open(client) => {
                serve(&client);
                let result = guarded(|| self.open(&client)).map_err(|e| e.with_stage(Stage::Load));
                client.loaded(result.map(Box::new));
            }
            Job::Run { client, kind, id, record, tensors } => {
                serve(&client);
                let answer = guarded(|| {
                    let mut reserved = Reserved::new(&client.spare_tensors);
                    self.answer(&client, kind, &record, &tensors, &mut reserved)?;
                    read_answer(kind, id, &self.output, &mut reserved)
                });
                drop(tensors);
                self.is_awaited = client.is_awaited();
                client.end_step(answer.unwrap_or_else(|e| failed(kind, id, e.with_stage(Stage::Forward))), record);
                self.output.shrink_to(KEEP);
            }
            Job::Close { client, done } => {
                serve(&client);
                if let Err(error) = guarded(|| self.close(&client)) {
                    client.log(LogLevel::Error, LogSource::Rust, format!("unloading the model failed: {error}"));
                }
                leave(&client);
                drop(done);
            }
            Job::Shutdown { cancelled, done } => {
                if !cancelled.load(Ordering::Relaxed) {
                    let bridge = self.interpreter.bridge();
                    let _ = done.send(guarded(|| bridge.map_or(Ok(()), loader::Bridge::shutdown)));
                }
            }
            Job::TestPanic { done } => {
                let bridge = self.interpreter.bridge();
                let _ = done.send(guarded(|| bridge.map_or(Ok(()), loader::Bridge::test_panic)));
            }
            Job::TimeCalls { record, calls, done } => {
                let _ = done.send(guarded(|| self.time_calls(&record, calls)));
            }
        }
    }

    fn open(&mut self, client: &Arc<Client>) -> Result<WorkerInfo> {
        if client.is_closing() {
            return Err(closed());
        }
        let bridge = self.interpreter.ensure(client, log_line)?;
        let config = serde_json::to_string(&client.options.load)
            .map_err(|e| Error::internal(format!("the load configuration cannot be written: {e}")))?;
        let progress = |json: &str| match serde_json::from_str(json) {
            Ok(progress) => client.progress(progress),
            Err(e) => client.log(LogLevel::Warn, LogSource::Rust, format!("unreadable progress {json:?}: {e}")),
        };
        let (handle, info) = bridge.open_model(&config, &progress)?;
        self.handles.insert(client.id, handle);
        check_info(&info)
    }

    /// Leaves the answer's bytes in `output`.
    fn answer(
        &mut self,
        client: &Client,
        kind: RecordKind,
        record: &[u8],
        tensors: &[Tensor],
        reserved: &mut Reserved,
    ) -> Result<()> {
        if client.is_closing() {
            return Err(closed());
        }
        let (Some(bridge), Some(handle)) = (self.interpreter.bridge(), self.handles.get(&client.id)) else {
            return Err(Error::internal("a step came to a model that is not loaded"));
        };
        if kind != RecordKind::Forward {
            return bridge.step(*handle, record, &mut self.output);
        }
        bridge.forward(*handle, record, tensors, reserved, &mut self.output)
    }

    fn time_calls(&mut self, record: &[u8], calls: usize) -> Result<Vec<Duration>> {
        let (Some(bridge), Some(handle)) = (self.interpreter.bridge(), self.handles.values().max()) else {
            return Err(Error::internal("no model is loaded"));
        };
        let time_call = |_| {
            let begin = Instant::now();
            bridge.step(*handle, record, &mut self.output)?;
            Ok(begin.elapsed())
        };
        (0..calls).map(time_call).collect()
    }

    fn close(&mut self, client: &Client) -> Result<()> {
        let (Some(handle), Some(bridge)) = (self.handles.remove(&client.id), self.interpreter.bridge()) else {
            return Ok(());
        };
        let result = bridge.close_model(handle);
        loader::release_free_memory();
        result
    }
}

fn read_answer(kind: RecordKind, id: u64, bytes: &[u8], reserved: &mut Reserved) -> Result<BackendEvent> {
    let (event, answered) = if kind == RecordKind::Forward {
        let output = ForwardOutput::decode_placed(bytes, |place, len| reserved.find(place, len))?;
        let id = output.forward_id;
        (BackendEvent::ForwardDone(output), id)
    } else {
        let output = StepOutput::decode(bytes)?;
        let id = output.step_id;
        (BackendEvent::StepDone(output), id)
    };
    if answered != id {
        return Err(Error::internal(format!("step {id} was answered as step {answered}")));
    }
    Ok(event)
}

fn failed(kind: RecordKind, id: u64, error: Error) -> BackendEvent {
    if kind == RecordKind::Forward {
        BackendEvent::ForwardDone(ForwardOutput::failed(id, error))
    } else {
        BackendEvent::StepDone(StepOutput::failed(id, error))
    }
}

fn check_info(json: &[u8]) -> Result<WorkerInfo> {
    let info: WorkerInfo = serde_json::from_slice(json)
        .map_err(|e| Error::internal(format!("the model's description cannot be read: {e}")))?;
    if info.version != VERSION || info.step_version != step::VERSION {
        return Err(Error::new(
            ErrorCode::VersionMismatch,
            format!(
                "the Python package pillion is version {} with step record {}, {VERSION} with {} is needed",
                info.version,
                info.step_version,
                step::VERSION
            ),
        )
        .with_remedy("reinstall the npm package; it ships the Python package that belongs to it"));
    }
    Ok(info)
}

/// What Python printed or logged. Called from any Python thread.
fn log_line(level: u32, message: &str, request_id: &str) {
    let level = match level {
        0 => LogLevel::Debug,
        1 => LogLevel::Info,
        2 => LogLevel::Warn,
        _ => LogLevel::Error,
    };
    let end = (0..=message.len().min(MAX_LOG)).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    let client = process().clients.last().map(Arc::clone);
    if let Some(client) = client {
        let request_id = (!request_id.is_empty()).then(|| request_id.to_owned());
        client.log_record(LogRecord {
            level,
            source: LogSource::Python,
            message: message[..end].to_owned(),
            request_id,
        });
    }
}

/// Sends what Python says from now on to this client.
fn serve(client: &Arc<Client>) {
    let mut process = process();
    if let Some(at) = process.clients.iter().position(|c| c.id == client.id)
        && at + 1 != process.clients.len()
    {
        let client = process.clients.remove(at);
        process.clients.push(client);
    }
}

fn leave(client: &Client) {
    let gone = {
        let mut process = process();
        let at = process.clients.iter().position(|c| c.id == client.id);
        at.map(|at| process.clients.remove(at))
    };
    // Its engine's end of the events may be dropped with it, which is no work for under the lock.
    drop(gone);
}

/// A panic of ours ends one job, not the thread.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(Error::from_panic(&*panic)))
}

fn process() -> MutexGuard<'static, Process> {
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner)
}
