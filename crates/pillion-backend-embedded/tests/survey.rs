//! The report on all candidates.
#![cfg(unix)]

mod support;

use std::{
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use pillion_backend_embedded::{Source, Survey, SurveyOptions, find_for_process, survey};
use pillion_core::ErrorCode;
use serde_json::json;
use support::{in_own_process, in_own_process_with, pretender, script};

#[test]
fn every_candidate_is_reported_and_one_is_chosen() {
    in_own_process("every_candidate_is_reported_and_one_is_chosen", || {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join(".venv/bin");
        fs::create_dir_all(&old).unwrap();
        pretender(&old, &json!({"version": [3, 7, 2]}));
        env::set_current_dir(folder.path()).unwrap();
        let packages = vec!["json".to_owned(), "no_such_package".to_owned()];
        let Survey { candidates: reports, problem } = survey(&SurveyOptions { packages, ..SurveyOptions::default() });
        assert_eq!(problem, None);

        let named = &reports[0];
        assert_eq!((named.source, named.chosen, &named.problem), (Source::PillionPython, true, &None));
        assert_eq!(named.executable.as_ref().unwrap(), &named.path);
        assert_eq!(named.packages["json"].as_deref(), Some("unknown"));
        assert_eq!(named.packages["no_such_package"], None);
        assert!(named.libpython.as_ref().unwrap().is_file());

        let venv = reports.iter().find(|report| report.source == Source::DotVenv).unwrap();
        assert_eq!((venv.chosen, venv.version.as_deref()), (false, Some("3.7.2")));
        assert_eq!(venv.problem.as_ref().unwrap().code(), ErrorCode::PythonUnsupported);
        assert_eq!(reports.iter().filter(|report| report.chosen).count(), 1);

        let json = serde_json::to_value(&reports).unwrap();
        assert_eq!(json[0]["source"], "PILLION_PYTHON");
        assert_eq!(json[0]["packages"], json!({"json": "unknown", "no_such_package": null}));
    });
}

/// None is taken in the place of one that the user named.
#[test]
fn a_named_one_that_is_bad_leaves_none_chosen() {
    in_own_process("a_named_one_that_is_bad_leaves_none_chosen", || {
        let named = Some("/nowhere/python".to_owned());
        let Survey { candidates: reports, problem } =
            survey(&SurveyOptions { python: named, ..SurveyOptions::default() });
        let problem = problem.unwrap();
        assert_eq!((problem.code(), problem.param()), (ErrorCode::PythonNotFound, Some("python")));
        assert_eq!(reports[0].problem.as_ref().unwrap().code(), ErrorCode::PythonNotFound);
        assert_eq!(reports[1].source, Source::PillionPython);
        assert!(reports.iter().all(|report| !report.chosen));
    });
}

/// All are asked at once, each for a bounded time.
#[test]
fn one_that_never_answers_is_said_to_be_silent_and_holds_up_no_other() {
    in_own_process("one_that_never_answers_is_said_to_be_silent_and_holds_up_no_other", || {
        let folder = tempfile::tempdir().unwrap();
        let silent = script(folder.path(), "exec sleep 600");
        let options = SurveyOptions {
            python: Some(silent.to_str().unwrap().to_owned()),
            timeout: Duration::from_millis(200),
            ..SurveyOptions::default()
        };
        let started = Instant::now();
        let Survey { candidates, problem } = survey(&options);
        assert!(started.elapsed() < Duration::from_secs(600), "it was waited for");
        let said = candidates[0].problem.as_ref().unwrap();
        assert_eq!(said.code(), ErrorCode::PythonUnsupported);
        assert!(said.message().contains("did not answer within 0.2 s"), "{said}");
        assert_eq!(problem.unwrap().code(), ErrorCode::PythonUnsupported);
    });
}

/// A process of its own needs no library; what it does need is as for this process.
#[test]
fn an_interpreter_without_a_library_does_for_a_process() {
    in_own_process("an_interpreter_without_a_library_does_for_a_process", || {
        let folder = tempfile::tempdir().unwrap();
        let find = |change: &serde_json::Value| {
            let python = pretender(folder.path(), change);
            (find_for_process(python.to_str()), python)
        };
        assert_eq!(find(&json!({"libpython": [], "executable": "/real/python"})).0.unwrap(), Path::new("/real/python"));
        let (found, python) = find(&json!({"libpython": [], "executable": ""}));
        assert_eq!(found.unwrap(), python);
        let (refused, _) = find(&json!({"version": [3, 8, 1]}));
        let refused = refused.unwrap_err();
        assert_eq!((refused.code(), refused.param()), (ErrorCode::PythonUnsupported, Some("python")));
        assert_eq!(find_for_process(None).unwrap().to_str(), env::var("PILLION_PYTHON").ok().as_deref());
    });
}

/// The ones that are asked are those up to the first that can be used.
#[test]
fn what_comes_after_the_one_that_is_taken_is_not_asked() {
    let folder = tempfile::tempdir().unwrap();
    let asked = folder.path().join("asked");
    script(folder.path(), &format!("touch '{}'; exec sleep 600", asked.display()));
    in_own_process_with(
        "what_comes_after_the_one_that_is_taken_is_not_asked",
        &[("PATH", folder.path().to_str().unwrap())],
        || {
            assert!(find_for_process(None).is_ok());
        },
    );
    assert!(!asked.exists());
}
