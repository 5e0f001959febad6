//! Byte-pair merging of one word. Knows nothing of text, patterns or caches.

mod long;
mod pairs;

use super::hash::HashKey;
use super::table::decode_wide;
pub(super) use long::LongWord;
pub(super) use pairs::{MAX_MERGES, NO_RANK};
use pairs::PairTable;

/// Words of up to this many symbols merge on the stack.
const MAX_STACK: usize = 64;
const NO_CHAR: u32 = u32::MAX;

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
    /// The token of each character of the basic plane whose bytes become one token whatever stands around them.
    chars: Vec<u32>,
    /// No merge ranks before one that makes its left or right part.
    ordered: bool,
}

impl Merges {
    /// `merges` in the order of their ranks, none where text cannot lead to one; at most [`MAX_MERGES`]. Of two with
    /// the same pair the later counts.
    pub(super) fn new(byte_ids: [u32; 256], merges: &[Option<Merge>], key: HashKey) -> Self {
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
        let mut this = Self { pairs, results, byte_ids, byte_ranks, chars: Vec::new(), ordered: false };
        let bounds = Bounds::of(&this, merges);
        this.ordered = bounds.ordered(&this, merges);
        this.chars = (0..1 << 16).map(|code_point| bounds.token_of_char(&this, code_point)).collect();
        this
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
        let mut seeds = Seeds { merges: self, word, at: 0 };
        while let Some(id) = seeds.next() {
            if !stack.push(id) {
                long.encode(self, stack.seeds().iter().copied().chain([id]).chain(seeds), out);
                return;
            }
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
        if let 0xc2..0xf0 = first {
            let (code_point, len) = decode_wide(self.word, self.at);
            let id = self.merges.chars.get(code_point as usize).copied().unwrap_or(NO_CHAR);
            // A word that is no text, as a token's bytes may be, can end within a character.
            if id != NO_CHAR && is_char(self.word, self.at, len) {
                self.at += len;
                return Some(id);
            }
        }
        self.at += 1;
        Some(self.merges.byte_id(first))
    }
}

#[inline(always)]
fn is_char(word: &[u8], at: usize, len: usize) -> bool {
    let follows = |offset: usize| word.get(at + offset).is_some_and(|byte| byte & 0xc0 == 0x80);
    follows(1) && (len < 3 || follows(2))
}

/// A word of up to [`MAX_STACK`] symbols: each step takes the lowest of the keys, which hold rank and place.
struct Stack {
    ids: [u32; MAX_STACK],
    keys: [i32; MAX_STACK],
    next: [u8; MAX_STACK],
    previous: [u8; MAX_STACK],
    len: usize,
}

const PLACE_BITS: u32 = MAX_STACK.trailing_zeros();
const PLACE: usize = MAX_STACK - 1;
const NO_KEY: i32 = i32::MAX;
const LANES: usize = 8;

impl Stack {
    #[inline(always)]
    fn new() -> Self {
        let zero = [0; MAX_STACK];
        Self { ids: [0; MAX_STACK], keys: [NO_KEY; MAX_STACK], next: zero, previous: zero, len: 0 }
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

    #[inline(always)]
    fn key(merges: &Merges, left: u32, right: u32, place: usize) -> i32 {
        match merges.rank(left, right) {
            NO_RANK => NO_KEY,
            rank => (rank << PLACE_BITS) as i32 | place as i32,
        }
    }

    fn merge(&mut self, merges: &Merges, out: &mut Vec<u32>) {
        let len = self.len;
        for place in 0..len {
            self.next[place] = place as u8 + 1;
            self.previous[place] = (place as u8).wrapping_sub(1);
            if place + 1 < len {
                self.keys[place] = Self::key(merges, self.ids[place], self.ids[place + 1], place);
            }
        }
        loop {
            let key = lowest(&self.keys, len);
            if key == NO_KEY {
                break;
            }
            let place = key as usize & PLACE;
            self.merge_at(merges, place, merges.results[(key >> PLACE_BITS) as usize]);
        }
        let mut place = 0;
        while place < len {
            out.push(self.ids[place & PLACE]);
            place = usize::from(self.next[place & PLACE]);
        }
    }

    #[inline(always)]
    fn merge_at(&mut self, merges: &Merges, place: usize, result: u32) {
        let right = usize::from(self.next[place]) & PLACE;
        let after = usize::from(self.next[right]);
        self.ids[place] = result;
        self.next[place] = after as u8;
        self.keys[right] = NO_KEY;
        self.keys[place] = NO_KEY;
        if after < self.len {
            self.previous[after & PLACE] = place as u8;
            self.keys[place] = Self::key(merges, result, self.ids[after & PLACE], place);
        }
        if place > 0 {
            let before = usize::from(self.previous[place]) & PLACE;
            self.keys[before] = Self::key(merges, self.ids[before], result, before);
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

/// For each token, the lowest rank of a merge that it is the left or the right part of.
struct Bounds {
    as_left: Vec<u32>,
    as_right: Vec<u32>,
}

impl Bounds {
    fn of(merges: &Merges, list: &[Option<Merge>]) -> Self {
        let all = list.iter().flatten().flat_map(|merge| [merge.left, merge.right, merge.result]);
        let ids = all.chain(merges.byte_ids).max().unwrap_or_default() as usize + 1;
        let mut bounds = Self { as_left: vec![NO_RANK; ids], as_right: vec![NO_RANK; ids] };
        for Merge { left, right, .. } in list.iter().flatten() {
            let rank = merges.rank(*left, *right);
            let lower = |bound: &mut u32| *bound = rank.min(*bound);
            lower(&mut bounds.as_left[*left as usize]);
            lower(&mut bounds.as_right[*right as usize]);
        }
        bounds
    }

    fn ordered(&self, merges: &Merges, list: &[Option<Merge>]) -> bool {
        list.iter().flatten().all(|merge| {
            let (rank, result) = (merges.rank(merge.left, merge.right), merge.result as usize);
            rank < self.as_left[result] && rank < self.as_right[result]
        })
    }

    /// The token that the bytes of a character become in every word, or [`NO_CHAR`].
    ///
    /// That is certain if each merge within the character ranks before any that could take its first or last symbol
    /// away, and all of them before any merge of the whole character: then the merges of a word, in the reference's
    /// order, are those within its characters and, in the same order as without them, the others.
    fn token_of_char(&self, merges: &Merges, code_point: u32) -> u32 {
        let Some(c) = char::from_u32(code_point).filter(|c| !c.is_ascii()) else { return NO_CHAR };
        let mut buffer = [0; 4];
        let bytes = c.encode_utf8(&mut buffer).as_bytes();
        let mut symbols: Vec<u32> = bytes.iter().map(|&byte| merges.byte_id(byte)).collect();
        let mut highest = 0;
        while let [first, .., last] = symbols[..] {
            let ranks = symbols.windows(2).map(|pair| merges.rank(pair[0], pair[1]));
            let lowest = ranks.enumerate().min_by_key(|&(place, rank)| (rank, place));
            let Some((place, rank)) = lowest.filter(|&(_, rank)| rank != NO_RANK) else { return NO_CHAR };
            if rank >= self.as_right[first as usize] || rank >= self.as_left[last as usize] {
                return NO_CHAR;
            }
            highest = rank.max(highest);
            symbols[place] = merges.results[rank as usize];
            symbols.remove(place + 1);
        }
        let token = symbols[0];
        let alone = highest < self.as_left[token as usize] && highest < self.as_right[token as usize];
        if alone { token } else { NO_CHAR }
    }
}

#[cfg(test)]
mod tests;
