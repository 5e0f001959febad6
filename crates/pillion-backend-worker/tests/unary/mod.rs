//! A backend of calls: each step is a `Prefill`, `Decode` or `FilterBatch`, each forward a `Forward`. It supervises nothing.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use pillion_core::{
    Backend, BackendEvent, BackendEvents, Error, LoadConfig, Result, WorkerStatus,
    forward::{ForwardBatch, ForwardOutput},
    step::{NewSequence, Step, StepOutput, TopLogprob},
};
use pillion_testkit::conformance::python_path;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::proto::{self, worker_client::WorkerClient};

/// Only keeps a failure from hanging.
const LONG: Duration = Duration::from_secs(120);
const MAX_MESSAGE: usize = 64 << 20;

pub(crate) struct UnaryBackend {
    config: Option<LoadConfig>,
    jobs: Option<Sender<Job>>,
    status: Arc<Mutex<WorkerStatus>>,
}

enum Job {
    Step(Step),
    Forward(ForwardBatch),
    Close,
}

impl UnaryBackend {
    pub(crate) fn new(config: LoadConfig) -> Self {
        let status = WorkerStatus { pid: 0, state: "starting".to_owned(), restarts: 0, rss_bytes: 0 };
        Self { config: Some(config), jobs: None, status: Arc::new(Mutex::new(status)) }
    }

    fn send(&self, job: Job) -> Result<()> {
        let jobs = self.jobs.as_ref().ok_or_else(|| Error::internal("it does not run"))?;
        jobs.send(job).map_err(|_| Error::internal("it has ended"))
    }
}

impl Backend for UnaryBackend {
    fn start(&mut self, events: BackendEvents) -> Result<()> {
        let config = self.config.take().ok_or_else(|| Error::internal("it was started twice"))?;
        let (jobs, queue) = mpsc::channel();
        self.jobs = Some(jobs);
        let status = Arc::clone(&self.status);
        thread::spawn(move || run(&config, &queue, &events, &status));
        Ok(())
    }

    fn submit(&mut self, step: &Step) -> Result<()> {
        self.send(Job::Step(step.clone()))
    }

    fn submit_forward(&mut self, batch: &ForwardBatch) -> Result<()> {
        self.send(Job::Forward(batch.clone()))
    }

    fn max_in_flight(&self) -> usize {
        2
    }

    fn abort(&mut self) {}

    fn close(&mut self, _: Duration) {
        let _ = self.send(Job::Close);
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        vec![self.status.lock().unwrap().clone()]
    }
}

fn run(config: &LoadConfig, queue: &Receiver<Job>, events: &BackendEvents, status: &Mutex<WorkerStatus>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut worker = Worker::start(config);
    let mut client = runtime.block_on(connect(&worker.socket));
    let about = proto::InfoRequest { oldest_protocol: 1, newest_protocol: 1, wait_until_loaded: true };
    let info = runtime.block_on(client.info(about)).unwrap().into_inner();
    let info: pillion_core::WorkerInfo = serde_json::from_str(&info.worker).unwrap();
    *status.lock().unwrap() = WorkerStatus { pid: info.pid, state: "ready".to_owned(), restarts: 0, rss_bytes: 0 };
    events.send(BackendEvent::Ready(Box::new(info)));
    for job in queue {
        let answer = match job {
            Job::Step(step) => BackendEvent::StepDone(runtime.block_on(call(&mut client, &step))),
            Job::Forward(batch) => BackendEvent::ForwardDone(runtime.block_on(forward(&mut client, &batch))),
            Job::Close => break,
        };
        events.send(answer);
    }
    worker.end();
    "closed".clone_into(&mut status.lock().unwrap().state);
    events.send(BackendEvent::Closed);
}

async fn connect(socket: &Path) -> WorkerClient<Channel> {
    let stream = UnixStream::connect(socket).await.unwrap();
    let once = Mutex::new(Some(TokioIo::new(stream)));
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let stream = once.lock().unwrap().take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected));
        std::future::ready(stream)
    });
    let channel = Endpoint::from_static("http://worker").connect_with_connector(connector).await.unwrap();
    WorkerClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
}

async fn call(client: &mut WorkerClient<Channel>, step: &Step) -> StepOutput {
    let message = message(step);
    let is_filter = step.rows.is_empty() && step.copies.is_empty();
    let reply = if !step.new.is_empty() {
        client.prefill(message).await
    } else if is_filter {
        client.filter_batch(message).await
    } else {
        client.decode(message).await
    };
    let reply = reply.unwrap().into_inner();
    StepOutput {
        step_id: reply.step_id,
        forward_ns: reply.forward_ns,
        tokens: reply.tokens,
        logprobs: reply.logprobs,
        top: reply.top.iter().map(|t| TopLogprob { index: t.index, id: t.id, logprob: t.logprob }).collect(),
        error: (!reply.error.is_empty()).then(|| Error::from_json(&reply.error)),
    }
}

async fn forward(client: &mut WorkerClient<Channel>, batch: &ForwardBatch) -> ForwardOutput {
    let mut record = Vec::new();
    batch.encode_into(&mut record).unwrap();
    let reply = client.forward(proto::ForwardRecord { record }).await.unwrap().into_inner();
    ForwardOutput::decode(&reply.record).unwrap()
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

fn sequence(new: &NewSequence) -> proto::NewSequence {
    proto::NewSequence {
        slot: new.slot,
        prompt_offset: new.prompt_offset,
        prompt_len: new.prompt_len,
        flags: new.flags,
        logprobs: new.logprobs,
        max_len: new.max_len,
        ..proto::NewSequence::default()
    }
}

/// A worker that listens, killed with its backend.
struct Worker {
    child: Child,
    socket: PathBuf,
    _folder: TempDir,
}

impl Worker {
    fn start(config: &LoadConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("w/s");
        fs::DirBuilder::new().mode(0o700).create(socket.parent().unwrap()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/standing_conformance.py");
        // `npm test` names one that has the packages for gRPC.
        let named = ["PILLION_TEST_PYTHON", "PILLION_PYTHON"].into_iter().find_map(std::env::var_os);
        let mut child = Command::new(named.unwrap_or_else(|| "python3".into()))
            .arg(script)
            .arg(&socket)
            .arg(serde_json::to_string(config).unwrap())
            .env("PYTHONPATH", std::env::join_paths(python_path()).unwrap())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + LONG;
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert_eq!(
                child.try_wait().unwrap(),
                None,
                "the worker ended; has its Python the packages of pillion[grpc]?"
            );
            assert!(Instant::now() < until, "the worker does not listen");
            thread::yield_now();
        }
        Self { child, socket, _folder: folder }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}
