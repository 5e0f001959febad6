//! Starts the interpreter, so that it takes itself for the executable that was chosen: that is what makes a venv's packages its own.
//!
//! In UTF-8 mode always, as Python 3.15 has it by default. Embedded, an older one would take the C locale, which containers have, for ASCII,
//! and fail on the first letter beyond it in a path or a file.

use std::{
    env,
    ffi::{CStr, CString, OsString, c_char, c_int, c_void},
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr,
};

use libc::wchar_t;
use pillion_core::{Error, ErrorCode, Result};

use super::Python;

/// CPython's opaque `PyInitConfig`.
type InitConfig = *mut c_void;

impl Python {
    /// Initialises the interpreter on this thread, which becomes Python's main thread, without signal handlers, and releases the GIL.
    pub(crate) fn initialize(&self, executable: &Path) -> Result<()> {
        let is_initialized = self.symbol::<unsafe extern "C" fn() -> c_int>(c"Py_IsInitialized")?;
        // SAFETY: may be called at any time.
        if unsafe { is_initialized() } != 0 {
            return Err(Error::new(
                ErrorCode::BridgeUnavailable,
                "another part of this process runs a Python interpreter already",
            ));
        }
        let save_thread = self.symbol::<unsafe extern "C" fn() -> *mut c_void>(c"PyEval_SaveThread")?;
        let program = CString::new(executable.as_os_str().as_bytes())
            .map_err(|_| Error::internal("the interpreter's path has a null byte"))?;
        let home = HomeUnset::new();
        match self.optional_symbol(c"PyInitConfig_Create") {
            Some(create) => self.initialize_by_config(create, &program)?,
            None => self.initialize_by_name(&program)?,
        }
        drop(home);
        // SAFETY: initialisation left this thread attached. The thread's state is kept, and each attach finds it again.
        unsafe { save_thread() };
        Ok(())
    }

    /// Python 3.14 and newer: errors come back instead of ending the process.
    fn initialize_by_config(&self, create: unsafe extern "C" fn() -> InitConfig, program: &CStr) -> Result<()> {
        type SetInt = unsafe extern "C" fn(InitConfig, *const c_char, i64) -> c_int;
        type SetStr = unsafe extern "C" fn(InitConfig, *const c_char, *const c_char) -> c_int;
        type GetError = unsafe extern "C" fn(InitConfig, *mut *const c_char) -> c_int;
        let set_int = self.symbol::<SetInt>(c"PyInitConfig_SetInt")?;
        let set_str = self.symbol::<SetStr>(c"PyInitConfig_SetStr")?;
        let get_error = self.symbol::<GetError>(c"PyInitConfig_GetError")?;
        let run = self.symbol::<unsafe extern "C" fn(InitConfig) -> c_int>(c"Py_InitializeFromInitConfig")?;
        let free = self.symbol::<unsafe extern "C" fn(InitConfig)>(c"PyInitConfig_Free")?;

        // The configuration starts as an isolated one; an embedded interpreter should see what `python` on a terminal sees.
        let numbers = [
            (c"isolated", 0),
            (c"use_environment", 1),
            (c"user_site_directory", 1),
            (c"configure_locale", 1),
            (c"utf8_mode", 1),
            (c"install_signal_handlers", 0),
        ];
        // SAFETY: the functions are used as documented: a configuration is made, filled, used once and freed, and the error's text is
        // copied before that. Null from `create` is refused by none of them, so it is checked.
        unsafe {
            let config = create();
            if config.is_null() {
                return Err(Error::new(ErrorCode::OutOfMemory, "Python could not allocate its configuration"));
            }
            let failed = numbers.iter().any(|(name, value)| set_int(config, name.as_ptr(), *value) != 0)
                || set_str(config, c"program_name".as_ptr(), program.as_ptr()) != 0
                || run(config) != 0;
            let mut reason = ptr::null();
            let result = if !failed {
                Ok(())
            } else if get_error(config, &raw mut reason) != 0 && !reason.is_null() {
                Err(not_started(&CStr::from_ptr(reason).to_string_lossy()))
            } else {
                Err(not_started("no reason was given"))
            };
            free(config);
            result
        }
    }

    /// Before 3.14: a failure would end the process, which is why the interpreter was started in a child first.
    fn initialize_by_name(&self, program: &CStr) -> Result<()> {
        let set_program_name = self.symbol::<unsafe extern "C" fn(*const wchar_t)>(c"Py_SetProgramName")?;
        let initialize = self.symbol::<unsafe extern "C" fn(c_int)>(c"Py_InitializeEx")?;
        let utf8_mode = self.symbol::<*mut c_int>(c"Py_UTF8Mode")?;
        let name = Box::leak(decode(program.to_bytes()).into_boxed_slice());
        // SAFETY: the interpreter is not initialised yet, nobody else uses its variable, and the name ends in 0 and lives for ever, as it
        // must. The argument 0 means no signal handlers.
        unsafe {
            utf8_mode.write(1);
            set_program_name(name.as_ptr());
            initialize(0);
        }
        Ok(())
    }
}

/// The path as Python in its UTF-8 mode has it: a byte that is no UTF-8 becomes a lone surrogate, which leads back to the same byte.
fn decode(path: &[u8]) -> Vec<wchar_t> {
    let mut wide = Vec::with_capacity(path.len() + 1);
    for chunk in path.utf8_chunks() {
        wide.extend(chunk.valid().chars().map(|c| c as wchar_t));
        wide.extend(chunk.invalid().iter().map(|byte| 0xdc00 + wchar_t::from(*byte)));
    }
    wide.push(0);
    wide
}

fn not_started(reason: &str) -> Error {
    Error::new(ErrorCode::PythonUnsupported, format!("Python did not start: {reason}"))
        .with_remedy(crate::choose::SETUP_OR_NAME)
}

/// `PYTHONHOME` is meant for another interpreter than the one that we start by its path; with a wrong one Python ends the process.
struct HomeUnset(Option<OsString>);

impl HomeUnset {
    fn new() -> Self {
        let home = env::var_os("PYTHONHOME");
        if home.is_some() {
            // SAFETY: libpython reads the C environment, so there is no other way. A thread that reads it through C at this very moment
            // may see the old value; std's own readers are locked out.
            unsafe { env::remove_var("PYTHONHOME") };
        }
        Self(home)
    }
}

impl Drop for HomeUnset {
    fn drop(&mut self) {
        if let Some(home) = &self.0 {
            // SAFETY: as above; child processes of the user's get what they would have had.
            unsafe { env::set_var("PYTHONHOME", home) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_as_python_has_them() {
        assert_eq!(decode(b""), [0]);
        assert_eq!(decode("/ü😀".as_bytes()), [0x2f, 0xfc, 0x1_f600, 0]);
        assert_eq!(decode(b"a\xff\xc3b"), [0x61, 0xdcff, 0xdcc3, 0x62, 0]);
    }
}
