//! Which merges can ever happen.
//!
//! When two symbols become a token somewhere in a word, nothing has merged across the token's ends before. So within them all
//! went as it goes for the token's bytes alone, and the last merge there is the only one that ever makes the token. All other
//! merges of a list are dead: vocabularies that were made into merge lists from ranks have more of these than others.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use super::long::{Joined, LongWord, NO_RANK, Pairs};
use super::{BYTES, Merge, NO_BYTE};
use crate::bpe::hash::HashKey;

/// The merges that can happen, in the order of their ranks: of symbols, to tokens. A symbol is a byte, or 256 and the place of a merge.
pub(super) fn reached<'a>(
    byte_ids: [u32; BYTES],
    merges: &[Option<Merge>],
    bytes_of: impl Fn(u32) -> Option<&'a [u8]>,
    key: HashKey,
) -> Vec<Merge> {
    let all = AllPairs::new(merges, key);
    let mut made: Vec<u32> = all.pairs.values().map(|joined| joined.id).collect();
    made.sort_unstable();
    made.dedup();
    let (mut word, mut left_over) = (LongWord::default(), Vec::new());
    let mut last_merge = |token: u32| {
        let bytes = bytes_of(token)?.iter().map(|&byte| byte_ids[usize::from(byte)]);
        if bytes.clone().any(|id| id == NO_BYTE) {
            return None;
        }
        left_over.clear();
        word.encode(&all, bytes, &mut left_over);
        let [left, right] = word.last().filter(|_| left_over == [token])?;
        Some((all.joined(left, right).rank, Merge { left, right, result: token }))
    };
    let mut reached: Vec<(u32, Merge)> = made.into_iter().filter_map(&mut last_merge).collect();
    reached.sort_unstable_by_key(|&(rank, _)| rank);
    let bytes = byte_ids.into_iter().zip(0..).filter(|&(token, _)| token != NO_BYTE);
    let made = reached.iter().map(|(_, merge)| merge.result).zip(BYTES as u32..);
    let symbols: HashMap<u32, u32> = bytes.chain(made).collect();
    let symbol = |token: u32| *symbols.get(&token).expect("what merges was reached before: this is a bug");
    let merges = reached.iter().map(|&(_, Merge { left, right, result })| (symbol(left), symbol(right), result));
    merges.map(|(left, right, result)| Merge { left, right, result }).collect()
}

/// The pairs of a whole list.
struct AllPairs {
    pairs: HashMap<u64, Joined, Keyed>,
}

impl AllPairs {
    fn new(merges: &[Option<Merge>], key: HashKey) -> Self {
        let mut pairs = HashMap::with_capacity_and_hasher(merges.len(), Keyed { key, hash: 0 });
        for (rank, merge) in (0..).zip(merges) {
            if let Some(Merge { left, right, result }) = *merge {
                pairs.insert(Self::pair(left, right), Joined { rank, id: result });
            }
        }
        Self { pairs }
    }

    fn pair(left: u32, right: u32) -> u64 {
        u64::from(left) << 32 | u64::from(right)
    }
}

impl Pairs for AllPairs {
    fn joined(&self, left: u32, right: u32) -> Joined {
        self.pairs.get(&Self::pair(left, right)).copied().unwrap_or(Joined { rank: NO_RANK, id: 0 })
    }
}

/// Hashes one number.
#[derive(Clone, Copy)]
struct Keyed {
    key: HashKey,
    hash: u64,
}

impl BuildHasher for Keyed {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for Keyed {
    fn write(&mut self, bytes: &[u8]) {
        self.hash ^= self.key.bytes(bytes);
    }

    fn write_u64(&mut self, number: u64) {
        self.hash ^= self.key.one(number);
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}
