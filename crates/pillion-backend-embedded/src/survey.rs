//! A report on every interpreter that could be taken, for `pillion doctor` and `pillion setup`. Loads nothing.

use std::{collections::BTreeMap, path::PathBuf};

use pillion_core::Error;
use serde::Serialize;

use crate::{
    choose::{Candidate, Host, choose, judge},
    discover::{Found, Source, Surroundings, discover},
    probe::{probe, probe_packages},
};

/// What to report on.
#[derive(Clone, Debug, Default)]
pub struct SurveyOptions {
    /// As in [`crate::EmbeddedOptions`].
    pub python: Option<String>,
    /// Names of packages to look for, as they are imported.
    pub packages: Vec<String>,
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

/// Asks every candidate, best first. Starts two child processes for each, so it takes some tenths of a second and must not be called
/// where that matters.
pub fn survey(options: &SurveyOptions) -> Vec<CandidateReport> {
    let host = Host::current();
    let found = discover(&Surroundings::of_process(options.python.as_deref()));
    let candidates: Vec<_> = found.into_iter().map(ask).collect();
    let chosen = choose(&candidates, &host).ok().map(|choice| choice.source);
    candidates.iter().map(|candidate| report(candidate, &host, chosen, &options.packages)).collect()
}

/// Asks one interpreter after the other until one can be used or the choice is made otherwise.
pub(crate) fn ask_until_chosen(found: Vec<Found>, host: &Host) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for found in found {
        let candidate = ask(found);
        let last = candidate.source.is_explicit() || judge(&candidate, host).is_ok();
        candidates.push(candidate);
        if last {
            break;
        }
    }
    candidates
}

fn ask(found: Found) -> Candidate {
    Candidate { probe: probe(&found.path), source: found.source, path: found.path }
}

fn report(candidate: &Candidate, host: &Host, chosen: Option<Source>, packages: &[String]) -> CandidateReport {
    let probe = candidate.probe.as_ref().ok();
    let mut problem = judge(candidate, host).err();
    let mut versions = BTreeMap::new();
    if probe.is_some() && !packages.is_empty() {
        match probe_packages(&candidate.path, packages) {
            Ok(found) => versions = found,
            Err(error) => problem = problem.or(Some(error)),
        }
    }
    CandidateReport {
        source: candidate.source,
        path: candidate.path.clone(),
        executable: probe.map(|p| PathBuf::from(&p.executable)),
        version: probe.map(|p| p.version.map(|part| part.to_string()).join(".")),
        libpython: probe.and_then(|p| p.libpython.first().map(PathBuf::from)),
        packages: versions,
        chosen: chosen == Some(candidate.source),
        problem,
    }
}
