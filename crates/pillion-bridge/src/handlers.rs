//! The table's entries as calls of the Python package `pillion._embedded`, and the handlers that are open.
//!
//! Every function attaches to the interpreter for the time of the call. It knows nothing of raw pointers or of what a step means.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use pillion_core::{Error, ErrorCode, Result, Stage, abi::Room};
use pyo3::{
    prelude::*,
    types::{PyBytes, PyCFunction, PyDict, PyList, PyString, PyTuple},
};
use serde::Deserialize;

use crate::{errors, held::HeldTensor, prelude, room::LentRoom};

const MODULE: &str = "pillion._embedded";

/// Open models by handle. The lock is never held while Python runs.
static HANDLERS: Mutex<BTreeMap<u64, Handler>> = Mutex::new(BTreeMap::new());
static NEXT_HANDLE: AtomicU64 = AtomicU64::new(1);

struct Handler {
    object: Py<PyAny>,
    /// `object.step`, looked up once.
    step: Py<PyAny>,
    /// `object.forward`, if it has one.
    forward: Option<Py<PyAny>>,
    room: LentRoom,
}

/// What the loader sends to [`boot`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BootConfig {
    /// Folders for the head of `sys.path`; the first has our package.
    pub(crate) sys_path: Vec<String>,
    /// The version that our package must have.
    pub(crate) version: String,
    /// `off`, `narrow` or `all`; see `prelude.py`.
    #[serde(default)]
    pub(crate) deepbind: Option<String>,
}

/// Prepares the interpreter and imports our package. Gives the JSON that its `boot` gave.
pub(crate) fn boot(config: &str, log: impl Fn(u32, &str, &str) + Send + Sync + 'static) -> Result<String> {
    let parsed: BootConfig = serde_json::from_str(config)
        .map_err(|e| Error::internal(format!("the boot configuration cannot be read: {e}")))?;
    attached(Stage::Load, |py| {
        prelude::prepare(py, &parsed)?;
        let log = callable(py, move |args| {
            let level = args.get_item(0)?.extract::<u32>()?;
            let message = args.get_item(1)?.cast_into::<PyString>()?;
            // The request that it is about is told where it is known.
            let request_id = args.iter().nth(2).map(Bound::cast_into::<PyString>).transpose()?;
            let request_id = request_id.as_ref().map(|id| id.to_string_lossy()).unwrap_or_default();
            log(level, &message.to_string_lossy(), &request_id);
            Ok(())
        })?;
        Ok(py.import(MODULE)?.call_method1("boot", (config, log))?.extract()?)
    })
}

/// Loads a model; gives its handle and its `WorkerInfo` as JSON.
pub(crate) fn open(config: &str, progress: impl Fn(&str) + Send + Sync + 'static) -> Result<(u64, String)> {
    let opened = attached(Stage::Load, |py| {
        let progress = callable(py, move |args| {
            let (json,) = args.extract::<(Bound<'_, PyString>,)>()?;
            progress(&json.to_string_lossy());
            Ok(())
        })?;
        let object = py.import(MODULE)?.call_method1("open", (config, progress))?;
        let described = (|| {
            let info = object.call_method0("info")?.extract::<String>()?;
            let room = LentRoom::default();
            let forward = object.getattr_opt("forward")?;
            if forward.is_some() {
                object.call_method1("use_room", (reserve(py, room.clone())?,))?;
            }
            Ok::<_, PyErr>((info, object.getattr("step")?.unbind(), forward.map(Bound::unbind), room))
        })();
        match described {
            Ok((info, step, forward, room)) => {
                let handle = NEXT_HANDLE.fetch_add(1, Ordering::Relaxed);
                handlers().insert(handle, Handler { object: object.unbind(), step, forward, room });
                Ok((handle, info))
            }
            Err(error) => {
                // The first error is the one that matters to the caller.
                let _ = object.call_method0("close");
                Err(error.into())
            }
        }
    });
    if opened.is_err() {
        // The exception's frames held what had been loaded by then, and they are gone only now.
        attached(Stage::Load, collect_garbage)?;
    }
    opened
}

/// Runs one step record; `output` gets the output record.
pub(crate) fn step(handle: u64, record: &[u8], output: impl FnOnce(&[u8])) -> Result<()> {
    attached(Stage::Forward, |py| {
        let Some(step) = handlers().get(&handle).map(|h| h.step.clone_ref(py)) else {
            return Err(Error::internal(format!("no model has the handle {handle}")).into());
        };
        let answer = step.bind(py).call1((PyBytes::new(py, record),))?;
        output(answer_bytes(&answer)?);
        Ok(())
    })
}

/// A tensor beside a record. It lives as long as anybody views it.
pub(crate) enum Input<'a> {
    /// For the time of the call, so that Python gets a copy.
    Lent(&'a [u8]),
    /// Where it lies.
    Held(HeldTensor),
}

impl<'py> IntoPyObject<'py> for Input<'_> {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Lent(bytes) => Ok(PyBytes::new(py, bytes).into_any()),
            Self::Held(held) => Ok(Bound::new(py, held)?.into_any()),
        }
    }
}

/// Runs one forward record, whose places are `tensors`.
pub(crate) fn forward(
    handle: u64,
    record: &[u8],
    tensors: Vec<Input<'_>>,
    room: Room,
    output: impl FnOnce(&[u8]),
) -> Result<()> {
    attached(Stage::Forward, |py| {
        let found = handlers().get(&handle).map(|h| (h.forward.as_ref().map(|f| f.clone_ref(py)), h.room.clone()));
        let Some((forward, lent)) = found else {
            return Err(Error::internal(format!("no model has the handle {handle}")).into());
        };
        let forward = forward.ok_or_else(|| Error::new(ErrorCode::Unsupported, "the handler runs steps only"))?;
        let tensors = PyList::new(py, tensors)?;
        let lease = lent.lend(room);
        let answer = forward.bind(py).call1((PyBytes::new(py, record), tensors))?;
        drop(lease);
        output(answer_bytes(&answer)?);
        Ok(())
    })
}

fn answer_bytes<'a>(answer: &'a Bound<'_, PyAny>) -> Result<&'a [u8]> {
    let bytes = answer.cast::<PyBytes>().map_err(|_| {
        let got = answer.get_type().name().map_or_else(|_| "something else".into(), |n| n.to_string());
        Error::internal(format!("the handler's step must give bytes, got {got}"))
    })?;
    Ok(bytes.as_bytes())
}

/// The function by which `pillion._embedded` asks for memory.
fn reserve(py: Python<'_>, room: LentRoom) -> PyResult<Bound<'_, PyCFunction>> {
    PyCFunction::new_closure(py, None, None, move |args: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
        let (len,) = args.extract::<(usize,)>()?;
        room.view(args.py(), len)
    })
}

/// Unloads a model and collects its memory. An unknown handle is fine.
pub(crate) fn close(handle: u64) -> Result<()> {
    attached(Stage::Load, |py| {
        let Some(handler) = handlers().remove(&handle) else { return Ok(()) };
        let closed = handler.object.bind(py).call_method0("close").map(drop);
        drop(handler);
        // As data the error holds no frames, and so not the model.
        let closed = closed.map_err(|error| errors::from_python(py, &error));
        collect_garbage(py)?;
        Ok(closed?)
    })
}

/// Models are full of reference cycles, and their memory is large.
fn collect_garbage(py: Python<'_>) -> Result<(), Failure> {
    py.import("gc")?.call_method0("collect")?;
    Ok(())
}

/// Runs what Python runs at the end of a process, but for finalizing it.
pub(crate) fn shutdown() -> Result<()> {
    attached(Stage::Load, |py| {
        py.import(MODULE)?.call_method0("shutdown")?;
        Ok(())
    })
}

/// An error of ours, or Python's, which becomes one while the interpreter is still attached.
pub(crate) enum Failure {
    Ours(Error),
    Python(PyErr),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

fn attached<T>(stage: Stage, work: impl FnOnce(Python<'_>) -> Result<T, Failure>) -> Result<T> {
    Python::attach(|py| {
        work(py).map_err(|failure| match failure {
            Failure::Ours(error) => error.with_stage(stage),
            Failure::Python(error) => errors::from_python(py, &error).with_stage(stage),
        })
    })
}

fn callable(
    py: Python<'_>,
    function: impl Fn(&Bound<'_, PyTuple>) -> PyResult<()> + Send + Sync + 'static,
) -> PyResult<Bound<'_, PyCFunction>> {
    PyCFunction::new_closure(py, None, None, move |args: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
        function(args)
    })
}

fn handlers() -> MutexGuard<'static, BTreeMap<u64, Handler>> {
    HANDLERS.lock().unwrap_or_else(PoisonError::into_inner)
}
