//! The process's one interpreter: found, loaded and booted by the first backend that needs it, shared by all that follow.
//!
//! Lives on the Python thread. A stage that failed is tried again by the next backend, since the user may have mended what was wrong.

use std::{env, ffi::OsStr, path::PathBuf};

use pillion_core::{Error, ErrorCode, LogLevel, LogSource, Progress, Result, VERSION};

use crate::{
    BRIDGE_FILE,
    choose::{Choice, Host, choose},
    client::Client,
    discover::{Surroundings, discover},
    loader::{self, Bridge, LogHook, Python},
    survey::ask_until_chosen,
};

#[derive(Debug, Default)]
pub(crate) struct Interpreter {
    python: Option<(Choice, Python)>,
    initialized: bool,
    bridge: Option<Bridge>,
    booted: bool,
}

impl Interpreter {
    /// The bridge to the running interpreter, which is started if need be.
    pub(crate) fn ensure(&mut self, client: &Client, log: LogHook) -> Result<&Bridge> {
        client.progress(stage(0.0));
        let bridge_file = bridge_file(client.options.bridge_library.as_ref())?;
        let deepbind = deepbind(env::var_os("PILLION_DEEPBIND").as_deref())?;
        match &self.python {
            Some((running, _)) => is_same(running, client.options.python.as_deref())?,
            None => self.python = Some(open_python(client)?),
        }
        let Some((choice, python)) = &self.python else { return Err(Error::internal("libpython was not kept")) };
        if !self.initialized {
            python.initialize(&choice.executable)?;
            self.initialized = true;
        }
        if self.bridge.is_none() {
            self.bridge = Some(Bridge::open(&bridge_file)?);
        }
        let Some(bridge) = &self.bridge else { return Err(Error::internal("the bridge was not kept")) };
        if !self.booted {
            bridge.boot(&boot_config(client, deepbind)?, log)?;
            self.booted = true;
        }
        client.progress(stage(1.0));
        Ok(bridge)
    }

    /// The bridge, if there is one.
    pub(crate) fn bridge(&self) -> Option<&Bridge> {
        self.bridge.as_ref().filter(|_| self.booted)
    }
}

fn open_python(client: &Client) -> Result<(Choice, Python)> {
    let choice = find(client.options.python.as_deref())?;
    for reason in &choice.skipped {
        client.log(LogLevel::Warn, LogSource::Rust, format!("passed over a Python: {reason}"));
    }
    client.log(LogLevel::Debug, LogSource::Rust, format!("{} ({})", choice.describe(), choice.source.as_str()));
    loader::cap_threads(client.options.load.num_threads);
    let python = Python::open(&choice)?;
    Ok((choice, python))
}

fn find(option: Option<&str>) -> Result<Choice> {
    let host = Host::current();
    choose(&ask_until_chosen(discover(&Surroundings::of_process(option)), &host), &host)
}

/// A backend that names no interpreter takes the one that runs; one that names another cannot be served.
fn is_same(running: &Choice, option: Option<&str>) -> Result<()> {
    if option.is_none() {
        return Ok(());
    }
    let wanted = find(option)?;
    if (&wanted.prefix, wanted.version, &wanted.libpython) == (&running.prefix, running.version, &running.libpython) {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::BridgeUnavailable,
        format!(
            "this process runs {} already, so {} cannot be loaded: a process has one interpreter as long as it lives",
            running.describe(),
            wanted.describe()
        ),
    )
    .with_param("python")
    .with_remedy("use the same interpreter for all engines of a process, or load the other one in another process"))
}

/// The bridge's file where no option names it: `PILLION_BRIDGE_LIBRARY`, or [`BRIDGE_FILE`] beside the shared object with this code.
pub fn bridge_library() -> Result<PathBuf> {
    bridge_file(None)
}

/// Looked for before libpython is loaded for its sake.
fn bridge_file(named: Option<&PathBuf>) -> Result<PathBuf> {
    let named = named.cloned().or_else(|| env::var_os("PILLION_BRIDGE_LIBRARY").map(PathBuf::from));
    let file = named.or_else(|| Some(loader::own_folder()?.join(BRIDGE_FILE))).ok_or_else(|| {
        Error::new(ErrorCode::BridgeUnavailable, "the folder of pillion's native files is not known")
            .with_remedy("name the bridge's file by PILLION_BRIDGE_LIBRARY")
    })?;
    loader::require_file(&file)?;
    Ok(file)
}

/// How Python's OpenSSL and zlib are kept from binding to Node's: see `prelude.py` of the bridge.
fn deepbind(value: Option<&OsStr>) -> Result<&'static str> {
    let value = value.map(OsStr::to_string_lossy).unwrap_or_default();
    match &*value {
        "" | "narrow" => Ok("narrow"),
        "off" => Ok("off"),
        "all" => Ok("all"),
        other => Err(Error::invalid("PILLION_DEEPBIND", "off, narrow or all", format_args!("{other:?}"))),
    }
}

fn boot_config(client: &Client, deepbind: &str) -> Result<String> {
    let path = |path: &PathBuf| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| Error::invalid("pythonPath", "valid Unicode", format_args!("{}", path.display())))
    };
    let folders = client.options.python_path.iter().map(path).collect::<Result<Vec<_>>>()?;
    Ok(serde_json::json!({"sysPath": folders, "version": VERSION, "deepbind": deepbind}).to_string())
}

fn stage(done: f64) -> Progress {
    Progress { stage: "python".to_owned(), done, total: Some(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deepbind_takes_three_words() {
        let check = |value: Option<&str>| deepbind(value.map(OsStr::new)).map_err(|e| e.code());
        assert_eq!(check(None), Ok("narrow"));
        assert_eq!(check(Some("")), Ok("narrow"));
        assert_eq!(check(Some("off")), Ok("off"));
        assert_eq!(check(Some("all")), Ok("all"));
        assert_eq!(check(Some("OFF")), Err(ErrorCode::InvalidArgument));
    }
}
