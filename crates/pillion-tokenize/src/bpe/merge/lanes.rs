//! Merging of several words at a time, one step of each in turn. A step looks up two pairs, which are seldom in the
//! core's own cache: alone it would wait for them, so the look-ups of all words begin before the first is needed.

use super::{Joined, Merges, NO_RANK};

/// Words that merge at a time.
const LANES: usize = 8;
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
    pub(super) fn take(&self, tokens: &mut Vec<u32>, each: &mut impl FnMut(&[u32])) {
        for lane in &self.lanes[..self.used] {
            tokens.clear();
            lane.take(tokens);
            each(tokens);
        }
    }
}

/// One word. Each step takes the lowest of the keys, which hold rank and place, and joins the symbol there with the
/// next one.
struct Lane {
    ids: [u32; MAX_SYMBOLS],
    keys: [i32; MAX_SYMBOLS],
    /// What each symbol and the next one become, looked up early.
    results: [u32; MAX_SYMBOLS],
    next: [u8; MAX_SYMBOLS],
    previous: [u8; MAX_SYMBOLS],
    len: usize,
    /// The place that was joined last.
    joined: usize,
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
        let ids = [0; MAX_SYMBOLS];
        Self {
            ids,
            keys: [NO_KEY; MAX_SYMBOLS],
            results: ids,
            next: NEXT,
            previous: PREVIOUS,
            len: 0,
            joined: 0,
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
        for id in merges.seeds(word) {
            let Some(room) = self.ids.get_mut(self.len) else { return false };
            *room = id;
            self.len += 1;
        }
        for pair in self.ids[..self.len].windows(2) {
            merges.pairs.touch(pair[0], pair[1]);
        }
        true
    }

    /// Fills the lane with bytes, of which the ranks are in a table of their own.
    fn fill_ascii(&mut self, merges: &Merges, word: &[u8]) -> bool {
        self.len = word.len();
        let Some(ids) = self.ids.get_mut(..word.len()) else { return false };
        for (id, &byte) in ids.iter_mut().zip(word) {
            *id = merges.byte_id(byte);
        }
        for (place, pair) in word.windows(2).enumerate() {
            self.set(place & PLACE, merges.byte_pairs[usize::from(pair[0]) << 8 | usize::from(pair[1])]);
        }
        self.ranked = true;
        true
    }

    /// Ranks all pairs, where that is still to do.
    fn rank(&mut self, merges: &Merges) {
        if self.ranked {
            return;
        }
        for place in 0..self.len.saturating_sub(1) {
            let joined = merges.pairs.get(self.ids[place & PLACE], self.ids[(place + 1) & PLACE]);
            self.set(place & PLACE, joined);
        }
    }

    #[inline(always)]
    fn set(&mut self, place: usize, joined: Joined) {
        let key = (joined.rank << PLACE_BITS) as i32 | place as i32;
        self.keys[place] = if joined.rank == NO_RANK { NO_KEY } else { key };
        self.results[place] = joined.id;
    }

    /// Joins the pair of the lowest rank, if any, and begins to look up the pairs that it makes.
    #[inline(always)]
    fn join(&mut self, merges: &Merges) -> bool {
        let key = lowest(&self.keys, self.len);
        if key == NO_KEY {
            return false;
        }
        let place = key as usize & PLACE;
        let right = usize::from(self.next[place]) & PLACE;
        let after = usize::from(self.next[right]);
        let result = self.results[place];
        self.ids[place] = result;
        self.keys[right] = NO_KEY;
        self.keys[place] = NO_KEY;
        self.next[place] = after as u8;
        self.joined = place;
        self.previous[after & PLACE] = place as u8;
        let before = usize::from(self.previous[place]) & PLACE;
        merges.pairs.touch(result, self.ids[after & PLACE]);
        merges.pairs.touch(self.ids[before], result);
        true
    }

    /// Ranks the pairs that the last joining made.
    #[inline(always)]
    fn rank_joined(&mut self, merges: &Merges) {
        let place = self.joined & PLACE;
        let id = self.ids[place];
        let after = usize::from(self.next[place]);
        if after < self.len {
            self.set(place, merges.pairs.get(id, self.ids[after & PLACE]));
        }
        if place > 0 {
            let before = usize::from(self.previous[place]) & PLACE;
            self.set(before, merges.pairs.get(self.ids[before], id));
        }
    }

    fn take(&self, tokens: &mut Vec<u32>) {
        let mut place = 0;
        while place < self.len {
            tokens.push(self.ids[place & PLACE]);
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
