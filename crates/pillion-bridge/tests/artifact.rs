//! What the built library asks of others, and that it is an extension module too.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "test code, but not inside of test functions")]

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

/// Cargo builds no library for tests that cannot link to it, so it is built here.
fn library() -> PathBuf {
    if let Some(path) = env::var_os("PILLION_BRIDGE_LIBRARY") {
        return path.into();
    }
    let executable = env::current_exe().unwrap();
    let profile = executable.parent().and_then(Path::parent).unwrap();
    let target = profile.parent().unwrap().as_os_str();
    let mut arguments = vec!["build", "--quiet", "--package", "pillion-bridge"];
    if profile.ends_with("release") {
        arguments.push("--release");
    }
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    run(Command::new(cargo).args(arguments).arg("--target-dir").arg(target).current_dir(env!("CARGO_MANIFEST_DIR")));
    profile.join("libpillion_bridge.so")
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

fn tool(name: &str, arguments: &[&dyn AsRef<OsStr>]) -> String {
    run(Command::new(name).args(arguments.iter().map(AsRef::as_ref)))
}

#[test]
fn it_needs_no_libpython_to_be_linked() {
    let dynamic = tool("readelf", &[&"-d", &library()]);
    let needed: Vec<_> = dynamic.lines().filter(|line| line.contains("(NEEDED)")).collect();
    assert!(needed.iter().any(|line| line.contains("libc.so")), "{dynamic}");
    assert!(!needed.iter().any(|line| line.contains("python")), "{dynamic}");
}

#[test]
fn it_uses_nothing_newer_than_the_stable_abi_of_3_10() {
    let allowed: BTreeSet<_> = include_str!("python-3.10-limited-api.txt").lines().collect();
    let symbols = tool("nm", &[&"-D", &"--undefined-only", &library()]);
    let names = symbols.lines().filter_map(|line| line.split_whitespace().last());
    let used: BTreeSet<_> = names.filter(|name| name.trim_start_matches('_').starts_with("Py")).collect();
    assert!(used.len() > 30, "the bridge uses Python: {symbols}");
    assert_eq!(used.difference(&allowed).collect::<Vec<_>>(), Vec::<&&str>::new());
}

#[test]
fn it_exports_its_table_and_its_module_alone() {
    let symbols = tool("nm", &[&"-D", &"--defined-only", &library()]);
    let names: BTreeSet<_> = symbols.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(names, BTreeSet::from(["PyInit_pillion_bridge", pillion_core::abi::SYMBOL]));
}

#[test]
fn python_imports_it_as_a_module() {
    let folder = tempfile::tempdir().unwrap();
    symlink(library(), folder.path().join("pillion_bridge.abi3.so")).unwrap();
    let python = env::var("PILLION_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = "import pillion_bridge; print(pillion_bridge.version())";
    let said = run(Command::new(python).args(["-c", script]).env("PYTHONPATH", folder.path()));
    assert_eq!(said.trim(), pillion_core::VERSION);
}

/// The same records as the Python code's, written and read, whole and damaged.
#[test]
fn records_are_those_of_the_python_code() {
    let python = env::var("PILLION_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(python);
    command.arg(here.join("tests/records.py")).env("PYTHONPATH", here.join("../../python"));
    let said = run(command.env("PILLION_BRIDGE_LIBRARY", library()));
    assert_eq!(said.trim(), "equal");
}
