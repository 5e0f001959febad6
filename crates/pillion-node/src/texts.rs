//! Texts on their way in: copied as they are on the JS thread, in one arena per call.
//!
//! V8 keeps a string as Latin-1 or as UTF-16; asking it for UTF-8 is slow once a text has one curly quote or emoji. So the JS thread
//! copies UTF-16, at the speed of memory, and the pool makes UTF-8 of it.

use std::ptr;

use napi::{
    Env,
    bindgen_prelude::{Array, JsValue, Uint32Array, Unknown},
    sys,
};
use napi_derive::napi;
use pillion_core::{Error, Result};
use pillion_tokenize::{BatchInput, TextArena};

use crate::error::to_js;

/// The texts of one call: strings as UTF-16, `Uint8Array`s as bytes.
#[napi]
#[derive(Debug, Default)]
pub struct NativeTexts {
    arena: TextArena,
    /// Where the texts lie in the last one, if it holds many. Taken apart on the pool.
    rows: Option<Vec<u32>>,
}

/// Texts on their way to the pool.
pub(crate) struct TakenTexts {
    arena: TextArena,
    rows: Option<Vec<u32>>,
}

#[napi]
impl NativeTexts {
    /// An empty arena.
    #[napi(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Copies `texts[from..to]` until at least `enough` UTF-16 units or bytes are copied, or up to a text that is longer than `max_units`.
    /// Returns where it stopped.
    #[napi(catch_unwind)]
    pub fn push(
        &mut self,
        env: Env,
        #[napi(ts_arg_type = "readonly (string | Uint8Array | readonly [string | Uint8Array, string | Uint8Array])[]")]
        texts: Array<'_>,
        from: u32,
        to: u32,
        enough: u32,
        max_units: u32,
    ) -> napi::Result<u32> {
        let enough = self.arena.units().saturating_add(enough as usize);
        let mut reader = self.reader(env);
        reader.max_units = max_units as usize;
        for index in from..to {
            let value = reader.element(texts.raw(), index)?;
            if reader.arena.units() >= enough || !reader.item(value, &|| format!("texts[{index}]"))? {
                return Ok(index);
            }
        }
        Ok(to)
    }

    /// Copies a text, or a further piece of the last one. Pieces of a string may end within a character.
    #[napi(catch_unwind)]
    pub fn piece(
        &mut self,
        env: Env,
        #[napi(ts_arg_type = "string | Uint8Array")] piece: Unknown<'_>,
        continues: bool,
    ) -> napi::Result<()> {
        self.reader(env).text(piece.raw(), &|| "text".to_owned())?;
        if continues {
            self.arena.join_last();
        }
        Ok(())
    }

    /// Makes the last two texts a pair.
    #[napi(catch_unwind)]
    pub fn pair(&mut self) {
        self.arena.join_last_pair();
    }

    /// Says where in the last text, which is bytes, the texts lie that it holds.
    #[napi(catch_unwind)]
    pub fn rows(&mut self, row_offsets: Uint32Array) {
        self.rows = Some(row_offsets.to_vec());
    }
}

impl NativeTexts {
    /// The texts, for the pool; the arena is empty afterwards.
    pub(crate) fn take(&mut self) -> TakenTexts {
        self.take_for(TextArena::default())
    }

    /// The texts, for the pool; what comes next is copied into `spare`, which is empty.
    pub(crate) fn take_for(&mut self, spare: TextArena) -> TakenTexts {
        TakenTexts { arena: std::mem::replace(&mut self.arena, spare), rows: self.rows.take() }
    }

    fn reader(&mut self, env: Env) -> Reader<'_> {
        Reader::new(env, &mut self.arena)
    }
}

impl TakenTexts {
    /// The texts one by one.
    pub(crate) fn ready(self) -> Result<TextArena> {
        let Self { mut arena, rows } = self;
        if let Some(rows) = rows {
            arena.split_last(&rows)?;
        }
        Ok(arena)
    }
}

/// All of a short list of texts and pairs.
pub(crate) fn read_texts(env: Env, texts: &Array<'_>) -> napi::Result<TextArena> {
    let mut arena = TextArena::default();
    let mut reader = Reader::new(env, &mut arena);
    for index in 0..texts.len() {
        let value = reader.element(texts.raw(), index)?;
        reader.item(value, &|| format!("texts[{index}]"))?;
    }
    Ok(arena)
}

/// One text, or a pair.
pub(crate) fn read_pair(env: Env, text: &Unknown<'_>, pair: Option<&Unknown<'_>>) -> napi::Result<TextArena> {
    let mut arena = TextArena::default();
    read_pair_into(env, text, pair, &mut arena)?;
    Ok(arena)
}

/// One text, or a pair, into an empty arena.
pub(crate) fn read_pair_into(
    env: Env,
    text: &Unknown<'_>,
    pair: Option<&Unknown<'_>>,
    arena: &mut TextArena,
) -> napi::Result<()> {
    let mut reader = Reader::new(env, arena);
    reader.text(text.raw(), &|| "text".to_owned())?;
    if let Some(pair) = pair {
        reader.text(pair.raw(), &|| "pair".to_owned())?;
        arena.join_last_pair();
    }
    Ok(())
}

/// One string or `Uint8Array`.
pub(crate) fn read_text(env: Env, value: &Unknown<'_>, name: &str) -> napi::Result<TextArena> {
    let mut arena = TextArena::default();
    Reader::new(env, &mut arena).text(value.raw(), &|| name.to_owned())?;
    Ok(arena)
}

/// The first text of an arena, as UTF-8.
pub(crate) fn only_text(arena: &TextArena) -> Result<String> {
    Ok(arena.get(0).0.to_str()?.into_owned())
}

/// Reads JS values into an arena. `env` is the live environment of the call that made it.
struct Reader<'a> {
    env: sys::napi_env,
    arena: &'a mut TextArena,
    /// Longer texts are left.
    max_units: usize,
}

impl<'a> Reader<'a> {
    fn new(env: Env, arena: &'a mut TextArena) -> Self {
        Self { env: env.raw(), arena, max_units: usize::MAX }
    }

    /// Copies a text or a pair; gives whether neither was too long.
    fn item(&mut self, value: sys::napi_value, name: &dyn Fn() -> String) -> napi::Result<bool> {
        if !self.is_array(value) {
            return self.text(value, name);
        }
        let mut length = 0;
        // SAFETY: `value` is an array of this call's environment, and `length` outlives the call.
        let status = unsafe { sys::napi_get_array_length(self.env, value, &raw mut length) };
        if status != sys::Status::napi_ok || length != 2 {
            let got = format_args!("an array of {length}");
            return Err(to_js(Error::invalid(&name(), "a text or a pair of two texts", got)));
        }
        for index in 0..2 {
            let text = self.element(value, index)?;
            if !self.text(text, &|| format!("{}[{index}]", name()))? {
                if index == 1 {
                    self.arena.pop();
                }
                return Ok(false);
            }
        }
        self.arena.join_last_pair();
        Ok(true)
    }

    /// Copies a text; gives whether it was not too long.
    fn text(&mut self, value: sys::napi_value, name: &dyn Fn() -> String) -> napi::Result<bool> {
        if let Some(length) = self.string_length(value) {
            if length > self.max_units {
                return Ok(false);
            }
            self.copy_string(value, length)?;
            return Ok(true);
        }
        match self.copy_bytes(value, name)? {
            Some(is_copied) => Ok(is_copied),
            None => Err(to_js(Error::invalid(&name(), "a string or a Uint8Array with UTF-8", self.type_name(value)))),
        }
    }

    /// The string's length in UTF-16 units; `None` for what is no string.
    fn string_length(&self, value: sys::napi_value) -> Option<usize> {
        let mut length = 0;
        // SAFETY: `value` is of this call's environment; without a buffer only the length is written.
        let status = unsafe { sys::napi_get_value_string_utf16(self.env, value, ptr::null_mut(), 0, &raw mut length) };
        (status == sys::Status::napi_ok).then_some(length)
    }

    fn copy_string(&mut self, value: sys::napi_value, length: usize) -> napi::Result<()> {
        let mut status = sys::Status::napi_ok;
        let env = self.env;
        // Node-API writes a NUL behind the text.
        self.arena.push_utf16_with(length + 1, |buffer| {
            let mut copied = 0;
            // SAFETY: `value` is a string of this call's environment; Node-API writes at most the buffer's length, the NUL included.
            status = unsafe {
                sys::napi_get_value_string_utf16(env, value, buffer.as_mut_ptr(), buffer.len(), &raw mut copied)
            };
            copied
        });
        if status == sys::Status::napi_ok {
            Ok(())
        } else {
            Err(to_js(Error::internal(format!("a string could not be copied: status {status}"))))
        }
    }

    /// Copies a `Uint8Array`; gives whether it was not too long, or `None` if it is something else.
    fn copy_bytes(&mut self, value: sys::napi_value, name: &dyn Fn() -> String) -> napi::Result<Option<bool>> {
        let (mut kind, mut length, mut data, mut buffer) = (0, 0, ptr::null_mut(), ptr::null_mut());
        // SAFETY: `value` is of this call's environment; what is no typed array gives a status. The offset may be null.
        let status = unsafe {
            sys::napi_get_typedarray_info(
                self.env,
                value,
                &raw mut kind,
                &raw mut length,
                &raw mut data,
                &raw mut buffer,
                ptr::null_mut(),
            )
        };
        if status != sys::Status::napi_ok || kind != sys::TypedarrayType::uint8_array {
            return Ok(None);
        }
        if length > self.max_units {
            return Ok(Some(false));
        }
        if length == 0 && self.is_detached(buffer) {
            return Err(to_js(Error::invalid(
                &name(),
                "a Uint8Array whose memory is there",
                "one that was transferred",
            )));
        }
        self.arena.push_utf8_with(length, |bytes| {
            if length > 0 && !data.is_null() {
                // SAFETY: V8 holds `length` bytes at `data`, and none of its code runs meanwhile; `bytes` is our own memory, so long, too.
                // Another thread may write to a `SharedArrayBuffer` at the same time: the copy, which is checked later, may then hold a
                // mix, which is why no reference to the memory is made.
                unsafe { ptr::copy_nonoverlapping(data.cast::<u8>(), bytes.as_mut_ptr(), length) };
            }
            length
        });
        Ok(Some(true))
    }

    fn is_detached(&self, buffer: sys::napi_value) -> bool {
        let mut detached = false;
        // SAFETY: `buffer` is of this call's environment; what is no `ArrayBuffer` is not detached.
        let status = unsafe { sys::napi_is_detached_arraybuffer(self.env, buffer, &raw mut detached) };
        status == sys::Status::napi_ok && detached
    }

    fn element(&self, array: sys::napi_value, index: u32) -> napi::Result<sys::napi_value> {
        let mut value = ptr::null_mut();
        // SAFETY: `array` is an object of this call's environment, and `value` outlives the call.
        let status = unsafe { sys::napi_get_element(self.env, array, index, &raw mut value) };
        if status == sys::Status::napi_ok {
            Ok(value)
        } else {
            Err(to_js(Error::internal(format!("element {index} could not be read: status {status}"))))
        }
    }

    fn is_array(&self, value: sys::napi_value) -> bool {
        let mut is_array = false;
        // SAFETY: `value` is of this call's environment, and `is_array` outlives the call.
        let status = unsafe { sys::napi_is_array(self.env, value, &raw mut is_array) };
        status == sys::Status::napi_ok && is_array
    }

    fn type_name(&self, value: sys::napi_value) -> &'static str {
        let mut kind = -1;
        // SAFETY: `value` is of this call's environment, and `kind` outlives the call.
        unsafe { sys::napi_typeof(self.env, value, &raw mut kind) };
        match kind {
            sys::ValueType::napi_undefined => "undefined",
            sys::ValueType::napi_null => "null",
            sys::ValueType::napi_boolean => "a boolean",
            sys::ValueType::napi_number => "a number",
            sys::ValueType::napi_symbol => "a symbol",
            sys::ValueType::napi_function => "a function",
            sys::ValueType::napi_bigint => "a bigint",
            _ => "an object",
        }
    }
}
