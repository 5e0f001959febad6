//! A worker never outlives the process that started it, not even if that is killed.

use std::{
    fs, io,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::common::{Harness, fake, is_alive, step, wait_until};
use pillion_core::Backend;

const FILE: &str = "PILLION_TEST_ORPHAN_FILE";
const COMMAND: &str = "PILLION_TEST_ORPHAN_COMMAND";
/// What a worker does that is to die: nothing; wait in Python for ever; and hold the GIL for ever in native code, which only Linux ends from outside.
const BUSY: &[&str] =
    if cfg!(all(target_os = "linux", not(feature = "portable"))) { &["idle", "3", "14"] } else { &["idle", "3"] };

/// Not a test of its own: the process that is to be killed. It says which process it has started, and waits.
#[test]
#[ignore = "run by the tests below, in a process of its own"]
fn parent() {
    let (Some(file), Ok(command)) = (std::env::var_os(FILE), std::env::var(COMMAND)) else { return };
    let mut h = Harness::ready(fake());
    if let Ok(command) = command.parse() {
        h.backend.submit(&step(1, &[command])).unwrap();
    }
    fs::write(Path::new(&file).with_extension("part"), h.pid().to_string()).unwrap();
    fs::rename(Path::new(&file).with_extension("part"), file).unwrap();
    // The other end is closed when nobody wants this process any more.
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
}

fn start(command: &str, folder: &Path) -> (Child, u32) {
    let file = folder.join("pid");
    let parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "orphans::parent", "--ignored"])
        .env(FILE, &file)
        .env(COMMAND, command)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the parent's word", || file.exists());
    let pid = fs::read_to_string(file).unwrap().parse().unwrap();
    assert!(is_alive(pid));
    (parent, pid)
}

#[test]
fn a_killed_parent_leaves_no_worker() {
    for command in BUSY {
        let folder = tempfile::tempdir().unwrap();
        let (mut parent, worker) = start(command, folder.path());
        parent.kill().unwrap();
        parent.wait().unwrap();
        wait_until("the end of the worker", || !is_alive(worker));
    }
}

#[test]
fn a_parent_that_ends_without_closing_leaves_no_worker() {
    let folder = tempfile::tempdir().unwrap();
    let (mut parent, worker) = start(BUSY[BUSY.len() - 1], folder.path());
    drop(parent.stdin.take());
    assert!(parent.wait().unwrap().success());
    wait_until("the end of the worker", || !is_alive(worker));
}
