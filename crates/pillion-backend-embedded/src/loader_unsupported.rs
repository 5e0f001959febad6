//! Stands for the loader on systems where loading libpython into this process is not written: everything else of the crate is the same.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::Arc,
};

use pillion_core::{
    Error, ErrorCode, Result,
    forward::{Tensor, TensorMemory},
};

use crate::{
    choose::Choice,
    tensors::{Reserved, Spare},
};

pub(crate) type LogHook = fn(u32, &str, &str);

/// Cannot be made here.
#[derive(Debug)]
pub(crate) struct Python(Infallible);

impl Python {
    pub(crate) fn open(_: &Choice) -> Result<Self> {
        Err(unavailable())
    }

    pub(crate) fn initialize(&self, _: &Path) -> Result<()> {
        match self.0 {}
    }
}

/// Cannot be made here.
#[derive(Debug)]
pub(crate) struct Bridge(Infallible);

impl Bridge {
    pub(crate) fn open(_: &Path) -> Result<Self> {
        Err(unavailable())
    }

    pub(crate) fn boot(&self, _: &str, _: LogHook) -> Result<Vec<u8>> {
        match self.0 {}
    }

    pub(crate) fn open_model(&self, _: &str, _: &(dyn Fn(&str) + Sync)) -> Result<(u64, Vec<u8>)> {
        match self.0 {}
    }

    pub(crate) fn step(&self, _: u64, _: &[u8], _: &mut Vec<u8>) -> Result<()> {
        match self.0 {}
    }

    pub(crate) fn forward(&self, _: u64, _: &[u8], _: &[Tensor], _: &mut Reserved, _: &mut Vec<u8>) -> Result<()> {
        match self.0 {}
    }

    pub(crate) fn close_model(&self, _: u64) -> Result<()> {
        match self.0 {}
    }

    pub(crate) fn shutdown(&self) -> Result<()> {
        match self.0 {}
    }

    pub(crate) fn test_panic(&self) -> Result<()> {
        match self.0 {}
    }
}

pub(crate) fn hold(_: Vec<u8>, _: &Arc<Spare>) -> Option<Arc<dyn TensorMemory>> {
    None
}

pub(crate) fn is_held(_: &Tensor) -> bool {
    false
}

pub(crate) fn own_folder() -> Option<PathBuf> {
    None
}

pub(crate) fn require_file(_: &Path) -> Result<()> {
    Err(unavailable())
}

pub(crate) fn cap_threads(_: u32) {}

pub(crate) fn release_free_memory() {}

/// The child itself is killed by its handle.
pub(crate) fn kill_group(_: u32) {}

fn unavailable() -> Error {
    Error::new(
        ErrorCode::BridgeUnavailable,
        format!("the embedded bridge is not written for {} yet: it loads libpython by dlopen", std::env::consts::OS),
    )
    .with_remedy("run it on Linux or macOS; tokenizers and the echo model work here")
}
