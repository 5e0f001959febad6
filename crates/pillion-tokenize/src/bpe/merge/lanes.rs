//! Merging of several words at a time, one step of each in turn. A step looks up two pairs, which are seldom in the
//! core's own cache: alone it would wait for them, so the look-ups of all words begin before the first is needed.

use super::{Merges, NO_SYMBOL};
use crate::bpe::simd::{Block, Work};

/// Words that merge at a time.
const LANES: usize = 16;
/// The places of a lane. The last is before the first, and one behind a word's symbols is after them: they hold [`NONE`].
const PLACES: usize = 64;
/// The most symbols of such a word.
const MAX_SYMBOLS: usize = PLACES - 2;
/// A symbol that no pair with it merges.
const NONE: u32 = super::pairs::MAX_SYMBOLS as u32;

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
    #[inline(always)]
    fn merge(&mut self, merges: &Merges) {
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

    /// Appends the symbols of all words to `out`, and gives each word's end there to `each`.
    pub(super) fn take(&self, out: &mut Vec<u32>, each: &mut impl FnMut(usize)) {
        for lane in &self.lanes[..self.used] {
            lane.take(out);
            each(out.len());
        }
    }
}

/// The words of all lanes, on their way to the end.
pub(super) struct Merging<'a> {
    pub(super) lanes: &'a mut Lanes,
    pub(super) merges: &'a Merges,
}

impl Work for Merging<'_> {
    #[inline(always)]
    fn run<B: Block>(self) {
        self.lanes.merge(self.merges);
    }
}

/// One word. Each step takes the lowest of the keys, which hold what a pair becomes and its place, and joins the symbol
/// there with the next one.
struct Lane {
    symbols: [u32; PLACES],
    keys: [i32; PLACES],
    next: [u8; PLACES],
    previous: [u8; PLACES],
    len: usize,
    /// The slots of all pairs, before they have their keys.
    slots: [u32; PLACES],
    /// The place that was joined last, and the slots of the pairs with the symbols before and after it.
    joined: usize,
    before: u32,
    after: u32,
    /// Whether all pairs have their keys.
    ranked: bool,
}

const PLACE_BITS: u32 = PLACES.trailing_zeros();
const PLACE: usize = PLACES - 1;
const NO_KEY: i32 = i32::MAX;
/// Keys that are always looked at.
const SHORT: usize = 16;
/// The place after each, and the place before it.
const NEXT: [u8; PLACES] = places(1);
const PREVIOUS: [u8; PLACES] = places(u8::MAX);

const fn places(difference: u8) -> [u8; PLACES] {
    let mut places = [0; PLACES];
    let mut place = 0;
    while place < PLACES {
        places[place] = (place as u8).wrapping_add(difference);
        place += 1;
    }
    places
}

impl Lane {
    fn new() -> Self {
        Self {
            symbols: [NONE; PLACES],
            keys: [NO_KEY; PLACES],
            next: NEXT,
            previous: PREVIOUS,
            len: 0,
            slots: [0; PLACES],
            joined: 0,
            before: 0,
            after: 0,
            ranked: false,
        }
    }

    fn fill(&mut self, merges: &Merges, word: &[u8]) -> bool {
        self.keys = [NO_KEY; PLACES];
        self.next = NEXT;
        self.previous = PREVIOUS;
        if word.is_ascii() && !merges.loses_from(word) {
            return self.fill_ascii(merges, word);
        }
        self.len = 0;
        self.ranked = false;
        for seed in merges.seeds(word) {
            if self.len >= MAX_SYMBOLS {
                return false;
            }
            self.symbols[self.len & PLACE] = seed.symbols[0];
            self.symbols[(self.len + 1) & PLACE] = seed.symbols[1];
            self.len += seed.len;
        }
        if self.len > MAX_SYMBOLS {
            return false;
        }
        self.end();
        for (slot, pair) in self.slots.iter_mut().zip(self.symbols[..self.len].windows(2)) {
            *slot = merges.pairs.touch(pair[0], pair[1]);
        }
        true
    }

    /// Fills the lane with bytes, of which the pairs are in a table of their own.
    fn fill_ascii(&mut self, merges: &Merges, word: &[u8]) -> bool {
        if word.len() > MAX_SYMBOLS {
            return false;
        }
        self.len = word.len();
        for (symbol, &byte) in self.symbols.iter_mut().zip(word) {
            *symbol = u32::from(byte);
        }
        self.end();
        for (place, pair) in word.windows(2).enumerate() {
            self.set(place & PLACE, merges.byte_pairs[usize::from(pair[0]) << 8 | usize::from(pair[1])]);
        }
        self.ranked = true;
        true
    }

    fn end(&mut self) {
        self.symbols[self.len & PLACE] = NONE;
        self.symbols[PLACES - 1] = NONE;
    }

    /// Finds what all pairs become, where that is still to do.
    #[inline(always)]
    fn rank(&mut self, merges: &Merges) {
        if self.ranked {
            return;
        }
        for place in 0..self.len.saturating_sub(1) {
            let place = place & PLACE;
            let [left, right] = [self.symbols[place], self.symbols[(place + 1) & PLACE]];
            self.set(place, merges.pairs.read(self.slots[place], left, right));
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
        // Where there is nothing before or after, a pair with NONE is looked up too: a branch would be foretold wrong too often.
        let [before, next] = [self.previous[place], self.next[place]].map(|place| usize::from(place) & PLACE);
        let symbol = self.symbols[place];
        self.set(place, merges.pairs.read(self.after, symbol, self.symbols[next]));
        self.set(before, merges.pairs.read(self.before, self.symbols[before], symbol));
    }

    fn take(&self, out: &mut Vec<u32>) {
        let mut place = 0;
        while place < self.len {
            out.push(self.symbols[place & PLACE]);
            place = usize::from(self.next[place & PLACE]);
        }
    }
}

/// The lowest of the first `len` keys; those after it are [`NO_KEY`].
#[inline(always)]
fn lowest(keys: &[i32; PLACES], len: usize) -> i32 {
    // Most words are short: how many keys they have is not worth a branch.
    let (short, rest) = keys.split_first_chunk::<SHORT>().unwrap_or((&[NO_KEY; SHORT], &[]));
    let mut lowest = *short;
    if len > SHORT {
        for chunk in &rest.as_chunks::<SHORT>().0[..(len - 1) / SHORT] {
            for (lowest, &key) in lowest.iter_mut().zip(chunk) {
                *lowest = (*lowest).min(key);
            }
        }
    }
    lowest.into_iter().fold(NO_KEY, i32::min)
}
