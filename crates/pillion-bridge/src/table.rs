//! The exported C table: turns raw arguments into slices and closures, and anything that goes wrong into an error in the sink.
//!
//! Nothing unwinds out of an entry. What the entries do is in [`crate::handlers`].

#![expect(unsafe_code, reason = "the C border of this library; everything behind it is safe code")]

use std::{
    ffi::c_void,
    panic::{AssertUnwindSafe, catch_unwind},
    str,
    sync::{Arc, Mutex, PoisonError},
};

use pillion_core::{
    Error, Result,
    abi::{self, Bytes, FAILED, Hooks, OK, Piece, Pieces, Room, Sink, Table},
};

use crate::{
    handlers::{self, Input},
    held::HeldTensor,
};

/// The table that the loader asks for.
#[unsafe(no_mangle)]
extern "C" fn pillion_bridge_table() -> *const Table {
    &raw const TABLE
}

static TABLE: Table = Table {
    version: abi::VERSION,
    size: size_of::<Table>() as u32,
    boot,
    open,
    step,
    forward,
    close,
    shutdown,
    test_panic,
};

extern "C" fn boot(config: Bytes, hooks: Hooks, out: Sink) -> i32 {
    answer(out, || {
        let hook = LogHook(hooks);
        let log = move |level, message: &str, request_id: &str| hook.log(level, message, request_id);
        handlers::boot(text(&config)?, log).map(|version| write(out, version.as_bytes()))
    })
}

extern "C" fn open(config: Bytes, progress: Sink, handle: *mut u64, out: Sink) -> i32 {
    answer(out, || {
        let progress = ProgressHook::new(progress);
        let report = progress.clone();
        let opened = handlers::open(text(&config)?, move |json: &str| report.send(json));
        progress.end();
        let (id, info) = opened?;
        // SAFETY: the caller lends a place for one u64 for the time of the call.
        unsafe { handle.write(id) };
        write(out, info.as_bytes());
        Ok(())
    })
}

extern "C" fn step(handle: u64, record: Bytes, out: Sink) -> i32 {
    answer(out, || handlers::step(handle, slice(&record), |output| write(out, output)))
}

extern "C" fn forward(handle: u64, record: Bytes, tensors: Pieces, room: Room, out: Sink) -> i32 {
    answer(out, || {
        // First of all, so that none of them is lost whatever goes wrong.
        let tensors = pieces(&tensors).iter().map(input).collect();
        handlers::forward(handle, slice(&record), tensors, room, |output| write(out, output))
    })
}

extern "C" fn close(handle: u64, out: Sink) -> i32 {
    answer(out, || handlers::close(handle))
}

extern "C" fn shutdown(out: Sink) -> i32 {
    answer(out, handlers::shutdown)
}

extern "C" fn test_panic(out: Sink) -> i32 {
    answer(out, || panic!("test_panic was called"))
}

/// Runs an entry's work; an error or a panic goes into the sink as JSON.
fn answer(out: Sink, work: impl FnOnce() -> Result<()>) -> i32 {
    let error = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return OK,
        Ok(Err(error)) => error,
        Err(panic) => Error::from_panic(&*panic),
    };
    write(out, error.to_json().as_bytes());
    FAILED
}

fn write(out: Sink, bytes: &[u8]) {
    (out.write)(out.ctx, Bytes::of(bytes));
}

fn slice(bytes: &Bytes) -> &[u8] {
    if bytes.len == 0 {
        return &[];
    }
    // SAFETY: the caller lends `len` bytes for the time of the call, and the borrow of its own argument is no longer than that.
    unsafe { std::slice::from_raw_parts(bytes.ptr, bytes.len) }
}

fn pieces(pieces: &Pieces) -> &[Piece] {
    if pieces.len == 0 {
        return &[];
    }
    // SAFETY: the caller lends `len` pieces for the time of the call, and the borrow of its own argument is no longer than that.
    unsafe { std::slice::from_raw_parts(pieces.ptr, pieces.len) }
}

fn input(piece: &Piece) -> Input<'_> {
    HeldTensor::take(*piece).map_or_else(|| Input::Lent(slice(&piece.bytes)), Input::Held)
}

fn text(bytes: &Bytes) -> Result<&str> {
    str::from_utf8(slice(bytes)).map_err(|e| Error::internal(format!("the loader sent text that is not UTF-8: {e}")))
}

/// The loader's log function.
struct LogHook(Hooks);

// SAFETY: the table's contract allows the hooks from any Python thread for as long as the interpreter lives.
unsafe impl Send for LogHook {}
// SAFETY: as above; `ctx` is only handed on.
unsafe impl Sync for LogHook {}

impl LogHook {
    fn log(&self, level: u32, message: &str, request_id: &str) {
        (self.0.log)(self.0.ctx, level, Bytes::of(message.as_bytes()), Bytes::of(request_id.as_bytes()));
    }
}

/// The loader's progress sink, which is lent for the time of `open` only: Python may keep its callable longer and may call it from
/// any thread, so the sink is taken away when `open` ends.
#[derive(Clone)]
struct ProgressHook(Arc<Mutex<Option<LentSink>>>);

struct LentSink {
    ctx: *mut c_void,
    write: extern "C" fn(ctx: *mut c_void, bytes: Bytes),
}

// SAFETY: `ctx` is handed to `write` under the lock only, and only while the loader waits for `open`.
unsafe impl Send for LentSink {}

impl ProgressHook {
    fn new(sink: Sink) -> Self {
        Self(Arc::new(Mutex::new(Some(LentSink { ctx: sink.ctx, write: sink.write }))))
    }

    /// The lock is held during `write`, which never calls into Python, so a thread that holds it never waits for the GIL.
    fn send(&self, json: &str) {
        if let Some(sink) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            (sink.write)(sink.ctx, Bytes::of(json.as_bytes()));
        }
    }

    fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
