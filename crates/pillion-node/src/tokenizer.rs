//! The tokenizer's handle in JS. `src/tokenizer.ts` is the other side.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use napi::{
    Env,
    bindgen_prelude::{Array, Either, Object, ObjectFinalize, ToNapiValue, Uint32ArraySlice, Unknown},
    sys,
};
use napi_derive::napi;
use pillion_core::{Error, Result};
use pillion_tokenize::{
    BatchControl, BatchEncoding, BatchInput, ColumnData, DecodeOptions, DecodeStream, EncodeOptions, OffsetUnit, Side,
    Text, Tokenizer,
};

use crate::{
    columns::{Column, write_into},
    cut::cut_to_tokens,
    desk,
    error::{on_pool, to_js},
    load::find_folder,
    options::{bad_json, encode_options, template_options},
    texts::{NativeTexts, read_pair, read_texts},
};

/// A tokenizer.
#[napi(custom_finalize)]
pub struct NativeTokenizer {
    tokenizer: Tokenizer,
    /// Bytes that the garbage collector was told of.
    told: i64,
}

impl ObjectFinalize for NativeTokenizer {
    fn finalize(self, env: Env) -> napi::Result<()> {
        env.adjust_external_memory(-self.told).map(drop)
    }
}

/// Ends a batch early. Thread-safe.
#[napi]
#[derive(Default)]
pub struct NativeCancel {
    cancelled: Arc<AtomicBool>,
}

/// Turns ids into text as they come.
#[napi]
pub struct NativeDecodeStream {
    stream: DecodeStream,
}

/// Which engine runs.
#[napi(object)]
pub struct NativeEngineInfo {
    /// Its name.
    pub name: String,
    /// Why a faster one does not.
    pub reason: Option<String>,
}

#[napi]
impl NativeCancel {
    /// Not cancelled.
    #[napi(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the batch soon.
    #[napi]
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether it was.
    #[napi]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

impl NativeCancel {
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancelled)
    }
}

impl NativeTokenizer {
    pub(crate) fn new(tokenizer: Tokenizer) -> Self {
        Self { tokenizer, told: 0 }
    }

    pub(crate) fn handle(&self) -> Tokenizer {
        self.tokenizer.clone()
    }
}

#[napi]
impl NativeTokenizer {
    /// Reads a `tokenizer.json`.
    #[napi(catch_unwind, ts_return_type = "Promise<NativeTokenizer>")]
    pub fn from_file(env: &Env, path: String) -> napi::Result<Object<'_>> {
        on_pool(env, move || Ok(Self::new(Tokenizer::from_file(Path::new(&path))?)))
    }

    /// Reads the text of a `tokenizer.json`.
    #[napi(catch_unwind, ts_return_type = "Promise<NativeTokenizer>")]
    pub fn from_json<'env>(env: &'env Env, json: &mut NativeTexts) -> napi::Result<Object<'env>> {
        let json = json.take();
        on_pool(env, move || Ok(Self::new(Tokenizer::from_json(json.ready()?.get(0).0.to_str()?.as_bytes())?)))
    }

    /// Reads a model folder, or the snapshot of a hub id in the local cache.
    #[napi(catch_unwind, ts_return_type = "Promise<NativeTokenizer>")]
    pub fn from_pretrained(env: &Env, name: String) -> napi::Result<Object<'_>> {
        on_pool(env, move || Ok(Self::new(Tokenizer::from_pretrained(&find_folder(&name)?)?)))
    }

    /// Tells the garbage collector what this small object keeps in memory. Called once.
    #[napi(catch_unwind)]
    pub fn tell_size(&mut self, env: Env) -> napi::Result<()> {
        self.told = i64::try_from(self.tokenizer.memory_size()).unwrap_or(i64::MAX);
        env.adjust_external_memory(self.told).map(drop)
    }

    /// Which engine runs.
    #[napi]
    pub fn engine(&self) -> NativeEngineInfo {
        let info = self.tokenizer.engine();
        NativeEngineInfo { name: info.name.to_owned(), reason: info.reason.clone() }
    }

    /// How many ids have a token.
    #[napi]
    pub fn vocab_size(&self) -> u32 {
        self.tokenizer.vocab_size() as u32
    }

    /// Encodes a text or pair on this thread. Without `options`, `flags` say it all: see `encode_options`.
    #[napi(catch_unwind, ts_return_type = "import('./encoding').EncodedColumns")]
    pub fn encode(
        &self,
        env: Env,
        #[napi(ts_arg_type = "string | Uint8Array")] text: Unknown<'_>,
        #[napi(ts_arg_type = "string | Uint8Array | undefined")] pair: Option<Unknown<'_>>,
        flags: u32,
        options: Option<String>,
    ) -> napi::Result<Encoded> {
        let texts = read_pair(env, &text, pair.as_ref())?;
        let options = encode_options(flags, options.as_deref()).map_err(to_js)?;
        encode_one(&self.tokenizer, &texts, &options, None).map_err(to_js)
    }

    /// The ids alone: written into `target` if it is long enough, and then how many; otherwise an array of their own.
    #[napi(catch_unwind, ts_return_type = "number | Uint32Array")]
    pub fn encode_ids(
        &self,
        env: Env,
        #[napi(ts_arg_type = "string | Uint8Array")] text: Unknown<'_>,
        #[napi(ts_arg_type = "string | Uint8Array | undefined")] pair: Option<Unknown<'_>>,
        target: Uint32ArraySlice<'_>,
        flags: u32,
        options: Option<String>,
    ) -> napi::Result<Either<u32, Column<u32>>> {
        let options = encode_options(flags, options.as_deref()).map_err(to_js)?;
        desk::encode(&self.tokenizer, (env, &text, pair.as_ref()), &options, |ids| {
            Ok(match write_into(target, ids) {
                Ok(count) => Either::A(count),
                Err(_) => Either::B(Column(ids.to_vec())),
            })
        })
    }

    /// Writes the ids into the caller's array; returns how many. An array that is too short is left as it is.
    #[napi(catch_unwind)]
    pub fn encode_into(
        &self,
        env: Env,
        #[napi(ts_arg_type = "string | Uint8Array")] text: Unknown<'_>,
        #[napi(ts_arg_type = "string | Uint8Array | undefined")] pair: Option<Unknown<'_>>,
        target: Uint32ArraySlice<'_>,
        flags: u32,
        options: Option<String>,
    ) -> napi::Result<u32> {
        let options = encode_options(flags, options.as_deref()).map_err(to_js)?;
        desk::encode(&self.tokenizer, (env, &text, pair.as_ref()), &options, |ids| {
            write_into(target, ids).map_err(|room| {
                let expected = format!("long enough for the text's {} ids", ids.len());
                to_js(Error::invalid("ids", &expected, format_args!("{room} entries")))
            })
        })
    }

    /// Encodes the one text or pair on the pool.
    #[napi(catch_unwind, ts_return_type = "Promise<import('./encoding').EncodedColumns>")]
    pub fn encode_async<'env>(
        &self,
        env: &'env Env,
        texts: &mut NativeTexts,
        flags: u32,
        options: Option<String>,
        cancel: &NativeCancel,
    ) -> napi::Result<Object<'env>> {
        let (tokenizer, texts) = (self.tokenizer.clone(), texts.take());
        let cancelled = Arc::clone(&cancel.cancelled);
        on_pool(env, move || {
            encode_one(&tokenizer, &texts.ready()?, &encode_options(flags, options.as_deref())?, Some(&cancelled))
        })
    }

    /// Encodes a few short texts or pairs on this thread.
    #[napi(catch_unwind, ts_return_type = "import('./encoding').EncodedBatch")]
    pub fn encode_few(
        &self,
        env: Env,
        #[napi(ts_arg_type = "readonly (string | Uint8Array | readonly [string | Uint8Array, string | Uint8Array])[]")]
        texts: Array<'_>,
        flags: u32,
        options: Option<String>,
    ) -> napi::Result<EncodedBatch> {
        let texts = read_texts(env, &texts)?;
        let options = encode_options(flags, options.as_deref()).map_err(to_js)?;
        let batch = self.tokenizer.encode_batch(&texts, &options, BatchControl::default());
        batch.map(EncodedBatch::from).map_err(to_js)
    }

    /// Counts the tokens of a text on this thread.
    #[napi(catch_unwind)]
    pub fn count(&self, env: Env, #[napi(ts_arg_type = "string | Uint8Array")] text: Unknown<'_>) -> napi::Result<u32> {
        desk::encode(&self.tokenizer, (env, &text, None), &EncodeOptions::default(), |ids| Ok(ids.len() as u32))
    }

    /// Counts the tokens of all texts on the pool.
    #[napi(catch_unwind, ts_return_type = "Promise<Uint32Array>")]
    pub fn count_batch<'env>(
        &self,
        env: &'env Env,
        texts: &mut NativeTexts,
        cancel: &NativeCancel,
    ) -> napi::Result<Object<'env>> {
        let (tokenizer, texts) = (self.tokenizer.clone(), texts.take());
        let cancelled = Arc::clone(&cancel.cancelled);
        on_pool(env, move || {
            let control = BatchControl { cancel: Some(&cancelled), ..BatchControl::default() };
            Ok(Column(tokenizer.count_batch(&texts.ready()?, control)?))
        })
    }

    /// Counts the tokens of a few short texts on this thread.
    #[napi(catch_unwind, ts_return_type = "Uint32Array")]
    pub fn count_few(
        &self,
        env: Env,
        #[napi(ts_arg_type = "readonly (string | Uint8Array)[]")] texts: Array<'_>,
    ) -> napi::Result<Column<u32>> {
        let texts = read_texts(env, &texts)?;
        self.tokenizer.count_batch(&texts, BatchControl::default()).map(Column).map_err(to_js)
    }

    /// Where to cut a text so that it has at most `max` tokens: the first and the last unit to keep.
    #[napi(catch_unwind)]
    pub fn cut_to_tokens(
        &self,
        env: Env,
        #[napi(ts_arg_type = "string | Uint8Array")] text: Unknown<'_>,
        max: u32,
        left: bool,
    ) -> napi::Result<Vec<u32>> {
        let text = read_pair(env, &text, None)?;
        let (text, unit) = match text.get(0).0 {
            text @ Text::Utf16(_) => (text, OffsetUnit::Utf16),
            text => (text, OffsetUnit::Byte),
        };
        let side = if left { Side::Left } else { Side::Right };
        let kept = text.to_str().and_then(|text| cut_to_tokens(&self.tokenizer, &text, max as usize, side, unit));
        let (start, end) = kept.map_err(to_js)?;
        Ok(vec![start, end])
    }

    /// The id of a token.
    #[napi(catch_unwind)]
    pub fn token_to_id(&self, token: String) -> Option<u32> {
        self.tokenizer.token_to_id(&token)
    }

    /// The token of an id.
    #[napi(catch_unwind)]
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id).map(str::to_owned)
    }

    /// The tokens of ids; an id without one gives an empty text.
    #[napi(catch_unwind)]
    pub fn ids_to_tokens(&self, ids: Uint32ArraySlice<'_>) -> Vec<String> {
        ids.iter().map(|&id| self.tokenizer.id_to_token(id).unwrap_or_default().to_owned()).collect()
    }

    /// The padding token's id, if the tokenizer has one.
    #[napi(catch_unwind)]
    pub fn pad_id(&self) -> Option<u32> {
        self.tokenizer.special_token_id("pad_token")
    }

    /// Decodes ids on this thread.
    #[napi(catch_unwind)]
    pub fn decode(&self, ids: Uint32ArraySlice<'_>, skip_special_tokens: bool, clean_up: bool) -> napi::Result<String> {
        let options = DecodeOptions { skip_special_tokens, clean_up };
        self.tokenizer.decode(&ids, &options).map_err(to_js)
    }

    /// Decodes rows of ids on the pool.
    #[napi(catch_unwind, ts_return_type = "Promise<string[]>")]
    pub fn decode_batch<'env>(
        &self,
        env: &'env Env,
        ids: Uint32ArraySlice<'_>,
        row_offsets: Uint32ArraySlice<'_>,
        skip_special_tokens: bool,
        clean_up: bool,
        cancel: &NativeCancel,
    ) -> napi::Result<Object<'env>> {
        // Copied: JS may change or transfer its arrays during the call.
        let (tokenizer, ids, row_offsets) = (self.tokenizer.clone(), ids.to_vec(), row_offsets.to_vec());
        let cancelled = Arc::clone(&cancel.cancelled);
        on_pool(env, move || {
            let options = DecodeOptions { skip_special_tokens, clean_up };
            let control = BatchControl { cancel: Some(&cancelled), ..BatchControl::default() };
            Ok(tokenizer.decode_batch(&ids, &row_offsets, options, control)?)
        })
    }

    /// A stream that decodes.
    #[napi(catch_unwind)]
    pub fn decode_stream(&self, skip_special_tokens: bool, clean_up: bool) -> NativeDecodeStream {
        let options = DecodeOptions { skip_special_tokens, clean_up };
        NativeDecodeStream { stream: self.tokenizer.decode_stream(options) }
    }

    /// Renders messages; both arguments are JSON.
    #[napi(catch_unwind)]
    pub fn apply_chat_template(&self, messages: String, options: String) -> napi::Result<String> {
        let render = || {
            let messages = serde_json::from_str(&messages).map_err(|e| bad_json("the messages", &e))?;
            Ok::<_, Error>(self.tokenizer.apply_chat_template(&messages, &template_options(&options)?)?)
        };
        render().map_err(to_js)
    }
}

#[napi]
impl NativeDecodeStream {
    /// Takes ids; returns the text that is certain.
    #[napi(catch_unwind)]
    pub fn push(&mut self, ids: Uint32ArraySlice<'_>) -> String {
        self.stream.push(&ids)
    }

    /// Takes one id.
    #[napi(catch_unwind)]
    pub fn push_id(&mut self, id: u32) -> String {
        self.stream.push(&[id])
    }

    /// A number for what the stream remembers, -1 for none: an id that leaves it as it was will give the same text again.
    #[napi(catch_unwind)]
    pub fn state(&self) -> i32 {
        self.stream.state().map_or(-1, u32::cast_signed)
    }

    /// The rest.
    #[napi(catch_unwind)]
    pub fn end(&mut self) -> String {
        self.stream.end()
    }
}

/// An encoding on its way out.
pub struct Encoded {
    ids: Vec<u32>,
    columns: ColumnData,
}

/// A batch on its way out.
pub struct EncodedBatch {
    row_offsets: Vec<u32>,
    sources: Vec<u32>,
    encoded: Encoded,
}

impl From<BatchEncoding> for EncodedBatch {
    fn from(batch: BatchEncoding) -> Self {
        Self {
            row_offsets: batch.row_offsets,
            sources: batch.sources,
            encoded: Encoded { ids: batch.ids, columns: batch.columns },
        }
    }
}

impl ToNapiValue for Encoded {
    unsafe fn to_napi_value(env: sys::napi_env, encoded: Self) -> napi::Result<sys::napi_value> {
        let env = Env::from_raw(env);
        let mut object = Object::new(&env)?;
        encoded.set_on(&mut object)?;
        // SAFETY: the object was made in this environment, which is live.
        unsafe { ToNapiValue::to_napi_value(env.raw(), object) }
    }
}

impl ToNapiValue for EncodedBatch {
    unsafe fn to_napi_value(env: sys::napi_env, batch: Self) -> napi::Result<sys::napi_value> {
        let env = Env::from_raw(env);
        let mut object = Object::new(&env)?;
        object.set("rowOffsets", Column(batch.row_offsets))?;
        object.set("sources", Column(batch.sources))?;
        batch.encoded.set_on(&mut object)?;
        // SAFETY: the object was made in this environment, which is live.
        unsafe { ToNapiValue::to_napi_value(env.raw(), object) }
    }
}

impl Encoded {
    fn set_on(self, object: &mut Object<'_>) -> napi::Result<()> {
        let ColumnData { offsets, attention_mask, special_tokens_mask, type_ids, word_ids } = self.columns;
        object.set("ids", Column(self.ids))?;
        offsets.map(|column| object.set("offsets", Column(column))).transpose()?;
        attention_mask.map(|column| object.set("attentionMask", Column(column))).transpose()?;
        special_tokens_mask.map(|column| object.set("specialTokensMask", Column(column))).transpose()?;
        type_ids.map(|column| object.set("typeIds", Column(column))).transpose()?;
        word_ids.map(|column| object.set("wordIds", Column(column))).transpose()?;
        Ok(())
    }
}

fn encode_one(
    tokenizer: &Tokenizer,
    texts: &impl BatchInput,
    options: &EncodeOptions,
    cancel: Option<&AtomicBool>,
) -> Result<Encoded> {
    let (text, pair) = texts.get(0);
    let (text, pair) = (text.to_str()?, pair.map(Text::to_str).transpose()?);
    let encoding = match (cancel, &pair) {
        (Some(cancel), pair) => tokenizer.encode_unless(cancel, &text, pair.as_deref(), options)?,
        (None, None) => tokenizer.encode(&text, options)?,
        (None, Some(pair)) => tokenizer.encode_pair(&text, pair, options)?,
    };
    Ok(Encoded { ids: encoding.ids, columns: encoding.columns })
}
