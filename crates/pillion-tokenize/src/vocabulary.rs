//! Which token text belongs to which id, and which ids are special. Flat, and safe against files whose ids are far apart.

use std::collections::{HashMap, HashSet};

/// An id that a token text was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenEntry {
    /// The id.
    pub id: u32,
    /// The text as the decoder wants it: for byte-level vocabularies in their own alphabet.
    pub text: String,
    /// Whether the file calls it special.
    pub special: bool,
}

#[derive(Clone, Copy)]
struct Span {
    start: u32,
    len: u32,
}

const ABSENT: Span = Span { start: 0, len: u32::MAX };

/// Token texts by id.
pub(crate) struct Vocabulary {
    texts: String,
    /// Ids from 0 on, holes included.
    dense: Vec<Span>,
    /// Ids so far beyond the number of tokens that a table would be mostly holes.
    sparse: HashMap<u32, Span>,
    special: Vec<u32>,
    special_set: HashSet<u32>,
    len: usize,
    bound: u64,
}

impl Vocabulary {
    /// Gathers entries; of two with one id the later wins.
    pub(crate) fn new(entries: impl IntoIterator<Item = TokenEntry>) -> Self {
        let mut entries: Vec<TokenEntry> = entries.into_iter().collect();
        // Stable, so that of equal ids the one that came last stays last.
        entries.sort_by_key(|e| e.id);
        let dense_bound = entries.len() as u64 * 4 + 1024;
        let mut out = Self {
            texts: String::with_capacity(entries.iter().map(|e| e.text.len()).sum()),
            dense: Vec::new(),
            sparse: HashMap::new(),
            special: Vec::new(),
            special_set: HashSet::new(),
            len: 0,
            bound: 0,
        };
        for (at, entry) in entries.iter().enumerate() {
            if entries.get(at + 1).is_some_and(|next| next.id == entry.id) {
                continue;
            }
            let span = Span { start: out.texts.len() as u32, len: entry.text.len() as u32 };
            out.texts.push_str(&entry.text);
            if u64::from(entry.id) < dense_bound {
                out.dense.resize(entry.id as usize + 1, ABSENT);
                out.dense[entry.id as usize] = span;
            } else {
                out.sparse.insert(entry.id, span);
            }
            if entry.special {
                out.special.push(entry.id);
                out.special_set.insert(entry.id);
            }
            out.len += 1;
            out.bound = u64::from(entry.id) + 1;
        }
        out
    }

    /// The token text of an id.
    pub(crate) fn text(&self, id: u32) -> Option<&str> {
        let span = match self.dense.get(id as usize) {
            Some(span) => *span,
            None => *self.sparse.get(&id)?,
        };
        if span.len == u32::MAX {
            return None;
        }
        Some(&self.texts[span.start as usize..][..span.len as usize])
    }

    /// Whether the file calls the token special.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.special_set.contains(&id)
    }

    /// The special ids, ascending.
    pub(crate) fn special_ids(&self) -> &[u32] {
        &self.special
    }

    /// How many ids have a token.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One more than the largest id.
    pub(crate) fn id_bound(&self) -> u64 {
        self.bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u32, text: &str, special: bool) -> TokenEntry {
        TokenEntry { id, text: text.into(), special }
    }

    #[test]
    fn holes_and_far_ids_cost_no_table() {
        let v = Vocabulary::new([
            entry(u32::MAX, "far", true),
            entry(0, "a", false),
            entry(7, "", false),
            entry(1 << 31, "half", false),
            entry(0, "b", false),
        ]);
        assert_eq!(v.text(0), Some("b"), "the later of two");
        assert_eq!(v.text(7), Some(""));
        assert_eq!(v.text(3), None);
        assert_eq!(v.text(u32::MAX), Some("far"));
        assert_eq!(v.text(u32::MAX - 1), None);
        assert_eq!(v.len(), 4);
        assert_eq!(v.id_bound(), 1 << 32);
        assert_eq!(v.special_ids(), [u32::MAX]);
        assert!(v.is_special(u32::MAX) && !v.is_special(0));
        assert!(v.dense.len() < 5000);
    }
}
