//! Merging of several words at a time, one step of each in turn. A step looks up two pairs, which are seldom in the
//! core's own cache: alone it would wait for them, so the look-ups of all words begin before the first is needed.

use super::pairs::Found;
use super::{Merges, NO_SYMBOL};

/// Words that merge at a time.
const LANES: usize = 16;
/// The most symbols of such a word.
const MAX_SYMBOLS: usize = 64;

#[derive(Default)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    used: usize,
}

impl Lanes {
    pub(super) fn clear(&mut self) {
        self.used = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.used == LANES
    }

    /// Adds a word, unless it has too many symbols. There must be a lane left.
    pub(super) fn fill(&mut self, merges: &Merges, word: &[u8]) -> bool {
        if self.used == self.lanes.len() {
            self.lanes.push(Lane::new());
        }
        let filled = self.lanes[self.used].fill(merges, word);
        self.used += usize::from(filled);
        filled
    }

    /// Merges all words to the end.
    pub(super) fn merge(&mut self, merges: &Merges) {
        let lanes = &mut self.lanes[..self.used];
        for lane in &mut *lanes {
            lane.rank(merges);
        }
        let mut active: [usize; LANES] = std::array::from_fn(|lane| lane);
        let mut count = lanes.len();
        while count > 0 {
            let mut at = 0;
            while at < count {
                if lanes[active[at]].join(merges) {
                    at += 1;
                } else {
                    count -= 1;
                    active[at] = active[count];
                }
            }
            for &lane in &active[..count] {
                lanes[lane].rank_joined(merges);
            }
        }
    }

    /// Gives the tokens of each word to `each`.
    pub(super) fn take(&self, merges: &Merges, tokens: &mut Vec<u32>, each: &mut impl FnMut(&[u32])) {
        for lane in &self.lanes[..self.used] {
            tokens.clear();
            lane.take(merges, tokens);
            each(tokens);
        }
    }
}

/// One word. Each step takes the lowest of the keys, which hold what a pair becomes and its place, and joins the symbol
/// there with the next one.
struct Lane {
    symbols: [u32; MAX_SYMBOLS],
    keys: [i32; MAX_SYMBOLS],
    next: [u8; MAX_SYMBOLS],
    previous: [u8; MAX_SYMBOLS],
    len: usize,
    /// Where each pair is read, before they have their keys.
    found: [Found; MAX_SYMBOLS],
    /// The place that was joined last, and where the pairs with the symbols before and after it are read.
    joined: usize,
    before: Found,
    after: Found,
    /// Whether all pairs have their keys.
    ranked: bool,
}

const PLACE_BITS: u32 = MAX_SYMBOLS.trailing_zeros();
const PLACE: usize = MAX_SYMBOLS - 1;
const NO_KEY: i32 = i32::MAX;
const KEYS: usize = 8;
/// The place after each, and the place before it.
const NEXT: [u8; MAX_SYMBOLS] = places(1);
const PREVIOUS: [u8; MAX_SYMBOLS] = places(u8::MAX);

const fn places(difference: u8) -> [u8; MAX_SYMBOLS] {
    let mut places = [0; MAX_SYMBOLS];
    let mut place = 0;
    while place < MAX_SYMBOLS {
        places[place] = (place as u8).wrapping_add(difference);
        place += 1;
    }
    places
}

impl Lane {
    fn new() -> Self {
        Self {
            symbols: [0; MAX_SYMBOLS],
            keys: [NO_KEY; MAX_SYMBOLS],
            next: NEXT,
            previous: PREVIOUS,
            len: 0,
            found: [Found::default(); MAX_SYMBOLS],
            joined: 0,
            before: Found::default(),
            after: Found::default(),
            ranked: false,
        }
    }

    fn fill(&mut self, merges: &Merges, word: &[u8]) -> bool {
        self.keys = [NO_KEY; MAX_SYMBOLS];
        self.next = NEXT;
        self.previous = PREVIOUS;
        if word.is_ascii() && !merges.loses_from(word) {
            return self.fill_ascii(merges, word);
        }
        self.len = 0;
        self.ranked = false;
        for symbol in merges.seeds(word) {
            let Some(room) = self.symbols.get_mut(self.len) else { return false };
            *room = symbol;
            self.len += 1;
        }
        for (found, pair) in self.found.iter_mut().zip(self.symbols[..self.len].windows(2)) {
            *found = merges.pairs.touch(pair[0], pair[1]);
        }
        true
    }

    /// Fills the lane with bytes, of which the pairs are in a table of their own.
    fn fill_ascii(&mut self, merges: &Merges, word: &[u8]) -> bool {
        self.len = word.len();
        let Some(symbols) = self.symbols.get_mut(..word.len()) else { return false };
        for (symbol, &byte) in symbols.iter_mut().zip(word) {
            *symbol = u32::from(byte);
        }
        for (place, pair) in word.windows(2).enumerate() {
            self.set(place & PLACE, merges.byte_pairs[usize::from(pair[0]) << 8 | usize::from(pair[1])]);
        }
        self.ranked = true;
        true
    }

    /// Finds what all pairs become, where that is still to do.
    fn rank(&mut self, merges: &Merges) {
        if self.ranked {
            return;
        }
        for place in 0..self.len.saturating_sub(1) {
            self.set(place & PLACE, merges.pairs.read(self.found[place & PLACE]));
        }
    }

    #[inline(always)]
    fn set(&mut self, place: usize, becomes: u32) {
        let key = (becomes << PLACE_BITS) as i32 | place as i32;
        self.keys[place] = if becomes == NO_SYMBOL { NO_KEY } else { key };
    }

    /// Joins the pair that becomes the lowest symbol, if any, and begins to look up the pairs that this makes.
    #[inline(always)]
    fn join(&mut self, merges: &Merges) -> bool {
        let key = lowest(&self.keys, self.len);
        if key == NO_KEY {
            return false;
        }
        let place = key as usize & PLACE;
        let right = usize::from(self.next[place]) & PLACE;
        let after = usize::from(self.next[right]);
        let becomes = key as u32 >> PLACE_BITS;
        self.symbols[place] = becomes;
        self.keys[right] = NO_KEY;
        self.keys[place] = NO_KEY;
        self.next[place] = after as u8;
        self.joined = place;
        self.previous[after & PLACE] = place as u8;
        let before = usize::from(self.previous[place]) & PLACE;
        self.after = merges.pairs.touch(becomes, self.symbols[after & PLACE]);
        self.before = merges.pairs.touch(self.symbols[before], becomes);
        true
    }

    /// Finds what the pairs become that the last joining made.
    #[inline(always)]
    fn rank_joined(&mut self, merges: &Merges) {
        let place = self.joined & PLACE;
        if usize::from(self.next[place]) < self.len {
            self.set(place, merges.pairs.read(self.after));
        }
        if place > 0 {
            let before = usize::from(self.previous[place]) & PLACE;
            self.set(before, merges.pairs.read(self.before));
        }
    }

    fn take(&self, merges: &Merges, tokens: &mut Vec<u32>) {
        let mut place = 0;
        while place < self.len {
            tokens.push(merges.token(self.symbols[place & PLACE]));
            place = usize::from(self.next[place & PLACE]);
        }
    }
}

/// The lowest of the first `len` keys; those after it are [`NO_KEY`].
#[inline(always)]
fn lowest(keys: &[i32; MAX_SYMBOLS], len: usize) -> i32 {
    let mut lowest = [NO_KEY; KEYS];
    for chunk in &keys.as_chunks::<KEYS>().0[..len.div_ceil(KEYS)] {
        for (lowest, &key) in lowest.iter_mut().zip(chunk) {
            *lowest = (*lowest).min(key);
        }
    }
    lowest.into_iter().fold(NO_KEY, i32::min)
}
