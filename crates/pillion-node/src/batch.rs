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
use pillion_tokenize::{BatchControl, BatchEncoding, BatchPart, EncodeOptions, PartOf, Tokenizer, join_parts, pool};

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
    /// Locked only to note a part or to take all.
    parts: Mutex<Parts>,
}

#[derive(Default)]
struct Parts {
    /// In the order of their texts; none while it is worked on.
    made: Vec<Option<Result<BatchPart>>>,
    running: usize,
    /// What is to be done when none is running any more.
    then: Option<Job>,
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
        Ok(Self(Arc::new(Batch {
            tokenizer: tokenizer.handle(),
            options: encode_options(flags, options.as_deref()).map_err(to_js)?,
            total: total as usize,
            done: AtomicUsize::new(0),
            cancelled: cancel.flag(),
            on_progress: on_progress.map(progress_function).transpose()?,
            told: AtomicU32::new(0),
            parts: Mutex::default(),
        })))
    }

    /// Begins to encode the next texts, of which the first has this number.
    #[napi(catch_unwind)]
    pub fn add(&self, texts: &mut NativeTexts, first: u32) {
        let (batch, texts) = (Arc::clone(&self.0), texts.take());
        let at = {
            let mut parts = batch.parts();
            parts.made.push(None);
            parts.running += 1;
            parts.made.len() - 1
        };
        pool().spawn(move || {
            // Unwind safety: what is shared is immutable or an atomic, and the rest is consumed.
            let made = catch_unwind(AssertUnwindSafe(|| batch.encode(texts, first as usize)))
                .unwrap_or_else(|payload| Err(Error::from_panic(&*payload)));
            batch.end_part(at, made);
        });
    }

    /// The whole, once the last part is done.
    #[napi(catch_unwind, ts_return_type = "Promise<import('./encoding').EncodedBatch>")]
    pub fn finish<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        let batch = Arc::clone(&self.0);
        settle_on(
            env,
            move || batch.join().map(EncodedBatch::from),
            |job| {
                let mut parts = self.0.parts();
                if parts.running == 0 {
                    drop(parts);
                    pool().spawn(job);
                } else {
                    parts.then = Some(job);
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

    fn encode(&self, texts: TakenTexts, first: usize) -> Result<BatchPart> {
        let tell = |done: usize, total: usize| self.tell(done, total);
        let control = BatchControl { cancel: Some(&self.cancelled), progress: Some(&tell), ..BatchControl::default() };
        let part = PartOf { first, total: self.total, done: &self.done };
        Ok(self.tokenizer.encode_part(&texts.ready()?, &self.options, control, part)?)
    }

    fn end_part(&self, at: usize, made: Result<BatchPart>) {
        if made.is_err() {
            // The others' work would be for nothing.
            self.cancelled.store(true, Ordering::Relaxed);
        }
        let then = {
            let mut parts = self.parts();
            parts.made[at] = Some(made);
            parts.running -= 1;
            if parts.running == 0 { parts.then.take() } else { None }
        };
        if let Some(then) = then {
            then();
        }
    }

    fn join(&self) -> Result<BatchEncoding> {
        let made: Vec<Result<BatchPart>> = std::mem::take(&mut self.parts().made).into_iter().flatten().collect();
        let mut parts = Vec::with_capacity(made.len());
        let mut failure: Option<Error> = None;
        for part in made {
            match part {
                Ok(part) => parts.push(part),
                // A part that was taken back because another failed is not the reason.
                Err(error) if failure.as_ref().is_none_or(|first| first.code() == ErrorCode::Closed) => {
                    failure = Some(error);
                }
                Err(_) => {}
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(join_parts(parts, &self.options, BatchControl::default())?),
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
