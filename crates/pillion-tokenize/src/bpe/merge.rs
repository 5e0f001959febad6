//! Byte-pair merging of one word. Knows nothing of text, patterns or caches.

mod chars;
mod long;
mod pairs;

use std::collections::HashMap;

use super::hash::HashKey;
use chars::CharTokens;
pub(super) use long::LongWord;
use pairs::PairTable;
pub(super) use pairs::{MAX_MERGES, NO_RANK};

/// Words of up to this many symbols merge on the stack.
const MAX_STACK: usize = 64;

/// One line of the merge list: two ids and what they become.
#[derive(Clone, Copy)]
pub(super) struct Merge {
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) result: u32,
}

pub(super) struct Merges {
    pairs: PairTable,
    /// The result of the merge of each rank.
    results: Vec<u32>,
    byte_ids: [u32; 256],
    /// The rank of each pair of bytes.
    byte_ranks: Vec<u32>,
    chars: CharTokens,
    /// No merge ranks before one that makes its left or right part.
    ordered: bool,
}

impl Merges {
    /// `merges` in the order of their ranks, none where text cannot lead to one; at most [`MAX_MERGES`]. Of two with
    /// the same pair the later counts. `bytes_of` gives the bytes of a token.
    pub(super) fn new<'a>(
        byte_ids: [u32; 256],
        merges: &[Option<Merge>],
        bytes_of: impl Fn(u32) -> Option<&'a [u8]>,
        key: HashKey,
    ) -> Self {
        let mut pairs = PairTable::new(merges.len(), key);
        let results = merges.iter().map(|merge| merge.map_or(0, |merge| merge.result)).collect();
        for (rank, merge) in merges.iter().enumerate() {
            if let Some(Merge { left, right, .. }) = merge {
                pairs.insert(*left, *right, rank as u32);
            }
        }
        let mut byte_ranks = vec![NO_RANK; 1 << 16];
        for (pair, rank) in byte_ranks.iter_mut().enumerate() {
            *rank = pairs.rank(byte_ids[pair >> 8], byte_ids[pair & 0xff]);
        }
        let mut this = Self { pairs, results, byte_ids, byte_ranks, chars: CharTokens::default(), ordered: false };
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

    pub(super) fn byte_id(&self, byte: u8) -> u32 {
        self.byte_ids[usize::from(byte)]
    }

    #[inline(always)]
    fn rank(&self, left: u32, right: u32) -> u32 {
        self.pairs.rank(left, right)
    }

    /// Appends the tokens of `word`, which may be cut anywhere, to `out`.
    pub(super) fn encode(&self, word: &[u8], long: &mut LongWord, out: &mut Vec<u32>) {
        let mut stack = Stack::new();
        if word.len() <= MAX_STACK && word.is_ascii() {
            stack.fill_ascii(self, word);
        } else {
            let mut seeds = Seeds { merges: self, word, at: 0 };
            while let Some(id) = seeds.next() {
                if !stack.push(id) {
                    long.encode(self, stack.seeds().iter().copied().chain([id]).chain(seeds), out);
                    return;
                }
            }
            stack.rank(self);
        }
        stack.merge(self, out);
    }
}

/// The first symbols of a word: tokens of characters where these are certain, of bytes elsewhere.
struct Seeds<'a> {
    merges: &'a Merges,
    word: &'a [u8],
    at: usize,
}

impl Iterator for Seeds<'_> {
    type Item = u32;

    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
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

/// A word of up to [`MAX_STACK`] symbols: each step takes the lowest of the keys, which hold rank and place.
struct Stack {
    ids: [u32; MAX_STACK],
    keys: [i32; MAX_STACK],
    /// What each symbol and the next one become, looked up early.
    results: [u32; MAX_STACK],
    next: [u8; MAX_STACK],
    previous: [u8; MAX_STACK],
    len: usize,
}

const PLACE_BITS: u32 = MAX_STACK.trailing_zeros();
const PLACE: usize = MAX_STACK - 1;
const NO_KEY: i32 = i32::MAX;
const LANES: usize = 8;
/// The place after each, and the place before it.
const NEXT: [u8; MAX_STACK] = places(1);
const PREVIOUS: [u8; MAX_STACK] = places(u8::MAX);

const fn places(difference: u8) -> [u8; MAX_STACK] {
    let mut places = [0; MAX_STACK];
    let mut place = 0;
    while place < MAX_STACK {
        places[place] = (place as u8).wrapping_add(difference);
        place += 1;
    }
    places
}

impl Stack {
    #[inline(always)]
    fn new() -> Self {
        let ids = [0; MAX_STACK];
        Self { ids, keys: [NO_KEY; MAX_STACK], results: ids, next: NEXT, previous: PREVIOUS, len: 0 }
    }

    #[inline(always)]
    fn push(&mut self, id: u32) -> bool {
        let free = self.len < MAX_STACK;
        if free {
            self.ids[self.len] = id;
            self.len += 1;
        }
        free
    }

    fn seeds(&self) -> &[u32] {
        &self.ids[..self.len]
    }

    /// Takes the bytes of a word, none of which can begin a character of more bytes.
    #[inline(always)]
    fn fill_ascii(&mut self, merges: &Merges, word: &[u8]) {
        for (id, &byte) in self.ids.iter_mut().zip(word) {
            *id = merges.byte_id(byte);
        }
        for (place, pair) in word.windows(2).enumerate() {
            let rank = merges.byte_ranks[usize::from(pair[0]) << 8 | usize::from(pair[1])];
            self.set(merges, place & PLACE, rank);
        }
        self.len = word.len();
    }

    /// Ranks all pairs.
    #[inline(always)]
    fn rank(&mut self, merges: &Merges) {
        for place in 0..self.len.saturating_sub(1) {
            let rank = merges.rank(self.ids[place & PLACE], self.ids[(place + 1) & PLACE]);
            self.set(merges, place & PLACE, rank);
        }
    }

    #[inline(always)]
    fn set(&mut self, merges: &Merges, place: usize, rank: u32) {
        self.keys[place] = NO_KEY;
        if rank != NO_RANK {
            self.keys[place] = (rank << PLACE_BITS) as i32 | place as i32;
            self.results[place] = merges.results[rank as usize];
        }
    }

    #[inline(always)]
    fn merge(&mut self, merges: &Merges, out: &mut Vec<u32>) {
        let len = self.len;
        loop {
            let key = lowest(&self.keys, len);
            if key == NO_KEY {
                break;
            }
            self.merge_at(merges, key as usize & PLACE);
        }
        let mut place = 0;
        while place < len {
            out.push(self.ids[place & PLACE]);
            place = usize::from(self.next[place & PLACE]);
        }
    }

    #[inline(always)]
    fn merge_at(&mut self, merges: &Merges, place: usize) {
        let result = self.results[place];
        let right = usize::from(self.next[place]) & PLACE;
        let after = usize::from(self.next[right]);
        self.ids[place] = result;
        self.next[place] = after as u8;
        self.keys[right] = NO_KEY;
        self.keys[place] = NO_KEY;
        if after < self.len {
            self.previous[after & PLACE] = place as u8;
            self.set(merges, place, merges.rank(result, self.ids[after & PLACE]));
        }
        if place > 0 {
            let before = usize::from(self.previous[place]) & PLACE;
            self.set(merges, before, merges.rank(self.ids[before], result));
        }
    }
}

/// The lowest of the first `len` keys; those after it are [`NO_KEY`].
#[inline(always)]
fn lowest(keys: &[i32; MAX_STACK], len: usize) -> i32 {
    let mut lanes = [NO_KEY; LANES];
    for chunk in &keys.as_chunks::<LANES>().0[..len.div_ceil(LANES)] {
        for (lane, &key) in lanes.iter_mut().zip(chunk) {
            *lane = (*lane).min(key);
        }
    }
    lanes.into_iter().fold(NO_KEY, i32::min)
}

#[cfg(test)]
mod tests;
