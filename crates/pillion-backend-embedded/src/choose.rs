//! The choice of interpreter: a pure function of what the candidates said.

use std::{fmt::Write, path::PathBuf};

use pillion_core::{Error, ErrorCode, Result};

use crate::{discover::Source, probe::Probe};

/// The oldest version whose stable ABI the bridge is built for.
const OLDEST: [u32; 2] = [3, 10];
/// For an interpreter that cannot be used at all.
pub(crate) const SETUP_OR_NAME: &str =
    "run `npx pillion setup`, or name a CPython 3.11 or newer by the option `python` or by PILLION_PYTHON";

/// A candidate that was asked.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) source: Source,
    /// As it was found, maybe a shim.
    pub(crate) path: PathBuf,
    pub(crate) probe: Result<Probe>,
}

/// What an interpreter must match: the process that it is to be loaded into.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// As Rust names it.
    pub(crate) arch: &'static str,
    pub(crate) pointer_bits: u32,
    pub(crate) libc: Option<&'static str>,
}

impl Host {
    /// This process.
    pub(crate) fn current() -> Self {
        let libc = match () {
            () if cfg!(target_env = "musl") => Some("musl"),
            () if cfg!(all(target_os = "linux", target_env = "gnu")) => Some("glibc"),
            () => None,
        };
        Self { arch: std::env::consts::ARCH, pointer_bits: usize::BITS, libc }
    }
}

/// The interpreter to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) source: Source,
    pub(crate) executable: PathBuf,
    pub(crate) version: [u32; 3],
    pub(crate) prefix: PathBuf,
    /// To be tried in this order; at least one.
    pub(crate) libpython: Vec<PathBuf>,
    /// Why candidates before it were passed over.
    pub(crate) skipped: Vec<String>,
}

impl Choice {
    /// As messages name it.
    pub(crate) fn describe(&self) -> String {
        let [major, minor, patch] = self.version;
        format!("Python {major}.{minor}.{patch} at {}", self.executable.display())
    }
}

/// Takes the first candidate that can be used. One that the user named is the only one: none is taken in its place.
pub(crate) fn choose(candidates: &[Candidate], host: &Host) -> Result<Choice> {
    let mut refused = Vec::<(&Candidate, Error)>::new();
    for candidate in candidates {
        match judge(candidate, host) {
            Ok(probe) => {
                let skipped = refused.iter().map(|(candidate, error)| describe(candidate, error)).collect();
                return Ok(accept(candidate, probe, skipped));
            }
            Err(error) if candidate.source.is_explicit() => {
                return Err(if candidate.source == Source::Option { error.with_param("python") } else { error });
            }
            Err(error) => refused.push((candidate, error)),
        }
    }
    Err(none_of(&refused))
}

/// Whether this candidate can be loaded into the host; its probe, if so.
pub(crate) fn judge<'a>(candidate: &'a Candidate, host: &Host) -> Result<&'a Probe> {
    let probe = candidate.probe.as_ref().map_err(Clone::clone)?;
    let [major, minor, patch] = probe.version;
    let unsupported = |what: String| {
        let message = format!("{} {what}", candidate.path.display());
        Err(Error::new(ErrorCode::PythonUnsupported, message).with_remedy(SETUP_OR_NAME))
    };
    if probe.implementation != "cpython" {
        return unsupported(format!("is {}, only CPython can be loaded", probe.implementation));
    }
    if [major, minor] < OLDEST {
        return unsupported(format!(
            "is Python {major}.{minor}.{patch}, at least {}.{} is needed",
            OLDEST[0], OLDEST[1]
        ));
    }
    if probe.free_threaded {
        return unsupported(format!("is a free-threaded Python {major}.{minor}.{patch}, one with the GIL is needed"));
    }
    if probe.trace_refs {
        return unsupported("is built with Py_TRACE_REFS, which has an ABI of its own".to_owned());
    }
    if probe.pointer_bits != host.pointer_bits || rust_arch(&probe.machine) != host.arch {
        let (bits, machine) = (probe.pointer_bits, &probe.machine);
        return unsupported(format!(
            "is built for {machine} ({bits} bits), this process for {} ({} bits)",
            host.arch, host.pointer_bits
        ));
    }
    if let (Some(theirs), Some(ours)) = (probe.libc.as_deref(), host.libc)
        && theirs != ours
    {
        return unsupported(format!("is built for {theirs}, this process for {ours}"));
    }
    if probe.libpython.is_empty() {
        return Err(no_libpython(candidate, probe));
    }
    Ok(probe)
}

fn accept(candidate: &Candidate, probe: &Probe, skipped: Vec<String>) -> Choice {
    Choice {
        source: candidate.source,
        executable: probe.executable_or(&candidate.path),
        version: probe.version,
        prefix: probe.prefix.clone().into(),
        libpython: probe.libpython.iter().map(PathBuf::from).collect(),
        skipped,
    }
}

fn no_libpython(candidate: &Candidate, probe: &Probe) -> Error {
    let [major, minor, patch] = probe.version;
    let mut message =
        format!("{} is Python {major}.{minor}.{patch} without a shared library to load", candidate.path.display());
    if let Some(first) = probe.searched.first() {
        let _ = write!(message, " (no {first}, nor {} other places)", probe.searched.len() - 1);
    }
    let get_one = if probe.base_prefix.replace('\\', "/").contains("/.pyenv/versions/") {
        format!("run `PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force {major}.{minor}.{patch}`")
    } else if probe.multiarch.is_some() && probe.base_prefix == "/usr" {
        format!("run `apt-get install libpython{major}.{minor}`")
    } else {
        "install a CPython that is built with --enable-shared".to_owned()
    };
    Error::new(ErrorCode::PythonLibraryMissing, message).with_remedy(format!("{get_one}, then `npx pillion setup`"))
}

/// One error for all of them. Its code is that of the best candidate that is there at all.
pub(crate) fn none_of(refused: &[(&Candidate, Error)]) -> Error {
    if refused.is_empty() {
        return Error::new(
            ErrorCode::PythonNotFound,
            "no Python was found: PILLION_PYTHON, VIRTUAL_ENV and CONDA_PREFIX are not set, there is no .venv in the working directory or above it, and no python3 on PATH",
        )
        .with_remedy(SETUP_OR_NAME);
    }
    let there = refused.iter().find(|(_, error)| error.code() != ErrorCode::PythonNotFound);
    let (_, best) = there.unwrap_or(&refused[0]);
    let reasons: Vec<_> = refused.iter().map(|(candidate, error)| describe(candidate, error)).collect();
    Error::new(best.code(), format!("no Python that can be used was found: {}", reasons.join("; ")))
        .with_remedy(best.remedy().unwrap_or(SETUP_OR_NAME))
}

fn describe(candidate: &Candidate, error: &Error) -> String {
    format!("{} ({})", error.message(), candidate.source.as_str())
}

/// `uname -m` and Windows have other names than Rust for two of them.
fn rust_arch(machine: &str) -> &str {
    match machine {
        "arm64" | "ARM64" => "aarch64",
        "AMD64" | "amd64" => "x86_64",
        "i386" | "i486" | "i586" | "i686" => "x86",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Host = Host { arch: "x86_64", pointer_bits: 64, libc: Some("glibc") };

    /// What `probe.py` says, in its own words, with `change` laid over it.
    fn probe(change: &serde_json::Value) -> Probe {
        let mut json = serde_json::json!({
            "version": [3, 12, 1], "implementation": "cpython", "free_threaded": false, "trace_refs": false,
            "pointer_bits": 64, "machine": "x86_64", "libc": "glibc", "executable": "/real/bin/python3.12",
            "base_executable": "/real/bin/python3.12", "prefix": "/real", "base_prefix": "/real", "multiarch": null,
            "libpython": ["/real/lib/libpython3.12.so.1.0"],
            "searched": ["/real/lib/libpython3.12.so.1.0", "/real/lib/libpython3.12.so"],
        });
        json.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        serde_json::from_value(json).unwrap()
    }

    fn candidate(source: Source, change: &serde_json::Value) -> Candidate {
        let path = format!("/{}/python3", source.as_str().replace(' ', "-")).into();
        Candidate { source, path, probe: Ok(probe(change)) }
    }

    fn gone(source: Source) -> Candidate {
        let error = Error::new(ErrorCode::PythonNotFound, "there is no interpreter /gone").with_remedy(SETUP_OR_NAME);
        Candidate { probe: Err(error), ..candidate(source, &serde_json::json!({})) }
    }

    fn fine(source: Source) -> Candidate {
        candidate(source, &serde_json::json!({}))
    }

    /// A single candidate that differs from a good one by `change` is refused with `code`, and the text has all of `words`.
    fn refused(change: &serde_json::Value, code: ErrorCode, words: &[&str]) {
        let error = choose(&[candidate(Source::VirtualEnv, change)], &HOST).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        for word in words.iter().chain(&["npx pillion setup"]) {
            assert!(error.to_string().contains(word), "{word} is not in: {error}");
        }
    }

    #[test]
    fn each_check_refuses_with_its_code_and_reason() {
        use ErrorCode::{PythonLibraryMissing, PythonUnsupported};
        let cases = [
            (serde_json::json!({"version": [3, 9, 18]}), PythonUnsupported, vec!["3.9.18", "3.10"]),
            (serde_json::json!({"version": [2, 7, 18]}), PythonUnsupported, vec!["2.7.18"]),
            (serde_json::json!({"implementation": "pypy"}), PythonUnsupported, vec!["pypy"]),
            (serde_json::json!({"free_threaded": true}), PythonUnsupported, vec!["free-threaded"]),
            (serde_json::json!({"trace_refs": true}), PythonUnsupported, vec!["Py_TRACE_REFS"]),
            (serde_json::json!({"pointer_bits": 32}), PythonUnsupported, vec!["32 bits", "64 bits"]),
            (serde_json::json!({"machine": "aarch64"}), PythonUnsupported, vec!["aarch64", "x86_64"]),
            (serde_json::json!({"libc": "musl"}), PythonUnsupported, vec!["musl", "glibc"]),
            (
                serde_json::json!({"libpython": []}),
                PythonLibraryMissing,
                vec!["--enable-shared", "libpython3.12.so.1.0"],
            ),
            (
                serde_json::json!({"libpython": [], "base_prefix": "/usr", "multiarch": "x86_64-linux-gnu"}),
                PythonLibraryMissing,
                vec!["apt-get install libpython3.12"],
            ),
            (
                serde_json::json!({"libpython": [], "base_prefix": "/home/u/.pyenv/versions/3.12.1"}),
                PythonLibraryMissing,
                vec!["PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force 3.12.1"],
            ),
        ];
        for (change, code, words) in cases {
            refused(&change, code, &words);
        }
    }

    #[test]
    fn what_is_as_it_should_be_is_taken() {
        let good = [
            serde_json::json!({"version": [3, 10, 0]}),
            serde_json::json!({"version": [3, 21, 0]}),
            serde_json::json!({"machine": "AMD64"}),
            serde_json::json!({"libc": null}),
        ];
        for change in good {
            assert!(choose(&[candidate(Source::Path, &change)], &HOST).is_ok(), "{change}");
        }
        let mac = Host { arch: "aarch64", libc: None, ..HOST };
        let change = serde_json::json!({"machine": "arm64", "libc": null});
        assert!(choose(&[candidate(Source::Path, &change)], &mac).is_ok());
    }

    #[test]
    fn the_choice_is_what_the_interpreter_says_of_itself() {
        let choice = choose(&[fine(Source::Path)], &HOST).unwrap();
        let expected = Choice {
            source: Source::Path,
            executable: "/real/bin/python3.12".into(),
            version: [3, 12, 1],
            prefix: "/real".into(),
            libpython: vec!["/real/lib/libpython3.12.so.1.0".into()],
            skipped: vec![],
        };
        assert_eq!(choice, expected);
        let nameless = choose(&[candidate(Source::Path, &serde_json::json!({"executable": ""}))], &HOST).unwrap();
        assert_eq!(nameless.executable, PathBuf::from("/PATH/python3"));
    }

    #[test]
    fn the_first_that_fits_is_taken_and_the_others_are_told_of() {
        let old = candidate(Source::VirtualEnv, &serde_json::json!({"version": [3, 8, 18]}));
        let choice =
            choose(&[old, gone(Source::CondaPrefix), fine(Source::DotVenv), fine(Source::Path)], &HOST).unwrap();
        assert_eq!(choice.source, Source::DotVenv);
        assert_eq!(choice.skipped.len(), 2);
        assert!(choice.skipped[0].contains("3.8.18") && choice.skipped[0].contains("VIRTUAL_ENV"));
        assert!(choice.skipped[1].contains("/gone") && choice.skipped[1].contains("CONDA_PREFIX"));
    }

    #[test]
    fn one_that_the_user_named_is_never_replaced() {
        for source in [Source::Option, Source::PillionPython] {
            let old = candidate(source, &serde_json::json!({"version": [3, 8, 18]}));
            let error = choose(&[old, fine(Source::Path)], &HOST).unwrap_err();
            assert_eq!(error.code(), ErrorCode::PythonUnsupported);
            assert!(error.message().starts_with(&format!("/{}/python3", source.as_str().replace(' ', "-"))));
            assert_eq!(error.param(), (source == Source::Option).then_some("python"));
            assert_eq!(choose(&[fine(source), fine(Source::Path)], &HOST).unwrap().source, source);
        }
        let error = choose(&[gone(Source::Option), fine(Source::Path)], &HOST).unwrap_err();
        assert_eq!(error.code(), ErrorCode::PythonNotFound);
    }

    #[test]
    fn if_none_fits_all_reasons_are_told() {
        let no_library = candidate(Source::DotVenv, &serde_json::json!({"libpython": []}));
        let old = candidate(Source::Path, &serde_json::json!({"version": [3, 8, 18]}));
        let error = choose(&[gone(Source::VirtualEnv), no_library, old], &HOST).unwrap_err();
        assert_eq!(error.code(), ErrorCode::PythonLibraryMissing);
        for word in ["/gone", "without a shared library", "3.8.18", "VIRTUAL_ENV", ".venv", "PATH"] {
            assert!(error.message().contains(word), "{word} is not in: {error}");
        }
        assert!(error.remedy().unwrap().contains("--enable-shared"));

        let error = choose(&[gone(Source::VirtualEnv)], &HOST).unwrap_err();
        assert_eq!(error.code(), ErrorCode::PythonNotFound);
        let error = choose(&[], &HOST).unwrap_err();
        assert_eq!(error.code(), ErrorCode::PythonNotFound);
        assert_eq!(error.remedy(), Some(SETUP_OR_NAME));
    }
}
