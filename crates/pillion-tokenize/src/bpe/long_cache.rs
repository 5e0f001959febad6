//! The bounded cache of longer words, each thread's own.

use super::hash::slot_of;
use super::simd::prefetch;

/// Where a long word stands in the ring, counted from the first byte ever written.
#[derive(Clone, Copy)]
struct Place {
    start: u64,
    tag: u32,
    len: u16,
    tokens: u16,
}

const NOWHERE: Place = Place { start: 0, tag: 0, len: 0, tokens: 0 };

/// Places that the same hashes may stand in, one cache line, the newest first.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Places([Place; 4]);

/// Longer words, in a ring of bytes: each word, then its tokens. New ones overwrite the oldest. The first are forgotten when there is much
/// text, so that a little needs little memory.
pub(super) struct LongCache {
    /// Not in large pages: each thread has some, and a large one that is new can take long to get.
    places: Vec<Places>,
    ring: Vec<u8>,
    written: u64,
}

/// The longest word that [`LongCache`] keeps.
pub(super) const MAX_LONG: usize = 128;
const PLACES: usize = 1 << 14;
const FIRST_PLACES: usize = 1 << 9;
/// When so much is written to the ring, there are all places.
const MUCH: u64 = 1 << 16;
const RING: usize = 1 << 22;
const ID_BYTES: usize = 4;

impl LongCache {
    pub(super) fn new() -> Self {
        Self { places: Vec::new(), ring: Vec::new(), written: 0 }
    }

    /// Begins to bring near what [`Self::get`] reads first.
    #[inline(always)]
    pub(super) fn touch(&self, hash: u64) {
        prefetch(&self.places, slot_of(hash, self.places.len()));
    }

    /// The tokens of the word, each of four bytes.
    #[inline]
    pub(super) fn get(&self, word: &[u8], hash: u64) -> Option<&[[u8; ID_BYTES]]> {
        if self.places.is_empty() {
            return None;
        }
        let Places(places) = &self.places[slot_of(hash, self.places.len())];
        places.iter().filter(|place| place.tag == hash as u32).find_map(|place| self.tokens_at(place, word))
    }

    /// The tokens of the word, if it stands there.
    #[inline]
    fn tokens_at(&self, place: &Place, word: &[u8]) -> Option<&[[u8; ID_BYTES]]> {
        if usize::from(place.len) != word.len() || self.written - place.start > RING as u64 {
            return None;
        }
        let start = (place.start % RING as u64) as usize;
        let (bytes, rest) = self.ring.get(start..)?.split_at_checked(word.len())?;
        (bytes == word).then(|| rest.as_chunks().0.get(..usize::from(place.tokens)))?
    }

    /// Keeps the word, which is of 1 to [`MAX_LONG`] bytes.
    pub(super) fn insert(&mut self, word: &[u8], hash: u64, tokens: &[u32]) {
        let num_places = if self.written < MUCH { FIRST_PLACES } else { PLACES };
        if self.places.len() < num_places {
            self.places = vec![Places([NOWHERE; 4]); num_places];
        }
        let size = word.len() + ID_BYTES * tokens.len();
        let mut start = (self.written % RING as u64) as usize;
        if start + size > RING {
            self.written += (RING - start) as u64;
            start = 0;
        }
        if self.ring.len() < start + size {
            self.ring.resize(start + size, 0);
        }
        let (bytes, ids) = self.ring[start..start + size].split_at_mut(word.len());
        bytes.copy_from_slice(word);
        for (chunk, id) in ids.as_chunks_mut::<ID_BYTES>().0.iter_mut().zip(tokens) {
            *chunk = id.to_le_bytes();
        }
        let place =
            Place { start: self.written, tag: hash as u32, len: word.len() as u16, tokens: tokens.len() as u16 };
        self.written += size as u64;
        let at = slot_of(hash, self.places.len());
        let Places(places) = &mut self.places[at];
        places.rotate_right(1);
        places[0] = place;
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash::HashKey;
    use super::*;

    #[test]
    fn equal_hashes_do_not_confuse_words() {
        let mut cache = LongCache::new();
        cache.insert(&[1; 20], 5, &[1]);
        assert_eq!(cache.get(&[1; 20], 5), Some(&[[1, 0, 0, 0]][..]));
        assert_eq!(cache.get(&[2; 20], 5), None);
        for byte in 2..=5 {
            cache.insert(&[byte; 20], 5, &[u32::from(byte)]);
        }
        let tokens = |byte| cache.get(&[byte; 20], 5).map(|ids| ids[0][0]);
        assert_eq!([1, 2, 3, 4, 5].map(tokens), [None, Some(2), Some(3), Some(4), Some(5)]);
    }

    #[test]
    fn a_long_word_stays_until_the_ring_comes_round() {
        let hashes = HashKey::random();
        let mut cache = LongCache::new();
        let word = |number: u32| number.to_le_bytes().repeat(4 + number as usize % 20);
        for number in 0..200_000 {
            let word = word(number);
            cache.insert(&word, hashes.bytes(&word), &[number, number + 1]);
        }
        assert!(cache.ring.len() <= RING);
        let mut found = 0;
        for number in 0..240_000 {
            let word = word(number);
            if let Some(tokens) = cache.get(&word, hashes.bytes(&word)) {
                assert_eq!(tokens, [number.to_le_bytes(), (number + 1).to_le_bytes()]);
                found += 1;
            }
        }
        assert!((3_000..4 * PLACES).contains(&found), "{found}");
    }
}
