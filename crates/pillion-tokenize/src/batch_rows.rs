//! The rows of a batch, put together in the order of its texts while its chunks are done in any order.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    encoding::{BatchEncoding, Rows},
    error::TokenizeError,
    options::Columns,
};

/// What the parts of a batch give: see [`Tokenizer::encode_part`](crate::Tokenizer::encode_part). The rows of a chunk are copied to their
/// place as soon as those before them are there, so that their memory is used again while it is in the caches.
#[derive(Debug)]
pub struct BatchRows {
    columns: Columns,
    /// Texts of the batch.
    texts: usize,
    /// Locked only to note a chunk; copying is done outside.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The rows so far; none while a thread adds to them.
    joined: Option<BatchEncoding>,
    /// The text whose rows are next.
    next: usize,
    /// Rows whose turn has not come, by their first text, with the text behind their last.
    waiting: BTreeMap<usize, (usize, Rows)>,
    /// Memory to use again.
    spare: Vec<Rows>,
}

impl BatchRows {
    /// For a batch of so many texts, with these columns.
    pub fn new(texts: usize, columns: Columns) -> Self {
        let state =
            State { joined: Some(BatchEncoding::new(columns)), next: 0, waiting: BTreeMap::new(), spare: Vec::new() };
        Self { columns, texts, state: Mutex::new(state) }
    }

    /// Empty rows to fill.
    pub(crate) fn spare(&self) -> Rows {
        let spare = self.state().spare.pop();
        spare.unwrap_or_else(|| Rows::new(self.columns))
    }

    /// Takes in the rows of these texts.
    pub(crate) fn put(&self, texts: Range<usize>, rows: Rows) -> Result<(), TokenizeError> {
        let mut state = self.state();
        state.waiting.insert(texts.start, (texts.end, rows));
        // Who adds to them at the moment looks for these too.
        let Some(mut joined) = state.joined.take() else { return Ok(()) };
        loop {
            let next = state.next;
            let Some((end, mut rows)) = state.waiting.remove(&next) else {
                state.joined = Some(joined);
                return Ok(());
            };
            drop(state);
            joined.make_room(rows.ids.len(), end, self.texts);
            joined.append(&rows)?;
            rows.clear();
            state = self.state();
            state.next = end;
            state.spare.push(rows);
        }
    }

    /// The whole, once all texts are there.
    pub fn finish(&self) -> Result<BatchEncoding, TokenizeError> {
        let mut state = self.state();
        state.spare.clear();
        match state.joined.take() {
            Some(mut joined) if state.next == self.texts => {
                joined.shrink_to_fit();
                Ok(joined)
            }
            _ => {
                let reason = format!("a batch ended after {} of {} texts", state.next, self.texts);
                Err(TokenizeError::Panicked { reason })
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows_of(out: &BatchRows, texts: Range<usize>) -> Rows {
        let mut rows = out.spare();
        for text in texts {
            // So many tokens that the next text would show in the wrong place.
            rows.ids.extend(std::iter::repeat_n(text as u32, text % 5));
            rows.end_row(text as u32);
        }
        rows
    }

    fn check(batch: &BatchEncoding, texts: usize) {
        assert_eq!(batch.rows(), texts);
        for text in 0..texts {
            assert_eq!(batch.row(text), vec![text as u32; text % 5]);
            assert_eq!(batch.sources[text], text as u32);
        }
    }

    proptest! {
        #[test]
        fn chunks_in_any_order_give_the_texts_order(
            order in prop::collection::vec(0_usize..20, 0..20).prop_map(|sizes| {
                let mut start = 0;
                sizes.into_iter().filter(|size| *size > 0).map(|size| { start += size; start - size..start }).collect::<Vec<_>>()
            }).prop_shuffle(),
        ) {
            let texts = order.iter().map(|range| range.end).max().unwrap_or(0);
            let out = BatchRows::new(texts, Columns::default());
            for range in order {
                let rows = rows_of(&out, range.clone());
                out.put(range, rows).unwrap();
            }
            check(&out.finish().unwrap(), texts);
        }
    }

    #[test]
    fn many_threads_at_once_give_the_texts_order() {
        const TEXTS: usize = 4000;
        let out = BatchRows::new(TEXTS, Columns::default());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let out = &out;
                scope.spawn(move || {
                    for text in (thread..TEXTS).step_by(4) {
                        out.put(text..text + 1, rows_of(out, text..text + 1)).unwrap();
                    }
                });
            }
        });
        check(&out.finish().unwrap(), TEXTS);
    }

    #[test]
    fn a_batch_that_lacks_texts_does_not_pass_for_whole() {
        let out = BatchRows::new(2, Columns::default());
        out.put(1..2, rows_of(&out, 1..2)).unwrap();
        let error = out.finish().unwrap_err().to_string();
        assert!(error.contains("after 0 of 2 texts"), "{error}");
    }
}
