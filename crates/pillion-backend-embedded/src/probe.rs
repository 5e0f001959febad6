//! Asks an interpreter what it is, in a child process: nothing of it is loaded here, and a broken one harms nobody.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use pillion_core::{Error, ErrorCode, Result};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    choose::SETUP_OR_NAME,
    run_bounded::{Failure, run_bounded},
};

/// An interpreter starts in 50 ms; a cold disk or a busy machine may need some seconds.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);
/// The answer's line; a site's start-up file or a wrapper may print lines of its own.
const MARKER: &str = "pillion-probe:";
/// Of what a program that is no Python wrote, this much is quoted.
const MAX_QUOTED: usize = 400;

/// What `probe.py` says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Probe {
    pub(crate) version: [u32; 3],
    /// `sys.implementation.name`.
    pub(crate) implementation: String,
    /// Built without the GIL.
    pub(crate) free_threaded: bool,
    /// Built with `Py_TRACE_REFS`, which alone among the debug options changes the stable ABI.
    pub(crate) trace_refs: bool,
    pub(crate) pointer_bits: u32,
    /// As `uname -m` has it.
    pub(crate) machine: String,
    /// `glibc` or `musl`, if that is known.
    pub(crate) libc: Option<String>,
    /// The interpreter itself, whatever shim was run.
    pub(crate) executable: String,
    /// The same outside of the venv.
    pub(crate) base_executable: String,
    /// The venv, or the installation.
    pub(crate) prefix: String,
    /// The installation.
    pub(crate) base_prefix: String,
    /// Debian's name of its library folder.
    pub(crate) multiarch: Option<String>,
    /// The shared libraries of this interpreter that exist, best first.
    pub(crate) libpython: Vec<String>,
    /// Where they were looked for.
    pub(crate) searched: Vec<String>,
}

impl Probe {
    /// The interpreter itself, or where it was found if it does not know.
    pub(crate) fn executable_or(&self, found: &Path) -> PathBuf {
        if self.executable.is_empty() { found.to_owned() } else { PathBuf::from(&self.executable) }
    }
}

/// Runs the interpreter without site packages or environment variables, so that no code of the user's runs.
pub(crate) fn probe(python: &Path, timeout: Duration) -> Result<Probe> {
    ask(python, &["-I", "-S", "-c", include_str!("probe.py")].map(OsString::from), timeout)
}

/// The versions of these packages that the interpreter would import; runs the environment's own start-up files.
pub(crate) fn probe_packages(
    python: &Path,
    names: &[String],
    timeout: Duration,
) -> Result<BTreeMap<String, Option<String>>> {
    let mut arguments = ["-c", include_str!("packages.py")].map(OsString::from).to_vec();
    arguments.extend(names.iter().map(OsString::from));
    ask(python, &arguments, timeout)
}

fn ask<T: DeserializeOwned>(python: &Path, arguments: &[impl AsRef<OsStr>], timeout: Duration) -> Result<T> {
    let shown = python.display();
    let output = run_bounded(python, arguments, timeout).map_err(|failure| match failure {
        Failure::NotStarted(e) if e.kind() == ErrorKind::NotFound => {
            Error::new(ErrorCode::PythonNotFound, format!("there is no interpreter {shown}"))
        }
        Failure::NotStarted(e) => Error::new(ErrorCode::PythonNotFound, format!("{shown} cannot be run: {e}")),
        Failure::TimedOut => {
            let seconds = timeout.as_secs_f64();
            Error::new(ErrorCode::PythonUnsupported, format!("{shown} did not answer within {seconds} s"))
        }
    });
    let output = output.map_err(|e| e.with_remedy(SETUP_OR_NAME))?;
    let answer = output.stdout.lines().find_map(|line| line.strip_prefix(MARKER));
    let broken = |reason: &str| {
        Error::new(ErrorCode::PythonUnsupported, format!("{shown} does not answer as Python does: {reason}"))
            .with_remedy(SETUP_OR_NAME)
    };
    match answer.map(serde_json::from_str) {
        Some(Ok(answer)) => Ok(answer),
        Some(Err(e)) => Err(broken(&e.to_string())),
        None => Err(broken(&quote(&output.stderr, &output.stdout))),
    }
}

fn quote(stderr: &str, stdout: &str) -> String {
    let said = [stderr, stdout].into_iter().map(str::trim).find(|text| !text.is_empty());
    said.map_or_else(|| "it said nothing".to_owned(), |text| text.chars().take(MAX_QUOTED).collect())
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::process::Command;

    use super::*;

    fn real() -> PathBuf {
        "python3".into()
    }

    #[test]
    fn a_real_interpreter_says_what_it_is() {
        let probe = probe(&real(), TIMEOUT).unwrap();
        assert_eq!(probe.implementation, "cpython");
        assert!(probe.version[0] == 3 && !probe.free_threaded);
        assert_eq!(probe.pointer_bits, usize::BITS);
        for path in [&probe.executable, &probe.base_executable, &probe.prefix, &probe.base_prefix] {
            assert!(Path::new(path).is_absolute() && Path::new(path).exists(), "{path}");
        }
        assert!(!probe.searched.is_empty());
        assert!(probe.libpython.iter().all(|path| probe.searched.contains(path) && Path::new(path).is_file()));
        let libc = if cfg!(target_env = "musl") { "musl" } else { "glibc" };
        assert!(!cfg!(target_os = "linux") || probe.libc.as_deref() == Some(libc), "{probe:?}");
    }

    #[test]
    fn packages_are_found_or_not() {
        let names = ["json", "no_such_package_anywhere", "no_such.part"].map(str::to_owned);
        let found = probe_packages(&real(), &names, TIMEOUT).unwrap();
        assert_eq!(found["json"].as_deref(), Some("unknown"), "a part of Python has no version of its own");
        assert_eq!((&found["no_such_package_anywhere"], &found["no_such.part"]), (&None, &None));
    }

    /// A package of the working directory is none of the interpreter's.
    #[test]
    fn the_working_directory_is_not_searched() {
        let names = ["src", "tests"].map(str::to_owned);
        assert!(probe_packages(&real(), &names, TIMEOUT).unwrap().values().all(Option::is_none));
    }

    #[test]
    fn what_is_no_python_is_quoted() {
        let check = |script: &str, words: &[&str]| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("python3");
            // A file that this process has open for writing while another test forks cannot be run for a moment.
            let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod +x "$0""#;
            let written = Command::new("sh").args(["-c", write]).arg(&path).arg(script).status();
            assert!(written.unwrap().success());
            let error = probe(&path, TIMEOUT).unwrap_err();
            assert_eq!(error.code(), ErrorCode::PythonUnsupported);
            assert_eq!(error.remedy(), Some(SETUP_OR_NAME));
            for word in words {
                assert!(error.message().contains(word), "{word} is not in: {error}");
            }
        };
        check("echo 'pyenv: python3: command not found' >&2; exit 127", &["pyenv: python3: command not found"]);
        check("echo 3.11", &["3.11"]);
        check("exit 1", &["it said nothing"]);
        check("echo 'pillion-probe:{\"version\": 3}'", &["line 1 column 13"]);
        check("head -c 100000 /dev/zero | tr '\\0' x", &["xxxx"]);
    }

    #[test]
    fn a_file_that_cannot_be_run() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = probe(file.path(), TIMEOUT).unwrap_err();
        assert_eq!(error.code(), ErrorCode::PythonNotFound);
        assert!(error.message().contains("cannot be run"), "{error}");
        assert_eq!(probe(Path::new("/nowhere/python3"), TIMEOUT).unwrap_err().code(), ErrorCode::PythonNotFound);
    }
}
