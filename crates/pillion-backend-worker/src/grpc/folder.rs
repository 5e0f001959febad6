//! A folder that nobody else can enter, for one socket.

use std::{
    env, fs, io,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use pillion_core::{Error, ErrorCode, Result};

/// Bytes of a Unix socket's address, without the closing zero. Linux has four more than the systems that descend from BSD.
pub(super) const MAX_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// A name that is taken is not tried again; so many in a row are no chance.
const ATTEMPTS: u32 = 16;

/// Taken away with everything in it when it is dropped, or before, once both sides are connected.
#[derive(Debug)]
pub(crate) struct SocketFolder(PathBuf);

impl SocketFolder {
    /// A fresh folder of mode 0700, where the user's own run-time files are, else where temporary ones are.
    pub(crate) fn new() -> Result<Self> {
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        let mut last = None;
        for parent in runtime.into_iter().chain([env::temp_dir()]) {
            match Self::within(&parent) {
                Ok(folder) => return Ok(folder),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::internal("there is no folder for temporary files")))
    }

    fn within(parent: &Path) -> Result<Self> {
        for attempt in 0..ATTEMPTS {
            let path = parent.join(name(attempt));
            check_length(&path.join("s"))?;
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(cannot(parent, &e)),
            }
        }
        Err(cannot(parent, &io::ErrorKind::AlreadyExists.into()))
    }

    /// Where the socket is to be.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("s")
    }
}

impl Drop for SocketFolder {
    fn drop(&mut self) {
        // What cannot be taken away is empty and closed to others.
        let _ = fs::remove_file(self.socket());
        let _ = fs::remove_dir(&self.0);
    }
}

/// Nothing in it need be secret: the folder is made by us or not used.
fn name(attempt: u32) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("pillion-{:x}-{count:x}-{:x}", std::process::id(), now.wrapping_add(attempt))
}

/// Whether a socket can have this path.
pub(super) fn check_length(path: &Path) -> Result<()> {
    let len = path.as_os_str().as_bytes().len();
    if len <= MAX_PATH {
        return Ok(());
    }
    let message = format!("the socket's path has {len} bytes, and {MAX_PATH} are possible: {}", path.display());
    Err(Error::new(ErrorCode::BridgeUnavailable, message).with_remedy("choose a shorter path, or set TMPDIR to one"))
}

fn cannot(parent: &Path, error: &io::Error) -> Error {
    let message = format!("a folder for the worker's socket cannot be made in {}: {error}", parent.display());
    Error::new(ErrorCode::BridgeUnavailable, message)
        .with_remedy("set TMPDIR to a folder that can be written to, or use the shm bridge")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_is_closed_to_others_and_goes_with_its_socket() {
        let parent = tempfile::tempdir().unwrap();
        let (one, two) = (SocketFolder::within(parent.path()).unwrap(), SocketFolder::within(parent.path()).unwrap());
        assert_ne!(one.0, two.0);
        assert_eq!(fs::metadata(&one.0).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(one.socket(), "").unwrap();
        drop((one, two));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_path_that_is_too_long_or_cannot_be_made_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let long = SocketFolder::within(&parent.path().join("x".repeat(100))).unwrap_err();
        assert!(long.message().contains(&format!("{MAX_PATH} are possible")), "{long}");
        let missing = SocketFolder::within(&parent.path().join("missing")).unwrap_err();
        assert!(missing.code() == ErrorCode::BridgeUnavailable && missing.message().contains("missing"), "{missing}");
    }
}
