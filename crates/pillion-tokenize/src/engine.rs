//! The seam behind which one engine or another turns text into ids.
//!
//! An engine does what a file's normalizer, pre-tokenizer, added tokens and model say, for one text. What comes after it
//! (special tokens around the text, truncation, columns, batches, decoding) is the same for all engines and lies elsewhere.

mod byte;
mod byte_level_bpe;
mod diagnosis;
mod reference;
mod reference_pattern;
mod seams;

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{error::TokenizeError, vocabulary::TokenEntry};

pub use byte::{ByteEngine, END_OF_TEXT};
pub use byte_level_bpe::ByteLevelBpeEngine;
pub use reference::ReferenceEngine;

/// Turns the text of one sequence into ids. Shared between threads and never changed.
pub trait TokenizerEngine: Send + Sync {
    /// Which engine this is.
    fn info(&self) -> &EngineInfo;

    /// Appends the ids of `text`.
    fn encode_ids(&self, text: &str, call: EncodeCall<'_>, out: &mut Vec<u32>) -> Result<(), TokenizeError>;

    /// Appends the ids of `text` together with where each came from.
    fn encode_tokens(&self, text: &str, call: EncodeCall<'_>, out: &mut Tokens) -> Result<(), TokenizeError>;

    /// The id that the file gives to a token text.
    fn token_to_id(&self, token: &str) -> Option<u32>;

    /// About how many bytes of memory one token takes, all tables counted.
    fn bytes_per_token(&self) -> usize;

    /// Every id with its token text, in any order. Called once.
    fn vocabulary(&self) -> Vec<TokenEntry>;
}

/// What a call asks of an engine besides its text.
#[derive(Clone, Copy, Debug)]
pub struct EncodeCall<'a> {
    /// Which special tokens are recognised.
    pub special: &'a SpecialTokens,
    /// Ends the call soon after it becomes true, in the middle of a text too.
    pub cancel: Option<&'a AtomicBool>,
}

impl EncodeCall<'_> {
    /// An error once the call was taken back. Cheap enough for every word.
    pub fn check(&self) -> Result<(), TokenizeError> {
        match self.cancel {
            Some(cancel) if cancel.load(Ordering::Relaxed) => Err(TokenizeError::Cancelled { done: 0, total: 1 }),
            _ => Ok(()),
        }
    }
}

/// Which engine runs, and why that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    /// `pillion` for our own engines, `tokenizers` for the reference.
    pub name: &'static str,
    /// Why a file runs on the reference.
    pub reason: Option<String>,
}

/// Which special tokens are recognised in a text, resolved to ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// None.
    None,
    /// All.
    All,
    /// These.
    Only(HashSet<u32>),
}

impl SpecialTokens {
    /// Whether the special token with this id is recognised.
    pub fn allows(&self, id: u32) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Only(ids) => ids.contains(&id),
        }
    }
}

/// The tokens of one text, one entry per token in every field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Ids.
    pub ids: Vec<u32>,
    /// Start and end in the text, in UTF-8 bytes.
    pub offsets: Vec<(u32, u32)>,
    /// Which pre-token it came from, counted from 0.
    pub words: Vec<u32>,
    /// How many characters of white space the token text begins and ends with (a byte-level `Ġ` counts), for files that ask for trimmed
    /// offsets.
    pub spaces: Vec<(u32, u32)>,
}

impl Tokens {
    /// How many tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Appends one token, whose text is counted for white space.
    pub fn push(&mut self, id: u32, offsets: (u32, u32), word: u32, text: &str) {
        self.ids.push(id);
        self.offsets.push(offsets);
        self.words.push(word);
        self.spaces.push(spaces_around(text));
    }
}

/// White space at both ends of a token text, in characters.
pub fn spaces_around(text: &str) -> (u32, u32) {
    let space = |c: &char| *c == '\u{120}' || c.is_whitespace();
    (text.chars().take_while(space).count() as u32, text.chars().rev().take_while(space).count() as u32)
}
