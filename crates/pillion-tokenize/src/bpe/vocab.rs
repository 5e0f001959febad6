//! The model's vocabulary: tokens as bytes, found by their bytes or by their id. Knows nothing of merges.

use std::collections::HashMap;

use super::Refusal;
use super::alphabet;
use super::hash::{HashKey, slot_of};
use super::map::Table;
use super::short_table::NARROW_IDS;
use super::simd::prefetch;
use super::word::{MAX_SHORT, ShortKey};

/// Ids must be below this: the tables by id are that long at most.
pub(super) const MAX_ID: u32 = 1 << 24;
const NO_ENTRY: u32 = u32::MAX;
/// Set in an index's value if the token is what the engine gives for its own bytes.
const WHOLE: u32 = 1 << 31;

#[derive(Clone, Copy)]
struct Entry {
    start: u32,
    len: u32,
    /// A character of the token stands for no byte: no text can lead to it, and its bytes are its UTF-8.
    raw: bool,
}

pub(super) struct Vocab {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    entry_of: Vec<u32>,
    raw: HashMap<String, u32>,
    short: ShortIndex,
    long: LongIndex,
}

impl Vocab {
    pub(super) fn new(tokens: &[(&str, u32)], key: HashKey) -> Result<Self, Refusal> {
        const VOCAB: &str = "model.vocab";
        let max = tokens.iter().map(|&(_, id)| id).max().unwrap_or_default();
        if max >= MAX_ID {
            return Err(Refusal::new(VOCAB, format!("id {max} is not below {MAX_ID}")));
        }
        let mut vocab = Self {
            bytes: Vec::new(),
            entries: Vec::with_capacity(tokens.len()),
            entry_of: vec![NO_ENTRY; max as usize + 1],
            raw: HashMap::new(),
            short: ShortIndex::new(tokens.len(), key),
            long: LongIndex::new(tokens.iter().filter(|(token, _)| token.len() > MAX_SHORT).count(), key),
        };
        for &(token, id) in tokens {
            if vocab.entry_of[id as usize] != NO_ENTRY {
                return Err(Refusal::new(VOCAB, format!("two tokens have id {id}")));
            }
            vocab.insert(token, id);
        }
        if u32::try_from(vocab.bytes.len()).is_err() {
            return Err(Refusal::new(VOCAB, "more than 4 GiB of tokens"));
        }
        Ok(vocab)
    }

    fn insert(&mut self, token: &str, id: u32) {
        let known = alphabet::to_bytes(token).filter(|bytes| !bytes.is_empty());
        let bytes = known.as_deref().unwrap_or(token.as_bytes());
        let entry = Entry { start: self.bytes.len() as u32, len: bytes.len() as u32, raw: known.is_none() };
        self.bytes.extend_from_slice(bytes);
        self.entry_of[id as usize] = self.entries.len() as u32;
        self.entries.push(entry);
        match known {
            None => {
                self.raw.insert(token.to_owned(), id);
            }
            Some(bytes) if bytes.len() <= MAX_SHORT => self.short.insert(ShortKey::new(&bytes, 0, bytes.len()), id),
            Some(bytes) => self.long.insert(&bytes, id),
        }
    }

    /// The number of tokens, which is not the highest id plus one where ids have holes.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        (0..self.entry_of.len() as u32).filter(|&id| self.entry_of[id as usize] != NO_ENTRY)
    }

    fn entry(&self, id: u32) -> Option<Entry> {
        let entry = *self.entry_of.get(id as usize)?;
        self.entries.get(entry as usize).copied()
    }

    /// What the token decodes to.
    #[inline]
    pub(super) fn bytes_of(&self, id: u32) -> Option<&[u8]> {
        let Entry { start, len, .. } = self.entry(id)?;
        self.bytes.get(start as usize..start as usize + len as usize)
    }

    /// What the token decodes to, if text can lead to it.
    pub(super) fn known_bytes_of(&self, id: u32) -> Option<&[u8]> {
        self.entry(id).filter(|entry| !entry.raw).and_then(|_| self.bytes_of(id))
    }

    /// The token as the file writes it.
    pub(super) fn token_of(&self, id: u32) -> Option<String> {
        let (entry, bytes) = (self.entry(id)?, self.bytes_of(id)?);
        Some(if entry.raw { String::from_utf8_lossy(bytes).into_owned() } else { alphabet::to_token(bytes) })
    }

    /// The id of a token as the file writes it.
    pub(super) fn id_of_token(&self, token: &str) -> Option<u32> {
        match alphabet::to_bytes(token).filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => self.id_of(&bytes),
            None => self.raw.get(token).copied(),
        }
    }

    /// The id of the token for `bytes`, if text can lead to it.
    pub(super) fn id_of(&self, bytes: &[u8]) -> Option<u32> {
        let value = match bytes.len() {
            0 => None,
            1..=MAX_SHORT => {
                let key = ShortKey::new(bytes, 0, bytes.len());
                self.short.get(key, self.hash(key))
            }
            _ => self.long_value(bytes),
        };
        value.map(|value| value & !WHOLE)
    }

    fn long_value(&self, bytes: &[u8]) -> Option<u32> {
        self.long.get(bytes, self.long.key.bytes(bytes), |id| self.bytes_of(id))
    }

    /// Marks the token as what the engine gives for its own bytes.
    pub(super) fn set_whole(&mut self, id: u32) {
        let Some(bytes) = self.known_bytes_of(id).map(<[u8]>::to_vec) else { return };
        if bytes.len() <= MAX_SHORT {
            self.short.set_whole(ShortKey::new(&bytes, 0, bytes.len()));
        } else {
            self.long.set_whole(self.long.key.bytes(&bytes), id);
        }
    }

    /// The token for a short word, whose hash this is, if the engine gives it for the word.
    #[inline]
    pub(super) fn whole_short(&self, key: ShortKey, hash: u64) -> Option<u32> {
        self.short.get(key, hash).filter(|value| value & WHOLE != 0).map(|value| value & !WHOLE)
    }

    /// The hash of a short word.
    pub(super) fn hash(&self, key: ShortKey) -> u64 {
        self.short.hash(key)
    }

    /// The short words for which the engine gives one token.
    pub(super) fn short_words(&self) -> impl Iterator<Item = (ShortKey, u32)> {
        let whole = |slot: &&ShortSlot| slot.key.high != 0 && slot.value & WHOLE != 0;
        self.short.slots.iter().filter(whole).map(|slot| (slot.key, slot.value & !WHOLE))
    }

    /// Whether all ids are below [`NARROW_IDS`].
    pub(super) fn is_narrow(&self) -> bool {
        self.entry_of.len() <= NARROW_IDS
    }

    /// Begins to bring what [`Self::whole_short`] reads near, given the hash of the word's key.
    #[inline(always)]
    pub(super) fn touch_short(&self, hash: u64) {
        prefetch(&self.short.tags, slot_of(hash, self.short.tags.len()));
    }

    /// The token for a word that is not short, if the engine gives it for the word, whose hash this is.
    pub(super) fn whole_long(&self, word: &[u8], hash: u64) -> Option<u32> {
        self.long.get(word, hash, |id| self.bytes_of(id)).filter(|value| value & WHOLE != 0).map(|value| value & !WHOLE)
    }
}

#[derive(Clone, Copy)]
struct ShortSlot {
    key: ShortKey,
    value: u32,
}

/// Short tokens with their bytes in the table itself. Most words that are looked up are no tokens, which the tags tell, a byte
/// for each slot: these stay in the core's own cache.
struct ShortIndex {
    slots: Table<ShortSlot>,
    tags: Table<u8>,
    key: HashKey,
}

const NO_TAG: u8 = 0;

impl ShortIndex {
    fn new(tokens: usize, key: HashKey) -> Self {
        let empty = ShortSlot { key: ShortKey { low: 0, high: 0 }, value: 0 };
        let len = tokens + tokens / 2 + 1;
        Self { slots: Table::new(empty, len), tags: Table::new(NO_TAG, len), key }
    }

    /// The slot of `key`, or the empty one where it would be: there are more slots than tokens.
    #[inline]
    fn find(&self, key: ShortKey, hash: u64) -> Result<usize, usize> {
        let mut at = slot_of(hash, self.slots.len());
        loop {
            match self.tags[at] {
                NO_TAG => return Err(at),
                tag if tag == Self::tag(hash) && self.slots[at].key == key => return Ok(at),
                _ => at += 1,
            }
            if at == self.slots.len() {
                at = 0;
            }
        }
    }

    /// The low bits of a hash, which say little about the slot.
    #[inline(always)]
    fn tag(hash: u64) -> u8 {
        hash as u8 | 1
    }

    fn hash(&self, key: ShortKey) -> u64 {
        self.key.pair(key.low, key.high)
    }

    #[inline]
    fn get(&self, key: ShortKey, hash: u64) -> Option<u32> {
        self.find(key, hash).ok().map(|at| self.slots[at].value)
    }

    fn insert(&mut self, key: ShortKey, id: u32) {
        let hash = self.hash(key);
        let (Ok(at) | Err(at)) = self.find(key, hash);
        self.slots[at] = ShortSlot { key, value: id };
        self.tags[at] = Self::tag(hash);
    }

    fn set_whole(&mut self, key: ShortKey) {
        if let Ok(at) = self.find(key, self.hash(key)) {
            self.slots[at].value |= WHOLE;
        }
    }
}

#[derive(Clone, Copy)]
struct LongSlot {
    tag: u32,
    value: u32,
}

const NO_VALUE: u32 = u32::MAX;

/// Long tokens: a part of the hash in the table, the bytes elsewhere.
struct LongIndex {
    slots: Vec<LongSlot>,
    key: HashKey,
}

impl LongIndex {
    fn new(tokens: usize, key: HashKey) -> Self {
        Self { slots: vec![LongSlot { tag: 0, value: NO_VALUE }; tokens + tokens / 2 + 1], key }
    }

    #[inline]
    fn get<'a>(&self, bytes: &[u8], hash: u64, bytes_of: impl Fn(u32) -> Option<&'a [u8]>) -> Option<u32> {
        self.probe(hash).map(|at| self.slots[at].value).find(|value| bytes_of(value & !WHOLE) == Some(bytes))
    }

    /// The occupied slots that `hash` may stand in.
    #[inline]
    fn probe(&self, hash: u64) -> impl Iterator<Item = usize> {
        let len = self.slots.len();
        let first = slot_of(hash, len);
        (first..len)
            .chain(0..first)
            .take_while(|&at| self.slots[at].value != NO_VALUE)
            .filter(move |&at| self.slots[at].tag == hash as u32)
    }

    fn insert(&mut self, bytes: &[u8], id: u32) {
        let hash = self.key.bytes(bytes);
        let len = self.slots.len();
        let first = slot_of(hash, len);
        let free = (first..len).chain(0..first).find(|&at| self.slots[at].value == NO_VALUE);
        let free = free.expect("more slots than long tokens: this is a bug");
        self.slots[free] = LongSlot { tag: hash as u32, value: id };
    }

    fn set_whole(&mut self, hash: u64, id: u32) {
        let found = self.probe(hash).find(|&at| self.slots[at].value == id);
        if let Some(at) = found {
            self.slots[at].value |= WHOLE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocab(tokens: &[(&str, u32)]) -> Result<Vocab, Refusal> {
        Vocab::new(tokens, HashKey::random())
    }

    #[test]
    fn tokens_are_found_by_bytes_by_text_and_by_id() {
        let tokens = [
            ("a", 7),
            ("Ġa", 0),
            ("Ã©", 3),
            ("Ġabcdefghijklmno", 5),
            ("<|end of text|>", 9),
            ("", 4),
            ("ĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠ", 12),
        ];
        let vocab = vocab(&tokens).unwrap();
        for (token, id) in tokens {
            assert_eq!(vocab.id_of_token(token), Some(id), "{token}");
            assert_eq!(vocab.token_of(id).as_deref(), Some(token));
        }
        assert_eq!(vocab.len(), 7);
        assert_eq!(vocab.ids().collect::<Vec<_>>(), [0, 3, 4, 5, 7, 9, 12]);
        assert_eq!(vocab.id_of(b" a"), Some(0));
        assert_eq!(vocab.id_of("é".as_bytes()), Some(3));
        assert_eq!(vocab.id_of(b" abcdefghijklmno"), Some(5));
        assert_eq!(vocab.id_of(b" abcdefghijklmnp"), None);
        assert_eq!(vocab.id_of(b"<|end of text|>"), None, "no text leads to a raw token");
        assert_eq!(vocab.bytes_of(9), Some(&b"<|end of text|>"[..]));
        assert_eq!(vocab.bytes_of(8), None);
        assert_eq!(vocab.bytes_of(u32::MAX), None);
        assert_eq!(vocab.id_of(b""), None);
    }

    #[test]
    fn whole_tokens_are_marked_one_by_one() {
        let mut vocab = vocab(&[("a", 1), ("ab", 2), ("abcdefghijklmnop", 3), ("abcdefghijklmnoq", 4)]).unwrap();
        vocab.set_whole(2);
        vocab.set_whole(4);
        let short = |word: &[u8]| {
            let key = ShortKey::new(word, 0, word.len());
            vocab.whole_short(key, vocab.hash(key))
        };
        assert_eq!((short(b"a"), short(b"ab"), short(b"b")), (None, Some(2), None));
        let long = |word: &[u8]| vocab.whole_long(word, vocab.long.key.bytes(word));
        assert_eq!(long(b"abcdefghijklmnop"), None);
        assert_eq!(long(b"abcdefghijklmnoq"), Some(4));
        let words: Vec<_> = vocab.short_words().collect();
        assert_eq!(words, [(ShortKey::new(b"ab", 0, 2), 2)]);
        assert_eq!(vocab.id_of(b"abcdefghijklmnoq"), Some(4));
    }

    #[test]
    fn odd_ids_are_refused() {
        assert_eq!(vocab(&[("a", 1), ("b", 1)]).err().unwrap().to_string(), "model.vocab: two tokens have id 1");
        for id in [MAX_ID, 1 << 31, u32::MAX] {
            assert_eq!(vocab(&[("a", id)]).err().unwrap().component(), "model.vocab");
        }
        assert!(vocab(&[]).is_ok_and(|vocab| vocab.id_of(b"a").is_none() && vocab.id_of(&[b'a'; 40]).is_none()));
    }
}
