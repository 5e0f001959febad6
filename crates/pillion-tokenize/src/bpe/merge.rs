//! Byte-pair merging of one word. Knows nothing of text, patterns or caches.

mod chars;
mod lanes;
mod long;
mod pairs;

use std::collections::HashMap;

use super::hash::HashKey;
use chars::CharTokens;
use lanes::Lanes;
use long::LongWord;
pub(super) use pairs::MAX_MERGES;
use pairs::{Joined, NO_RANK, PairTable};

/// One line of the merge list: two ids and what they become.
#[derive(Clone, Copy)]
pub(super) struct Merge {
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) result: u32,
}

/// In place of a byte's id: the vocabulary has no token for it, and words lose it.
pub(super) const NO_BYTE: u32 = u32::MAX;

pub(super) struct Merges {
    pairs: PairTable,
    byte_ids: [u32; 256],
    /// Some byte has no token.
    lossy: bool,
    /// How each pair of bytes merges.
    byte_pairs: Vec<Joined>,
    chars: CharTokens,
    /// No merge ranks before one that makes its left or right part.
    ordered: bool,
}

impl Merges {
    /// `byte_ids` may be [`NO_BYTE`]. `merges` in the order of their ranks, none where text cannot lead to one; at most
    /// [`MAX_MERGES`]. Of two with the same pair the later counts. `bytes_of` gives the bytes of a token.
    pub(super) fn new<'a>(
        byte_ids: [u32; 256],
        merges: &[Option<Merge>],
        bytes_of: impl Fn(u32) -> Option<&'a [u8]>,
        key: HashKey,
    ) -> Self {
        let mut pairs = PairTable::new(merges.len(), key);
        for (rank, merge) in merges.iter().enumerate() {
            if let Some(Merge { left, right, result }) = *merge {
                pairs.insert(left, right, Joined { rank: rank as u32, id: result });
            }
        }
        let byte_pairs = (0..1 << 16).map(|pair: usize| pairs.get(byte_ids[pair >> 8], byte_ids[pair & 0xff]));
        let byte_pairs = byte_pairs.collect();
        let lossy = byte_ids.contains(&NO_BYTE);
        let mut this = Self { pairs, byte_ids, lossy, byte_pairs, chars: CharTokens::default(), ordered: false };
        this.ordered = this.is_ordered(merges);
        this.chars = CharTokens::new(&this, merges, bytes_of);
        this
    }

    fn is_ordered(&self, merges: &[Option<Merge>]) -> bool {
        let mut made_at: HashMap<u32, u32> = HashMap::with_capacity(merges.len());
        for merge in merges.iter().flatten() {
            let rank = self.rank(merge.left, merge.right);
            let highest = made_at.entry(merge.result).or_default();
            *highest = rank.max(*highest);
        }
        merges.iter().flatten().all(|merge| {
            let rank = self.rank(merge.left, merge.right);
            [merge.left, merge.right].iter().all(|part| made_at.get(part).is_none_or(|&made| made < rank))
        })
    }

    /// The token of a byte, or [`NO_BYTE`].
    pub(super) fn byte_id(&self, byte: u8) -> u32 {
        self.byte_ids[usize::from(byte)]
    }

    /// Whether a byte of `word` has no token. What is left of the word then merges as if it had never been there.
    #[inline(always)]
    pub(super) fn loses_from(&self, word: &[u8]) -> bool {
        self.lossy && word.iter().any(|&byte| self.byte_id(byte) == NO_BYTE)
    }

    #[inline(always)]
    fn rank(&self, left: u32, right: u32) -> u32 {
        self.pairs.get(left, right).rank
    }

    /// The first symbols of `word`, which may be cut anywhere.
    #[inline(always)]
    fn seeds<'a>(&'a self, word: &'a [u8]) -> Seeds<'a> {
        Seeds { merges: self, word, at: 0, loses: self.loses_from(word) }
    }

    /// Appends the tokens of one word to `out`.
    #[cfg(test)]
    pub(super) fn encode(&self, word: &[u8], room: &mut MergeRoom, out: &mut Vec<u32>) {
        room.encode(self, std::iter::once(word), |tokens| out.extend_from_slice(tokens));
    }
}

/// The room that words merge in.
#[derive(Default)]
pub(super) struct MergeRoom {
    lanes: Lanes,
    long: LongWord,
    tokens: Vec<u32>,
}

impl MergeRoom {
    /// Gives the tokens of each word to `each`, in order. Several words merge at the same time, so that their waits
    /// for memory overlap.
    pub(super) fn encode<'a>(
        &mut self,
        merges: &Merges,
        mut words: impl Iterator<Item = &'a [u8]>,
        mut each: impl FnMut(&[u32]),
    ) {
        loop {
            self.lanes.clear();
            let long = loop {
                if self.lanes.is_full() {
                    break None;
                }
                let Some(word) = words.next() else { break None };
                if !self.lanes.fill(merges, word) {
                    break Some(word);
                }
            };
            if self.lanes.is_empty() && long.is_none() {
                return;
            }
            self.lanes.merge(merges);
            self.lanes.take(&mut self.tokens, &mut each);
            if let Some(word) = long {
                self.tokens.clear();
                self.long.encode(merges, merges.seeds(word), &mut self.tokens);
                each(&self.tokens);
                self.tokens.shrink_to(MAX_KEPT);
            }
        }
    }
}

/// Tokens to keep room for after a word.
const MAX_KEPT: usize = 1 << 14;

/// The first symbols of a word: tokens of characters where these are certain, of bytes elsewhere.
struct Seeds<'a> {
    merges: &'a Merges,
    word: &'a [u8],
    at: usize,
    /// Some bytes have no token. What is beside a character is then not what merges with it, so that none is certain.
    loses: bool,
}

impl Iterator for Seeds<'_> {
    type Item = u32;

    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        if self.loses {
            let ids = self.word[self.at..].iter().map(|&byte| self.merges.byte_id(byte));
            let (skipped, id) = (0..).zip(ids).find(|&(_, id)| id != NO_BYTE)?;
            self.at += skipped + 1;
            return Some(id);
        }
        let first = *self.word.get(self.at)?;
        if let 0xc2..0xf0 = first
            && let Some((id, len)) = self.merges.chars.at(self.word, self.at)
        {
            self.at += len;
            return Some(id);
        }
        self.at += 1;
        Some(self.merges.byte_id(first))
    }
}

#[cfg(test)]
mod tests;
