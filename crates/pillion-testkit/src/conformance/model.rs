//! What the cases load, and how they hold it up.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use pillion_core::{LoadConfig, LoadLimits, ModelSource};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A model of `python/conformance_models.py`. The echo backend stands for all of them.
#[derive(Clone, Debug)]
pub enum Model {
    /// Takes steps and answers as the echo model does; with these options.
    Steps(Value),
    /// The class of this name, run by the real handler of classes.
    Class(&'static str),
}

impl Model {
    /// The step model, which does nothing special.
    pub fn steps() -> Self {
        Self::Steps(json!({}))
    }

    /// The step model, which can be held up.
    pub fn gated(gate: &Gate) -> Self {
        Self::Steps(json!({ "gate": gate.path }))
    }

    /// What Python is told to load.
    pub fn load_config(&self) -> LoadConfig {
        let (spec, options) = match self {
            Self::Steps(options) => ("conformance:Steps".to_owned(), options.clone()),
            Self::Class(name) => (format!("conformance_models:{name}"), Value::Null),
        };
        LoadConfig {
            model: ModelSource::Class { spec, options },
            device: None,
            dtype: None,
            num_threads: 1,
            limits: LoadLimits { max_context: None, max_batch_tokens: 64, max_running: 32, kv_cache_bytes: None },
        }
    }
}

/// Folders for the head of `sys.path`: a package `pillion` that is the real one and knows the models.
pub fn python_path() -> Vec<PathBuf> {
    vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("python")]
}

/// Holds up a model that was told to wait. Who waits goes on when it is opened or dropped.
#[derive(Debug)]
pub struct Gate {
    path: PathBuf,
    pipe: File,
    _folder: TempDir,
}

impl Gate {
    /// A closed one.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the gate");
        let path = folder.path().join("gate");
        make_pipe(&path);
        // With both ends open here, opening it waits for nobody and what is written waits for its reader.
        let pipe = OpenOptions::new().read(true).write(true).open(&path).expect("the gate");
        Self { path, pipe, _folder: folder }
    }

    /// Lets one pass.
    pub fn open(&mut self) {
        self.pipe.write_all(b"!").expect("the gate is open on both ends");
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(unix)]
fn make_pipe(path: &Path) {
    // A command, since the call has no form that all systems share.
    let made = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(path).status().expect("mkfifo can be run");
    assert!(made.success(), "mkfifo: {made}");
}

#[cfg(not(unix))]
fn make_pipe(_: &Path) {
    panic!("only on Unix do bridges run that can be held up");
}
