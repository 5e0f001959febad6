//! Where interpreters may be, best first. Looks at the environment and at files; runs nothing.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use serde::Serialize;

/// Why a path is a candidate. In the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Source {
    /// The option `python`.
    #[serde(rename = "option")]
    Option,
    /// The environment variable `PILLION_PYTHON`.
    #[serde(rename = "PILLION_PYTHON")]
    PillionPython,
    /// The environment variable `VIRTUAL_ENV`.
    #[serde(rename = "VIRTUAL_ENV")]
    VirtualEnv,
    /// The environment variable `CONDA_PREFIX`.
    #[serde(rename = "CONDA_PREFIX")]
    CondaPrefix,
    /// The nearest `.venv`, from the working directory upward.
    #[serde(rename = ".venv")]
    DotVenv,
    /// `python3` on `PATH`.
    #[serde(rename = "PATH")]
    Path,
}

impl Source {
    /// As messages name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Option => "option python",
            Self::PillionPython => "PILLION_PYTHON",
            Self::VirtualEnv => "VIRTUAL_ENV",
            Self::CondaPrefix => "CONDA_PREFIX",
            Self::DotVenv => ".venv",
            Self::Path => "PATH",
        }
    }

    /// Whether the user named this interpreter for us, so that none other may be taken in its place.
    pub fn is_explicit(self) -> bool {
        matches!(self, Self::Option | Self::PillionPython)
    }
}

/// A path that may be an interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) source: Source,
    pub(crate) path: PathBuf,
}

/// What the search looks at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) option: Option<String>,
    pub(crate) pillion_python: Option<OsString>,
    pub(crate) virtual_env: Option<OsString>,
    pub(crate) conda_prefix: Option<OsString>,
    pub(crate) path: Option<OsString>,
    pub(crate) cwd: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    pub(crate) fn of_process(option: Option<&str>) -> Self {
        let var = |name| env::var_os(name).filter(|value| !value.is_empty());
        Self {
            option: option.map(str::to_owned),
            pillion_python: var("PILLION_PYTHON"),
            virtual_env: var("VIRTUAL_ENV"),
            conda_prefix: var("CONDA_PREFIX"),
            path: var("PATH"),
            cwd: env::current_dir().ok(),
        }
    }
}

/// All candidates, best first, each path once. Those that the user named are listed even if nothing is there.
pub(crate) fn discover(surroundings: &Surroundings) -> Vec<Found> {
    let named = |value: &OsStr| named(value, surroundings);
    let prefix = |value: &OsString| interpreter_in(Path::new(value));
    let all = [
        (Source::Option, surroundings.option.as_deref().map(|value| named(OsStr::new(value)))),
        (Source::PillionPython, surroundings.pillion_python.as_deref().map(named)),
        (Source::VirtualEnv, surroundings.virtual_env.as_ref().map(prefix)),
        (Source::CondaPrefix, surroundings.conda_prefix.as_ref().map(prefix)),
        (Source::DotVenv, surroundings.cwd.as_deref().and_then(nearest_venv)),
        (Source::Path, ["python3", "python"].iter().find_map(|name| on_path(OsStr::new(name), surroundings))),
    ];
    let mut found = Vec::<Found>::new();
    for (source, path) in all {
        if let Some(path) = path.filter(|path| found.iter().all(|f| f.path != *path)) {
            found.push(Found { source, path });
        }
    }
    found
}

/// An interpreter, a folder that has one, or a command.
fn named(value: &OsStr, surroundings: &Surroundings) -> PathBuf {
    let path = Path::new(value);
    if path.components().count() == 1 && !path.is_absolute() && !path.is_dir() {
        return on_path(value, surroundings).unwrap_or_else(|| path.to_owned());
    }
    let path = surroundings.cwd.as_deref().map_or_else(|| path.to_owned(), |cwd| cwd.join(path));
    if path.is_dir() { interpreter_in(&path) } else { path }
}

fn nearest_venv(cwd: &Path) -> Option<PathBuf> {
    cwd.ancestors().map(|folder| interpreter_in(&folder.join(".venv"))).find(|python| python.is_file())
}

fn on_path(name: &OsStr, surroundings: &Surroundings) -> Option<PathBuf> {
    let mut file = name.to_owned();
    file.push(env::consts::EXE_SUFFIX);
    env::split_paths(surroundings.path.as_deref()?).map(|folder| folder.join(&file)).find(|path| is_executable(path))
}

#[cfg(unix)]
fn interpreter_in(prefix: &Path) -> PathBuf {
    prefix.join("bin").join("python3")
}

/// A venv has it in `Scripts`, a conda environment or an installation at the top.
#[cfg(not(unix))]
fn interpreter_in(prefix: &Path) -> PathBuf {
    let scripts = prefix.join("Scripts").join("python.exe");
    if scripts.is_file() { scripts } else { prefix.join("python.exe") }
}

#[cfg(unix)]
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(path: &Path) -> bool {
    path.is_file()
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    /// Folders `a/venv`, `a/b/.venv`, `conda` and `path`, each with an interpreter, and `a/b/c`, `empty` without.
    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in ["venv/bin/python3", "a/.venv/bin/python3", "conda/bin/python3", "path/python3", "path/python3.12"]
        {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::create_dir_all(root.path().join("a/b/c")).unwrap();
        fs::create_dir_all(root.path().join("plain")).unwrap();
        fs::write(root.path().join("plain/python3"), "not executable").unwrap();
        root
    }

    /// `$` in the arguments stands for the tree's root.
    fn check(set: impl FnOnce(&mut Surroundings, &dyn Fn(&str) -> String), expected: &[(Source, &str)]) {
        let root = tree();
        let at = |text: &str| text.replace('$', root.path().to_str().unwrap());
        let mut surroundings = Surroundings::default();
        set(&mut surroundings, &at);
        let expected: Vec<_> =
            expected.iter().map(|(source, path)| Found { source: *source, path: at(path).into() }).collect();
        assert_eq!(discover(&surroundings), expected);
    }

    #[test]
    fn all_in_order() {
        check(
            |s, at| {
                s.option = Some(at("$/path/python3.12"));
                s.pillion_python = Some(at("$/venv").into());
                s.virtual_env = Some(at("$/gone").into());
                s.conda_prefix = Some(at("$/conda").into());
                s.cwd = Some(at("$/a/b/c").into());
                s.path = Some(at("$/plain:$/path").into());
            },
            &[
                (Source::Option, "$/path/python3.12"),
                (Source::PillionPython, "$/venv/bin/python3"),
                (Source::VirtualEnv, "$/gone/bin/python3"),
                (Source::CondaPrefix, "$/conda/bin/python3"),
                (Source::DotVenv, "$/a/.venv/bin/python3"),
                (Source::Path, "$/path/python3"),
            ],
        );
    }

    #[test]
    fn nothing_is_nothing() {
        check(|_, _| {}, &[]);
        check(|s, at| s.path = Some(at("$/plain:$/a").into()), &[]);
        check(|s, at| s.cwd = Some(at("$/conda").into()), &[]);
    }

    #[test]
    fn one_path_is_listed_once_by_its_best_source() {
        check(
            |s, at| {
                s.virtual_env = Some(at("$/a/.venv").into());
                s.cwd = Some(at("$/a").into());
            },
            &[(Source::VirtualEnv, "$/a/.venv/bin/python3")],
        );
    }

    #[test]
    fn a_named_interpreter_may_be_a_command_a_folder_or_relative() {
        let option = |value: &'static str, expected: &'static str| {
            check(
                |s, at| {
                    s.option = Some(at(value));
                    s.path = Some(at("$/path").into());
                    s.cwd = Some(at("$/conda").into());
                },
                &[(Source::Option, expected), (Source::Path, "$/path/python3")],
            );
        };
        option("python3.12", "$/path/python3.12");
        option("python9", "python9");
        option("../venv", "$/conda/../venv/bin/python3");
        option("./gone/python", "$/conda/./gone/python");
        option("$/venv", "$/venv/bin/python3");
    }
}
