//! The bridge's table as safe functions: lends bytes, collects what comes back, turns a failure into its error.

use std::{
    ffi::c_void,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    slice,
};

use libc::{RTLD_LOCAL, RTLD_NOW};
use libloading::os::unix::Library;
use pillion_core::{
    Error, ErrorCode, Result,
    abi::{self, Bytes, Hooks, Piece, Pieces, Room, Sink, Table, TableFn},
    forward::Tensor,
};

use super::{held, reason, require_file};
use crate::tensors::Reserved;

/// Takes what Python says: level and text. From any Python thread, for as long as the process lives.
pub(crate) type LogHook = fn(u32, &str, &str);

/// The loaded bridge. Its functions may be called on the Python thread only, after [`super::Python::initialize`].
pub(crate) struct Bridge {
    table: &'static Table,
}

impl Bridge {
    /// Loads the bridge; a libpython must be loaded before.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        require_file(path)?;
        let unavailable = |error| {
            let message = format!("pillion's bridge to Python cannot be loaded: {}", reason(&error));
            Error::new(ErrorCode::BridgeUnavailable, message)
                .with_remedy("reinstall the npm package; its parts must be of one version and built for this system")
        };
        // SAFETY: the bridge is our own library; it has no initialisers, and a libpython with its symbols is loaded. It is never unloaded.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(unavailable)?;
        let library = Box::leak(Box::new(library));
        // SAFETY: the symbol is that of the shared contract, and so is its type.
        let table = unsafe { library.get::<TableFn>(abi::SYMBOL.as_bytes()) }.map_err(unavailable)?;
        // SAFETY: it only gives the address of a static.
        let table = unsafe { table() };
        // SAFETY: every version of the table begins with these two fields.
        let (version, size) = unsafe { ((&raw const (*table).version).read(), (&raw const (*table).size).read()) };
        if version != abi::VERSION || size as usize != size_of::<Table>() {
            return Err(Error::new(
                ErrorCode::VersionMismatch,
                format!(
                    "{} has table version {version} of {size} bytes, version {} of {} bytes is needed",
                    path.display(),
                    abi::VERSION,
                    size_of::<Table>()
                ),
            )
            .with_remedy("reinstall the npm package; its native files must be of one version"));
        }
        // SAFETY: version and size say that it is the table as we know it, and it is a static of a library that stays.
        Ok(Self { table: unsafe { &*table } })
    }

    /// Once per process; see [`Table::boot`].
    pub(crate) fn boot(&self, config: &str, log: LogHook) -> Result<Vec<u8>> {
        let hooks = Hooks { ctx: log as *mut c_void, log: forward_log };
        collect(&mut Vec::new(), |out| (self.table.boot)(Bytes::of(config.as_bytes()), hooks, out)).cloned()
    }

    /// Loads a model; gives its handle and its `WorkerInfo` as JSON. `progress` may be called from any thread until this returns.
    pub(crate) fn open_model(&self, config: &str, progress: &(dyn Fn(&str) + Sync)) -> Result<(u64, Vec<u8>)> {
        let mut handle = 0;
        let sink = Sink { ctx: (&raw const progress).cast_mut().cast(), write: forward_progress };
        let info =
            collect(&mut Vec::new(), |out| (self.table.open)(Bytes::of(config.as_bytes()), sink, &raw mut handle, out))
                .cloned()?;
        Ok((handle, info))
    }

    /// Runs a step record; its output record is written over whatever `output` held.
    pub(crate) fn step(&self, handle: u64, record: &[u8], output: &mut Vec<u8>) -> Result<()> {
        collect(output, |out| (self.table.step)(handle, Bytes::of(record), out)).map(|_| ())
    }

    /// Runs a forward record, whose places are `tensors`; its output record is written over whatever `output` held, and large tensors of
    /// the results to `reserved`.
    pub(crate) fn forward(
        &self,
        handle: u64,
        record: &[u8],
        tensors: &[Tensor],
        reserved: &mut Reserved,
        output: &mut Vec<u8>,
    ) -> Result<()> {
        let tensors: Vec<Piece> = tensors.iter().map(held::piece).collect();
        let room = Room { ctx: (&raw mut *reserved).cast(), reserve };
        let pieces = Pieces::of(&tensors);
        collect(output, |out| (self.table.forward)(handle, Bytes::of(record), pieces, room, out)).map(|_| ())
    }

    /// Unloads a model.
    pub(crate) fn close_model(&self, handle: u64) -> Result<()> {
        collect(&mut Vec::new(), |out| (self.table.close)(handle, out)).map(|_| ())
    }

    /// Runs what Python runs at the end of a process.
    pub(crate) fn shutdown(&self) -> Result<()> {
        collect(&mut Vec::new(), |out| (self.table.shutdown)(out)).map(|_| ())
    }

    /// Panics inside the bridge, to show that the panic does not come out of it.
    pub(crate) fn test_panic(&self) -> Result<()> {
        collect(&mut Vec::new(), |out| (self.table.test_panic)(out)).map(|_| ())
    }
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bridge")
    }
}

/// Calls an entry of the table with a sink that fills `output`, and reads what the entry returned.
fn collect(output: &mut Vec<u8>, entry: impl FnOnce(Sink) -> i32) -> Result<&Vec<u8>> {
    output.clear();
    match entry(Sink { ctx: (&raw mut *output).cast(), write: append }) {
        abi::OK => Ok(output),
        abi::FAILED => Err(Error::from_json(&String::from_utf8_lossy(output))),
        other => Err(Error::internal(format!("the bridge returned {other}, which means nothing"))),
    }
}

extern "C" fn append(ctx: *mut c_void, bytes: Bytes) {
    // SAFETY: `ctx` is the `Vec` of `collect`, which waits for the entry and lends it to nobody else.
    let output = unsafe { &mut *ctx.cast::<Vec<u8>>() };
    output.extend_from_slice(lent(&bytes));
}

extern "C" fn reserve(ctx: *mut c_void, len: usize) -> *mut u8 {
    // SAFETY: `ctx` is the `Reserved` of `forward`, which waits for the entry and lends it to nobody else.
    let reserved = unsafe { &mut *ctx.cast::<Reserved>() };
    let memory = catch_unwind(AssertUnwindSafe(|| reserved.reserve(len).as_mut_ptr()));
    // The panic was reported by the hook; for Python there is no room.
    memory.unwrap_or(std::ptr::null_mut())
}

extern "C" fn forward_progress(ctx: *mut c_void, bytes: Bytes) {
    // SAFETY: `ctx` is the reference that `open_model` lends until the entry returns; the bridge does not write after that.
    let progress = unsafe { *ctx.cast::<&(dyn Fn(&str) + Sync)>() };
    shielded(|| progress(&String::from_utf8_lossy(lent(&bytes))));
}

extern "C" fn forward_log(ctx: *mut c_void, level: u32, message: Bytes, request_id: Bytes) {
    // SAFETY: `ctx` is the function that `boot` was given.
    let log = unsafe { std::mem::transmute::<*mut c_void, LogHook>(ctx) };
    let text = |bytes| String::from_utf8_lossy(lent(bytes)).into_owned();
    shielded(|| log(level, &text(&message), &text(&request_id)));
}

/// The panic was reported by the hook; Python called us and knows nothing of it.
fn shielded(call: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(call));
}

fn lent(bytes: &Bytes) -> &[u8] {
    if bytes.len == 0 {
        return &[];
    }
    // SAFETY: the bridge lends the bytes for the time of the call, and the borrow of its argument is no longer than that.
    unsafe { slice::from_raw_parts(bytes.ptr, bytes.len) }
}
