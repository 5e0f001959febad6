//! Byte-pair merging of one word. Knows nothing of text, patterns or caches.
//!
//! Words merge as symbols: a byte that has a token is a symbol, and so is what each merge makes, in the order of the merges'
//! ranks. Of two symbols that merges make, the lower one is therefore the one to be made first.

mod chars;
mod lanes;
mod long;
mod pairs;
mod reach;

use super::hash::HashKey;
use super::simd::fastest;
use chars::CharSymbols;
use lanes::Lanes;
use long::{Joined, LongWord, Pairs};
use pairs::{NO_SYMBOL, PairTable};

/// One line of the merge list: two ids and what they become.
#[derive(Clone, Copy)]
pub(super) struct Merge {
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) result: u32,
}

/// In place of a byte's id: the vocabulary has no token for it, and words lose it.
pub(super) const NO_BYTE: u32 = u32::MAX;

/// The symbols of bytes come before those of merges.
const BYTES: usize = 256;
/// The most lines of a merge list.
pub(super) const MAX_MERGES: usize = pairs::MAX_SYMBOLS - BYTES;

pub(super) struct Merges {
    pairs: PairTable,
    byte_ids: [u32; BYTES],
    /// Some byte has no token.
    lossy: bool,
    /// The token of each symbol.
    tokens: Vec<u32>,
    /// What each pair of bytes becomes.
    byte_pairs: Vec<u32>,
    chars: CharSymbols,
}

impl Merges {
    /// `byte_ids` may be [`NO_BYTE`]. `merges` in the order of their ranks, none where text cannot lead to one; at most
    /// [`MAX_MERGES`]. Of two with the same pair the later counts. `bytes_of` gives the bytes of a token.
    pub(super) fn new<'a>(
        byte_ids: [u32; BYTES],
        merges: &[Option<Merge>],
        bytes_of: impl Fn(u32) -> Option<&'a [u8]>,
        key: HashKey,
    ) -> Self {
        let merges = reach::reached(byte_ids, merges, &bytes_of, key);
        let mut tokens = byte_ids.to_vec();
        tokens.extend(merges.iter().map(|merge| merge.result));
        let pairs: Vec<([u32; 2], u32)> =
            merges.iter().map(|merge| [merge.left, merge.right]).zip(BYTES as u32..).collect();
        let table = PairTable::new(&pairs);
        let byte_pairs = (0..1 << 16).map(|pair: u32| table.get(pair >> 8, pair & 0xff)).collect();
        let lossy = byte_ids.contains(&NO_BYTE);
        let mut this = Self { pairs: table, byte_ids, lossy, tokens, byte_pairs, chars: CharSymbols::default() };
        this.chars = CharSymbols::new(&this, &pairs, |symbol| bytes_of(this.token(symbol)));
        this
    }

    /// The tokens that their own bytes become.
    pub(super) fn reached(&self) -> impl Iterator<Item = u32> {
        self.tokens.iter().copied().filter(|&token| token != NO_BYTE)
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

    /// The token of a symbol.
    #[inline(always)]
    fn token(&self, symbol: u32) -> u32 {
        self.tokens[symbol as usize]
    }

    /// The first symbols of `word`, which may be cut anywhere.
    #[inline(always)]
    fn seeds<'a>(&'a self, word: &'a [u8]) -> Seeds<'a> {
        Seeds { merges: self, word, at: 0, loses: self.loses_from(word) }
    }

    /// Appends the tokens of one word to `out`.
    #[cfg(test)]
    pub(super) fn encode(&self, word: &[u8], room: &mut MergeRoom, out: &mut Vec<u32>) {
        room.encode(self, std::iter::once(word), out, |_| {});
    }
}

impl Pairs for PairTable {
    #[inline(always)]
    fn joined(&self, left: u32, right: u32) -> Joined {
        let symbol = self.get(left, right);
        Joined { rank: symbol, id: symbol }
    }
}

/// The room that words merge in.
#[derive(Default)]
pub(super) struct MergeRoom {
    lanes: Lanes,
    long: LongWord,
}

impl MergeRoom {
    /// Appends the tokens of all words to `out`, and gives each word's end there to `each`, in order. Several words merge at the same
    /// time, so that their waits for memory overlap.
    pub(super) fn encode<'a>(
        &mut self,
        merges: &Merges,
        mut words: impl Iterator<Item = &'a [u8]>,
        out: &mut Vec<u32>,
        mut each: impl FnMut(usize),
    ) {
        let start = out.len();
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
                break;
            }
            fastest(lanes::Merging { lanes: &mut self.lanes, merges });
            self.lanes.take(out, &mut each);
            if let Some(word) = long {
                self.long.encode(&merges.pairs, merges.seeds(word).flat_map(Seed::into_symbols), out);
                each(out.len());
            }
        }
        for symbol in &mut out[start..] {
            *symbol = merges.token(*symbol);
        }
    }
}

/// The first symbols of a word: those of characters where these are certain, of bytes elsewhere.
struct Seeds<'a> {
    merges: &'a Merges,
    word: &'a [u8],
    at: usize,
    /// Some bytes have no token. What is beside a character is then not what merges with it, so that none is certain.
    loses: bool,
}

/// One or two symbols. There is something in the place of the second one in any case: two are written faster than it is asked how many.
#[derive(Clone, Copy)]
struct Seed {
    symbols: [u32; 2],
    len: usize,
}

impl Seed {
    #[inline(always)]
    fn byte(byte: u8) -> Self {
        Self { symbols: [u32::from(byte); 2], len: 1 }
    }

    fn into_symbols(self) -> impl Iterator<Item = u32> {
        self.symbols.into_iter().take(self.len)
    }
}

impl Iterator for Seeds<'_> {
    type Item = Seed;

    #[inline(always)]
    fn next(&mut self) -> Option<Seed> {
        if self.loses {
            let mut rest = (0..).zip(&self.word[self.at..]);
            let (skipped, &byte) = rest.find(|&(_, &byte)| self.merges.byte_id(byte) != NO_BYTE)?;
            self.at += skipped + 1;
            return Some(Seed::byte(byte));
        }
        let first = *self.word.get(self.at)?;
        if let 0xc2..0xf0 = first
            && let Some((seed, len)) = self.merges.chars.at(self.word, self.at)
        {
            self.at += len;
            return Some(seed);
        }
        self.at += 1;
        Some(Seed::byte(first))
    }
}

#[cfg(test)]
mod tests;
