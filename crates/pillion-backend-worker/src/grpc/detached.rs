//! A worker that is started to outlive this process.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use pillion_core::{Error, ErrorCode, Result, WorkerExit};
use rustix::process::{Pid, Signal};
use tokio::time::timeout;

use super::stranger::Stranger;
use crate::options::WorkerOptions;

/// Read first by the interpreter. The process leaves its session and prints its id; what it prints later goes to a file.
const BOOT: &str = "import sys\n\
    sys.path[:] = sys.argv[4:] + [p for p in sys.path if p]\n\
    from pillion import _listen\n\
    _listen.detach(*sys.argv[1:4])";
/// Bytes of the log that an error quotes.
const TAIL: u64 = 8 << 10;

/// What was started.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    log: PathBuf,
}

/// Starts a worker for `socket`. Comes back once it has left this process's side, before it listens.
pub(super) fn start(options: &WorkerOptions, socket: &Path) -> Result<Process> {
    let address = [b"unix:", socket.as_os_str().as_bytes()].concat();
    let config = serde_json::to_string(&options.load).map_err(|e| Error::internal(format!("the load options: {e}")))?;
    let mut command = Command::new(&options.python);
    command.args(["-c", BOOT]).arg(<OsString as std::os::unix::ffi::OsStringExt>::from_vec(address));
    command.arg(options.max_record_bytes.to_string()).arg(config).args(&options.python_path);
    command.env_remove("PYTHONHOME").envs(options.env.iter().map(|(k, v)| (k, v)));
    command.stdin(Stdio::null());
    let output = command.output().map_err(|e| not_started(options, &e))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let pid = said.trim().parse().ok().and_then(Pid::from_raw);
    if let Some(pid) = pid.filter(|_| output.status.success()) {
        return Ok(Process { pid, log: log_file(socket) });
    }
    let stderr_tail = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    let last = stderr_tail.lines().last().unwrap_or("it said nothing").to_owned();
    let exit = WorkerExit { exit_code: output.status.code(), exit_signal: None, stderr_tail };
    Err(Error::new(ErrorCode::BridgeUnavailable, format!("a worker cannot be started: {last}")).with_worker(exit))
}

/// Beside the socket; `_listen.detach` writes it.
fn log_file(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".log");
    name.into()
}

impl Process {
    pub(super) fn is_alive(&self) -> bool {
        rustix::process::test_kill_process(self.pid).is_ok()
    }

    /// Asks it to end, and ends it if it has not within that time.
    pub(super) async fn end(&self, wait: Duration) {
        // One that is not found has ended.
        let Ok(process) = Stranger::find(self.pid) else { return };
        process.signal(Signal::TERM);
        if timeout(wait, process.ended()).await.is_err() {
            process.signal(Signal::KILL);
        }
    }

    /// Why it cannot be attached to, with the last of what it wrote.
    pub(super) fn failed(&self, what: &str) -> Error {
        let stderr_tail = tail(&self.log).unwrap_or_default();
        let message =
            format!("the worker that was started, process {}, cannot be used: {what}", self.pid.as_raw_nonzero());
        let error = Error::new(ErrorCode::WorkerLost, message);
        let error = match stderr_tail.lines().last() {
            Some(last) => error.with_cause(last),
            None => error,
        };
        error.with_worker(WorkerExit { stderr_tail, ..WorkerExit::default() })
    }
}

fn tail(log: &Path) -> io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = fs::File::open(log)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

fn not_started(options: &WorkerOptions, error: &io::Error) -> Error {
    Error::new(
        ErrorCode::PythonNotFound,
        format!("the worker cannot be started by {}: {error}", options.python.display()),
    )
    .with_remedy("name an interpreter by the option `python` or PILLION_PYTHON, or run `npx pillion setup`")
}
