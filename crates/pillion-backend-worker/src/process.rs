//! The worker's process: its start, its signals, its end.

#![expect(unsafe_code, reason = "what a child does between fork and exec must be set through an unsafe function")]

use std::{
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::{
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    sync::Arc,
    thread::{self, JoinHandle},
};

use pillion_core::{Error, ErrorCode, Result, WorkerExit};
use rustix::{
    io::{Errno, FdFlags},
    process::{Pid, Signal, WaitId, WaitIdOptions},
};

use crate::{
    lines::{LineSplitter, Tail},
    mailbox::Mailbox,
    options::WorkerOptions,
};

/// Read first by the interpreter: neither the working directory nor the environment decides which package is the worker.
const BOOT: &str = "import sys, importlib\n\
    entry, sys.path[:] = sys.argv[2], sys.argv[3:] + [p for p in sys.path if p]\n\
    importlib.import_module(entry).main(int(sys.argv[1]))";
/// Bytes of the standard error that an error quotes.
const TAIL: usize = 8 << 10;
/// Bytes read of one stream in one turn, and after the end; a flood must not keep the supervisor from its other duties.
const MAX_READ: usize = 256 << 10;

/// A process that was started and whose end was not yet taken in.
#[derive(Debug)]
pub(crate) struct WorkerProcess {
    child: Child,
    pid: Pid,
    stdout: Output<ChildStdout>,
    stderr: Output<ChildStderr>,
    tail: Tail,
    waiter: Option<JoinHandle<()>>,
}

impl WorkerProcess {
    /// Starts the process with `socket` as its end of the control socket. On Linux it dies with the calling thread, which must therefore outlive it.
    pub(crate) fn spawn(options: &WorkerOptions, socket: UnixStream, mailbox: &Arc<Mailbox>) -> Result<Self> {
        let fd = socket.as_raw_fd();
        let mut command = Command::new(&options.python);
        command.args(["-c", BOOT]).arg(fd.to_string()).arg(&options.entry).args(&options.python_path);
        command.env_remove("PYTHONHOME").envs(options.env.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let parent = rustix::process::getpid();
        let prepare = move || {
            // SAFETY: `socket` is open in this process until `spawn` has returned, and the child has a copy of all descriptors.
            let socket = unsafe { BorrowedFd::borrow_raw(fd) };
            rustix::io::fcntl_setfd(socket, FdFlags::empty())?;
            // Elsewhere the end of the control socket says that the parent is gone.
            #[cfg(all(target_os = "linux", not(feature = "portable")))]
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the signal was asked for.
            if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
        };
        // SAFETY: the closure makes four system calls and touches no lock, no allocator and nothing that another thread could hold.
        unsafe { command.pre_exec(prepare) };
        let mut child = command.spawn().map_err(|e| not_started(options, &e))?;
        drop(socket);
        let pid = Pid::from_child(&child);
        let stdout = Output::new(child.stdout.take());
        let stderr = Output::new(child.stderr.take());
        let mut process = Self { child, pid, stdout, stderr, tail: Tail::new(TAIL), waiter: None };
        match process.wait_in_background(Arc::clone(mailbox)) {
            Ok(waiter) => process.waiter = Some(waiter),
            Err(e) => {
                process.kill();
                process.reap();
                let message = "a thread that waits for the worker could not be started";
                return Err(Error::new(ErrorCode::OutOfMemory, message).with_cause(e));
            }
        }
        Ok(process)
    }

    /// Only notes the end. The process stays a zombie until [`Self::reap`], so that its id is not another's while we may signal it.
    fn wait_in_background(&self, mailbox: Arc<Mailbox>) -> io::Result<JoinHandle<()>> {
        let pid = self.pid;
        thread::Builder::new().name("pillion-wait".to_owned()).spawn(move || {
            let end = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while matches!(rustix::process::waitid(WaitId::Pid(pid), end), Err(Errno::INTR)) {}
            mailbox.exited();
        })
    }

    /// The last lines of its standard error.
    pub(crate) fn stderr_tail(&self) -> String {
        self.tail.text()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end by itself.
    pub(crate) fn terminate(&self) {
        let _ = rustix::process::kill_process(self.pid, Signal::TERM);
    }

    /// Ends it and whatever it started.
    pub(crate) fn kill(&self) {
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
    }

    /// Takes in its end, after the mailbox told of it, together with whatever it started and left behind.
    pub(crate) fn reap(&mut self) -> WorkerExit {
        self.kill();
        let status = self.child.wait().ok();
        if let Some(waiter) = self.waiter.take() {
            // It has seen the same end.
            let _ = waiter.join();
        }
        exit(status, self.tail.text())
    }

    /// Hands over the lines that were written meanwhile. The first argument says whether it is the standard error.
    pub(crate) fn read_output(&mut self, mut line: impl FnMut(bool, &str)) {
        let tail = &mut self.tail;
        self.stdout.read(|text| line(false, &text));
        self.stderr.read(|text| {
            line(true, &text);
            tail.push(text);
        });
    }

    /// Hands over what came last and has no end of line.
    pub(crate) fn finish_output(&mut self, mut line: impl FnMut(bool, &str)) {
        self.read_output(&mut line);
        let tail = &mut self.tail;
        self.stdout.splitter.flush(|text| line(false, &text));
        self.stderr.splitter.flush(|text| {
            line(true, &text);
            tail.push(text);
        });
    }

    /// What to poll for output. A stream that was closed is left out.
    pub(crate) fn output_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.stdout.stream.iter().map(AsFd::as_fd).chain(self.stderr.stream.iter().map(AsFd::as_fd))
    }
}

fn not_started(options: &WorkerOptions, error: &io::Error) -> Error {
    let code =
        if error.kind() == io::ErrorKind::NotFound { ErrorCode::PythonNotFound } else { ErrorCode::BridgeUnavailable };
    Error::new(code, format!("the worker cannot be started by {}: {error}", options.python.display()))
        .with_remedy("name an interpreter by the option `python` or PILLION_PYTHON, or run `npx pillion setup`")
}

/// How it ended, with the last of its standard error.
fn exit(status: Option<ExitStatus>, stderr_tail: String) -> WorkerExit {
    WorkerExit {
        exit_code: status.and_then(|s| s.code()),
        exit_signal: status.and_then(|s| s.signal()).map(signal_name),
        stderr_tail,
    }
}

fn signal_name(signal: i32) -> String {
    const NAMES: [(Signal, &str); 12] = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::TERM, "SIGTERM"),
    ];
    NAMES
        .iter()
        .find(|(s, _)| s.as_raw() == signal)
        .map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}

/// One of the standard streams.
#[derive(Debug)]
struct Output<S> {
    stream: Option<S>,
    splitter: LineSplitter,
}

impl<S: Read + AsFd> Output<S> {
    fn new(stream: Option<S>) -> Self {
        // Without this a read could wait; with it failing we had better not read at all.
        let stream = stream.filter(|s| rustix::io::ioctl_fionbio(s, true).is_ok());
        Self { stream, splitter: LineSplitter::default() }
    }

    fn read(&mut self, mut line: impl FnMut(String)) {
        let Some(stream) = &mut self.stream else { return };
        let mut buffer = [0; 8 << 10];
        let mut total = 0;
        while total < MAX_READ {
            match stream.read(&mut buffer) {
                Ok(n) if n > 0 => {
                    total += n;
                    self.splitter.push(&buffer[..n], &mut line);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                _ => {
                    self.stream = None;
                    return;
                }
            }
        }
    }
}
