//! The C table between the loader (`pillion-backend-embedded`) and the bridge (`pillion-bridge`), two artifacts that share no allocator.
//!
//! Results and errors go back through a [`Sink`], so no memory changes hands. Every entry catches panics and may be called from the Python
//! thread only. Texts are UTF-8; JSON has the shapes of [`crate::LoadConfig`], [`crate::WorkerInfo`] and [`crate::Error`].

use std::ffi::c_void;

/// Changes whenever the table does.
pub const VERSION: u32 = 4;
/// The symbol that the bridge exports: `extern "C" fn() -> *const Table`.
pub const SYMBOL: &str = "pillion_bridge_table";

/// Returned by every entry: the sink got the result.
pub const OK: i32 = 0;
/// Returned by every entry: the sink got an [`crate::Error`] as JSON.
pub const FAILED: i32 = 1;

/// Bytes lent for the time of a call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    /// May be null if `len` is 0.
    pub ptr: *const u8,
    /// In bytes.
    pub len: usize,
}

impl Bytes {
    /// Lends a slice.
    pub fn of(slice: &[u8]) -> Self {
        Self { ptr: slice.as_ptr(), len: slice.len() }
    }
}

/// Where a result goes. `write` may be called more than once; the parts are joined.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Sink {
    /// Handed to `write`.
    pub ctx: *mut c_void,
    /// Copies the bytes.
    pub write: extern "C" fn(ctx: *mut c_void, bytes: Bytes),
}

/// A tensor's memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Lent for the time of a call, unless there is an owner.
    pub bytes: Bytes,
    /// If it is not null, the callee takes it over, whether the call succeeds or not, and the bytes stay until it is released. Another
    /// thread may write to them meanwhile.
    pub owner: *const c_void,
    /// Takes the owner back, once, from any thread.
    pub release: extern "C" fn(owner: *const c_void),
}

/// Several pieces of memory, lent for the time of a call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Pieces {
    /// May be null if `len` is 0.
    pub ptr: *const Piece,
    /// How many.
    pub len: usize,
}

impl Pieces {
    /// Lends a slice of pieces.
    pub fn of(slice: &[Piece]) -> Self {
        Self { ptr: slice.as_ptr(), len: slice.len() }
    }
}

/// Memory of the loader's for what a forward gives beside its record.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Handed to `reserve`.
    pub ctx: *mut c_void,
    /// Gives initialised memory of so many bytes to write to until the entry returns, or null. The first is place 1 of the output record.
    pub reserve: extern "C" fn(ctx: *mut c_void, len: usize) -> *mut u8,
}

/// What Python may say at any time, from any Python thread, while the interpreter lives.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Hooks {
    /// Handed to both functions; valid for ever.
    pub ctx: *mut c_void,
    /// A log line: level 0 debug, 1 info, 2 warn, 3 error; and the request that it is about, empty if none.
    pub log: extern "C" fn(ctx: *mut c_void, level: u32, message: Bytes, request_id: Bytes),
}

/// The bridge's functions.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// [`VERSION`] of the bridge. First, so that it can be read whatever follows.
    pub version: u32,
    /// Size of this struct in the bridge.
    pub size: u32,
    /// Once per process, on the Python thread, after the interpreter was initialised: `config` is JSON `{"sysPath": [..], "version": ".."}`.
    /// Puts our Python package first on `sys.path`, imports it, and takes over `sys.stdout`, `sys.stderr` and `logging`. Writes JSON
    /// `{"version": ".."}`.
    pub boot: extern "C" fn(config: Bytes, hooks: Hooks, out: Sink) -> i32,
    /// Loads a model: `config` is a [`crate::LoadConfig`]. `progress` gets a [`crate::Progress`] as JSON per call. Writes a
    /// [`crate::WorkerInfo`] and stores a handle for the other entries.
    pub open: extern "C" fn(config: Bytes, progress: Sink, handle: *mut u64, out: Sink) -> i32,
    /// Runs one step record and writes its output record.
    pub step: extern "C" fn(handle: u64, record: Bytes, out: Sink) -> i32,
    /// Runs one forward record and writes its output record. `tensors` are those in the record's places, from place 1 on; large tensors of
    /// the results are written to `room`.
    pub forward: extern "C" fn(handle: u64, record: Bytes, tensors: Pieces, room: Room, out: Sink) -> i32,
    /// Unloads a model and frees its memory. An unknown handle is fine.
    pub close: extern "C" fn(handle: u64, out: Sink) -> i32,
    /// Runs `atexit` functions and flushes; the interpreter itself is never finalized.
    pub shutdown: extern "C" fn(out: Sink) -> i32,
    /// Panics inside, to show in a test that nothing unwinds out of the bridge.
    pub test_panic: extern "C" fn(out: Sink) -> i32,
}

/// The type of the exported symbol.
pub type TableFn = unsafe extern "C" fn() -> *const Table;
