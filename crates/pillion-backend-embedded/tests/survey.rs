//! The report on all candidates.
#![cfg(unix)]

mod support;

use std::{env, fs};

use pillion_backend_embedded::{Source, SurveyOptions, survey};
use pillion_core::ErrorCode;
use serde_json::json;
use support::{in_own_process, pretender};

#[test]
fn every_candidate_is_reported_and_one_is_chosen() {
    in_own_process("every_candidate_is_reported_and_one_is_chosen", || {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join(".venv/bin");
        fs::create_dir_all(&old).unwrap();
        pretender(&old, &json!({"version": [3, 7, 2]}));
        env::set_current_dir(folder.path()).unwrap();
        let reports =
            survey(&SurveyOptions { python: None, packages: vec!["json".to_owned(), "no_such_package".to_owned()] });

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
        let reports = survey(&SurveyOptions { python: Some("/nowhere/python".to_owned()), packages: vec![] });
        assert_eq!(reports[0].problem.as_ref().unwrap().code(), ErrorCode::PythonNotFound);
        assert_eq!(reports[1].source, Source::PillionPython);
        assert!(reports.iter().all(|report| !report.chosen));
    });
}
