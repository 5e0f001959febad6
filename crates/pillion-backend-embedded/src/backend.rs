//! [`EmbeddedBackend`]: the engine's side of the Python thread. Turns each call into a job; runs nothing itself.

use std::{path::PathBuf, sync::Arc, thread, time::Duration};

use crossbeam_channel::bounded;
use pillion_core::{
    Backend, BackendEvents, Error, LoadConfig, Result, WorkerStatus,
    forward::{ForwardBatch, Tensor, TensorStore},
    step::{RecordKind, Step},
};

use crate::{
    client::{Client, MAX_IN_FLIGHT, closed, rss_bytes},
    job_queue::JobQueue,
    python_thread::{self, Job},
    tensors::{self, Store},
};

/// What an [`EmbeddedBackend`] loads, and from where.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The interpreter: its path, the folder of a venv or installation, or a command on `PATH`. If not given: `PILLION_PYTHON`,
    /// `VIRTUAL_ENV`, `CONDA_PREFIX`, the nearest `.venv` from the working directory upward, `python3`, the first that can be used.
    pub python: Option<String>,
    /// Folders for the head of `sys.path`. One of them has our Python package; the first backend of the process decides.
    pub python_path: Vec<PathBuf>,
    /// What Python is told to load. Its `num_threads` also caps OpenMP and MKL, unless the environment does.
    pub load: LoadConfig,
    /// The bridge's file. If not given: `PILLION_BRIDGE_LIBRARY`, or [`crate::BRIDGE_FILE`] beside the shared object with this code.
    pub bridge_library: Option<PathBuf>,
}

/// Runs the model in this process, on the one thread that all backends of this kind share.
///
/// The interpreter lives as long as the process, and a crash in Python's native code ends the process. [`Backend::abort`] does nothing:
/// a forward pass in this process cannot be interrupted, and the engine drops its result. Dropping the backend unloads the model.
#[derive(Debug)]
pub struct EmbeddedBackend {
    stage: BackendStage,
}

#[derive(Debug)]
enum BackendStage {
    New(Box<EmbeddedOptions>),
    Started {
        client: Arc<Client>,
        jobs: Arc<JobQueue<Job>>,
    },
    /// Closed before it was started.
    Over,
}

impl EmbeddedBackend {
    /// Does nothing yet.
    pub fn new(options: EmbeddedOptions) -> Self {
        Self { stage: BackendStage::New(Box::new(options)) }
    }

    fn send(&self, kind: RecordKind, id: u64, encode: impl FnOnce(&mut Vec<u8>) -> Result<Vec<Tensor>>) -> Result<()> {
        let BackendStage::Started { client, jobs } = &self.stage else { return Err(closed()) };
        let mut record = client.begin_step()?;
        let tensors = match encode(&mut record) {
            Ok(tensors) => tensors,
            Err(error) => {
                client.cancel_step(record);
                return Err(error);
            }
        };
        jobs.push(Job::Run { client: Arc::clone(client), kind, id, record, tensors }).map_err(|refused| {
            if let Job::Run { record, .. } = refused {
                client.cancel_step(record);
            }
            no_room()
        })
    }
}

impl Backend for EmbeddedBackend {
    fn start(&mut self, events: BackendEvents) -> Result<()> {
        let BackendStage::New(options) = &self.stage else {
            return Err(Error::internal("the backend was started twice, or after it was closed"));
        };
        let options = EmbeddedOptions::clone(options);
        let client = python_thread::join(|id| Client::new(id, options, events))?;
        let Some(jobs) = python_thread::queue() else { return Err(Error::internal("the Python thread has no queue")) };
        let opened = jobs.push(Job::Open(Arc::clone(&client)));
        self.stage = BackendStage::Started { client, jobs };
        opened.map_err(|_| no_room())
    }

    fn submit(&mut self, step: &Step) -> Result<()> {
        self.send(RecordKind::Step, step.step_id, |record| {
            step.encode_into(record);
            Ok(Vec::new())
        })
    }

    fn submit_forward(&mut self, batch: &ForwardBatch) -> Result<()> {
        self.send(RecordKind::Forward, batch.forward_id, |record| tensors::encode(batch, record))
    }

    fn tensor_store(&self) -> Option<Arc<dyn TensorStore>> {
        let BackendStage::Started { client, .. } = &self.stage else { return None };
        Some(Arc::new(Store::new(&client.spare_tensors)))
    }

    fn max_in_flight(&self) -> usize {
        MAX_IN_FLIGHT
    }

    fn abort(&mut self) {}

    fn close(&mut self, timeout: Duration) {
        match &self.stage {
            BackendStage::Started { client, jobs } => {
                if client.begin_close() {
                    close(client, jobs, timeout);
                }
            }
            BackendStage::New(_) => self.stage = BackendStage::Over,
            BackendStage::Over => {}
        }
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        match &self.stage {
            BackendStage::Started { client, .. } => vec![client.status()],
            BackendStage::New(_) => vec![not_running("starting")],
            BackendStage::Over => vec![not_running("closed")],
        }
    }
}

impl Drop for EmbeddedBackend {
    fn drop(&mut self) {
        if let BackendStage::Started { client, jobs } = &self.stage {
            let begins = client.begin_close();
            client.forget();
            if begins {
                let (done, _) = bounded(0);
                let _ = jobs.push(Job::Close { client: Arc::clone(client), done });
            }
        }
    }
}

/// Asks for the unloading and has a thread wait for it, so that `Closed` comes when it is done, or at the time-out. A job that Python is
/// busy with goes on; the unloading follows it.
fn close(client: &Arc<Client>, jobs: &JobQueue<Job>, timeout: Duration) {
    let (done, unloaded) = bounded::<()>(0);
    if jobs.push(Job::Close { client: Arc::clone(client), done }).is_err() {
        client.closed();
        return;
    }
    let waiter = Arc::clone(client);
    let wait = move || {
        // Nothing is ever sent: the channel closes when the job is done.
        let _ = unloaded.recv_timeout(timeout);
        waiter.closed();
    };
    if thread::Builder::new().name("pillion-close".to_owned()).spawn(wait).is_err() {
        client.closed();
    }
}

fn not_running(state: &str) -> WorkerStatus {
    WorkerStatus { pid: std::process::id(), state: state.to_owned(), restarts: 0, rss_bytes: rss_bytes() }
}

fn no_room() -> Error {
    Error::internal("the Python thread's queue has no room, which its size rules out")
}
