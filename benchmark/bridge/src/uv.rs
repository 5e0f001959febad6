//! Node's event loop waits at an eventfd, as the engine's thread does: what another process rings there reaches JS with no thread in between.

use std::{
    ffi::{c_int, c_void},
    os::fd::{AsRawFd, OwnedFd},
    ptr,
    sync::Arc,
};

use libloading::os::unix::Library;
use napi::{Env, JsValue, bindgen_prelude::Function, sys};

const UV_POLL: c_int = 8;
const UV_READABLE: c_int = 1;

/// What is called when the bell is readable.
struct Waiter {
    env: Env,
    context: sys::napi_async_context,
    call: sys::napi_ref,
    bell: Arc<OwnedFd>,
    heard: Box<dyn Fn(u64) -> bool>,
}

/// From now on calls `heard` on JS's thread with what was added to the bell, and `call` if it gives true.
pub(crate) fn wait_at(
    env: Env,
    bell: Arc<OwnedFd>,
    call: &Function<'_, (), ()>,
    heard: impl Fn(u64) -> bool + 'static,
) -> napi::Result<()> {
    let event_loop = env.get_uv_event_loop()?;
    let (mut name, mut context, mut reference) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    // SAFETY: on JS's thread, in a call from it, with values of that call.
    let is_made = unsafe {
        sys::napi_create_string_utf8(env.raw(), c"bell".as_ptr(), 4, &raw mut name) == sys::Status::napi_ok
            && sys::napi_async_init(env.raw(), ptr::null_mut(), name, &raw mut context) == sys::Status::napi_ok
            && sys::napi_create_reference(env.raw(), call.raw(), 1, &raw mut reference) == sys::Status::napi_ok
    };
    if !is_made {
        return Err(napi::Error::from_reason("the function cannot be kept"));
    }
    let fd = bell.as_raw_fd();
    let waiter = Box::new(Waiter { env, context, call: reference, bell, heard: Box::new(heard) });
    // SAFETY: on the loop's own thread.
    unsafe { start(event_loop, fd, waiter) }.map_err(|e| napi::Error::from_reason(format!("libuv: {e}")))
}

/// The handle and the waiter stay as long as the process.
///
/// # Safety
///
/// The loop must be that of this thread.
unsafe fn start(event_loop: *mut sys::uv_loop_s, fd: c_int, waiter: Box<Waiter>) -> Result<(), String> {
    // Node has these, and the program that shares this code has not: they are looked up.
    let program = Library::this();
    let missing = |e: libloading::Error| e.to_string();
    // SAFETY: the functions have these types; the handle has the size that libuv says, and libuv's first field of every handle is the
    // user's.
    unsafe {
        let size = *program.get::<unsafe extern "C" fn(c_int) -> usize>(c"uv_handle_size").map_err(missing)?;
        let init = *program
            .get::<unsafe extern "C" fn(*mut sys::uv_loop_s, *mut c_void, c_int) -> c_int>(c"uv_poll_init")
            .map_err(missing)?;
        let start = *program
            .get::<unsafe extern "C" fn(*mut c_void, c_int, extern "C" fn(*mut c_void, c_int, c_int)) -> c_int>(
                c"uv_poll_start",
            )
            .map_err(missing)?;
        let handle: *mut c_void = vec![0u128; size(UV_POLL).div_ceil(size_of::<u128>())].leak().as_mut_ptr().cast();
        match init(event_loop, handle, fd) {
            0 => {}
            code => return Err(format!("uv_poll_init gave {code}")),
        }
        *handle.cast::<*const Waiter>() = Box::into_raw(waiter);
        match start(handle, UV_READABLE, on_readable) {
            0 => Ok(()),
            code => Err(format!("uv_poll_start gave {code}")),
        }
    }
}

extern "C" fn on_readable(handle: *mut c_void, _status: c_int, _events: c_int) {
    // SAFETY: `start` has put it there.
    let waiter = unsafe { &**handle.cast::<*const Waiter>() };
    let mut count = [0; 8];
    if rustix::io::read(&waiter.bell, &mut count).is_err() || !(waiter.heard)(u64::from_ne_bytes(count)) {
        return;
    }
    let env = waiter.env.raw();
    let (mut scope, mut call, mut global) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    // SAFETY: on JS's thread; the values live in the scope that is opened here. What goes wrong here leaves the call unanswered.
    unsafe {
        sys::napi_open_handle_scope(env, &raw mut scope);
        sys::napi_get_reference_value(env, waiter.call, &raw mut call);
        sys::napi_get_global(env, &raw mut global);
        sys::napi_make_callback(env, waiter.context, global, call, 0, ptr::null(), ptr::null_mut());
        sys::napi_close_handle_scope(env, scope);
    }
}
