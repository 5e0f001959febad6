//! Which part of a `tokenizer.json` the reference did not take: it says what it expected, but not where.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use crate::error::{TokenizeError, guard};

/// The parts, each with the types that the reference knows and the name under which one lists others.
const PARTS: [Part; 4] = [
    Part {
        name: "normalizer",
        list: "normalizers",
        types: &[
            "BertNormalizer",
            "Strip",
            "StripAccents",
            "NFC",
            "NFD",
            "NFKC",
            "NFKD",
            "Sequence",
            "Lowercase",
            "Nmt",
            "Precompiled",
            "Replace",
            "Prepend",
            "ByteLevel",
        ],
        read: read::<NormalizerWrapper>,
    },
    Part {
        name: "pre_tokenizer",
        list: "pretokenizers",
        types: &[
            "BertPreTokenizer",
            "ByteLevel",
            "CharDelimiterSplit",
            "Metaspace",
            "Whitespace",
            "Sequence",
            "Split",
            "Punctuation",
            "WhitespaceSplit",
            "Digits",
            "UnicodeScripts",
            "FixedLength",
        ],
        read: read::<PreTokenizerWrapper>,
    },
    Part {
        name: "post_processor",
        list: "processors",
        types: &["RobertaProcessing", "BertProcessing", "ByteLevel", "TemplateProcessing", "Sequence"],
        read: read::<PostProcessorWrapper>,
    },
    Part {
        name: "decoder",
        list: "decoders",
        types: &[
            "BPEDecoder",
            "ByteLevel",
            "WordPiece",
            "Metaspace",
            "CTC",
            "Sequence",
            "Replace",
            "Fuse",
            "Strip",
            "ByteFallback",
        ],
        read: read::<DecoderWrapper>,
    },
];

const MODELS: [&str; 4] = ["BPE", "WordPiece", "WordLevel", "Unigram"];

struct Part {
    name: &'static str,
    list: &'static str,
    types: &'static [&'static str],
    read: fn(&Value) -> Result<(), String>,
}

/// What of a file is kept to find the part at fault: all but the vocabulary.
pub(super) struct Diagnosis {
    parts: [Value; 4],
    model_type: Value,
    added_tokens_are_a_list: bool,
    has_model: bool,
}

impl Diagnosis {
    pub(super) fn of_file(file: &Value) -> Self {
        Self {
            parts: PARTS.map(|part| file[part.name].clone()),
            model_type: file["model"]["type"].clone(),
            added_tokens_are_a_list: file["added_tokens"].is_null() || file["added_tokens"].is_array(),
            has_model: file["model"].is_object(),
        }
    }

    /// The error of a file that the reference refused, with the part at fault.
    pub(super) fn explain(&self, error: TokenizeError) -> TokenizeError {
        let TokenizeError::InvalidFile { what, reason } = error else { return error };
        if let Some(unknown) = self.unknown_type() {
            return unknown;
        }
        for (part, value) in PARTS.iter().zip(&self.parts) {
            let failed = |reason| TokenizeError::InvalidFile { what: of_file(part.name), reason };
            let read = || (part.read)(value).map_err(failed);
            if let Err(error) = guard(failed, read) {
                return error;
            }
        }
        if !self.added_tokens_are_a_list {
            return TokenizeError::InvalidFile { what: of_file("added_tokens"), reason };
        }
        // What is left: the reference names neither, and to read the vocabulary again would take as long as the first time.
        let what = if self.has_model { of_file("model or added_tokens") } else { what };
        TokenizeError::InvalidFile { what, reason }
    }

    fn unknown_type(&self) -> Option<TokenizeError> {
        let parts = PARTS.iter().zip(&self.parts);
        let unknown = parts.into_iter().find_map(|(part, value)| unknown_type(part, value, part.name));
        unknown.or_else(|| unsupported("model", &self.model_type, &MODELS))
    }
}

fn of_file(part: &str) -> String {
    format!("the {part} of tokenizer.json")
}

fn unknown_type(part: &Part, value: &Value, path: &str) -> Option<TokenizeError> {
    let inside = value[part.list].as_array().into_iter().flatten().enumerate();
    unsupported(path, &value["type"], part.types).or_else(|| {
        inside.into_iter().find_map(|(at, value)| unknown_type(part, value, &format!("{path}.{}[{at}]", part.list)))
    })
}

fn unsupported(path: &str, name: &Value, known: &[&str]) -> Option<TokenizeError> {
    let name = name.as_str().filter(|name| !known.contains(name))?;
    let reason = format!("there is no type {name:?}; known are {}", known.join(", "));
    Some(TokenizeError::unsupported(path, reason))
}

fn read<T: DeserializeOwned>(value: &Value) -> Result<(), String> {
    Option::<T>::deserialize(value).map(drop).map_err(|e| e.to_string())
}
