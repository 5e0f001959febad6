//! Runs a child process within bounded time and output.

use std::{
    ffi::OsStr,
    io::{self, Read},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, bounded};

use crate::loader;

/// Bytes kept of each of the two streams; what comes after is read and dropped.
const MAX_OUTPUT: u64 = 64 << 10;

/// What the child wrote.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Why there is no output.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The program could not be started.
    NotStarted(io::Error),
    /// It had not closed its streams when the time was over, and was killed.
    TimedOut,
}

/// Runs `program` with nothing to read until it has closed both of its streams, then ends it and whatever it started.
pub(crate) fn run_bounded(
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
    timeout: Duration,
) -> Result<Output, Failure> {
    let deadline = Instant::now() + timeout;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    own_group(&mut command);
    let mut child = command.spawn().map_err(Failure::NotStarted)?;
    let stdout = read_in_background(child.stdout.take());
    let stderr = read_in_background(child.stderr.take());
    let read = |stream: &Receiver<Vec<u8>>| stream.recv_deadline(deadline).map_err(|_| Failure::TimedOut);
    let result = read(&stdout).and_then(|out| Ok((out, read(&stderr)?)));
    // A wrapper script may have left a process behind; one that has closed its streams has nothing more to say.
    loader::kill_group(child.id());
    let _ = child.kill();
    let _ = child.wait();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    result.map(|(stdout, stderr)| Output { stdout: text(stdout), stderr: text(stderr) })
}

fn read_in_background(stream: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (done, result) = bounded(1);
    let read = move || {
        let mut kept = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.by_ref().take(MAX_OUTPUT).read_to_end(&mut kept);
            let _ = io::copy(&mut stream, &mut io::sink());
        }
        // Nobody listens any more after the deadline.
        let _ = done.send(kept);
    };
    // Without a thread the channel closes at once, which reads as a time-out.
    let _ = thread::Builder::new().name("pillion-probe".to_owned()).spawn(read);
    result
}

#[cfg(unix)]
fn own_group(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
}

#[cfg(not(unix))]
fn own_group(_: &mut Command) {}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn sh(script: &str, timeout: Duration) -> Result<Output, Failure> {
        run_bounded(Path::new("/bin/sh"), &["-c", script], timeout)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn both_streams_come_back() {
        let output = sh("echo out; echo err >&2; exit 3", LONG).unwrap();
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    }

    #[test]
    fn too_much_output_is_cut() {
        let output = sh("head -c 1000000 /dev/zero", LONG).unwrap();
        assert_eq!(output.stdout.len() as u64, MAX_OUTPUT);
    }

    #[test]
    fn a_child_that_goes_on_is_killed() {
        let started = Instant::now();
        assert!(matches!(sh("sleep 600", Duration::from_millis(50)), Err(Failure::TimedOut)));
        let output = sh("echo done; exec >&- 2>&-; sleep 600", LONG).unwrap();
        assert_eq!(output.stdout, "done\n");
        assert!(started.elapsed() < LONG, "it was waited for");
    }

    #[test]
    fn what_the_child_leaves_behind_is_killed_too() {
        let output = sh("sleep 600 >/dev/null 2>&1 & echo $!", LONG).unwrap();
        let pid: u32 = output.stdout.trim().parse().unwrap();
        let alive = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        let deadline = Instant::now() + LONG;
        while alive() && Instant::now() < deadline {
            thread::yield_now();
        }
        assert!(!alive());
    }

    #[test]
    fn a_program_that_is_not_there_is_said_to_be() {
        let result = run_bounded(Path::new("/nowhere/python"), &["-c", ""], LONG);
        assert!(matches!(result, Err(Failure::NotStarted(e)) if e.kind() == io::ErrorKind::NotFound));
    }
}
