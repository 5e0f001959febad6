//! What a process holds, before and after.

use std::{fs, path::PathBuf};

use crate::common::wait_until;

/// What this process holds. `PartialEq` on texts, so that a failing test shows what was left.
#[derive(Debug, PartialEq)]
pub(crate) struct Holdings {
    pub(crate) descriptors: Vec<String>,
    pub(crate) mappings: Vec<String>,
    pub(crate) threads: usize,
    pub(crate) children: usize,
    /// Folders of sockets.
    pub(crate) folders: Vec<PathBuf>,
}

impl Holdings {
    pub(crate) fn now() -> Self {
        let links = fs::read_dir("/proc/self/fd").unwrap();
        // The listing itself opens one, which is gone when its link is read.
        let mut descriptors: Vec<_> = links
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .map(|target| target.to_string_lossy().into_owned())
            .filter(|target| !target.starts_with("/proc/"))
            .collect();
        descriptors.sort_unstable();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let mappings = maps.lines().filter(|line| line.contains("memfd:")).map(str::to_owned).collect();
        let tasks: Vec<_> = fs::read_dir("/proc/self/task").unwrap().map(|t| t.unwrap().path()).collect();
        let children = tasks
            .iter()
            .filter_map(|task| fs::read_to_string(task.join("children")).ok())
            .map(|list| list.split_ascii_whitespace().count())
            .sum();
        // Those of the test's own harness come and go as they like.
        let is_ours =
            |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("pillion"));
        let threads = tasks.iter().filter(|task| is_ours(task)).count();
        let own = format!("pillion-{:x}-", std::process::id());
        let is_folder = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&own));
        let parents = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).into_iter().chain([std::env::temp_dir()]);
        let entries = parents.filter_map(|parent| fs::read_dir(parent).ok()).flatten();
        let folders = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_folder).collect();
        Self { descriptors, mappings, threads, children, folders }
    }
}

/// Runs a case and shows that it leaves nothing behind.
pub(crate) fn check(name: &str, before: &Holdings, case: impl FnOnce()) {
    case();
    // The supervisor's thread ends a moment after its last event.
    wait_until(&format!("{name}: the end of its threads"), || Holdings::now().threads <= before.threads);
    assert_eq!(&Holdings::now(), before, "{name}");
}
