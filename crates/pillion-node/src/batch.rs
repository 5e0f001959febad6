//! A batch whose texts come in slices: each is encoded on the pool while the JS thread copies the next.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
};

use napi::{
    Env, Status,
    bindgen_prelude::{FnArgs, Function, Object},
    threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode},
};
use napi_derive::napi;
use pillion_core::{Error, ErrorCode, Result};
use pillion_tokenize::{
    BatchControl, BatchEncoding, BatchRows, EncodeOptions, PartOf, TextArena, TokenizeError, Tokenizer, pool,
};

use crate::{
    error::{Job, settle_on, to_js},
    options::encode_options,
    texts::{NativeTexts, TakenTexts},
    tokenizer::{EncodedBatch, NativeCancel, NativeTokenizer},
};

/// Tells JS how much of a batch is done; weak, since the promise keeps Node alive.
type OnProgress = ThreadsafeFunction<(u32, u32), (), FnArgs<(u32, u32)>, Status, false, true>;

/// A batch that is being encoded.
#[napi]
pub struct NativeBatch(Arc<Batch>);

struct Batch {
    tokenizer: Tokenizer,
    options: EncodeOptions,
    total: usize,
    done: AtomicUsize,
    cancelled: Arc<AtomicBool>,
    on_progress: Option<OnProgress>,
    /// Hundredths that JS was told of.
    told: AtomicU32,
    rows: BatchRows,
    /// Locked only to note that a part begins or ends.
    parts: Mutex<Parts>,
}

#[derive(Default)]
struct Parts {
    running: usize,
    /// Why the first part failed that did.
    failure: Option<Error>,
    /// Memory of parts that are done, for those to come.
    spare: Vec<TextArena>,
    /// What is to be done when there is room for more.
    when_room: Option<Job>,
    /// What is to be done when none is running any more.
    when_done: Option<Job>,
}

impl Parts {
    /// Whether so many are on their way that no more shall come for now.
    fn is_full(&self) -> bool {
        self.running >= enough() * 3 / 2 + 2
    }

    /// Whether so many are done that it is time for more: several at once, since each time the JS thread takes a core from the pool.
    fn has_room(&self) -> bool {
        self.running <= enough()
    }
}

/// Parts on their way with which no thread of the pool is ever without one.
fn enough() -> usize {
    pool().num_threads() + 2
}

#[napi]
impl NativeBatch {
    /// Of so many texts; see `NativeTokenizer.encode` for the options.
    #[napi(constructor, catch_unwind)]
    pub fn new(
        tokenizer: &NativeTokenizer,
        total: u32,
        flags: u32,
        options: Option<String>,
        cancel: &NativeCancel,
        #[napi(ts_arg_type = "((done: number, total: number) => void) | undefined | null")] on_progress: Option<
            Function<'_, FnArgs<(u32, u32)>, ()>,
        >,
    ) -> napi::Result<Self> {
        let options = encode_options(flags, options.as_deref()).map_err(to_js)?;
        Ok(Self(Arc::new(Batch {
            tokenizer: tokenizer.handle(),
            rows: BatchRows::new(total as usize, options.columns),
            options,
            total: total as usize,
            done: AtomicUsize::new(0),
            cancelled: cancel.flag(),
            on_progress: on_progress.map(progress_function).transpose()?,
            told: AtomicU32::new(0),
            parts: Mutex::default(),
        })))
    }

    /// Begins to encode the next texts, of which the first has this number, and empties the arena. Gives whether the next shall wait for
    /// [`NativeBatch::room`].
    #[napi(catch_unwind)]
    pub fn add(&self, texts: &mut NativeTexts, first: u32) -> bool {
        let batch = Arc::clone(&self.0);
        let (spare, is_full) = {
            let mut parts = batch.parts();
            parts.running += 1;
            (parts.spare.pop().unwrap_or_default(), parts.is_full())
        };
        let texts = texts.take_for(spare);
        pool().spawn(move || {
            // Unwind safety: what is shared is immutable, an atomic or behind a lock, and the rest is consumed.
            let done = catch_unwind(AssertUnwindSafe(|| batch.encode(texts, first as usize)))
                .unwrap_or_else(|payload| Err(Error::from_panic(&*payload)));
            batch.end_part(done);
        });
        is_full
    }

    /// Settles when it is time for more parts.
    #[napi(catch_unwind, ts_return_type = "Promise<void>")]
    pub fn room<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        settle_on(
            env,
            || Ok(()),
            |job| {
                let mut parts = self.0.parts();
                if parts.is_full() {
                    parts.when_room = Some(job);
                } else {
                    drop(parts);
                    job();
                }
                Ok(())
            },
        )
    }

    /// The whole, once the last part is done.
    #[napi(catch_unwind, ts_return_type = "Promise<import('./encoding').EncodedBatch>")]
    pub fn finish<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        let batch = Arc::clone(&self.0);
        settle_on(
            env,
            move || batch.finish().map(EncodedBatch::from),
            |job| {
                let mut parts = self.0.parts();
                if parts.running == 0 {
                    drop(parts);
                    pool().spawn(job);
                } else {
                    parts.when_done = Some(job);
                }
                Ok(())
            },
        )
    }
}

impl Batch {
    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Encodes a part and gives its memory back.
    fn encode(&self, texts: TakenTexts, first: usize) -> Result<TextArena> {
        let tell = |done: usize, total: usize| self.tell(done, total);
        let control = BatchControl { cancel: Some(&self.cancelled), progress: Some(&tell), ..BatchControl::default() };
        let part = PartOf { first, total: self.total, done: &self.done };
        let mut texts = texts.ready()?;
        self.tokenizer.encode_part(&texts, &self.options, control, part, &self.rows)?;
        texts.clear();
        Ok(texts)
    }

    fn end_part(&self, done: Result<TextArena>) {
        if done.is_err() {
            // The others' work would be for nothing.
            self.cancelled.store(true, Ordering::Relaxed);
        }
        let (when_room, when_done) = {
            let mut parts = self.parts();
            parts.running -= 1;
            match done {
                Ok(texts) => parts.spare.push(texts),
                // A part that was taken back because another failed is not the reason.
                Err(error) if parts.failure.as_ref().is_none_or(|first| first.code() == ErrorCode::Closed) => {
                    parts.failure = Some(error);
                }
                Err(_) => {}
            }
            let when_room = if parts.has_room() { parts.when_room.take() } else { None };
            (when_room, if parts.running == 0 { parts.when_done.take() } else { None })
        };
        for then in [when_room, when_done].into_iter().flatten() {
            then();
        }
    }

    fn finish(&self) -> Result<BatchEncoding> {
        let failure = {
            let mut parts = self.parts();
            parts.spare.clear();
            parts.failure.take()
        };
        match failure {
            Some(error) => Err(error),
            None if self.cancelled.load(Ordering::Relaxed) => {
                Err(TokenizeError::Cancelled { done: self.done.load(Ordering::Relaxed), total: self.total }.into())
            }
            None => Ok(self.rows.finish()?),
        }
    }

    fn tell(&self, done: usize, total: usize) {
        if let Some(on_progress) = &self.on_progress
            && is_news(&self.told, done, total)
        {
            on_progress.call((done as u32, total as u32), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }
}

fn progress_function(function: Function<'_, FnArgs<(u32, u32)>, ()>) -> napi::Result<OnProgress> {
    function
        .build_threadsafe_function()
        .weak::<true>()
        .callee_handled::<false>()
        .build_callback(|context| Ok(FnArgs::from(context.value)))
}

/// Whether another hundredth is done since the last time that JS was told.
fn is_news(told: &AtomicU32, done: usize, total: usize) -> bool {
    let percent = (done * 100 / total.max(1)) as u32;
    told.fetch_max(percent, Ordering::Relaxed) < percent
}
