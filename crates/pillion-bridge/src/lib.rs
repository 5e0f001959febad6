//! The one crate that speaks to `CPython`.
//!
//! One artifact for two uses: the C table of [`pillion_core::abi`], which the loader (`pillion-backend-embedded`) calls after it has
//! loaded a libpython, and the extension module `pillion_bridge`. It is built against the stable ABI of Python 3.10 with no Python at
//! hand, names no libpython, and knows neither Node nor where the interpreter came from.

mod errors;
mod forward;
mod handlers;
mod held;
mod prelude;
mod record;
#[cfg(target_os = "linux")]
mod rings;
mod room;
mod table;

/// The extension module `pillion_bridge`, which `pillion._native` looks for.
#[pyo3::pymodule]
pub(crate) mod pillion_bridge {
    #[pymodule_export]
    use crate::forward::{ForwardReader, ForwardWriter};
    #[pymodule_export]
    use crate::record::{StepReader, encode_output};
    #[cfg(target_os = "linux")]
    #[pymodule_export]
    use crate::rings::Rings;

    /// The version that Rust, this library and the Python package share.
    #[pyo3::pyfunction]
    fn version() -> &'static str {
        pillion_core::VERSION
    }
}
