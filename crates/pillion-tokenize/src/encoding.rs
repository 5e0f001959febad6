//! What encoding gives: flat columns, one entry per token.

use crate::{error::TokenizeError, options::Columns, pool::Pool};

/// One encoded text (or pair).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The columns that were asked for.
    pub columns: ColumnData,
}

/// Many encoded texts, flat: the columns of all rows one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchEncoding {
    /// Token ids of all rows.
    pub ids: Vec<u32>,
    /// Where each row begins, and as the last entry where the last one ends: rows + 1 entries.
    pub row_offsets: Vec<u32>,
    /// Which text each row came from. Without overflow this is 0, 1, 2, ...
    pub sources: Vec<u32>,
    /// The columns that were asked for.
    pub columns: ColumnData,
}

impl BatchEncoding {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.row_offsets.len().saturating_sub(1)
    }

    /// The ids of one row; empty past the last.
    pub fn row(&self, row: usize) -> &[u32] {
        match (self.row_offsets.get(row), self.row_offsets.get(row + 1)) {
            (Some(&start), Some(&end)) => &self.ids[start as usize..end as usize],
            _ => &[],
        }
    }
}

/// Columns besides the ids; `None` for those that were not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnData {
    /// Start and end of each token, flat: two entries per token.
    pub offsets: Option<Vec<u32>>,
    /// 1 for every token.
    pub attention_mask: Option<Vec<u8>>,
    /// 1 for tokens that the template added.
    pub special_tokens_mask: Option<Vec<u8>>,
    /// Segment of a pair.
    pub type_ids: Option<Vec<u8>>,
    /// Word that a token came from, -1 for none.
    pub word_ids: Option<Vec<i32>>,
}

impl ColumnData {
    pub(crate) fn new(columns: Columns) -> Self {
        Self {
            offsets: columns.offsets.then(Vec::new),
            attention_mask: columns.attention_mask.then(Vec::new),
            special_tokens_mask: columns.special_tokens_mask.then(Vec::new),
            type_ids: columns.type_ids.then(Vec::new),
            word_ids: columns.word_ids.then(Vec::new),
        }
    }

    /// Appends what is known of `count` tokens that are no part of any text.
    pub(crate) fn push_special(&mut self, count: usize, type_id: u8, mask: u8) {
        extend(self.offsets.as_mut(), count * 2, 0);
        extend(self.attention_mask.as_mut(), count, 1);
        extend(self.special_tokens_mask.as_mut(), count, mask);
        extend(self.type_ids.as_mut(), count, type_id);
        extend(self.word_ids.as_mut(), count, -1);
    }

    /// Appends the constant columns of `count` tokens of a text; offsets and words are the caller's.
    pub(crate) fn push_text(&mut self, count: usize, type_id: u8) {
        extend(self.attention_mask.as_mut(), count, 1);
        extend(self.special_tokens_mask.as_mut(), count, 0);
        extend(self.type_ids.as_mut(), count, type_id);
    }

    fn reserve(&mut self, tokens: usize) {
        reserve(self.offsets.as_mut(), tokens * 2);
        reserve(self.attention_mask.as_mut(), tokens);
        reserve(self.special_tokens_mask.as_mut(), tokens);
        reserve(self.type_ids.as_mut(), tokens);
        reserve(self.word_ids.as_mut(), tokens);
    }

    fn append(&mut self, other: &Self) {
        append(self.offsets.as_mut(), other.offsets.as_deref());
        append(self.attention_mask.as_mut(), other.attention_mask.as_deref());
        append(self.special_tokens_mask.as_mut(), other.special_tokens_mask.as_deref());
        append(self.type_ids.as_mut(), other.type_ids.as_deref());
        append(self.word_ids.as_mut(), other.word_ids.as_deref());
    }
}

fn extend<T: Copy>(column: Option<&mut Vec<T>>, count: usize, value: T) {
    if let Some(column) = column {
        column.extend(std::iter::repeat_n(value, count));
    }
}

fn reserve<T>(column: Option<&mut Vec<T>>, count: usize) {
    if let Some(column) = column {
        column.reserve_exact(count);
    }
}

fn append<T: Copy>(column: Option<&mut Vec<T>>, other: Option<&[T]>) {
    if let (Some(column), Some(other)) = (column, other) {
        column.extend_from_slice(other);
    }
}

/// Fewer tokens are copied sooner than another thread wakes up.
const PARALLEL_TOKENS: usize = 1 << 18;

/// Rows as they are made: those of one text, or of one chunk of a batch.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) ids: Vec<u32>,
    pub(crate) columns: ColumnData,
    /// Tokens of each row.
    lens: Vec<usize>,
    /// The text of each row.
    sources: Vec<u32>,
    /// Tokens of all ended rows.
    ended: usize,
}

impl Rows {
    pub(crate) fn new(columns: Columns) -> Self {
        Self { ids: Vec::new(), columns: ColumnData::new(columns), lens: Vec::new(), sources: Vec::new(), ended: 0 }
    }

    /// Ends a row: everything pushed since the last one.
    pub(crate) fn end_row(&mut self, source: u32) {
        self.lens.push(self.ids.len() - self.ended);
        self.ended = self.ids.len();
        self.sources.push(source);
    }

    /// Forgets all rows and keeps the memory of the ids. For rows without columns.
    pub(crate) fn clear(&mut self) {
        self.ids.clear();
        self.lens.clear();
        self.sources.clear();
        self.ended = 0;
    }

    pub(crate) fn into_encoding(self) -> Encoding {
        Encoding { ids: self.ids, columns: self.columns }
    }

    /// Joins chunks in their order. Many ids are copied by all threads of the pool: most of the time goes into memory that is new.
    pub(crate) fn join(chunks: Vec<Self>, columns: Columns, pool: &Pool) -> Result<BatchEncoding, TokenizeError> {
        let tokens: usize = chunks.iter().map(|c| c.ids.len()).sum();
        // Offsets hold two entries per token and are indexed by u32 on the other side too.
        if u32::try_from(tokens).is_err() {
            return Err(TokenizeError::TooLarge { what: "tokens", limit: u64::from(u32::MAX) });
        }
        let rows: usize = chunks.iter().map(|c| c.lens.len()).sum();
        let mut out = BatchEncoding {
            ids: vec![0; tokens],
            row_offsets: Vec::with_capacity(rows + 1),
            sources: Vec::with_capacity(rows),
            columns: ColumnData::new(columns),
        };
        out.columns.reserve(tokens);
        let mut rest = &mut out.ids[..];
        let mut copies = Vec::with_capacity(chunks.len());
        for chunk in &chunks {
            let (place, after) = rest.split_at_mut(chunk.ids.len());
            copies.push((place, &chunk.ids[..]));
            rest = after;
        }
        let copy = |(place, ids): (&mut [u32], &[u32])| place.copy_from_slice(ids);
        if tokens < PARALLEL_TOKENS {
            copies.into_iter().for_each(copy);
        } else {
            pool.for_each(copies, copy);
        }
        out.row_offsets.push(0);
        let mut end = 0;
        for chunk in chunks {
            out.columns.append(&chunk.columns);
            for len in &chunk.lens {
                end += len;
                out.row_offsets.push(end as u32);
            }
            out.sources.extend_from_slice(&chunk.sources);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_join_into_one_flat_batch() {
        let columns = Columns { type_ids: true, word_ids: true, ..Columns::default() };
        let chunk = |rows: &[(u32, &[u32])]| {
            let mut out = Rows::new(columns);
            for (source, ids) in rows {
                out.ids.extend_from_slice(ids);
                out.columns.push_special(ids.len(), 3, 1);
                out.end_row(*source);
            }
            out
        };
        let batch =
            Rows::join(vec![chunk(&[(0, &[1, 2]), (0, &[])]), chunk(&[]), chunk(&[(1, &[3])])], columns, &Pool::new(1))
                .unwrap();
        assert_eq!(batch.ids, [1, 2, 3]);
        assert_eq!(batch.row_offsets, [0, 2, 2, 3]);
        assert_eq!(batch.sources, [0, 0, 1]);
        assert_eq!(batch.columns.type_ids, Some(vec![3, 3, 3]));
        assert_eq!(batch.columns.word_ids, Some(vec![-1, -1, -1]));
        assert_eq!(batch.columns.offsets, None);
        assert_eq!(batch.rows(), 3);
        assert_eq!((batch.row(0), batch.row(1), batch.row(3)), (&[1, 2][..], &[][..], &[][..]));
    }

    #[test]
    fn an_empty_batch_has_no_rows() {
        let batch = Rows::join(vec![], Columns::default(), &Pool::new(1)).unwrap();
        assert_eq!(batch.row_offsets, [0]);
        assert_eq!(batch.rows(), 0);
    }
}
