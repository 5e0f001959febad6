//! Our own byte-level BPE behind the engine trait.

use std::{
    cell::RefCell,
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::Value;

use crate::{
    bpe::{ByteLevelBpe, Encoded, NoOffsets, ParseSpecial, Refusal, Scratch},
    engine::{EncodeCall, EngineInfo, SpecialTokens, TokenizerEngine, Tokens, seams::Seams, spaces_around},
    error::TokenizeError,
    vocabulary::TokenEntry,
};

/// Tokenizers whose words one thread keeps at a time; each takes a few MiB.
const MAX_SCRATCHES: usize = 4;

/// Runs byte-level BPE files.
pub struct ByteLevelBpeEngine {
    info: EngineInfo,
    bpe: ByteLevelBpe,
    /// Tells this thread's scratches apart.
    serial: u64,
    /// Every id that has a token, ascending.
    ids: Vec<u32>,
    /// Those of added tokens.
    added: HashSet<u32>,
    seams: Seams,
}

struct Kept {
    serial: u64,
    scratch: Scratch,
    encoded: Encoded,
}

thread_local! {
    /// The last used comes first.
    #[expect(clippy::vec_box, reason = "an entry moves at each call, and is large")]
    static SCRATCHES: RefCell<Vec<Box<Kept>>> = const { RefCell::new(Vec::new()) };
}

impl ByteLevelBpeEngine {
    /// Takes the file if the engine does all of it exactly. The post-processor is left to the caller.
    pub fn from_json(file: &mut Value) -> Result<Self, Refusal> {
        static NEXT: AtomicU64 = AtomicU64::new(0);

        // Offsets are trimmed later, the same way for all engines.
        let post_processor = file.get_mut("post_processor").map(Value::take);
        let bpe = ByteLevelBpe::from_json(file);
        if let (Some(post_processor), Some(place)) = (post_processor, file.get_mut("post_processor")) {
            *place = post_processor;
        }
        let bpe = bpe?;
        let as_id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        let tokens = file["added_tokens"].as_array().into_iter().flatten();
        let added: HashSet<u32> = tokens.filter_map(|token| bpe.token_to_id(token["content"].as_str()?)).collect();
        let vocab = file["model"]["vocab"].as_object().into_iter().flatten().filter_map(|(_, id)| as_id(id));
        let mut ids: Vec<u32> = vocab.chain(added.iter().copied()).collect();
        ids.sort_unstable();
        ids.dedup();
        let info = EngineInfo { name: "pillion", reason: None };
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self { info, bpe, serial, ids, added, seams: Seams::of_file(file) })
    }

    /// Lends the thread's working memory for this tokenizer.
    fn with_scratch<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        let mut kept = SCRATCHES.with_borrow_mut(|all| {
            if let Some(at) = all.iter().position(|k| k.serial == self.serial) {
                return all.remove(at);
            }
            all.truncate(MAX_SCRATCHES - 1);
            Box::new(Kept { serial: self.serial, scratch: Scratch::new(), encoded: Encoded::default() })
        });
        let result = work(&mut kept);
        SCRATCHES.with_borrow_mut(|all| all.insert(0, kept));
        result
    }

    /// Appends the tokens of a part of a text that begins at `start` and whose words are counted from `word`.
    fn encode_part(
        &self,
        text: &str,
        start: u32,
        word: u32,
        special: &SpecialTokens,
        out: &mut Tokens,
    ) -> Result<(), TokenizeError> {
        self.with_scratch(|kept| {
            let Kept { scratch, encoded, .. } = kept;
            self.bpe.encode_with_offsets(text, parse(special), scratch, encoded)?;
            for (at, &id) in encoded.ids.iter().enumerate() {
                let (from, to) = encoded.offsets[at];
                out.ids.push(id);
                out.offsets.push((start + from, start + to));
                out.words.push(word + encoded.word_ids[at]);
                out.spaces.push(self.spaces(id, text.get(from as usize..to as usize).unwrap_or_default()));
            }
            encoded.clear();
            Ok(())
        })
        .map_err(|e: NoOffsets| TokenizeError::Encode { reason: e.to_string() })
    }

    /// White space at both ends of a token, which stands for `text`.
    fn spaces(&self, id: u32, text: &str) -> (u32, u32) {
        if self.added.contains(&id) {
            // It counts as it stands in the text, with the white space that it takes along.
            return spaces_around(text);
        }
        let bytes = self.bpe.token_bytes(id).unwrap_or_default();
        let space = |byte: &&u8| **byte == b' ';
        (bytes.iter().take_while(space).count() as u32, bytes.iter().rev().take_while(space).count() as u32)
    }
}

fn parse(special: &SpecialTokens) -> ParseSpecial<'_> {
    match special {
        SpecialTokens::None => ParseSpecial::None,
        SpecialTokens::All => ParseSpecial::All,
        SpecialTokens::Only(ids) => ParseSpecial::Only(ids),
    }
}

impl TokenizerEngine for ByteLevelBpeEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn encode_ids(&self, text: &str, call: EncodeCall<'_>, out: &mut Vec<u32>) -> Result<(), TokenizeError> {
        for part in self.seams.parts(text) {
            call.check()?;
            let part = &text[part];
            self.with_scratch(|kept| self.bpe.encode_into(part, parse(call.special), &mut kept.scratch, out))
                .map_err(|e| TokenizeError::Encode { reason: e.to_string() })?;
        }
        Ok(())
    }

    fn encode_tokens(&self, text: &str, call: EncodeCall<'_>, out: &mut Tokens) -> Result<(), TokenizeError> {
        let first = out.len();
        for part in self.seams.parts(text) {
            call.check()?;
            // Words go on where those of the part before end.
            let word = if out.len() == first { 0 } else { out.words.last().map_or(0, |last| last + 1) };
            self.encode_part(&text[part.clone()], part.start as u32, word, call.special, out)?;
        }
        Ok(())
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.bpe.token_to_id(token)
    }

    fn bytes_per_token(&self) -> usize {
        200
    }

    fn vocabulary(&self) -> Vec<TokenEntry> {
        let entry = |id: &u32| {
            let text = self.bpe.id_to_token(*id)?;
            Some(TokenEntry { id: *id, text, special: self.bpe.is_special(*id) })
        };
        self.ids.iter().filter_map(entry).collect()
    }
}
