//! What is loaded into this process: our own module, and a libpython that somebody else brought.

use std::{
    ffi::{CStr, OsStr, c_void},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    ptr,
};

/// The folder of the shared object, or of the executable, that this code is linked into.
pub(crate) fn own_folder() -> Option<PathBuf> {
    let path = path_of(own_address())?;
    let path = Path::new(OsStr::from_bytes(path.to_bytes())).canonicalize().ok()?;
    path.parent().map(Path::to_owned)
}

/// Keeps our code mapped after the last `dlclose`: a worker thread of Node that ends closes the addons that only it had loaded, while
/// the Python thread goes on.
pub(super) fn pin_own_module() {
    if let Some(path) = path_of(own_address()) {
        // SAFETY: with NOLOAD nothing is loaded and no initialiser runs. Null (the executable itself) needs no pin. The handle is
        // kept open on purpose.
        unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_NODELETE | libc::RTLD_NOLOAD) };
    }
}

/// The name of a libpython in this process.
pub(super) fn loaded_libpython() -> Option<String> {
    // SAFETY: looks a name up among the global symbols.
    let global = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"Py_IsInitialized".as_ptr()) };
    if global.is_null() {
        return local_libpython();
    }
    let path = path_of(global).map(|path| path.to_string_lossy().into_owned());
    Some(path.unwrap_or_else(|| "a libpython".to_owned()))
}

/// One whose symbols are not global.
#[cfg(target_os = "linux")]
fn local_libpython() -> Option<String> {
    extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: libc::size_t, found: *mut c_void) -> libc::c_int {
        // SAFETY: the linker lends a valid entry for the time of this call, and `found` is the `Option` below.
        let (name, found) = unsafe { ((*info).dlpi_name, &mut *found.cast::<Option<std::ffi::CString>>()) };
        if name.is_null() {
            return 0;
        }
        // SAFETY: a name is a C string that lives as long as the entry.
        let name = unsafe { CStr::from_ptr(name) };
        let file = name.to_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if is_libpython(&String::from_utf8_lossy(file)) {
            *found = Some(name.to_owned());
            return 1;
        }
        0
    }
    let mut found = None::<std::ffi::CString>;
    // SAFETY: `visit` is called during this call only.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut found).cast()) };
    found.map(|name| name.to_string_lossy().into_owned())
}

/// Elsewhere the lookup among the global symbols sees every library.
#[cfg(not(target_os = "linux"))]
fn local_libpython() -> Option<String> {
    None
}

/// `libpython3.11.so.1.0`, but neither the stub `libpython3.so` nor `libpython-something.so`.
#[cfg(target_os = "linux")]
fn is_libpython(file: &str) -> bool {
    let Some((version, _)) = file.strip_prefix("libpython").and_then(|rest| rest.split_once(".so")) else {
        return false;
    };
    version.starts_with(|c: char| c.is_ascii_digit()) && version.contains('.')
}

fn own_address() -> *mut c_void {
    own_address as fn() -> *mut c_void as *mut c_void
}

fn path_of(address: *mut c_void) -> Option<&'static CStr> {
    let mut info = libc::Dl_info {
        dli_fname: ptr::null(),
        dli_fbase: ptr::null_mut(),
        dli_sname: ptr::null(),
        dli_saddr: ptr::null_mut(),
    };
    // SAFETY: `info` is a valid place to write to.
    let found = unsafe { libc::dladdr(address, &raw mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the name lives as long as the object, which is either ours or a libpython, and neither is ever unloaded.
    Some(unsafe { CStr::from_ptr(info.dli_fname) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_folder_is_that_of_the_test() {
        let executable = std::env::current_exe().unwrap().canonicalize().unwrap();
        assert_eq!(own_folder().as_deref(), executable.parent());
    }

    #[test]
    fn no_libpython_is_loaded_here() {
        assert_eq!(loaded_libpython(), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn names_of_libpython() {
        for name in ["libpython3.11.so.1.0", "libpython3.13d.so", "libpython2.7.so.1"] {
            assert!(is_libpython(name), "{name}");
        }
        for name in ["libpython3.so", "libpythonic.so", "libpython-x.so", "libc.so.6", "libtorch_python.so", ""] {
            assert!(!is_libpython(name), "{name}");
        }
    }
}
