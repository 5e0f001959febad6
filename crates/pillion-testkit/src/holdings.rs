//! What a process holds, before and after. Of Linux only.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// Nothing that ends takes so long to.
const PATIENCE: Duration = Duration::from_secs(60);

/// What this process holds. `PartialEq` on texts, so that a failing test shows what was left.
#[derive(Debug, PartialEq)]
pub struct Holdings {
    /// What they lead to.
    pub descriptors: Vec<String>,
    /// Of memory files.
    pub mappings: Vec<String>,
    /// Those of ours.
    pub threads: usize,
    /// Processes that were started here.
    pub children: usize,
    /// Folders of sockets.
    pub folders: Vec<PathBuf>,
}

impl Holdings {
    /// As it is.
    #[must_use]
    pub fn now() -> Self {
        let links = fs::read_dir("/proc/self/fd").expect("this process can be looked at");
        // The listing itself opens one, which is gone when its link is read.
        let mut descriptors: Vec<_> = links
            .filter_map(|entry| fs::read_link(entry.expect("this process can be looked at").path()).ok())
            .map(|target| target.to_string_lossy().into_owned())
            .filter(|target| !target.starts_with("/proc/"))
            .collect();
        descriptors.sort_unstable();
        let maps = fs::read_to_string("/proc/self/maps").expect("this process can be looked at");
        let mappings = maps.lines().filter(|line| line.contains("memfd:")).map(str::to_owned).collect();
        let tasks: Vec<_> = fs::read_dir("/proc/self/task")
            .expect("this process can be looked at")
            .map(|t| t.expect("this process can be looked at").path())
            .collect();
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

    /// As it is once all but so many threads of ours have ended, which they do a moment after their last event.
    #[must_use]
    pub fn settled(what: &str, threads: usize) -> Self {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = Self::now();
            if now.threads <= threads {
                return now;
            }
            assert!(Instant::now() < until, "{what}: its threads do not end");
            thread::yield_now();
        }
    }

    /// Runs something and shows that it leaves nothing behind.
    pub fn check(&self, what: &str, run: impl FnOnce()) {
        run();
        // Not the threads first: one that has only just begun has not even its name, and is not counted.
        let until = Instant::now() + PATIENCE;
        let mut now = Self::now();
        while now != *self && Instant::now() < until {
            thread::yield_now();
            now = Self::now();
        }
        assert_eq!(&now, self, "{what}");
    }
}
