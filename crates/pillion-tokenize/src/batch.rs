//! Many texts at once, on the pool, into flat columns.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crate::{
    batch_rows::BatchRows,
    encoding::{BatchEncoding, Rows},
    error::{TokenizeError, guard},
    input::{BatchInput, Text, TextRoom},
    options::{DecodeOptions, EncodeOptions},
    pool::{Pool, pool},
    tokenizer::Tokenizer,
};

/// Text that one task takes, in units of its encoding. Large enough that a task's own cost does not show, small enough that the threads end
/// together and an abort is seen soon.
const CHUNK_UNITS: usize = 32 * 1024;
/// Texts that one task takes at most.
const CHUNK_TEXTS: usize = 1024;
/// Batches smaller than this are done by the calling thread: waking another costs more.
const INLINE_UNITS: usize = 8 * 1024;

/// How to watch a batch and take it back.
#[derive(Clone, Copy, Default)]
pub struct BatchControl<'a> {
    /// Ends the batch when it becomes true.
    pub cancel: Option<&'a AtomicBool>,
    /// Called with texts done and texts in all, from any thread, in no strict order but never twice with the same number.
    pub progress: Option<&'a (dyn Fn(usize, usize) + Sync)>,
    /// Where to run; `None` for the process's pool.
    pub pool: Option<&'a Pool>,
}

impl std::fmt::Debug for BatchControl<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchControl").field("cancel", &self.cancel).finish_non_exhaustive()
    }
}

/// Which part of a batch is done, where texts come in several parts.
#[derive(Clone, Copy, Debug)]
pub struct PartOf<'a> {
    /// The number of the part's first text in the batch.
    pub first: usize,
    /// Texts of the batch.
    pub total: usize,
    /// Texts of the batch that are done, over all parts.
    pub done: &'a AtomicUsize,
}

impl Tokenizer {
    /// Encodes many texts in parallel. Blocks until all are done; on a thread of the pool it takes part in the work.
    pub fn encode_batch<I: BatchInput + ?Sized>(
        &self,
        texts: &I,
        options: &EncodeOptions,
        control: BatchControl<'_>,
    ) -> Result<BatchEncoding, TokenizeError> {
        if u32::try_from(texts.len()).is_err() {
            return Err(TokenizeError::TooLarge { what: "texts", limit: u64::from(u32::MAX) });
        }
        let done = AtomicUsize::new(0);
        let whole = PartOf { first: 0, total: texts.len(), done: &done };
        let rows = BatchRows::new(texts.len(), options.columns);
        self.encode_part(texts, options, control, whole, &rows)?;
        rows.finish()
    }

    /// Encodes a part of a batch whose texts are not all there yet into the batch's rows. Parts may run at once.
    pub fn encode_part<I: BatchInput + ?Sized>(
        &self,
        texts: &I,
        options: &EncodeOptions,
        control: BatchControl<'_>,
        part: PartOf<'_>,
        out: &BatchRows,
    ) -> Result<(), TokenizeError> {
        let maker = self.row_maker(options, control.cancel)?;
        let encode = |range: Range<usize>| {
            let mut rows = out.spare();
            let mut room = TextRoom::default();
            for index in range.clone() {
                let (text, pair) = texts.get(index);
                let index = part.first + index;
                let text = text.to_str_in(&mut room).map_err(|e| at_index(e, index))?;
                let pair = pair.map(Text::to_str).transpose().map_err(|e| at_index(e, index))?;
                maker.push(index as u32, text, pair.as_deref(), &mut rows)?;
            }
            out.put(part.first + range.start..part.first + range.end, rows)
        };
        run(texts.len(), |i| units(texts, i), control, part, encode).map(drop)
    }

    /// Counts the tokens of many texts in parallel, special tokens included, as [`Tokenizer::count`] does.
    pub fn count_batch<I: BatchInput + ?Sized>(
        &self,
        texts: &I,
        control: BatchControl<'_>,
    ) -> Result<Vec<u32>, TokenizeError> {
        let options = EncodeOptions::default();
        let maker = self.row_maker(&options, control.cancel)?;
        let done = AtomicUsize::new(0);
        let chunks = run(
            texts.len(),
            |i| units(texts, i),
            control,
            PartOf { first: 0, total: texts.len(), done: &done },
            |range| {
                let mut counts = Vec::with_capacity(range.len());
                let mut rows = Rows::new(options.columns);
                let mut room = TextRoom::default();
                for index in range {
                    let (text, pair) = texts.get(index);
                    let text = text.to_str_in(&mut room).map_err(|e| at_index(e, index))?;
                    let pair = pair.map(Text::to_str).transpose().map_err(|e| at_index(e, index))?;
                    rows.clear();
                    maker.push(0, text, pair.as_deref(), &mut rows)?;
                    counts.push(rows.ids.len() as u32);
                }
                Ok(counts)
            },
        )?;
        Ok(chunks.concat())
    }

    /// Decodes the rows of a flat batch in parallel: row `i` is `ids[row_offsets[i]..row_offsets[i + 1]]`.
    pub fn decode_batch(
        &self,
        ids: &[u32],
        row_offsets: &[u32],
        options: DecodeOptions,
        control: BatchControl<'_>,
    ) -> Result<Vec<String>, TokenizeError> {
        let rows = IdRows::new(ids, row_offsets)?;
        let done = AtomicUsize::new(0);
        let chunks = run(
            rows.len(),
            |row| rows.row(row).len(),
            control,
            PartOf { first: 0, total: rows.len(), done: &done },
            |range| range.map(|row| self.decode(rows.row(row), &options)).collect::<Result<Vec<String>, _>>(),
        )?;
        Ok(chunks.into_iter().flatten().collect())
    }
}

fn units<I: BatchInput + ?Sized>(texts: &I, index: usize) -> usize {
    let (text, pair) = texts.get(index);
    text.len() + pair.map_or(0, Text::len)
}

/// Says which text of the batch an error is about.
fn at_index(error: TokenizeError, index: usize) -> TokenizeError {
    match error {
        TokenizeError::InvalidArgument { param, expected, got } => {
            TokenizeError::InvalidArgument { param, expected, got: format!("{got} of text {index}") }
        }
        other => other,
    }
}

/// Flat rows whose bounds were checked.
struct IdRows<'a> {
    ids: &'a [u32],
    row_offsets: &'a [u32],
}

impl<'a> IdRows<'a> {
    fn new(ids: &'a [u32], row_offsets: &'a [u32]) -> Result<Self, TokenizeError> {
        let ascending = row_offsets.windows(2).all(|w| w[0] <= w[1]);
        let in_range = row_offsets.last().is_none_or(|&end| end as usize <= ids.len());
        if !ascending || !in_range {
            let expected = format!("ascending and at most the {} ids there are", ids.len());
            return Err(TokenizeError::argument("rowOffsets", expected, "others"));
        }
        Ok(Self { ids, row_offsets })
    }

    fn len(&self) -> usize {
        self.row_offsets.len().saturating_sub(1)
    }

    fn row(&self, row: usize) -> &'a [u32] {
        &self.ids[self.row_offsets[row] as usize..self.row_offsets[row + 1] as usize]
    }
}

/// Runs `job` over all of `0..items` in chunks and gives what they made, in order.
fn run<T: Send>(
    items: usize,
    units: impl Fn(usize) -> usize,
    control: BatchControl<'_>,
    part: PartOf<'_>,
    job: impl Fn(Range<usize>) -> Result<T, TokenizeError> + Sync,
) -> Result<Vec<T>, TokenizeError> {
    let (chunks, total_units) = chunks(items, units);
    let PartOf { total, done, .. } = part;
    let run_chunk = |range: &Range<usize>| {
        let cancelled = || TokenizeError::Cancelled { done: done.load(Ordering::Relaxed), total };
        if control.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            return Err(cancelled());
        }
        let made = job(range.clone()).map_err(|error| match error {
            // In the middle of a text, of which the engine knows no more.
            TokenizeError::Cancelled { .. } => cancelled(),
            other => other,
        })?;
        let now = done.fetch_add(range.len(), Ordering::Relaxed) + range.len();
        if let Some(progress) = control.progress {
            progress(now, total);
        }
        Ok(made)
    };
    if total_units < INLINE_UNITS || chunks.len() < 2 {
        let run_chunk = |range| guard(|reason| TokenizeError::Panicked { reason }, || run_chunk(range));
        return chunks.iter().map(run_chunk).collect();
    }
    control.pool.unwrap_or_else(|| pool()).map(&chunks, run_chunk)
}

/// Cuts `0..items` into chunks of about [`CHUNK_UNITS`].
fn chunks(items: usize, units: impl Fn(usize) -> usize) -> (Vec<Range<usize>>, usize) {
    let mut chunks = Vec::new();
    let (mut start, mut size, mut total) = (0, 0usize, 0usize);
    for index in 0..items {
        let len = units(index);
        size += len;
        total = total.saturating_add(len);
        if size >= CHUNK_UNITS || index + 1 - start == CHUNK_TEXTS {
            chunks.push(start..index + 1);
            (start, size) = (index + 1, 0);
        }
    }
    if start < items {
        chunks.push(start..items);
    }
    (chunks, total)
}
