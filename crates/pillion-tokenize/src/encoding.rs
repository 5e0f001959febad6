//! What encoding gives: flat columns, one entry per token.

use crate::{error::TokenizeError, options::Columns};

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
    pub(crate) fn new(columns: Columns) -> Self {
        Self { row_offsets: vec![0], columns: ColumnData::new(columns), ..Self::default() }
    }

    /// Makes room for so many tokens more, with which `texts` of `total` texts are done. Memory that grows bit by bit is copied, and touched for
    /// the first time, again and again; so room is made for as many as there will be in all, once enough texts are done to tell.
    pub(crate) fn make_room(&mut self, tokens: usize, texts: usize, total: usize) {
        /// The part of the texts that tells: room is made for no more than so many times what there is.
        const ENOUGH: usize = 16;
        if self.ids.capacity() - self.ids.len() >= tokens {
            return;
        }
        let len = self.ids.len() + tokens;
        let expected = if texts >= total / ENOUGH { len.saturating_mul(total) / texts.max(1) } else { 0 };
        let wanted = expected.saturating_add(expected / 16).clamp(len + len / 2, len * ENOUGH);
        self.ids.reserve_exact(wanted - self.ids.len());
    }

    /// Appends rows as its last.
    pub(crate) fn append(&mut self, rows: &Rows) -> Result<(), TokenizeError> {
        // Offsets hold two entries per token and are indexed by u32 on the other side too.
        if u32::try_from(self.ids.len() + rows.ids.len()).is_err() {
            return Err(TokenizeError::TooLarge { what: "tokens", limit: u64::from(u32::MAX) });
        }
        let mut end = self.ids.len();
        self.ids.extend_from_slice(&rows.ids);
        self.columns.append(&rows.columns);
        self.row_offsets.extend(rows.lens.iter().map(|len| {
            end += len;
            end as u32
        }));
        self.sources.extend_from_slice(&rows.sources);
        Ok(())
    }

    /// Gives back memory that is not needed.
    pub(crate) fn shrink_to_fit(&mut self) {
        self.ids.shrink_to_fit();
        self.row_offsets.shrink_to_fit();
        self.sources.shrink_to_fit();
        self.columns.shrink_to_fit();
    }

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

    /// Forgets all and keeps the memory.
    fn clear(&mut self) {
        clear(self.offsets.as_mut());
        clear(self.attention_mask.as_mut());
        clear(self.special_tokens_mask.as_mut());
        clear(self.type_ids.as_mut());
        clear(self.word_ids.as_mut());
    }

    fn shrink_to_fit(&mut self) {
        shrink(self.offsets.as_mut());
        shrink(self.attention_mask.as_mut());
        shrink(self.special_tokens_mask.as_mut());
        shrink(self.type_ids.as_mut());
        shrink(self.word_ids.as_mut());
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

fn shrink<T>(column: Option<&mut Vec<T>>) {
    if let Some(column) = column {
        column.shrink_to_fit();
    }
}

fn clear<T>(column: Option<&mut Vec<T>>) {
    if let Some(column) = column {
        column.clear();
    }
}

fn append<T: Copy>(column: Option<&mut Vec<T>>, other: Option<&[T]>) {
    if let (Some(column), Some(other)) = (column, other) {
        column.extend_from_slice(other);
    }
}

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

    /// Forgets all rows and keeps their memory.
    pub(crate) fn clear(&mut self) {
        self.ids.clear();
        self.columns.clear();
        self.lens.clear();
        self.sources.clear();
        self.ended = 0;
    }

    pub(crate) fn into_encoding(self) -> Encoding {
        Encoding { ids: self.ids, columns: self.columns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_appended_to_one_flat_batch() {
        let columns = Columns { type_ids: true, word_ids: true, ..Columns::default() };
        let mut batch = BatchEncoding::new(columns);
        assert_eq!((batch.rows(), &batch.row_offsets[..]), (0, &[0][..]));
        let mut rows = Rows::new(columns);
        for chunk in [&[(0, &[1, 2][..]), (0, &[])][..], &[], &[(1, &[3])]] {
            rows.clear();
            for (source, ids) in chunk {
                rows.ids.extend_from_slice(ids);
                rows.columns.push_special(ids.len(), 3, 1);
                rows.end_row(*source);
            }
            batch.append(&rows).unwrap();
        }
        assert_eq!(batch.ids, [1, 2, 3]);
        assert_eq!(batch.row_offsets, [0, 2, 2, 3]);
        assert_eq!(batch.sources, [0, 0, 1]);
        assert_eq!(batch.columns.type_ids, Some(vec![3, 3, 3]));
        assert_eq!(batch.columns.word_ids, Some(vec![-1, -1, -1]));
        assert_eq!(batch.columns.offsets, None);
        assert_eq!(batch.rows(), 3);
        assert_eq!((batch.row(0), batch.row(1), batch.row(3)), (&[1, 2][..], &[][..], &[][..]));
    }
}
