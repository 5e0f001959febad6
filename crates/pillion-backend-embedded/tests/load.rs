//! Loading: what a started interpreter looks like from inside, and how loading fails.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "test code, but not inside of test functions")]

mod support;

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use pillion_backend_embedded::{EmbeddedBackend, EmbeddedOptions};
use pillion_core::{Backend, BackendEvents, Error, ErrorCode, Stage, VERSION};
use serde_json::{Value, json};
use support::{Running, fake_package, in_own_process, in_own_process_with, plain, pretender, python, script};

#[test]
fn a_model_loads_and_answers() {
    in_own_process("a_model_loads_and_answers", || {
        let mut running = Running::start(plain());
        assert_eq!(running.state(), "starting");
        let info = running.ready();
        assert_eq!(info.model.name, "fake");
        assert_eq!(info.pid, std::process::id());
        assert_eq!(running.state(), "ready");
        assert_eq!(running.stages, ["python 0", "python 1", "weights 1"]);
        for step_id in 1..=50 {
            running.check_step(step_id);
        }
        let worker = running.backend.workers().remove(0);
        assert_eq!((worker.pid, worker.restarts), (std::process::id(), 0));
        assert_eq!(worker.rss_bytes > 1 << 20, cfg!(target_os = "linux"), "{worker:?}");
        running.close();
        assert!(running.lines.contains(&"closed".to_owned()));
    });
}

#[test]
fn the_interpreter_is_set_up_for_us() {
    in_own_process("the_interpreter_is_set_up_for_us", || {
        let mut running = Running::start(plain());
        running.ready();
        let facts = running.facts();
        assert_eq!(facts["main_thread"], true);
        assert_eq!(facts["argv"], json!([""]));
        assert_eq!(facts["switch_interval"], 0.0005);
        assert_eq!(facts["start_method"], "spawn");
        assert_eq!(facts["deepbind"], false);
        assert_eq!((&facts["omp"], &facts["mkl"]), (&json!("3"), &json!("3")));
        assert_eq!(facts["path"], running.package().to_str().unwrap());
    });
}

#[test]
fn what_the_user_has_set_stays() {
    let variables = [
        ("OMP_NUM_THREADS", "7"),
        ("PYTHONHOME", "/nowhere"),
        ("PILLION_DEEPBIND", "all"),
        ("LC_ALL", "xx_XX.ISO-8859-1"),
    ];
    in_own_process_with("what_the_user_has_set_stays", &variables, || {
        let mut running = Running::start(plain());
        running.ready();
        let facts = running.facts();
        assert_eq!((&facts["omp"], &facts["mkl"]), (&json!("7"), &json!("3")));
        assert_eq!(facts["deepbind"], cfg!(all(target_os = "linux", target_env = "gnu")));
        assert_eq!(facts["encoding"], "utf-8");
        assert_eq!(std::env::var("PYTHONHOME").unwrap(), "/nowhere");
    });
}

#[test]
fn a_word_that_deepbind_does_not_take() {
    in_own_process_with("a_word_that_deepbind_does_not_take", &[("PILLION_DEEPBIND", "loud")], || {
        let error = Running::start(plain()).load_failed();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        assert!(error.message().contains("loud"), "{error}");
    });
}

/// Its path has letters outside of ASCII; `sys.executable` must still be text.
fn check_venv(test: &str, locale: &str) {
    in_own_process_with(test, &[("LC_ALL", locale)], || {
        let folder = tempfile::tempdir().unwrap();
        let venv = folder.path().canonicalize().unwrap().join("grüße 😀");
        let made = Command::new(std::env::var_os("PILLION_PYTHON").unwrap())
            .args(["-m", "venv", "--without-pip"])
            .arg(&venv)
            .env("LC_ALL", "C.UTF-8")
            .status();
        assert!(made.unwrap().success());
        let mut running = Running::start_with(plain(), |options| options.python = venv.to_str().map(str::to_owned));
        running.ready();
        let facts = running.facts();
        assert_eq!(facts["prefix"], venv.to_str().unwrap());
        assert_eq!(Path::new(facts["executable"].as_str().unwrap()).parent(), Some(venv.join("bin").as_path()));
    });
}

#[test]
fn a_venv_is_itself_in_the_c_locale() {
    check_venv("a_venv_is_itself_in_the_c_locale", "C");
}

#[test]
fn a_venv_is_itself_in_a_utf8_locale() {
    check_venv("a_venv_is_itself_in_a_utf8_locale", "C.UTF-8");
}

/// Every interpreter of this machine that can be used, by the same bridge.
#[test]
fn each_version_of_python_loads() {
    let homes = fs::read_dir(std::env::home_dir().unwrap().join(".pyenv/versions"));
    let mut pythons: Vec<_> = homes.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    pythons.push("/usr/bin/python3".into());
    pythons.push(python());
    let mut versions = std::collections::BTreeSet::new();
    for path in pythons {
        let survey = pillion_backend_embedded::survey(&pillion_backend_embedded::SurveyOptions {
            python: path.to_str().map(str::to_owned),
            ..pillion_backend_embedded::SurveyOptions::default()
        });
        let report = &survey.candidates[0];
        assert_eq!(report.source, pillion_backend_embedded::Source::Option);
        let version = report.version.as_deref().unwrap_or_default();
        if ["3.6.", "3.7.", "3.8.", "3.9."].iter().any(|old| version.starts_with(old)) {
            check(
                report.problem.as_ref().unwrap(),
                ErrorCode::PythonUnsupported,
                &[version, "3.10", "npx pillion setup"],
            );
        }
        if report.problem.is_none() {
            let python = report.executable.as_ref().unwrap().to_str().unwrap();
            versions.insert(report.version.clone().unwrap());
            in_own_process_with("one_version_of_python_loads", &[("PILLION_PYTHON", python)], || {});
        }
    }
    assert!(!versions.is_empty());
}

#[test]
fn one_version_of_python_loads() {
    in_own_process("one_version_of_python_loads", || {
        let mut running = Running::start(plain());
        running.ready();
        running.check_step(1);
        let executable = running.facts()["executable"].as_str().unwrap().to_owned();
        assert_eq!(executable, std::env::var("PILLION_PYTHON").unwrap());
        running.close();
    });
}

fn fails(change: impl FnOnce(&Path, &mut EmbeddedOptions)) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::start_with(plain(), |options| change(folder.path(), options));
    let error = running.load_failed();
    assert_eq!(error.stage(), Some(Stage::Load));
    assert_eq!(running.state(), "lost");
    running.close();
    error
}

fn pretends(change: &Value) -> Error {
    fails(|folder, options| options.python = Some(pretender(folder, change).to_str().unwrap().to_owned()))
}

#[track_caller]
fn check(error: &Error, code: ErrorCode, words: &[&str]) {
    assert_eq!(error.code(), code, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} is not in: {error}");
    }
}

/// All in one process: none of them leaves anything behind that keeps the next attempt from working.
#[test]
fn interpreters_that_cannot_be_used() {
    in_own_process("interpreters_that_cannot_be_used", || {
        let named = |path: &str| fails(|_, options| options.python = Some(path.to_owned()));
        let setup = "npx pillion setup";
        check(&named("/nowhere/python"), ErrorCode::PythonNotFound, &["/nowhere/python", setup]);
        check(&named("python9.9"), ErrorCode::PythonNotFound, &["python9.9", setup]);
        check(&pretends(&json!({"version": [3, 8, 18]})), ErrorCode::PythonUnsupported, &["3.8.18", "3.10", setup]);
        check(&pretends(&json!({"free_threaded": true})), ErrorCode::PythonUnsupported, &["free-threaded", setup]);
        check(&pretends(&json!({"libpython": []})), ErrorCode::PythonLibraryMissing, &["shared library", setup]);
        check(
            &pretends(&json!({"libpython": ["/etc/hostname"]})),
            ErrorCode::PythonLibraryMissing,
            &["/etc/hostname", setup],
        );
        let broken = fails(|folder, options| {
            options.python = Some(script(folder, "echo I am no snake >&2").to_str().unwrap().to_owned());
        });
        check(&broken, ErrorCode::PythonUnsupported, &["I am no snake", setup]);
        let no_bridge = fails(|folder, options| options.bridge_library = Some(folder.join("gone.so")));
        check(&no_bridge, ErrorCode::BridgeUnavailable, &["gone.so"]);

        let mut running = Running::start(plain());
        running.ready();
        running.check_step(1);
    });
}

#[test]
fn a_library_of_another_version_is_refused() {
    in_own_process("a_library_of_another_version_is_refused", || {
        let error = pretends(&json!({"version": [3, 98, 7]}));
        check(&error, ErrorCode::PythonUnsupported, &["3.98.7", "npx pillion setup"]);
    });
}

/// Python 3.14 and newer are started by another way, which tells of a failure instead of ending the process.
#[test]
fn a_python_with_a_configuration_is_started_by_it() {
    in_own_process("a_python_with_a_configuration_is_started_by_it", || {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libpython3.99.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/libpython.c");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
        assert!(compiled.unwrap().success());
        let change = json!({"version": [3, 99, 0], "executable": "/somewhere/python", "libpython": [library]});
        let words = [
            "did not start: isolated=0 use_environment=1 user_site_directory=1 configure_locale=1 utf8_mode=1",
            "install_signal_handlers=0 program_name=/somewhere/python",
            "npx pillion setup",
        ];
        check(&pretends(&change), ErrorCode::PythonUnsupported, &words);
    });
}

#[test]
fn a_file_that_is_no_bridge() {
    in_own_process("a_file_that_is_no_bridge", || {
        let not_a_bridge = |folder: &Path, options: &mut EmbeddedOptions| {
            let path = folder.join("x.so");
            fs::write(&path, "no library").unwrap();
            options.bridge_library = Some(path);
        };
        check(&fails(not_a_bridge), ErrorCode::BridgeUnavailable, &["x.so"]);
        // The interpreter runs by now, and the next attempt gets on with it.
        let mut running = Running::start(plain());
        running.ready();
    });
}

#[test]
fn another_version_of_the_package() {
    in_own_process("another_version_of_the_package", || {
        let old = fake_package("0.0.1");
        let error = fails(|_, options| options.python_path = vec![old.path().to_owned()]);
        let file = old.path().join("pillion/__init__.py");
        check(&error, ErrorCode::VersionMismatch, &["0.0.1", VERSION, file.to_str().unwrap()]);
        let error = fails(|folder, options| options.python_path = vec![folder.to_owned()]);
        check(&error, ErrorCode::PythonPackageMissing, &["pillion", "reinstall"]);
        let mut running = Running::start(json!({"info_version": "0.0.2"}));
        check(&running.load_failed(), ErrorCode::VersionMismatch, &["0.0.2", VERSION]);
        running.close();
        let mut running = Running::start(plain());
        running.ready();
        assert_eq!(running.facts()["others"], 0, "the model of the wrong version was not unloaded");
    });
}

#[test]
fn what_open_raises() {
    in_own_process("what_open_raises", || {
        let raised = |action: &str| {
            let mut running = Running::start(json!({"open": action}));
            let error = running.load_failed();
            assert_eq!(error.stage(), Some(Stage::Load));
            assert!(error.python().unwrap().traceback.contains("_embedded.py\", line"), "{error:?}");
            running.close();
            error
        };
        let error = raised("raise");
        check(&error, ErrorCode::PythonError, &["ValueError: the weights are the wrong shape"]);
        assert_eq!(error.python().unwrap().python_type, "ValueError");
        let traceback = &error.python().unwrap().traceback;
        assert!(traceback.starts_with("Traceback (most recent call last):"), "{traceback}");
        assert!(traceback.contains("in open\n") && traceback.ends_with("wrong shape\n"), "{traceback}");

        check(&raised("torch"), ErrorCode::PythonPackageMissing, &["torch", "run `npx pillion setup`"]);
        let missing = raised("no_torch");
        let remedy = "install no_such_torch_anywhere into this interpreter's environment";
        check(&missing, ErrorCode::PythonPackageMissing, &["no_such_torch_anywhere", remedy, "npx pillion setup"]);

        let error = raised("own");
        check(&error, ErrorCode::ModelNotFound, &["model_not_found: no weights in /x\nhint: look elsewhere"]);
        assert_eq!(error.param(), Some("model"));
        assert_eq!(error.python().unwrap().python_type, "pillion.errors.PillionError");
        check(&raised("own_code_unknown"), ErrorCode::PythonError, &["odd"]);

        let error = raised("surrogate");
        check(&error, ErrorCode::PythonError, &["RuntimeError: grüße 😀 ", " end"]);
        check(&raised("exit"), ErrorCode::PythonError, &["SystemExit: 3"]);
        check(&raised("unprintable"), ErrorCode::PythonError, &["Unprintable", "ZeroDivisionError"]);
        let error = raised("huge");
        check(&error, ErrorCode::PythonError, &["RuntimeError: begin", "finish", "bytes left out"]);
        assert!(error.to_json().len() < 100_000);

        let mut running = Running::start(plain());
        running.ready();
        assert_eq!(running.facts()["others"], 0);
    });
}

#[test]
fn python_may_call_back_from_any_thread_and_late() {
    in_own_process("python_may_call_back_from_any_thread_and_late", || {
        let mut running = Running::start(json!({"open": "thread"}));
        running.ready();
        assert!(running.stages.contains(&"check 3".to_owned()), "{:?}", running.stages);
        assert!(running.lines.contains(&"from a thread".to_owned()), "{:?}", running.lines);

        let mut late = Running::start(json!({"open": "late_progress", "steps": {"1": "late_progress"}}));
        late.ready();
        late.check_step(1);
        assert!(!late.stages.contains(&"late 1".to_owned()));
    });
}

#[test]
fn two_backends_share_the_interpreter() {
    in_own_process("two_backends_share_the_interpreter", || {
        let mut first = Running::start(plain());
        first.ready();
        let same = std::env::var("PILLION_PYTHON").unwrap();
        let mut second = Running::start_with(json!({"steps": {"2": "raise"}}), |options| options.python = Some(same));
        second.ready();
        assert_eq!(second.facts()["others"], 1);
        first.submit(1);
        second.submit(1);
        first.submit(2);
        second.submit(2);
        assert_eq!(first.step_done().tokens, [101, 100]);
        assert_eq!(first.step_done().tokens, [101, 100]);
        assert_eq!(second.step_done().tokens, [101, 100]);
        assert!(second.step_done().error.is_some());
        assert!(!first.lines.iter().any(|line| line == "closed"));
        second.close();
        assert!(second.lines.contains(&"closed".to_owned()));
        first.check_step(3);

        // Another venv of the same installation is another interpreter too.
        let error = pretends(&json!({"prefix": "/elsewhere", "executable": "/elsewhere/bin/python3"}));
        check(
            &error,
            ErrorCode::BridgeUnavailable,
            &["/elsewhere/bin/python3", &std::env::var("PILLION_PYTHON").unwrap()],
        );
        assert_eq!(error.param(), Some("python"));
        check(&fails(|_, o| o.python = Some("/nowhere".into())), ErrorCode::PythonNotFound, &["/nowhere"]);
        first.check_step(4);
    });
}

/// The same interpreter by a link of another name.
#[test]
fn a_link_to_the_interpreter_is_the_interpreter() {
    in_own_process("a_link_to_the_interpreter_is_the_interpreter", || {
        let mut first = Running::start(plain());
        first.ready();
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("snake");
        fs::write(&link, "").unwrap();
        fs::remove_file(&link).unwrap();
        symlink(python_shim(folder.path()), &link).unwrap();
        let mut second = Running::start_with(plain(), |options| options.python = link.to_str().map(str::to_owned));
        second.ready();
    });
}

/// A wrapper as version managers install it.
fn python_shim(folder: &Path) -> std::path::PathBuf {
    script(folder, &format!("exec '{}' \"$@\"", std::env::var("PILLION_PYTHON").unwrap()))
}

#[test]
fn no_more_backends_than_the_queue_has_room_for() {
    in_own_process("no_more_backends_than_the_queue_has_room_for", || {
        let folder = tempfile::tempdir().unwrap();
        let fifo = support::fifo(folder.path());
        let mut first = Running::start(json!({"open": "wait", "fifo": fifo}));
        let mut others: Vec<_> = (1..64).map(|_| Running::start(plain())).collect();
        let package = fake_package(VERSION);
        let mut refused = EmbeddedBackend::new(support::options(package.path(), plain()));
        let error = refused.start(BackendEvents::new(|_| {})).unwrap_err();
        check(&error, ErrorCode::BridgeUnavailable, &["64"]);
        fs::write(&fifo, "go").unwrap();
        first.ready();
        first.close();
        for running in &mut others {
            running.ready();
            running.close();
        }
        Running::start(plain()).ready();
    });
}
