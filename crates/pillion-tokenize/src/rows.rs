//! From the tokens of one text (or pair) to its finished rows.

use std::{ops::Range, sync::atomic::AtomicBool};

use crate::{
    encoding::Rows,
    engine::{EncodeCall, SpecialTokens, TokenizerEngine, Tokens},
    error::TokenizeError,
    offsets::{OffsetMap, Trim},
    options::{OffsetUnit, Truncation},
    post_processor::{Layout, Piece, TypeIds},
    truncation::{self, Parts},
};

/// Rows that one text may be cut into.
const MAX_ROWS: usize = 1 << 20;

/// The options of a call, resolved against one tokenizer, so that batches do it once.
pub(crate) struct RowMaker<'a> {
    pub(crate) engine: &'a dyn TokenizerEngine,
    pub(crate) single: Result<&'a Layout, TokenizeError>,
    pub(crate) pair: Result<&'a Layout, TokenizeError>,
    pub(crate) special: SpecialTokens,
    /// Ends the work when it becomes true.
    pub(crate) cancel: Option<&'a AtomicBool>,
    pub(crate) truncation: Option<&'a Truncation>,
    pub(crate) unit: OffsetUnit,
    /// Whether offsets or words are wanted, which cost more than ids.
    pub(crate) details: bool,
}

impl RowMaker<'_> {
    fn call(&self) -> EncodeCall<'_> {
        EncodeCall { special: &self.special, cancel: self.cancel }
    }

    /// Appends the rows of one text.
    pub(crate) fn push(
        &self,
        source: u32,
        text: &str,
        pair: Option<&str>,
        out: &mut Rows,
    ) -> Result<(), TokenizeError> {
        if u32::try_from(text.len().max(pair.map_or(0, str::len))).is_err() {
            return Err(TokenizeError::TooLarge { what: "bytes of one text", limit: u64::from(u32::MAX) });
        }
        let layout = if pair.is_some() { &self.pair } else { &self.single };
        let layout = layout.as_ref().map_err(Clone::clone)?;
        if self.details {
            self.push_details(source, layout, text, pair, out)
        } else if self.truncation.is_none() {
            self.push_whole(source, layout, text, pair, out)
        } else {
            self.push_ids(source, layout, text, pair, out)
        }
    }

    /// The short way: nothing to cut and nothing to know but ids, so they are written in place.
    fn push_whole(
        &self,
        source: u32,
        layout: &Layout,
        text: &str,
        pair: Option<&str>,
        out: &mut Rows,
    ) -> Result<(), TokenizeError> {
        for piece in layout.groups.iter().flatten() {
            match piece {
                Piece::Special { ids, type_ids, mask } => {
                    out.ids.extend_from_slice(ids);
                    out.columns.push_special(ids.len(), type_ids.main, *mask);
                }
                Piece::Sequence { index, type_ids, .. } => {
                    let before = out.ids.len();
                    let text = if *index == 0 { text } else { pair.unwrap_or_default() };
                    self.engine.encode_ids(text, self.call(), &mut out.ids)?;
                    out.columns.push_text(out.ids.len() - before, type_ids.main);
                }
            }
        }
        out.end_row(source);
        Ok(())
    }

    fn push_ids(
        &self,
        source: u32,
        layout: &Layout,
        text: &str,
        pair: Option<&str>,
        out: &mut Rows,
    ) -> Result<(), TokenizeError> {
        let mut sequences = Vec::with_capacity(2);
        for text in [Some(text), pair].into_iter().flatten() {
            let mut ids = Vec::new();
            self.engine.encode_ids(text, self.call(), &mut ids)?;
            sequences.push(ids);
        }
        let lens: Vec<usize> = sequences.iter().map(Vec::len).collect();
        let parts = truncation::parts(&lens, layout.added, self.truncation)?;
        for_each_row(layout, &parts, |row| {
            for (piece, part) in row {
                match piece {
                    Piece::Special { ids, type_ids, mask } => {
                        out.ids.extend_from_slice(ids);
                        out.columns.push_special(ids.len(), type_id(*type_ids, part), *mask);
                    }
                    Piece::Sequence { index, type_ids, .. } => {
                        let range = &parts[*index][part];
                        out.ids.extend_from_slice(&sequences[*index][range.clone()]);
                        out.columns.push_text(range.len(), type_id(*type_ids, part));
                    }
                }
            }
            out.end_row(source);
        })
    }

    fn push_details(
        &self,
        source: u32,
        layout: &Layout,
        text: &str,
        pair: Option<&str>,
        out: &mut Rows,
    ) -> Result<(), TokenizeError> {
        let texts: Vec<&str> = [Some(text), pair].into_iter().flatten().collect();
        let mut sequences = Vec::with_capacity(2);
        for text in &texts {
            let mut tokens = Tokens::default();
            self.engine.encode_tokens(text, self.call(), &mut tokens)?;
            sequences.push(tokens);
        }
        let lens: Vec<usize> = sequences.iter().map(Tokens::len).collect();
        let parts = truncation::parts(&lens, layout.added, self.truncation)?;
        let mut maps: Vec<OffsetMap<'_>> = texts.iter().map(|text| OffsetMap::new(text, self.unit)).collect();
        for_each_row(layout, &parts, |row| {
            for (piece, part) in row {
                match piece {
                    Piece::Special { ids, type_ids, mask } => {
                        out.ids.extend_from_slice(ids);
                        out.columns.push_special(ids.len(), type_id(*type_ids, part), *mask);
                    }
                    Piece::Sequence { index, type_ids, trims } => {
                        let range = parts[*index][part].clone();
                        out.ids.extend_from_slice(&sequences[*index].ids[range.clone()]);
                        out.columns.push_text(range.len(), type_id(*type_ids, part));
                        push_offsets(texts[*index], &sequences[*index], range.clone(), trims, &mut maps[*index], out);
                        if let Some(words) = &mut out.columns.word_ids {
                            words
                                .extend(sequences[*index].words[range].iter().map(|w| i32::try_from(*w).unwrap_or(-1)));
                        }
                    }
                }
            }
            out.end_row(source);
        })
    }
}

fn type_id(type_ids: TypeIds, part: usize) -> u8 {
    if part == 0 { type_ids.main } else { type_ids.overflow }
}

fn push_offsets(
    text: &str,
    tokens: &Tokens,
    range: Range<usize>,
    trims: &[Trim],
    map: &mut OffsetMap<'_>,
    out: &mut Rows,
) {
    let Some(offsets) = &mut out.columns.offsets else { return };
    offsets.reserve(range.len() * 2);
    for (index, at) in range.enumerate() {
        let mut span = tokens.offsets[at];
        for trim in trims {
            span = trim.apply(text, index, span, tokens.spaces[at]);
        }
        offsets.push(map.get(span.0));
        offsets.push(map.get(span.1));
    }
}

/// Calls `row` with each row's pieces, each with the number of the part that stands in it: first the main row, then, in the
/// reference's order, every way to put overflow beside what else there is.
fn for_each_row<'l>(
    layout: &'l Layout,
    parts: &[Parts],
    mut row: impl FnMut(Vec<(&'l Piece, usize)>),
) -> Result<(), TokenizeError> {
    let group_parts = |group: &[Piece]| {
        let sequence = group.iter().find_map(|piece| match piece {
            Piece::Sequence { index, .. } => Some(*index),
            Piece::Special { .. } => None,
        });
        sequence.map_or(1, |index| parts[index].len())
    };
    // Rows as lists of part numbers, one per group. The first is the main row.
    let mut rows: Vec<Vec<usize>> = vec![Vec::new()];
    for group in &layout.groups {
        let count = group_parts(group);
        if rows.len().saturating_mul(count) > MAX_ROWS {
            return Err(TokenizeError::TooLarge { what: "rows of one text", limit: MAX_ROWS as u64 });
        }
        let (main, overflow) = rows.split_at(1);
        let extended = |row: &[usize], part: usize| [row, &[part]].concat();
        let mut next = vec![extended(&main[0], 0)];
        next.extend(overflow.iter().flat_map(|row| (0..count).map(|part| extended(row, part))));
        next.extend((1..count).map(|part| extended(&main[0], part)));
        rows = next;
    }
    for parts in rows {
        let pieces = layout.groups.iter().zip(parts);
        row(pieces.flat_map(|(group, part)| group.iter().map(move |piece| (piece, part))).collect());
    }
    Ok(())
}
