//! The handle that everyone holds.

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use serde_json::Value;

use crate::{
    chat_template::ChatTemplates,
    decoder::{DecodeStream, Decoder},
    encoding::{Encoding, Rows},
    engine::{ByteEngine, EncodeCall, EngineInfo, SpecialTokens, TokenizerEngine},
    error::TokenizeError,
    load,
    options::{Columns, DecodeOptions, EncodeOptions, OffsetUnit, ParseSpecialTokens, Side, TemplateOptions},
    post_processor::PostProcessor,
    rows::RowMaker,
    vocabulary::Vocabulary,
};

/// A loaded tokenizer: immutable, shared between threads, cheap to clone. Padding and truncation are per call; what the file says about
/// them is ignored.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    engine: Box<dyn TokenizerEngine>,
    post_processor: PostProcessor,
    decoder: Arc<Decoder>,
    templates: ChatTemplates,
}

/// The parts that [`Tokenizer`] is made of. For loaders of other file formats.
pub struct TokenizerParts {
    /// Turns text into ids.
    pub engine: Box<dyn TokenizerEngine>,
    /// The `post_processor` of a `tokenizer.json`, with its `type`; `null` for none.
    pub post_processor: Value,
    /// The `decoder` of a `tokenizer.json`, with its `type`; `null` for none.
    pub decoder: Value,
    /// Chat templates and the special tokens that they name.
    pub templates: ChatTemplates,
}

impl Tokenizer {
    /// Reads the text of a `tokenizer.json`. A file that no engine can read is an error, whatever is in it.
    pub fn from_json(json: &[u8]) -> Result<Self, TokenizeError> {
        Self::from_parts(load::parts(json, ChatTemplates::default())?)
    }

    /// [`Tokenizer::from_json`] on the reference engine, whatever the file: to compare with.
    pub fn from_json_on_reference(json: &[u8]) -> Result<Self, TokenizeError> {
        Self::from_parts(load::parts_on_reference(json)?)
    }

    /// Reads a `tokenizer.json`. Chat templates and their special tokens are not part of that file: see [`Tokenizer::from_pretrained`].
    pub fn from_file(path: &Path) -> Result<Self, TokenizeError> {
        Self::from_json(&load::read_tokenizer_json(path)?)
    }

    /// Reads a model folder: `tokenizer.json`, and where present `tokenizer_config.json`, `special_tokens_map.json`,
    /// `chat_template.jinja` and `additional_chat_templates/`.
    pub fn from_pretrained(dir: &Path) -> Result<Self, TokenizeError> {
        let json = load::read_tokenizer_json(&dir.join("tokenizer.json"))?;
        Self::from_parts(load::parts(&json, load::templates(dir)?)?)
    }

    /// The tokenizer that needs no file: ids 0 to 255 are bytes, 256 ends a text. Its chat template is the last message's content.
    pub fn byte() -> Self {
        let parts = TokenizerParts {
            engine: Box::new(ByteEngine::new()),
            post_processor: Value::Null,
            decoder: serde_json::json!({ "type": "ByteLevel" }),
            templates: ChatTemplates::of_byte_tokenizer(),
        };
        Self::from_parts(parts).expect("the byte tokenizer's parts are constants: this is a bug")
    }

    /// Puts a tokenizer together.
    pub fn from_parts(parts: TokenizerParts) -> Result<Self, TokenizeError> {
        let vocabulary = Arc::new(Vocabulary::new(parts.engine.vocabulary()));
        Ok(Self(Arc::new(Inner {
            post_processor: PostProcessor::new(&parts.post_processor)?,
            decoder: Arc::new(Decoder::new(&parts.decoder, vocabulary)?),
            engine: parts.engine,
            templates: parts.templates,
        })))
    }

    /// Which engine encodes, and why that one.
    pub fn engine(&self) -> &EngineInfo {
        self.0.engine.info()
    }

    /// How many ids have a token, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary().len()
    }

    /// About how many bytes of memory it takes: what a garbage collector wants to know.
    pub fn memory_size(&self) -> usize {
        self.vocab_size() * self.0.engine.bytes_per_token()
    }

    /// One more than the largest id. Larger than [`Tokenizer::vocab_size`] if there are holes.
    pub fn id_bound(&self) -> u64 {
        self.vocabulary().id_bound()
    }

    /// Encodes one text into one row.
    pub fn encode(&self, text: &str, options: &EncodeOptions) -> Result<Encoding, TokenizeError> {
        self.encode_row(text, None, options, None)
    }

    /// Encodes a pair of texts into one row.
    pub fn encode_pair(&self, text: &str, pair: &str, options: &EncodeOptions) -> Result<Encoding, TokenizeError> {
        self.encode_row(text, Some(pair), options, None)
    }

    /// Encodes one text or pair into one row, unless `cancel` becomes true: then it ends soon, in the middle of a text too.
    pub fn encode_unless(
        &self,
        cancel: &AtomicBool,
        text: &str,
        pair: Option<&str>,
        options: &EncodeOptions,
    ) -> Result<Encoding, TokenizeError> {
        self.encode_row(text, pair, options, Some(cancel))
    }

    fn encode_row(
        &self,
        text: &str,
        pair: Option<&str>,
        options: &EncodeOptions,
        cancel: Option<&AtomicBool>,
    ) -> Result<Encoding, TokenizeError> {
        let mut rows = Rows::new(options.columns);
        self.push_row(text, pair, options, cancel, &mut rows)?;
        Ok(rows.into_encoding())
    }

    /// The ids alone of a text or pair, in place of what is in `ids`: saves making room for each of many texts.
    pub fn encode_ids_into(
        &self,
        text: &str,
        pair: Option<&str>,
        options: &EncodeOptions,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizeError> {
        let mut rows = Rows::new(Columns::default());
        std::mem::swap(&mut rows.ids, ids);
        rows.ids.clear();
        let pushed = self.push_row(text, pair, options, None, &mut rows);
        std::mem::swap(&mut rows.ids, ids);
        pushed
    }

    fn push_row(
        &self,
        text: &str,
        pair: Option<&str>,
        options: &EncodeOptions,
        cancel: Option<&AtomicBool>,
        rows: &mut Rows,
    ) -> Result<(), TokenizeError> {
        if options.truncation.as_ref().is_some_and(|t| t.overflow) {
            return Err(TokenizeError::argument(
                "truncation.overflow",
                "false for a single text, which gives one row; use encodeBatch",
                true,
            ));
        }
        self.row_maker(options, cancel)?.push(0, text, pair, rows)
    }

    /// The ids of a text that a user wrote, the short way: special tokens written in it are ordinary text. Use
    /// [`Tokenizer::encode_rendered`] for the output of a chat template.
    pub fn encode_ids(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizeError> {
        self.ids(text, add_special_tokens, SpecialTokens::None)
    }

    /// The ids of a rendered chat template: special tokens in it are parsed, and none are added, since the template wrote them. Use
    /// [`Tokenizer::encode_chat`] where messages come from users, who may write special tokens too.
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        self.ids(text, false, SpecialTokens::All)
    }

    fn ids(&self, text: &str, add_special_tokens: bool, special: SpecialTokens) -> Result<Vec<u32>, TokenizeError> {
        let mut rows = Rows::new(Columns::default());
        let layout = self.0.post_processor.layout(false, add_special_tokens)?;
        let maker = RowMaker {
            engine: &*self.0.engine,
            single: Ok(layout),
            pair: Ok(layout),
            special,
            cancel: None,
            truncation: None,
            unit: OffsetUnit::Byte,
            details: false,
        };
        maker.push(0, text, None, &mut rows)?;
        Ok(rows.ids)
    }

    /// How many tokens a text has, special tokens included: the length of what [`Tokenizer::encode`] gives by default.
    pub fn count(&self, text: &str) -> Result<usize, TokenizeError> {
        self.encode_ids(text, true).map(|ids| ids.len())
    }

    /// Whether a text has at most `max` tokens, special tokens included.
    pub fn fits(&self, text: &str, max: usize) -> Result<bool, TokenizeError> {
        Ok(self.count(text)? <= max)
    }

    /// The longest piece of a text, from its beginning or (cutting the left side) up to its end, that [`Tokenizer::fits`] and that ends between
    /// two of the text's own tokens. Empty if not even the special tokens fit.
    pub fn truncate_to_tokens(&self, text: &str, max: usize, side: Side) -> Result<String, TokenizeError> {
        let options = EncodeOptions {
            columns: Columns { offsets: true, ..Columns::default() },
            add_special_tokens: false,
            offset_unit: OffsetUnit::Byte,
            ..EncodeOptions::default()
        };
        let offsets = self.encode(text, &options)?.columns.offsets.unwrap_or_default();
        let tokens = offsets.len() / 2;
        let total = self.count(text)?;
        if total <= max {
            return Ok(text.to_owned());
        }
        let mut keep = tokens.saturating_sub(total - max);
        let mut step = 1;
        while keep > 0 {
            let piece = match side {
                // Up to where the first token that goes begins, so that no character is cut.
                Side::Right => text.get(..offsets[keep * 2] as usize),
                Side::Left => text.get(offsets[(tokens - keep) * 2 - 1] as usize..),
            };
            // A piece alone may have other tokens than inside the text, so it is counted again.
            if let Some(piece) = piece {
                let count = self.count(piece)?;
                if count <= max {
                    return Ok(piece.to_owned());
                }
            }
            keep = keep.saturating_sub(step);
            step *= 2;
        }
        Ok(String::new())
    }

    /// The text of ids. Ids without a token give nothing.
    pub fn decode(&self, ids: &[u32], options: &DecodeOptions) -> Result<String, TokenizeError> {
        Ok(self.0.decoder.decode(ids, *options))
    }

    /// Decodes ids as they come; the pieces join to what [`Tokenizer::decode`] gives.
    pub fn decode_stream(&self, options: DecodeOptions) -> DecodeStream {
        DecodeStream::new(Arc::clone(&self.0.decoder), options)
    }

    /// The id of a token text.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.engine.token_to_id(token)
    }

    /// The token text of an id: for byte-level vocabularies in their own alphabet, where `Ġ` is a space.
    pub fn id_to_token(&self, id: u32) -> Option<&str> {
        self.vocabulary().text(id)
    }

    /// The ids of the file's special tokens, ascending.
    pub fn special_ids(&self) -> &[u32] {
        self.vocabulary().special_ids()
    }

    /// Renders messages with the model's chat template, as `transformers` does.
    pub fn apply_chat_template(&self, messages: &Value, options: &TemplateOptions) -> Result<String, TokenizeError> {
        self.0.templates.render(messages, options)
    }

    /// Whether [`Tokenizer::apply_chat_template`] works without a template of the caller's.
    pub fn has_chat_template(&self) -> bool {
        self.0.templates.has_default()
    }

    /// The id of a special token by its role in `tokenizer_config.json`, such as `eos_token`.
    pub fn special_token_id(&self, role: &str) -> Option<u32> {
        self.token_to_id(self.0.templates.special_token(role)?)
    }

    /// Appends the ids of a text alone, without what a template adds.
    pub(crate) fn encode_into(
        &self,
        text: &str,
        special: &SpecialTokens,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizeError> {
        self.0.engine.encode_ids(text, EncodeCall { special, cancel: None }, ids)
    }

    pub(crate) fn vocabulary(&self) -> &Vocabulary {
        self.0.decoder.vocabulary()
    }

    /// Resolves a call's options once, for one text or for many.
    pub(crate) fn row_maker<'a>(
        &'a self,
        options: &'a EncodeOptions,
        cancel: Option<&'a AtomicBool>,
    ) -> Result<RowMaker<'a>, TokenizeError> {
        Ok(RowMaker {
            engine: &*self.0.engine,
            single: self.0.post_processor.layout(false, options.add_special_tokens),
            pair: self.0.post_processor.layout(true, options.add_special_tokens),
            special: self.special_tokens(&options.parse_special_tokens)?,
            cancel,
            truncation: options.truncation.as_ref(),
            unit: options.offset_unit,
            details: options.columns.offsets || options.columns.word_ids,
        })
    }

    fn special_tokens(&self, parse: &ParseSpecialTokens) -> Result<SpecialTokens, TokenizeError> {
        let names = match parse {
            ParseSpecialTokens::None => return Ok(SpecialTokens::None),
            ParseSpecialTokens::All => return Ok(SpecialTokens::All),
            ParseSpecialTokens::Only(names) => names,
        };
        let mut ids = HashSet::with_capacity(names.len());
        for name in names {
            match self.token_to_id(name).filter(|id| self.vocabulary().is_special(*id)) {
                Some(id) => {
                    ids.insert(id);
                }
                None => {
                    return Err(TokenizeError::argument(
                        "parseSpecialTokens",
                        "a list of the tokenizer's special tokens",
                        format!("{name:?}"),
                    ));
                }
            }
        }
        Ok(SpecialTokens::Only(ids))
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("engine", self.engine())
            .field("vocab_size", &self.vocab_size())
            .finish_non_exhaustive()
    }
}
