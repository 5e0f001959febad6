//! Loads libpython and the bridge at run time and calls through the bridge's table. All of the crate's unsafe code is here.
//!
//! Three stages, each once per process and on the Python thread: [`Python::open`], [`Python::initialize`], [`Bridge::open`]. Nothing is
//! ever unloaded or finalized: Python's threads run that code until the process ends.

#![expect(unsafe_code, reason = "dlopen, dlsym and calls of what they give; the rest of the crate is safe code")]

mod bridge;
mod held;
mod images;
mod initialize;

use std::{
    env,
    ffi::{CStr, c_char},
    path::{Path, PathBuf},
};

use libc::{RTLD_GLOBAL, RTLD_NOW};
use libloading::os::unix::Library;
use pillion_core::{Error, ErrorCode, Result};

pub(crate) use bridge::{Bridge, LogHook};
pub(crate) use held::{hold, is_held};
pub(crate) use images::own_folder;

use crate::choose::Choice;

/// Read by libgomp, MKL and others when they are loaded, which is long after [`Python::open`].
const THREAD_VARIABLES: [&str; 2] = ["OMP_NUM_THREADS", "MKL_NUM_THREADS"];

/// A loaded libpython.
#[derive(Debug)]
pub(crate) struct Python {
    library: &'static Library,
    path: PathBuf,
}

impl Python {
    /// Loads the chosen interpreter's library, with its symbols global: Python's own extension modules are not linked to it and look
    /// for its symbols among those.
    pub(crate) fn open(choice: &Choice) -> Result<Self> {
        if let Some(other) = images::loaded_libpython() {
            return Err(Error::new(
                ErrorCode::BridgeUnavailable,
                format!("this process has loaded {other} already, and a second interpreter cannot be loaded beside it"),
            )
            .with_remedy("load only one copy of pillion, and no other package that embeds Python, in one process"));
        }
        images::pin_own_module();
        let mut failures = Vec::new();
        for path in &choice.libpython {
            // SAFETY: the initialisers that run are those of the library of an interpreter that the user has and that has just
            // started in a child process; no other libpython is in this process.
            match unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) } {
                Ok(library) => {
                    let python = Self { library: Box::leak(Box::new(library)), path: path.clone() };
                    python.check_version(choice)?;
                    return Ok(python);
                }
                Err(error) => failures.push(reason(&error)),
            }
        }
        Err(Error::new(
            ErrorCode::PythonLibraryMissing,
            format!("the shared library of {} cannot be loaded: {}", choice.describe(), failures.join("; ")),
        )
        .with_remedy("reinstall that Python, or run `npx pillion setup` to make an environment from another one"))
    }

    /// A library of another minor version would start, with the site packages of its own version: silently empty ones.
    fn check_version(&self, choice: &Choice) -> Result<()> {
        let get_version = self.symbol::<unsafe extern "C" fn() -> *const c_char>(c"Py_GetVersion")?;
        // SAFETY: may be called before initialisation; gives a static string.
        let version = unsafe { CStr::from_ptr(get_version()) }.to_string_lossy();
        let [major, minor, _] = choice.version;
        if version.starts_with(&format!("{major}.{minor}.")) {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::PythonUnsupported,
            format!("{} is of Python {version}, the interpreter is {}", self.path.display(), choice.describe()),
        )
        .with_remedy("repair that installation, or run `npx pillion setup` to make an environment from another one"))
    }

    /// A function of libpython. `F` must be the type of that function.
    fn symbol<F: std::marker::Copy>(&self, name: &CStr) -> Result<F> {
        self.optional_symbol(name).ok_or_else(|| {
            Error::new(
                ErrorCode::PythonUnsupported,
                format!("{} has no function {}", self.path.display(), name.to_string_lossy()),
            )
            .with_remedy(crate::choose::SETUP_OR_NAME)
        })
    }

    fn optional_symbol<F: std::marker::Copy>(&self, name: &CStr) -> Option<F> {
        // SAFETY: `F` is the function's type in CPython's documented C API; the library is never unloaded.
        unsafe { self.library.get::<F>(name.to_bytes_with_nul()) }.ok().map(|symbol| *symbol)
    }
}

/// What the dynamic linker said.
fn reason(error: &libloading::Error) -> String {
    use std::error::Error as _;
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Caps the threads of numeric libraries that are loaded later, where the user has not.
pub(crate) fn cap_threads(num_threads: u32) {
    for name in THREAD_VARIABLES {
        if env::var_os(name).is_none() {
            // SAFETY: there is no safe way to give these libraries a value: they read the C environment. A thread that reads it through
            // C at this very moment may see the old one; std's own readers are locked out.
            unsafe { env::set_var(name, num_threads.to_string()) };
        }
    }
}

/// Gives back memory that the allocator keeps after a model is gone.
pub(crate) fn release_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Kills a child's process group, of which the child is the leader and not yet waited for.
pub(crate) fn kill_group(child: u32) {
    if let Ok(group) = libc::pid_t::try_from(child) {
        // SAFETY: no memory is involved; the child was not waited for, so its id is not another's.
        unsafe { libc::killpg(group, libc::SIGKILL) };
    }
}

/// A file that must be there before anything is loaded on its account.
pub(crate) fn require_file(path: &Path) -> Result<()> {
    if path.is_file() {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::BridgeUnavailable,
        format!("pillion's bridge to Python is not there: {}", path.display()),
    )
    .with_remedy("reinstall the npm package, or build it by `cargo build -p pillion-bridge`"))
}
