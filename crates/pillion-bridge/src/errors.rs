//! A raised Python exception as [`pillion_core::Error`].

use pillion_core::{Error, ErrorCode, PythonException};
use pyo3::{
    exceptions::{PyMemoryError, PyModuleNotFoundError, PyRuntimeError},
    prelude::*,
    types::{PyDict, PyString, PyType},
};

/// Longer texts are cut; an exception may carry the repr of a whole tensor.
const MAX_MESSAGE: usize = 16 << 10;
const MAX_TRACEBACK: usize = 64 << 10;
/// Packages that `npx pillion setup` installs.
const SETUP_PACKAGES: &[&str] = &["torch", "transformers", "safetensors", "numpy", "tokenizers", "huggingface_hub"];

/// The error that a caller on any side may ask of; never fails itself.
pub(crate) fn from_python(py: Python<'_>, error: &PyErr) -> Error {
    let (text, message) = describe(py, error);
    let traceback = cut(traceback(py, error).unwrap_or_else(|_| message.clone()), MAX_TRACEBACK);
    let python_type = type_name(&error.get_type(py));
    classify(py, error, &text, cut(message, MAX_MESSAGE)).with_python(PythonException { python_type, traceback })
}

/// The exception's own text, and the same after its type.
fn describe(py: Python<'_>, error: &PyErr) -> (String, String) {
    let python_type = type_name(&error.get_type(py));
    let text = error.value(py).str().map_or_else(
        |broken| format!("(its text could not be made: {})", type_name(&broken.get_type(py))),
        |text| text.to_string_lossy().into_owned(),
    );
    let message = if text.is_empty() { python_type } else { format!("{python_type}: {text}") };
    (text, message)
}

fn classify(py: Python<'_>, error: &PyErr, text: &str, message: String) -> Error {
    if let Some(own) = own_error(py, error, text) {
        return own;
    }
    if is_out_of_memory(py, error, text) {
        return Error::new(ErrorCode::OutOfMemory, message)
            .with_remedy("lower limits.maxRunning, limits.maxBatchTokens or limits.kvCacheBytes, or free memory");
    }
    if error.is_instance_of::<PyModuleNotFoundError>(py) {
        return Error::new(ErrorCode::PythonPackageMissing, message).with_remedy(package_remedy(py, error));
    }
    Error::new(ErrorCode::PythonError, message)
}

/// The code and hints of a `pillion.errors.PillionError`. That module is not imported for it: unless it was, none was raised.
fn own_error(py: Python<'_>, error: &PyErr, text: &str) -> Option<Error> {
    let modules = py.import("sys").and_then(|sys| sys.getattr("modules")).ok()?;
    let class = modules.cast::<PyDict>().ok()?.get_item("pillion.errors").ok()??.getattr("PillionError").ok()?;
    let value = error.value(py);
    if !value.is_instance(&class).ok()? {
        return None;
    }
    let attribute = |name: &str| value.getattr(name).and_then(|v| v.extract::<String>()).ok();
    let name = attribute("code")?;
    let code = *ErrorCode::ALL.iter().find(|code| code.as_str() == name)?;
    let mut own = Error::new(code, cut(text.to_owned(), MAX_MESSAGE));
    if let Some(remedy) = attribute("remedy") {
        own = own.with_remedy(cut(remedy, MAX_MESSAGE));
    }
    if let Some(param) = attribute("param") {
        own = own.with_param(cut(param, MAX_MESSAGE));
    }
    if let Ok(retryable) = value.getattr("retryable").and_then(|v| v.extract()) {
        own = own.with_retryable(retryable);
    }
    if let Some(cause) = error.cause(py) {
        own = own.with_cause(cut(describe(py, &cause).1, MAX_MESSAGE));
    }
    Some(own)
}

/// torch raises a plain `RuntimeError` when the host's memory is out, and a class of its own for a device's.
fn is_out_of_memory(py: Python<'_>, error: &PyErr, text: &str) -> bool {
    let torch_class = || {
        let bases = error.get_type(py).mro();
        bases.iter().any(|base| {
            base.cast::<PyType>().is_ok_and(|base| {
                matches!(type_name(base).as_str(), "torch.OutOfMemoryError" | "torch.cuda.OutOfMemoryError")
            })
        })
    };
    error.is_instance_of::<PyMemoryError>(py)
        || torch_class()
        || (error.is_instance_of::<PyRuntimeError>(py) && text.contains("DefaultCPUAllocator"))
}

fn package_remedy(py: Python<'_>, error: &PyErr) -> String {
    let name = error.value(py).getattr("name").and_then(|name| name.extract::<String>()).unwrap_or_default();
    let package = name.split('.').next().unwrap_or_default();
    if package.is_empty() || SETUP_PACKAGES.contains(&package) {
        return "run `npx pillion setup`, which makes an environment with all that is needed".to_owned();
    }
    let python = py.import("sys").and_then(|sys| sys.getattr("executable")?.extract::<String>());
    let python = python.unwrap_or_else(|_| "python3".to_owned());
    format!(
        "install {package} into this interpreter's environment ({python}); if there is none yet, `npx pillion setup` makes one"
    )
}

/// `format_exception` gets the three parts: the exception alone has no `__traceback__` on 3.11 and before.
fn traceback(py: Python<'_>, error: &PyErr) -> PyResult<String> {
    let parts = (error.get_type(py), error.value(py), error.traceback(py));
    let lines = py.import("traceback")?.call_method1("format_exception", parts)?;
    let text = PyString::new(py, "").call_method1("join", (lines,))?;
    Ok(text.cast::<PyString>()?.to_string_lossy().into_owned())
}

fn type_name(class: &Bound<'_, PyType>) -> String {
    let name = class.qualname().map_or_else(|_| "unknown".to_owned(), |n| n.to_string_lossy().into_owned());
    match class.module() {
        Ok(module) if module != "builtins" => format!("{}.{name}", module.to_string_lossy()),
        _ => name,
    }
}

/// Keeps the beginning and the end, where the reason stands.
fn cut(text: String, max: usize) -> String {
    if text.len() <= max {
        return text;
    }
    let boundary = |at: &usize| text.is_char_boundary(*at);
    let head = (0..=max / 4).rev().find(boundary).unwrap_or(0);
    let tail = (text.len() - (max - max / 4)..text.len()).find(boundary).unwrap_or(text.len());
    format!("{}\n... {} bytes left out ...\n{}", &text[..head], tail - head, &text[tail..])
}
