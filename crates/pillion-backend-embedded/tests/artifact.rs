//! What an artifact with this crate in it asks of the system: nothing of Python.
#![cfg(target_os = "linux")]

mod support;

use std::{env, process::Command};

use pillion_core::{ErrorCode, VERSION};
use support::{Running, fake_package, in_own_process_with, options, plain};

/// This very test is such an artifact: it starts a backend below.
#[test]
fn no_symbol_and_no_library_of_python_is_needed() {
    let tool = |name: &str, arguments: &[&str]| {
        let output = Command::new(name).args(arguments).arg(env::current_exe().unwrap()).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let symbols = tool("nm", &["-D", "--undefined-only"]);
    let names: Vec<_> = symbols.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert!(names.iter().any(|name| name.starts_with("dlopen")), "{symbols}");
    let python: Vec<_> = names.iter().filter(|name| name.trim_start_matches('_').starts_with("Py")).collect();
    assert!(python.is_empty(), "{python:?}");
    assert!(!tool("readelf", &["-d"]).contains("python"));
}

#[test]
fn a_machine_without_python_gets_an_error() {
    let nothing = [("PILLION_PYTHON", ""), ("PATH", "/nowhere")];
    in_own_process_with("a_machine_without_python_gets_an_error", &nothing, || {
        env::set_current_dir("/").unwrap();
        let error = Running::start(plain()).load_failed();
        assert_eq!(error.code(), ErrorCode::PythonNotFound, "{error}");
        assert!(error.remedy().unwrap().contains("npx pillion setup"), "{error}");
    });
}

#[test]
fn a_backend_may_move_to_another_thread() {
    let package = fake_package(VERSION);
    let backend = pillion_backend_embedded::EmbeddedBackend::new(options(package.path(), plain()));
    let backend: Box<dyn pillion_core::Backend> = Box::new(backend);
    std::thread::spawn(move || drop(backend)).join().unwrap();
}
