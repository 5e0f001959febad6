//! The released `tokenizers` crate behind our trait: the reference that our engines are measured against, and the one that runs every
//! file that they do not know.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::Value;
use tokenizers::{
    AddedToken, AddedVocabulary, DecoderWrapper, Model, ModelWrapper, NormalizedString, OffsetReferential, OffsetType,
    PostProcessorWrapper, PreTokenizedString,
};

use crate::{
    engine::{
        EncodeCall, EngineInfo, SpecialTokens, TokenizerEngine, Tokens,
        diagnosis::Diagnosis,
        reference_pattern::{Normalizers, PreTokenizers, Recording, encode_error},
    },
    error::{TokenizeError, guard},
    vocabulary::TokenEntry,
};

/// Bytes that one text may have: the reference needs some fifty times as much memory to work.
const MAX_TEXT: usize = 64 << 20;
/// How many lists of parsed special tokens are kept ready.
const MAX_SELECTIONS: usize = 8;

/// Runs any `tokenizer.json` that `tokenizers` can read.
pub struct ReferenceEngine {
    info: EngineInfo,
    tokenizer: tokenizers::Tokenizer,
    normalizers: Normalizers,
    pre_tokenizers: PreTokenizers,
    /// The file's added tokens as they are, which recognises all special ones.
    parse_all: Arc<AddedVocabulary>,
    /// The same, blind to special ones.
    parse_none: Arc<AddedVocabulary>,
    /// Lately used selections. Locked only to look one up or to keep one.
    selections: Mutex<Vec<Selection>>,
}

type Selection = (HashSet<u32>, Arc<AddedVocabulary>);

impl ReferenceEngine {
    /// Takes a parsed `tokenizer.json`. `reason` says why none of our own engines took it. Padding and truncation of the file are dropped.
    pub fn from_json(file: Value, reason: Option<String>) -> Result<Self, TokenizeError> {
        let broken = |reason: String| TokenizeError::InvalidFile { what: "tokenizer.json".into(), reason };
        let diagnosis = Diagnosis::of_file(&file);
        let mut tokenizer = guard(broken, || {
            serde_json::from_value::<tokenizers::Tokenizer>(file).map_err(|e| TokenizeError::file("tokenizer.json", e))
        })
        .map_err(|error| diagnosis.explain(error))?;
        tokenizer.with_padding(None);
        guard(broken, || {
            tokenizer.with_truncation(None).map(|_| ()).map_err(|e| TokenizeError::file("truncation", e))
        })?;
        let parse_all = tokenizer.get_added_vocabulary().clone();
        let mut parse_none = parse_all.clone();
        parse_none.set_encode_special_tokens(true);
        Ok(Self {
            info: EngineInfo { name: "tokenizers", reason },
            normalizers: Normalizers::new(tokenizer.get_normalizer())?,
            pre_tokenizers: PreTokenizers::new(tokenizer.get_pre_tokenizer())?,
            parse_all: Arc::new(parse_all),
            parse_none: Arc::new(parse_none),
            selections: Mutex::new(Vec::new()),
            tokenizer,
        })
    }

    /// The file's decoder.
    pub fn decoder(&self) -> Option<&DecoderWrapper> {
        self.tokenizer.get_decoder()
    }

    /// The file's post-processor.
    pub fn post_processor(&self) -> Option<&PostProcessorWrapper> {
        self.tokenizer.get_post_processor()
    }

    fn model(&self) -> &ModelWrapper {
        self.tokenizer.get_model()
    }

    fn tokenize(&self, text: &str, call: EncodeCall<'_>) -> Result<PreTokenizedString, TokenizeError> {
        if text.len() > MAX_TEXT {
            return Err(TokenizeError::TooLarge { what: "bytes of one text on this engine", limit: MAX_TEXT as u64 });
        }
        let added = self.added_vocabulary(call.special)?;
        let normalizer = Recording::new(&self.normalizers, call);
        let mut pre_tokenized = added.extract_and_normalize(Some(&normalizer), text);
        normalizer.finish()?;
        self.pre_tokenizers.pre_tokenize(&mut pre_tokenized, call)?;
        let word = |word: &NormalizedString| {
            call.check()?;
            self.model().tokenize(word.get())
        };
        pre_tokenized.tokenize(word).map_err(|e| encode_error(&*e))?;
        Ok(pre_tokenized)
    }

    fn added_vocabulary(&self, special: &SpecialTokens) -> Result<Arc<AddedVocabulary>, TokenizeError> {
        let ids = match special {
            SpecialTokens::All => return Ok(Arc::clone(&self.parse_all)),
            SpecialTokens::None => return Ok(Arc::clone(&self.parse_none)),
            SpecialTokens::Only(ids) => ids,
        };
        let mut kept = self.selections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = kept.iter().find(|(key, _)| key == ids) {
            return Ok(Arc::clone(found));
        }
        let made = Arc::new(self.select(ids)?);
        if kept.len() == MAX_SELECTIONS {
            kept.remove(0);
        }
        kept.push((ids.clone(), Arc::clone(&made)));
        Ok(made)
    }

    /// The added tokens, with all special ones hidden but those named: the reference hides special tokens only, so these stop being so.
    fn select(&self, ids: &HashSet<u32>) -> Result<AddedVocabulary, TokenizeError> {
        let mut tokens: Vec<(u32, AddedToken)> =
            self.parse_all.get_added_tokens_decoder().iter().map(|(id, t)| (*id, t.clone())).collect();
        tokens.sort_by_key(|(id, _)| *id);
        let mut selection = AddedVocabulary::new();
        let marked = tokens.iter().map(|(id, token)| {
            let special = token.special && !ids.contains(id);
            AddedToken { special, ..token.clone() }
        });
        selection
            .add_tokens(marked, self.model(), self.tokenizer.get_normalizer())
            .map_err(|e| TokenizeError::Encode { reason: e.to_string() })?;
        selection.set_encode_special_tokens(true);
        // The reference numbers tokens that are not in the model by the order in which they are added.
        for (id, token) in &tokens {
            if selection.get_vocab().get(&token.content) != Some(id) {
                return Err(TokenizeError::unsupported(
                    "added_tokens",
                    format!(
                        "a list of special tokens cannot be told apart here: {:?} has no id of its own",
                        token.content
                    ),
                ));
            }
        }
        Ok(selection)
    }
}

impl TokenizerEngine for ReferenceEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn encode_ids(&self, text: &str, call: EncodeCall<'_>, out: &mut Vec<u32>) -> Result<(), TokenizeError> {
        guard(panicked, || {
            let pre_tokenized = self.tokenize(text, call)?;
            for (_, _, tokens) in pre_tokenized.get_splits(OffsetReferential::Normalized, OffsetType::None) {
                out.extend(tokens.iter().flatten().map(|t| t.id));
            }
            Ok(())
        })
    }

    fn encode_tokens(&self, text: &str, call: EncodeCall<'_>, out: &mut Tokens) -> Result<(), TokenizeError> {
        guard(panicked, || {
            let encoding =
                self.tokenize(text, call)?.into_encoding(None, 0, OffsetType::Byte).map_err(|e| encode_error(&*e))?;
            for (at, &id) in encoding.get_ids().iter().enumerate() {
                let (start, end) = encoding.get_offsets()[at];
                let word = encoding.get_word_ids()[at].unwrap_or(0);
                out.push(id, (start as u32, end as u32), word, &encoding.get_tokens()[at]);
            }
            Ok(())
        })
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    fn bytes_per_token(&self) -> usize {
        600
    }

    fn vocabulary(&self) -> Vec<TokenEntry> {
        let added = self.tokenizer.get_added_vocabulary();
        let mut ids: Vec<u32> = self.model().get_vocab().into_values().collect();
        ids.extend(added.get_added_tokens_decoder().keys());
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter()
            .filter_map(|id| {
                let text = self.tokenizer.id_to_token(id)?;
                Some(TokenEntry { id, special: added.is_special_token(&text), text })
            })
            .collect()
    }
}

fn panicked(reason: String) -> TokenizeError {
    TokenizeError::Panicked { reason }
}
