//! Merging of words of many symbols: a linked list, and a queue of the pairs that may merge.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How a pair merges.
#[derive(Clone, Copy)]
pub(super) struct Joined {
    pub(super) rank: u32,
    /// What the two become.
    pub(super) id: u32,
}

/// The rank of a pair that does not merge: it is above all ranks.
pub(super) const NO_RANK: u32 = u32::MAX;

/// Which pairs merge.
pub(super) trait Pairs {
    fn joined(&self, left: u32, right: u32) -> Joined;
}

/// The room that long words merge in; what it keeps between words is bounded.
///
/// A word of very many symbols merges in chunks that fit into the core's own cache. That is exact: symbols are what merging a word leaves
/// if each two neighbours are what merging these two alone leaves. (The first merge across two of them would be the first one across them
/// when they are alone, too, since until then nothing beside them has changed them.) So a chunk begins a few symbols before the end
/// of what is merged already, and if the first of those stays as it was, all before it does; if not, the chunk begins earlier.
#[derive(Default)]
pub(in crate::bpe) struct LongWord {
    seeds: Vec<u32>,
    merged: Vec<Merged>,
    chunk: Vec<Merged>,
    symbols: Vec<Symbol>,
    queue: Queue,
    last: Option<[u32; 2]>,
}

/// A symbol that is left and the place of its first seed.
#[derive(Clone, Copy)]
struct Merged {
    id: u32,
    start: usize,
}

#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    /// How the symbol merges with the next one.
    joined: Joined,
    previous: u32,
    next: u32,
}

const END: u32 = u32::MAX;
/// Symbols to keep room for after a word.
const MAX_KEPT: usize = 1 << 14;
/// Seeds that a chunk adds.
const CHUNK: usize = if cfg!(test) { 50 } else { 1 << 13 };
/// How many symbols before the end of what is merged a chunk begins, and how many times as many if that was not enough.
const BACK: usize = if cfg!(test) { 2 } else { 8 };
const MORE: usize = 8;

impl LongWord {
    /// The pair that was joined last in the last word, if one symbol is left of it.
    pub(super) fn last(&self) -> Option<[u32; 2]> {
        self.last
    }

    /// Appends what is left of the seeds when all merges are done.
    pub(super) fn encode(&mut self, pairs: &impl Pairs, seeds: impl Iterator<Item = u32>, out: &mut Vec<u32>) {
        self.seeds.clear();
        self.seeds.extend(seeds);
        self.merged.clear();
        self.last = None;
        let mut end = 0;
        while end < self.seeds.len() {
            end = (end + CHUNK).min(self.seeds.len());
            let mut back = BACK;
            while !self.merge_from(self.merged.len().saturating_sub(back), end, pairs) {
                back *= MORE;
            }
        }
        out.extend(self.merged.iter().map(|merged| merged.id));
        self.seeds.shrink_to(MAX_KEPT);
        self.merged.shrink_to(MAX_KEPT);
        self.chunk.shrink_to(MAX_KEPT);
        self.symbols.shrink_to(MAX_KEPT);
        self.queue.shrink();
    }

    /// Merges the seeds up to `end`, those of the merged symbols from the one with this number on once more. If that one does not stay as
    /// it was, gives false, and nothing has changed.
    fn merge_from(&mut self, number: usize, end: usize, pairs: &impl Pairs) -> bool {
        let before = self.merged.get(number).copied();
        let start = before.map_or(0, |merged| merged.start);
        self.symbols.clear();
        self.symbols.extend(self.seeds[start..end].iter().zip(0..).map(|(&id, place): (&u32, u32)| Symbol {
            id,
            joined: Joined { rank: NO_RANK, id: 0 },
            previous: place.wrapping_sub(1),
            next: place + 1,
        }));
        if let Some(last) = self.symbols.last_mut() {
            last.next = END;
        }
        self.queue.clear();
        self.last = Self::merge(&mut self.symbols, pairs, &mut self.queue);
        self.chunk.clear();
        let mut place = 0;
        while let Some(symbol) = self.symbols.get(place as usize) {
            self.chunk.push(Merged { id: symbol.id, start: start + place as usize });
            place = symbol.next;
        }
        let is_same = |before: Merged| self.chunk.first().is_some_and(|first| first.id == before.id);
        if number > 0 && !before.is_some_and(is_same) {
            return false;
        }
        self.merged.truncate(number);
        self.merged.append(&mut self.chunk);
        true
    }

    fn merge(symbols: &mut [Symbol], pairs: &impl Pairs, queue: &mut Queue) -> Option<[u32; 2]> {
        let mut last = None;
        for place in 0..symbols.len() {
            pair(symbols, pairs, place as u32, queue);
        }
        while let Some(key) = queue.pop() {
            let (rank, place) = ((key >> 32) as u32, key as u32);
            let Symbol { id, joined, previous, next } = symbols[place as usize];
            // The pair may have merged with others since.
            if joined.rank != rank {
                continue;
            }
            last = Some([id, symbols[next as usize].id]);
            let after = symbols[next as usize].next;
            symbols[next as usize].joined.rank = NO_RANK;
            symbols[place as usize].id = joined.id;
            symbols[place as usize].next = after;
            if let Some(after) = symbols.get_mut(after as usize) {
                after.previous = place;
            }
            pair(symbols, pairs, place, queue);
            if previous != END {
                pair(symbols, pairs, previous, queue);
            }
        }
        last
    }
}

/// Ranks the pair of the symbol at `place` and the next one, and queues it if it merges.
#[inline(always)]
fn pair(symbols: &mut [Symbol], pairs: &impl Pairs, place: u32, queue: &mut Queue) {
    let Symbol { id, next, .. } = symbols[place as usize];
    let joined = match symbols.get(next as usize) {
        Some(next) => pairs.joined(id, next.id),
        None => Joined { rank: NO_RANK, id },
    };
    symbols[place as usize].joined = joined;
    if joined.rank != NO_RANK {
        queue.push(u64::from(joined.rank) << 32 | u64::from(place));
    }
}

/// A queue of keys, ranks in their high bits, that gives the lowest first. It is a radix heap of ranks: each bucket holds the keys whose
/// rank differs from the lowest one's first in the same bit, so a key moves at most once for each bit of its rank. Keys of one rank,
/// of which a run of one character has many, are sorted by their places when it is their turn.
struct Queue {
    buckets: Vec<Vec<u64>>,
    /// The rank of the keys in the first bucket.
    lowest: u64,
    /// Keys of that rank or a lower one that came later: there are few, since merges seldom rank before those that make their parts.
    late: BinaryHeap<Reverse<u64>>,
}

const RANK_BITS: usize = 32;

impl Default for Queue {
    fn default() -> Self {
        Self { buckets: vec![Vec::new(); RANK_BITS + 1], lowest: 0, late: BinaryHeap::new() }
    }
}

impl Queue {
    fn clear(&mut self) {
        self.buckets.iter_mut().for_each(Vec::clear);
        self.lowest = 0;
        self.late.clear();
    }

    fn shrink(&mut self) {
        self.buckets.iter_mut().for_each(|bucket| bucket.shrink_to(MAX_KEPT / 8));
        self.late.shrink_to(MAX_KEPT);
    }

    #[inline(always)]
    fn bucket(&self, rank: u64) -> usize {
        (u64::BITS - (rank ^ self.lowest).leading_zeros()) as usize
    }

    #[inline(always)]
    fn push(&mut self, key: u64) {
        let rank = key >> RANK_BITS;
        if rank <= self.lowest {
            return self.late.push(Reverse(key));
        }
        let bucket = self.bucket(rank);
        self.buckets[bucket].push(key);
    }

    fn pop(&mut self) -> Option<u64> {
        if let Some(&Reverse(late)) = self.late.peek()
            && self.buckets[0].last().is_none_or(|&key| late < key)
        {
            self.late.pop();
            return Some(late);
        }
        if self.buckets[0].is_empty() {
            let first = self.buckets.iter().position(|bucket| !bucket.is_empty())?;
            let mut moved = std::mem::take(&mut self.buckets[first]);
            self.lowest = moved.iter().copied().min()? >> RANK_BITS;
            for &key in &moved {
                let bucket = self.bucket(key >> RANK_BITS);
                self.buckets[bucket].push(key);
            }
            moved.clear();
            self.buckets[first] = moved;
            self.buckets[0].sort_unstable_by_key(|&key| Reverse(key));
        }
        self.buckets[0].pop()
    }
}
