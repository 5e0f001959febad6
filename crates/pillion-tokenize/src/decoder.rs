//! Ids back to text, all at once or as they come. Both ways are one: a whole decode is a stream that gets everything at once, so a
//! stream's pieces always join to what a whole decode gives.

mod steps;

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::{byte_level, error::TokenizeError, options::DecodeOptions, vocabulary::Vocabulary};
use steps::{State, Step, feed, finish};

/// A file's vocabulary and the steps of its decoder.
pub(crate) struct Decoder {
    vocabulary: Arc<Vocabulary>,
    steps: Vec<Step>,
    /// The steps and then those that `clean_up` adds.
    steps_with_clean_up: Vec<Step>,
    /// Bytes by id, if the first step makes bytes of each token.
    bytes: Option<ByteTable>,
    /// States in which streams were seen, without and with `clean_up`. Locked only to look one up or to keep one.
    seen: [Mutex<Vec<Vec<State>>>; 2],
}

/// How many states are told apart: more than a decoder has that holds nothing back, but for odd files.
const MAX_SEEN: usize = 32;

impl Decoder {
    /// Reads the decoder in the reference's own written form; `null` for none.
    pub(crate) fn new(json: &Value, vocabulary: Arc<Vocabulary>) -> Result<Self, TokenizeError> {
        let steps = steps::compile(json)?;
        let mut steps_with_clean_up = steps.clone();
        steps_with_clean_up.extend(steps::clean_up());
        let bytes = matches!(steps.first(), Some(Step::Bytes)).then(|| ByteTable::new(&vocabulary));
        Ok(Self { vocabulary, steps, steps_with_clean_up, bytes, seen: Default::default() })
    }

    pub(crate) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The text of all ids. Ids that the vocabulary does not have give nothing, as in the reference.
    pub(crate) fn decode(&self, ids: &[u32], options: DecodeOptions) -> String {
        let mut out = String::with_capacity(ids.len() * 4);
        let mut states = self.states(options);
        self.push(&mut states, ids, options, &mut out);
        finish(self.steps(options), &mut states, &mut out);
        out
    }

    fn steps(&self, options: DecodeOptions) -> &[Step] {
        if options.clean_up { &self.steps_with_clean_up } else { &self.steps }
    }

    fn states(&self, options: DecodeOptions) -> Vec<State> {
        self.steps(options).iter().map(State::new).collect()
    }

    /// A number for these states, the same each time, if they are among the few that streams come back to.
    fn number_of(&self, states: &[State], options: DecodeOptions) -> Option<u32> {
        if !states.iter().all(State::is_resting) {
            return None;
        }
        let mut seen = self.seen[usize::from(options.clean_up)].lock().unwrap_or_else(PoisonError::into_inner);
        let at = seen.iter().position(|known| known == states).or_else(|| {
            let at = seen.len();
            (at < MAX_SEEN).then(|| {
                seen.push(states.to_vec());
                at
            })
        })?;
        Some(at as u32)
    }

    fn push(&self, states: &mut [State], ids: &[u32], options: DecodeOptions, out: &mut String) {
        let steps = self.steps(options);
        let wanted = ids.iter().copied().filter(|id| !(options.skip_special_tokens && self.vocabulary.is_special(*id)));
        match &self.bytes {
            Some(table) => {
                for id in wanted {
                    table.with(id, &self.vocabulary, |bytes| steps::feed_bytes(steps, states, bytes, out));
                }
            }
            None => {
                for token in wanted.filter_map(|id| self.vocabulary.text(id)) {
                    feed(steps, states, token, out);
                }
            }
        }
    }
}

/// What each token of a byte-level vocabulary stands for, ready to be copied.
struct ByteTable {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl ByteTable {
    /// Ids from here on, which only odd files have, are looked up as text.
    const MAX_IDS: u64 = 1 << 21;

    fn new(vocabulary: &Vocabulary) -> Self {
        let bound = vocabulary.id_bound().min(Self::MAX_IDS) as u32;
        let mut bytes = Vec::new();
        let ends = (0..bound)
            .map(|id| {
                if let Some(text) = vocabulary.text(id) {
                    byte_level::push_bytes(text, &mut bytes);
                }
                bytes.len() as u32
            })
            .collect();
        Self { bytes, ends }
    }

    fn with(&self, id: u32, vocabulary: &Vocabulary, use_bytes: impl FnOnce(&[u8])) {
        let at = id as usize;
        if let Some(&end) = self.ends.get(at) {
            let start = if at == 0 { 0 } else { self.ends[at - 1] };
            use_bytes(&self.bytes[start as usize..end as usize]);
        } else if let Some(text) = vocabulary.text(id) {
            let mut bytes = Vec::new();
            byte_level::push_bytes(text, &mut bytes);
            use_bytes(&bytes);
        }
    }
}

/// Turns ids into text as they come. Owned: it may move to any thread and outlive the tokenizer's handle.
///
/// A piece never ends inside a character. What may still change is held back: bytes of an unfinished character, a run of byte tokens
/// (which the reference drops as a whole if it ends up invalid), white space that a later token may remove.
pub struct DecodeStream {
    decoder: Arc<Decoder>,
    options: DecodeOptions,
    states: Vec<State>,
}

impl DecodeStream {
    pub(crate) fn new(decoder: Arc<Decoder>, options: DecodeOptions) -> Self {
        let states = decoder.states(options);
        Self { decoder, options, states }
    }

    /// The text that these ids make certain. The cost depends on these ids only, not on what came before.
    pub fn push(&mut self, ids: &[u32]) -> String {
        let mut out = String::new();
        self.push_into(ids, &mut out);
        out
    }

    /// [`DecodeStream::push`] into a text of the caller's.
    pub fn push_into(&mut self, ids: &[u32], out: &mut String) {
        self.decoder.push(&mut self.states, ids, self.options, out);
    }

    /// A number for what the stream remembers, if that is something to which streams come back. Two streams of one tokenizer with the
    /// same options and the same number give the same for the same ids; so a caller may keep what an id gave that left the number as it was.
    pub fn state(&self) -> Option<u32> {
        self.decoder.number_of(&self.states, self.options)
    }

    /// What was held back. The stream then begins anew.
    pub fn end(&mut self) -> String {
        let mut out = String::new();
        finish(self.decoder.steps(self.options), &mut self.states, &mut out);
        self.states = self.decoder.states(self.options);
        out
    }
}

impl std::fmt::Debug for DecodeStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DecodeStream").field("options", &self.options).finish_non_exhaustive()
    }
}
