//! Prepares the interpreter and finds our package, by the Python code beside this file.

use std::ffi::CString;

use pillion_core::{Error, ErrorCode};
use pyo3::{exceptions::PyModuleNotFoundError, prelude::*};

use crate::handlers::{BootConfig, Failure};

const SOURCE: &str = include_str!("prelude.py");

/// Leaves `sys.path` with the configured folders first and the package `pillion` imported, in the version that was asked for.
pub(crate) fn prepare(py: Python<'_>, config: &BootConfig) -> Result<(), Failure> {
    let source = CString::new(SOURCE).map_err(|_| Error::internal("prelude.py has a null byte"))?;
    let module = PyModule::from_code(py, &source, c"<pillion prelude>", c"_pillion_prelude")?;
    module.call_method1("prepare", (config.deepbind.as_deref().unwrap_or("narrow"),))?;
    // So that our package finds this library, which is no file on its path.
    let own = pyo3::wrap_pymodule!(crate::pillion_bridge)(py);
    py.import("sys")?.getattr("modules")?.set_item("pillion_bridge", own)?;
    let found = module.call_method1("import_package", (config.sys_path.clone(), &config.version)).map_err(|error| {
        let name = error.value(py).getattr("name").and_then(|name| name.extract::<String>());
        if error.is_instance_of::<PyModuleNotFoundError>(py) && name.is_ok_and(|name| name == "pillion") {
            Failure::Ours(missing(config))
        } else {
            Failure::Python(error)
        }
    })?;
    match found.extract::<Option<(String, String)>>()? {
        None => Ok(()),
        Some((version, file)) => Err(mismatch(config, &version, &file).into()),
    }
}

fn missing(config: &BootConfig) -> Error {
    Error::new(
        ErrorCode::PythonPackageMissing,
        format!("the Python package pillion is not in {}", config.sys_path.join(", ")),
    )
    .with_remedy("reinstall the npm package pillion, which ships it, then run `npx pillion setup`")
}

fn mismatch(config: &BootConfig, version: &str, file: &str) -> Error {
    Error::new(
        ErrorCode::VersionMismatch,
        format!("the Python package pillion is version {version} ({file}), but {} is needed", config.version),
    )
    .with_remedy(format!(
        "remove that copy, or install pillion {} in its place; the npm package ships its own and needs no other",
        config.version
    ))
}
