//! The reference's normalizers and pre-tokenizers, with one difference: where its pattern engine gives up on a text, this is an error.
//!
//! The reference treats "gave up" as "no further match", so its ids would be silently wrong.

use std::sync::{Mutex, PoisonError};

use fancy_regex::{Regex, RegexBuilder};
use serde::Deserialize;
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
    SplitDelimiterBehavior,
    pattern::{Invert, Pattern},
    pre_tokenizers::{byte_level::ByteLevel, split::SplitPattern},
};

use crate::{bpe::Words, engine::EncodeCall, error::TokenizeError};

/// Steps back that one match may take. A run of a million characters needs a few million; an exploding pattern uses this up in seconds.
const MAX_BACKTRACKS: usize = 1 << 24;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The normalizers of a file, in order.
pub(super) struct Normalizers(Vec<NormalizeStep>);

enum NormalizeStep {
    Replace { finder: Finder, content: String },
    Other(NormalizerWrapper),
}

impl Normalizers {
    pub(super) fn new(normalizer: Option<&NormalizerWrapper>) -> Result<Self, TokenizeError> {
        let mut steps = Vec::new();
        if let Some(normalizer) = normalizer {
            push_normalizer(normalizer, &mut steps)?;
        }
        Ok(Self(steps))
    }
}

#[derive(Deserialize)]
struct ReplaceParts {
    pattern: ReplacePattern,
    content: String,
}

#[derive(Deserialize)]
enum ReplacePattern {
    #[expect(dead_code, reason = "the reference replaces fixed texts itself")]
    String(String),
    Regex(String),
}

fn push_normalizer(normalizer: &NormalizerWrapper, steps: &mut Vec<NormalizeStep>) -> Result<(), TokenizeError> {
    match normalizer {
        NormalizerWrapper::Sequence(sequence) => {
            for part in sequence.as_ref() {
                push_normalizer(part, steps)?;
            }
        }
        NormalizerWrapper::Replace(replace) => {
            let parts = serde_json::to_value(replace)
                .and_then(serde_json::from_value::<ReplaceParts>)
                .map_err(|e| TokenizeError::file("normalizer Replace", e))?;
            steps.push(match parts.pattern {
                ReplacePattern::Regex(pattern) => {
                    NormalizeStep::Replace { finder: Finder::Regex(compile(&pattern)?), content: parts.content }
                }
                ReplacePattern::String(_) => NormalizeStep::Other(normalizer.clone()),
            });
        }
        other => steps.push(NormalizeStep::Other(other.clone())),
    }
    Ok(())
}

/// Lends [`Normalizers`] to the reference, which drops what a normalizer returns, and keeps the first failure.
pub(super) struct Recording<'a> {
    normalizers: &'a Normalizers,
    call: EncodeCall<'a>,
    /// The trait wants `Sync`; only one thread ever comes here.
    failure: Mutex<Option<Failure>>,
}

impl<'a> Recording<'a> {
    pub(super) fn new(normalizers: &'a Normalizers, call: EncodeCall<'a>) -> Self {
        Self { normalizers, call, failure: Mutex::new(None) }
    }

    pub(super) fn finish(self) -> Result<(), TokenizeError> {
        self.failure
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .map_or(Ok(()), |failure| Err(encode_error(&*failure)))
    }
}

impl Normalizer for Recording<'_> {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        for step in &self.normalizers.0 {
            let done = match step {
                NormalizeStep::Replace { finder, content } => {
                    text.replace(Watched { finder, call: self.call }, content)
                }
                NormalizeStep::Other(normalizer) => normalizer.normalize(text),
            };
            if let Err(failure) = done {
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The pre-tokenizers of a file, in order.
pub(super) struct PreTokenizers(Vec<PreTokenizeStep>);

enum PreTokenizeStep {
    Split { finder: Finder, behavior: SplitDelimiterBehavior, invert: bool },
    ByteLevel { add_prefix_space: bool, alphabet: ByteLevel },
    Other(PreTokenizerWrapper),
}

impl PreTokenizers {
    pub(super) fn new(pre_tokenizer: Option<&PreTokenizerWrapper>) -> Result<Self, TokenizeError> {
        let mut steps = Vec::new();
        if let Some(pre_tokenizer) = pre_tokenizer {
            push_pre_tokenizer(pre_tokenizer, &mut steps)?;
        }
        Ok(Self(steps))
    }

    pub(super) fn pre_tokenize(
        &self,
        text: &mut PreTokenizedString,
        call: EncodeCall<'_>,
    ) -> Result<(), TokenizeError> {
        for step in &self.0 {
            step.pre_tokenize(text, call).map_err(|e| encode_error(&*e))?;
        }
        Ok(())
    }
}

impl PreTokenizeStep {
    fn pre_tokenize(&self, text: &mut PreTokenizedString, call: EncodeCall<'_>) -> Result<(), Failure> {
        let watched = |finder| Watched { finder, call };
        match self {
            Self::Split { finder, behavior, invert: false } => {
                text.split(|_, part| part.split(watched(finder), *behavior))
            }
            Self::Split { finder, behavior, invert: true } => {
                text.split(|_, part| part.split(Invert(watched(finder)), *behavior))
            }
            Self::ByteLevel { add_prefix_space, alphabet } => {
                text.split(|_, mut part| {
                    if *add_prefix_space && !part.get().starts_with(' ') {
                        part.prepend(" ");
                    }
                    part.split(watched(&Finder::Words(Words::BYTE_LEVEL)), SplitDelimiterBehavior::Isolated)
                })?;
                alphabet.pre_tokenize(text)
            }
            Self::Other(other) => other.pre_tokenize(text),
        }
    }
}

fn push_pre_tokenizer(
    pre_tokenizer: &PreTokenizerWrapper,
    steps: &mut Vec<PreTokenizeStep>,
) -> Result<(), TokenizeError> {
    match pre_tokenizer {
        PreTokenizerWrapper::Sequence(sequence) => {
            for part in sequence.as_ref() {
                push_pre_tokenizer(part, steps)?;
            }
        }
        PreTokenizerWrapper::Split(split) => steps.push(match &split.pattern {
            SplitPattern::Regex(pattern) => PreTokenizeStep::Split {
                finder: Words::of_regex(pattern)
                    .map_or_else(|| compile(pattern).map(Finder::Regex), |words| Ok(Finder::Words(words)))?,
                behavior: split.behavior,
                invert: split.invert,
            },
            SplitPattern::String(_) => PreTokenizeStep::Other(pre_tokenizer.clone()),
        }),
        PreTokenizerWrapper::ByteLevel(byte_level) if byte_level.use_regex => {
            steps.push(PreTokenizeStep::ByteLevel {
                add_prefix_space: byte_level.add_prefix_space,
                alphabet: ByteLevel::new(false, byte_level.trim_offsets, false),
            });
        }
        other => steps.push(PreTokenizeStep::Other(other.clone())),
    }
    Ok(())
}

/// How the matches of a pattern are found.
enum Finder {
    /// By a scanner: in the same time whatever the text, where a pattern engine gives up on a million spaces.
    Words(Words),
    Regex(Regex),
}

/// A pattern that stops when its call was taken back.
struct Watched<'a> {
    finder: &'a Finder,
    call: EncodeCall<'a>,
}

impl Pattern for Watched<'_> {
    fn find_matches(&self, inside: &str) -> tokenizers::Result<Vec<((usize, usize), bool)>> {
        if inside.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let mut end = 0;
        let mut parts = Vec::new();
        match self.finder {
            Finder::Words(words) => words.each_end(inside, |next| {
                parts.push(((end, next), true));
                end = next;
                self.call.check()
            })?,
            Finder::Regex(regex) => {
                for found in regex.find_iter(inside) {
                    self.call.check()?;
                    let found = found?;
                    if end != found.start() {
                        parts.push(((end, found.start()), false));
                    }
                    parts.push(((found.start(), found.end()), true));
                    end = found.end();
                }
            }
        }
        if end != inside.len() {
            parts.push(((end, inside.len()), false));
        }
        Ok(parts)
    }
}

fn compile(pattern: &str) -> Result<Regex, TokenizeError> {
    RegexBuilder::new(pattern)
        .backtrack_limit(MAX_BACKTRACKS)
        .build()
        .map_err(|e| TokenizeError::file(format!("pattern {pattern:?}"), e))
}

/// What an engine's failure on a text becomes.
pub(super) fn encode_error(failure: &(dyn std::error::Error + Send + Sync + 'static)) -> TokenizeError {
    if let Some(own) = failure.downcast_ref::<TokenizeError>() {
        return own.clone();
    }
    let reason = failure.to_string();
    if failure.downcast_ref::<fancy_regex::Error>().is_some() {
        TokenizeError::PatternLimit { reason }
    } else {
        TokenizeError::Encode { reason }
    }
}
