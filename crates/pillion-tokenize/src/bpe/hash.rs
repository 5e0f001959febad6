//! Keyed hashes for the flat tables. A key is drawn per tokenizer, so that no file or text can be made to collide.

use std::hash::{BuildHasher, RandomState};

/// Two random odd numbers.
#[derive(Clone, Copy)]
pub(super) struct HashKey(u64, u64);

impl HashKey {
    pub(super) fn random() -> Self {
        let state = RandomState::new();
        Self(state.hash_one(1_u8) | 1, state.hash_one(2_u8) | 1)
    }

    /// The hash of a number; its high bits are the good ones.
    #[inline(always)]
    pub(super) fn one(self, number: u64) -> u64 {
        fold(number ^ self.1, self.0)
    }

    /// The hash of two numbers; its high bits are the good ones.
    #[inline(always)]
    pub(super) fn pair(self, low: u64, high: u64) -> u64 {
        fold(low ^ self.0, high ^ self.1)
    }

    /// The hash of any bytes.
    #[inline]
    pub(super) fn bytes(self, bytes: &[u8]) -> u64 {
        let (chunks, rest) = bytes.as_chunks::<16>();
        let mut hash = bytes.len() as u64;
        for chunk in chunks {
            let (low, high) = halves(*chunk);
            hash = fold(low ^ self.0 ^ hash, high ^ self.1);
        }
        let mut last = [0; 16];
        last[..rest.len()].copy_from_slice(rest);
        let (low, high) = halves(last);
        fold(low ^ self.0 ^ hash, high ^ self.1)
    }
}

#[inline(always)]
fn halves(chunk: [u8; 16]) -> (u64, u64) {
    let both = u128::from_le_bytes(chunk);
    (both as u64, (both >> 64) as u64)
}

#[inline(always)]
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    product as u64 ^ (product >> 64) as u64
}

/// The place of `hash` in a table of `len` slots.
#[inline(always)]
pub(super) fn slot_of(hash: u64, len: usize) -> usize {
    ((u128::from(hash) * len as u128) >> 64) as usize
}
