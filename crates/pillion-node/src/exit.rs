//! The end of a process that has run Python in it.
//!
//! The interpreter is never finalized, and its thread may be in the middle of a forward pass when the process ends. `exit` would then run the
//! destructors of torch and its kin under that thread, which crashes now and then. So the last step is taken here: Python's own exit
//! functions run, output is flushed, and the process ends without destructors. Nothing happens in a process without embedded Python.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// What Node wants to exit with, where the C library does not say.
static STATUS: AtomicI32 = AtomicI32::new(0);
static HAS_PYTHON: AtomicBool = AtomicBool::new(false);

/// To be called before Python may be started.
pub(crate) fn python_may_start() {
    HAS_PYTHON.store(true, Ordering::Relaxed);
}

/// Takes charge of the end of the process if Python runs in it. The last to be called goes first at the end.
pub(crate) fn guard(status: Option<i32>) {
    if let Some(status) = status {
        STATUS.store(status, Ordering::Relaxed);
    }
    if HAS_PYTHON.load(Ordering::Relaxed) {
        end::register();
    }
}

#[cfg(unix)]
mod end {
    use std::{panic::catch_unwind, ptr, time::Duration};

    use libc::c_int;

    /// How long the end waits for Python's exit functions, and for a step that is under way.
    const TIMEOUT: Duration = Duration::from_millis(500);

    #[cfg(target_env = "gnu")]
    pub(super) fn register() {
        unsafe extern "C" {
            fn on_exit(function: extern "C" fn(c_int, *mut libc::c_void), argument: *mut libc::c_void) -> c_int;
        }
        extern "C" fn at_exit(status: c_int, _: *mut libc::c_void) {
            end(status);
        }
        // SAFETY: glibc's declaration; the function is never unloaded, since Node-API addons are pinned.
        let _ = unsafe { on_exit(at_exit, ptr::null_mut()) };
    }

    #[cfg(not(target_env = "gnu"))]
    pub(super) fn register() {
        extern "C" fn at_exit() {
            end(super::STATUS.load(std::sync::atomic::Ordering::Relaxed));
        }
        // SAFETY: the function is never unloaded, since Node-API addons are pinned.
        let _ = unsafe { libc::atexit(at_exit) };
    }

    fn end(status: c_int) -> ! {
        // Busy or failing Python is no reason to stay.
        let _ = catch_unwind(|| pillion_backend_embedded::shutdown(TIMEOUT));
        // SAFETY: flushes every stream of the C library; `_exit` may be called at any time.
        unsafe {
            libc::fflush(ptr::null_mut());
            libc::_exit(status)
        }
    }
}

/// Embedded Python is Unix-only for now.
#[cfg(not(unix))]
mod end {
    pub(super) fn register() {}
}
