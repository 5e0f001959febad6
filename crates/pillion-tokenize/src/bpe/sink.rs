//! Where ids are written.

use super::short_table::Inline;

/// The end of a list of ids, with room written ahead, so that the ids of a word are one store.
pub(super) struct Sink<'a> {
    ids: &'a mut Vec<u32>,
    len: usize,
}

/// Room is written for so many at once.
const AHEAD: usize = 512;

impl<'a> Sink<'a> {
    pub(super) fn new(ids: &'a mut Vec<u32>) -> Self {
        Self { len: ids.len(), ids }
    }

    pub(super) fn finish(self) {
        self.ids.truncate(self.len);
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Makes the list so long, and gives all of it.
    pub(super) fn resize(&mut self, len: usize) -> &mut [u32] {
        if self.ids.len() < len {
            self.ids.resize(len, 0);
        }
        self.len = len;
        &mut self.ids[..len]
    }

    #[inline(always)]
    pub(super) fn push(&mut self, id: u32) {
        self.push_word(([id], 1));
    }

    /// Appends the tokens of each word, until one has none.
    #[inline(always)]
    pub(super) fn push_words<W, const N: usize>(
        &mut self,
        words: &mut impl ExactSizeIterator<Item = W>,
        tokens_of: impl Fn(&W) -> Option<Inline<N>>,
    ) -> Option<W> {
        self.make_room(N * words.len());
        let (ids, mut len) = (&mut self.ids[..], self.len);
        let mut missed = None;
        for word in words {
            let Some((tokens, count)) = tokens_of(&word) else {
                missed = Some(word);
                break;
            };
            if let Some(room) = ids.get_mut(len..len + N) {
                room.copy_from_slice(&tokens);
            }
            len += count;
        }
        self.len = len;
        missed
    }

    /// Appends the tokens of a word.
    #[inline(always)]
    pub(super) fn push_word<const N: usize>(&mut self, (tokens, count): Inline<N>) {
        self.make_room(N);
        if let Some(room) = self.ids.get_mut(self.len..self.len + N) {
            room.copy_from_slice(&tokens);
        }
        self.len += count;
    }

    /// Appends ids as the cache of long words has them.
    #[inline]
    pub(super) fn push_bytes(&mut self, ids: &[[u8; 4]]) {
        let start = self.len;
        for (place, &id) in self.resize(start + ids.len())[start..].iter_mut().zip(ids) {
            *place = u32::from_le_bytes(id);
        }
    }

    #[inline(always)]
    fn make_room(&mut self, more: usize) {
        if self.ids.len() - self.len < more {
            self.lengthen(more);
        }
    }

    #[cold]
    #[inline(never)]
    fn lengthen(&mut self, more: usize) {
        let ahead = AHEAD.min(self.ids.capacity() - self.len);
        self.ids.resize(self.len + more.max(ahead), 0);
    }
}
