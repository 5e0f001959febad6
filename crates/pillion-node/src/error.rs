//! Errors on their way out, and promises that settle with them.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use napi::{
    Env,
    bindgen_prelude::{Object, ToNapiValue},
};
use pillion_core::{Error, ErrorCode};

/// The JS error that carries `error`.
pub(crate) fn to_js(error: impl Into<Error>) -> napi::Error {
    napi::Error::from_reason(error.into().to_json())
}

/// Does `work` on the tokenizer's pool and settles a promise with its result. A panic rejects it.
pub(crate) fn on_pool<T, W>(env: &Env, work: W) -> napi::Result<Object<'_>>
where
    T: ToNapiValue + Send + 'static,
    W: FnOnce() -> pillion_core::Result<T> + Send + 'static,
{
    settle_on(env, work, |job| {
        pillion_tokenize::pool().spawn(job);
        Ok(())
    })
}

/// The same on a thread of its own, for work that waits.
pub(crate) fn on_thread<'env, T, W>(env: &'env Env, name: &str, work: W) -> napi::Result<Object<'env>>
where
    T: ToNapiValue + Send + 'static,
    W: FnOnce() -> pillion_core::Result<T> + Send + 'static,
{
    settle_on(env, work, |job| {
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(job);
        spawned
            .map(drop)
            .map_err(|e| to_js(Error::new(ErrorCode::OutOfMemory, "no thread could be started").with_cause(e)))
    })
}

/// Work for another thread.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Hands `work` to `spawn`, and settles a promise with its result wherever that runs it.
pub(crate) fn settle_on<T, W>(
    env: &Env,
    work: W,
    spawn: impl FnOnce(Job) -> napi::Result<()>,
) -> napi::Result<Object<'_>>
where
    T: ToNapiValue + Send + 'static,
    W: FnOnce() -> pillion_core::Result<T> + Send + 'static,
{
    let (deferred, promise) = env.create_deferred::<T, Box<dyn FnOnce(Env) -> napi::Result<T> + Send>>()?;
    spawn(Box::new(move || {
        // Unwind safety: `work` is consumed, and what it shares with others is immutable or an atomic.
        let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(Error::from_panic(&*payload)));
        match result {
            Ok(value) => deferred.resolve(Box::new(move |_| Ok(value))),
            Err(error) => deferred.reject(to_js(error)),
        }
    }))?;
    Ok(promise)
}
