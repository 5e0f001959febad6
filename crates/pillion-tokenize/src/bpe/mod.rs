//! Byte-level BPE, exact against the reference and without a regex engine.
//!
//! A text goes through added tokens, normal form, a scanner for the file's split pattern, and then word by word through
//! a cache, the vocabulary, or the merges. It knows nothing of templates, truncation, padding or threads: the caller
//! adds these. What a file asks for beyond this is a [`Refusal`], never a guess.
#![expect(
    clippy::inline_always,
    clippy::precedence,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::large_types_passed_by_value,
    clippy::large_stack_arrays,
    reason = "bit tricks in loops of a few instructions a word, where a call, a branch or a check would be seen in the bench"
)]
#![expect(
    clippy::struct_excessive_bools,
    clippy::needless_for_each,
    clippy::match_overlapping_arm,
    clippy::match_same_arms,
    reason = "patterns and files are spelled as their authors spell them, case by case"
)]

mod added;
mod alphabet;
mod block;
mod cache;
mod encode;
mod hash;
mod load;
mod long_cache;
mod map;
mod merge;
mod normalize;
mod offsets;
mod pattern;
mod pending;
mod refusal;
mod scan;
mod shared;
mod short_table;
mod simd;
mod sink;
mod table;
#[expect(clippy::unreadable_literal, reason = "a generated table of code points")]
mod table_data;
mod vocab;
mod window;
mod word;
mod words;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use added::AddedTokens;
pub use added::ParseSpecial;
pub use encode::{MAX_TEXT, Scratch, TextTooLong};
use hash::HashKey;
use load::Parts;
use merge::Merges;
use offsets::Trim;
pub use offsets::{Encoded, NoOffsets};
use pattern::Pattern;
pub use refusal::Refusal;
use shared::SharedCache;
use vocab::Vocab;
pub use words::Words;

/// A tokenizer of the byte-level BPE kind, read-only and shared between threads.
pub struct ByteLevelBpe {
    /// Tells a [`Scratch`] whose words it holds; never 0.
    serial: u64,
    vocab: Vocab,
    merges: Merges,
    added: AddedTokens,
    /// What each added token decodes to, by id.
    added_bytes: HashMap<u32, Box<[u8]>>,
    pattern: Pattern,
    prefix_space: bool,
    composes: bool,
    trim: Trim,
    decodes_bytes: bool,
    key: HashKey,
    short: SharedCache,
}

static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

impl ByteLevelBpe {
    /// Builds the tokenizer that a `tokenizer.json` describes. Truncation, padding and the post-processor's tokens are
    /// not its part.
    pub fn from_json(file: &Value) -> Result<Self, Refusal> {
        let parts = Parts::from_json(file)?;
        let added_bytes = parts.added.iter().map(|token| (token.id, load::decoded(token.text()).into()));
        Ok(Self {
            serial: NEXT_SERIAL.fetch_add(1, Ordering::Relaxed),
            added_bytes: added_bytes.collect(),
            short: SharedCache::new(parts.vocab.is_narrow()),
            vocab: parts.vocab,
            merges: parts.merges,
            added: parts.added,
            pattern: parts.pre_tokenizer.pattern,
            prefix_space: parts.pre_tokenizer.prefix_space,
            composes: parts.composes,
            trim: parts.trim,
            decodes_bytes: parts.decodes_bytes,
            key: parts.key,
        })
    }

    /// The number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        let new = self.added.iter().filter(|token| self.vocab.id_of_token(&token.content).is_none());
        self.vocab.len() + new.count()
    }

    /// The id of a token, as the file writes it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.added.id_of(token).or_else(|| self.vocab.id_of_token(token))
    }

    /// The token with this id: an added token as it reads in text, others as the file writes them.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        match self.added.get(id) {
            Some(token) => Some(token.text().to_owned()),
            None => self.vocab.token_of(id),
        }
    }

    /// What the token with this id adds to a decoded text: the bytes that the file's byte-level decoder makes of it.
    /// They may end within a character; what is no UTF-8 in the end reads as U+FFFD.
    #[inline]
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        match self.added_bytes.get(&id) {
            Some(bytes) => Some(bytes),
            None => self.vocab.bytes_of(id),
        }
    }

    /// Whether the file's decoder is the byte-level one, for which [`Self::token_bytes`] is all there is to decoding.
    pub fn decodes_bytes(&self) -> bool {
        self.decodes_bytes
    }

    /// Whether decoding leaves the token out when special tokens are skipped.
    pub fn is_special(&self, id: u32) -> bool {
        self.added.get(id).is_some_and(|token| self.added.is_special(token.text()))
    }

    /// Whether the tokenizer normalizes texts before it looks for words.
    pub fn normalizes(&self) -> bool {
        self.composes
    }
}
