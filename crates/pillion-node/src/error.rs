//! Errors on their way out, and promises that settle with them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use napi::{
    Env,
    bindgen_prelude::{Object, ToNapiValue},
};
use pillion_core::Error;

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
    let (deferred, promise) = env.create_deferred::<T, Box<dyn FnOnce(Env) -> napi::Result<T> + Send>>()?;
    pillion_tokenize::pool().spawn(move || {
        // Unwind safety: `work` is consumed, and what it shares with others is immutable or an atomic.
        let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(Error::from_panic(&*payload)));
        match result {
            Ok(value) => deferred.resolve(Box::new(move |_| Ok(value))),
            Err(error) => deferred.reject(to_js(error)),
        }
    });
    Ok(promise)
}
