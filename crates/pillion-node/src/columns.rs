//! Flat columns on their way out.

use napi::{
    Env,
    bindgen_prelude::{Int32ArraySlice, ToNapiValue, Uint8ArraySlice, Uint32ArraySlice},
    sys,
};

/// Smaller columns are copied into memory of V8's own, which is cheaper than the finalizer of foreign memory.
const COPY_BELOW_BYTES: usize = 16 * 1024;

/// A column that becomes a typed array: copied if small, handed over if large.
#[derive(Debug)]
pub struct Column<T>(pub(crate) Vec<T>);

macro_rules! column {
    ($element:ty, $slice:ident) => {
        impl ToNapiValue for Column<$element> {
            unsafe fn to_napi_value(env: sys::napi_env, column: Self) -> napi::Result<sys::napi_value> {
                let Self(data) = column;
                let js = Env::from_raw(env);
                let array = if size_of_val(data.as_slice()) < COPY_BELOW_BYTES {
                    $slice::copy_from(&js, data)?
                } else {
                    $slice::from_data(&js, data)?
                };
                // SAFETY: `env` is the live environment that this function was called with, and `array` was made in it.
                unsafe { ToNapiValue::to_napi_value(env, array) }
            }
        }
    };
}

column!(u32, Uint32ArraySlice);
column!(i32, Int32ArraySlice);
column!(u8, Uint8ArraySlice);

/// Writes the words into an array of the caller's and gives how many; if it is too short, gives its length and leaves it as it is.
pub(crate) fn write_into(mut target: Uint32ArraySlice<'_>, words: &[u32]) -> Result<u32, usize> {
    let room = target.len();
    // SAFETY: no JS runs between here and the end of the call, so V8 neither moves nor frees the memory.
    let target = unsafe { target.as_mut() };
    target.get_mut(..words.len()).ok_or(room)?.copy_from_slice(words);
    Ok(words.len() as u32)
}
