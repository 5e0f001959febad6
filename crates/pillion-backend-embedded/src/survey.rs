//! A report on every interpreter that could be taken, for `pillion doctor`. Loads nothing.

use std::{any::Any, collections::BTreeMap, path::PathBuf, thread, time::Duration};

use pillion_core::{Error, ErrorCode, Result};
use serde::Serialize;

use crate::{
    choose::{Candidate, Host, choose, judge, none_of},
    discover::{Found, Source, Surroundings, discover},
    probe::{TIMEOUT, probe, probe_packages},
};

/// What to report on.
#[derive(Clone, Debug)]
pub struct SurveyOptions {
    /// As in [`crate::EmbeddedOptions`].
    pub python: Option<String>,
    /// Names of packages to look for, as they are imported.
    pub packages: Vec<String>,
    /// How long each of the two questions to an interpreter may take.
    pub timeout: Duration,
}

impl Default for SurveyOptions {
    fn default() -> Self {
        Self { python: None, packages: Vec::new(), timeout: TIMEOUT }
    }
}

/// What there is.
#[derive(Clone, Debug, Serialize)]
pub struct Survey {
    /// Best first.
    pub candidates: Vec<CandidateReport>,
    /// Why none of them would be taken into this process; what loading the embedded bridge would fail with.
    pub problem: Option<Error>,
}

/// One interpreter that could be taken.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateReport {
    /// Why it is a candidate.
    pub source: Source,
    /// Where it was found; maybe a shim.
    pub path: PathBuf,
    /// What it says it is.
    pub executable: Option<PathBuf>,
    /// As `3.11.7`.
    pub version: Option<String>,
    /// The library that would be loaded.
    pub libpython: Option<PathBuf>,
    /// Version of each package that was asked for, or `None` if it is not installed.
    pub packages: BTreeMap<String, Option<String>>,
    /// Whether it is the one that would be taken.
    pub chosen: bool,
    /// Why it cannot be.
    pub problem: Option<Error>,
}

/// Asks every candidate, all at once. Starts two child processes for each, so it takes some tenths of a second, at the worst two
/// time-outs, and must not be called where that matters.
pub fn survey(options: &SurveyOptions) -> Survey {
    let host = Host::current();
    let found = discover(&Surroundings::of_process(options.python.as_deref()));
    let (candidates, packages): (Vec<_>, Vec<_>) = ask_all(&found, options).into_iter().unzip();
    let choice = choose(&candidates, &host);
    let chosen = choice.as_ref().ok().map(|choice| choice.source);
    let reports = candidates.iter().zip(packages).map(|(candidate, packages)| {
        report(candidate, packages, judge(candidate, &host).err(), chosen == Some(candidate.source))
    });
    Survey { candidates: reports.collect(), problem: choice.err() }
}

/// The interpreter for a process of its own: the first that can be used, as for this process, except that it needs no shared library.
pub fn find_for_process(python: Option<&str>) -> Result<PathBuf> {
    let host = Host::current();
    let mut refused = Vec::new();
    for found in discover(&Surroundings::of_process(python)) {
        let candidate = ask(found, TIMEOUT);
        let error = match judge(&candidate, &host) {
            Ok(probe) => return Ok(probe.executable_or(&candidate.path)),
            Err(error) => error,
        };
        if let (ErrorCode::PythonLibraryMissing, Ok(probe)) = (error.code(), &candidate.probe) {
            return Ok(probe.executable_or(&candidate.path));
        }
        // One that the user named is not replaced by another.
        if candidate.source.is_explicit() {
            return Err(if candidate.source == Source::Option { error.with_param("python") } else { error });
        }
        refused.push((candidate, error));
    }
    let refused: Vec<_> = refused.iter().map(|(candidate, error)| (candidate, error.clone())).collect();
    Err(none_of(&refused))
}

/// Asks one interpreter after the other until one can be used or the choice is made otherwise.
pub(crate) fn ask_until_chosen(found: Vec<Found>, host: &Host) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for found in found {
        let candidate = ask(found, TIMEOUT);
        let last = candidate.source.is_explicit() || judge(&candidate, host).is_ok();
        candidates.push(candidate);
        if last {
            break;
        }
    }
    candidates
}

fn ask(found: Found, timeout: Duration) -> Candidate {
    Candidate { probe: probe(&found.path, timeout), source: found.source, path: found.path }
}

type Packages = Result<BTreeMap<String, Option<String>>>;

/// One that never answers holds up no other.
fn ask_all(found: &[Found], options: &SurveyOptions) -> Vec<(Candidate, Packages)> {
    let one = |found: &Found| {
        let candidate = ask(found.clone(), options.timeout);
        let packages = match &candidate.probe {
            Ok(_) if !options.packages.is_empty() => {
                probe_packages(&candidate.path, &options.packages, options.timeout)
            }
            _ => Ok(BTreeMap::new()),
        };
        (candidate, packages)
    };
    let panicked = |found: &Found, panic: &(dyn Any + Send)| {
        let found = found.clone();
        (
            Candidate { source: found.source, path: found.path, probe: Err(Error::from_panic(panic)) },
            Ok(BTreeMap::new()),
        )
    };
    thread::scope(|scope| {
        let one = &one;
        let named = || thread::Builder::new().name("pillion-survey".to_owned());
        let spawn = |found| (found, named().spawn_scoped(scope, move || one(found)));
        let asked: Vec<_> = found.iter().map(spawn).collect();
        let answers = asked.into_iter().map(|(found, thread)| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| panicked(found, &*panic)),
            // No room for another thread: this one does it.
            Err(_) => one(found),
        });
        answers.collect()
    })
}

fn report(candidate: &Candidate, packages: Packages, problem: Option<Error>, chosen: bool) -> CandidateReport {
    let probe = candidate.probe.as_ref().ok();
    let (packages, problem) = match packages {
        Ok(packages) => (packages, problem),
        Err(error) => (BTreeMap::new(), problem.or(Some(error))),
    };
    CandidateReport {
        source: candidate.source,
        path: candidate.path.clone(),
        executable: probe.map(|p| PathBuf::from(&p.executable)),
        version: probe.map(|p| p.version.map(|part| part.to_string()).join(".")),
        libpython: probe.and_then(|p| p.libpython.first().map(PathBuf::from)),
        packages,
        chosen,
        problem,
    }
}
