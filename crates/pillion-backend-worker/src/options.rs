//! What a [`crate::WorkerBackend`] is told.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use pillion_core::LoadConfig;

/// The module whose `main()` is the worker.
const ENTRY: &str = "pillion._serve";

/// The version of `pillion.worker.v1` that this side speaks.
const PROTOCOL: u32 = 1;
/// The version before one's own is spoken too: the two sides are updated apart.
const OLDEST_PROTOCOL: u32 = if PROTOCOL > 1 { PROTOCOL - 1 } else { 1 };

/// What [`crate::WorkerBackend::new`] needs.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The interpreter's executable, already chosen.
    pub python: PathBuf,
    /// Folders for the head of `sys.path`: first the one that contains `pillion/`. The working directory is not on it.
    pub python_path: Vec<PathBuf>,
    /// Passed on to Python as JSON.
    pub load: LoadConfig,
    /// How steps travel.
    pub transport: Transport,
    /// A worker to attach to, in place of one of its own. Steps then travel over gRPC.
    pub attach: Option<Attach>,
    /// How the process is watched.
    pub supervise: SuperviseOptions,
    /// The module whose `main()` is run.
    pub entry: String,
    /// Variables added to the process's environment. `PYTHONHOME` is always taken out: it belongs to another interpreter.
    pub env: Vec<(String, String)>,
    /// The longest step record, each way. Memory is taken only as records use it; two records each way may be under way.
    pub max_record_bytes: usize,
    /// Bytes of large tensors, each way, that lie beside the records; 0 for none. Memory is taken only as it is used.
    pub max_pool_bytes: usize,
    /// The versions of the gRPC protocol that are spoken. Others are for tests of an update.
    #[doc(hidden)]
    pub protocols: RangeInclusive<u32>,
}

impl WorkerOptions {
    /// Shared memory and all defaults.
    pub fn new(python: impl Into<PathBuf>, python_path: Vec<PathBuf>, load: LoadConfig) -> Self {
        Self {
            python: python.into(),
            python_path,
            load,
            transport: Transport::default(),
            attach: None,
            supervise: SuperviseOptions::default(),
            entry: ENTRY.to_owned(),
            env: Vec::new(),
            max_record_bytes: 16 << 20,
            max_pool_bytes: 64 << 20,
            protocols: OLDEST_PROTOCOL..=PROTOCOL,
        }
    }
}

/// How steps travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// Through memory that both processes map.
    #[default]
    Shm,
    /// As messages of `proto/worker.proto` over a Unix socket. The worker needs Python's grpcio.
    Grpc,
}

/// A worker that is not this engine's own: it was there before and stays when the engine goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// Where it listens.
    pub socket: PathBuf,
    /// Whether one is started if none listens there. It outlives this process.
    pub start: bool,
}

/// How the process is watched, and what happens when it ends.
#[derive(Clone, Debug)]
pub struct SuperviseOptions {
    /// From the start of the process to its `ready`, weights included.
    pub start_timeout: Duration,
    /// How often the worker says that it lives, on a thread apart from the forward pass.
    pub heartbeat: Duration,
    /// A worker with nothing to do that has been silent for so long is killed.
    pub heartbeat_timeout: Duration,
    /// A step may take so many times its predicted time before the worker is killed.
    pub hang_factor: f64,
    /// A step may always take so long.
    pub hang_min: Duration,
    /// No step may take longer, nor one whose time cannot be predicted yet.
    pub hang_max: Duration,
    /// A lost worker's exit status is waited for so long before the loss is told without it. A worker that was killed is lost in a
    /// fraction of a millisecond, but tears down its memory for tenths of a second before the system tells how it ended.
    pub exit_wait: Duration,
    /// Whether and when a lost worker is started anew.
    pub restart: RestartOptions,
}

impl Default for SuperviseOptions {
    fn default() -> Self {
        Self {
            start_timeout: Duration::from_secs(900),
            heartbeat: Duration::from_secs(1),
            heartbeat_timeout: Duration::from_secs(30),
            hang_factor: 20.0,
            hang_min: Duration::from_secs(60),
            hang_max: Duration::from_secs(600),
            exit_wait: Duration::from_millis(2),
            restart: RestartOptions::default(),
        }
    }
}

/// Whether and when a lost worker is started anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartOptions {
    /// So many restarts within [`Self::window`]; 0 for none at all.
    pub max_restarts: u32,
    /// Restarts longer ago do not count.
    pub window: Duration,
    /// Before the first restart; doubled for each further one within the window.
    pub backoff_min: Duration,
    /// The wait never grows beyond.
    pub backoff_max: Duration,
}

impl Default for RestartOptions {
    fn default() -> Self {
        Self {
            max_restarts: 5,
            window: Duration::from_secs(600),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
        }
    }
}
