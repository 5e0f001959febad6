//! What can go wrong between text and token ids.

use std::fmt;

use pillion_core::{Error, ErrorCode, Stage};

/// Why a tokenizer could not be loaded or a call to one failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizeError {
    /// The file or folder is not there.
    #[error("{what} was not found at {path}")]
    NotFound {
        /// What was looked for, such as `tokenizer.json`.
        what: &'static str,
        /// Where.
        path: String,
        /// What to do.
        remedy: String,
    },
    /// The file is there but cannot be read as a tokenizer.
    #[error("{what} cannot be used: {reason}")]
    InvalidFile {
        /// Which file, or which part of it.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A part of the file that no engine here carries out.
    #[error("the tokenizer's {component} is not supported: {reason}")]
    Unsupported {
        /// Which part, by its name in the file.
        component: String,
        /// What about it.
        reason: String,
    },
    /// An option or argument that the call does not take.
    #[error("{param} must be {expected}, got {got}")]
    InvalidArgument {
        /// Its name in the public contract.
        param: &'static str,
        /// What would be taken.
        expected: String,
        /// What came.
        got: String,
    },
    /// A pattern of the file needs more steps on this text than are allowed.
    #[error("a pattern of the tokenizer gave up on this text: {reason}")]
    PatternLimit {
        /// What the pattern engine said.
        reason: String,
    },
    /// The model of the file refused this text.
    #[error("the text cannot be encoded: {reason}")]
    Encode {
        /// What the engine said.
        reason: String,
    },
    /// The file's decoder refused these ids.
    #[error("the ids cannot be decoded: {reason}")]
    Decode {
        /// What the decoder said.
        reason: String,
    },
    /// The tokenizer comes without a chat template.
    #[error("the tokenizer has no chat template{detail}")]
    NoChatTemplate {
        /// What it has instead, or an empty text.
        detail: String,
    },
    /// The chat template cannot be parsed, or it failed on these messages.
    #[error("the chat template failed: {reason}")]
    ChatTemplate {
        /// What the template engine or the template's own `raise_exception` said.
        reason: String,
    },
    /// The caller took the call back.
    #[error("the call was aborted after {done} of {total} texts")]
    Cancelled {
        /// Texts that were done.
        done: usize,
        /// Texts in all.
        total: usize,
    },
    /// More than one call can take, or than its flat arrays can number.
    #[error("more than {limit} {what} in one call")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much would fit.
        limit: u64,
    },
    /// A bug of ours or of an engine: a panic was caught.
    #[error("the tokenizer engine panicked: {reason}")]
    Panicked {
        /// The panic's message.
        reason: String,
    },
}

impl TokenizeError {
    /// The code from the one list.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound { .. } => ErrorCode::ModelNotFound,
            Self::InvalidFile { .. } => ErrorCode::InvalidTokenizer,
            Self::Unsupported { .. } | Self::NoChatTemplate { .. } => ErrorCode::Unsupported,
            Self::InvalidArgument { .. }
            | Self::PatternLimit { .. }
            | Self::Encode { .. }
            | Self::Decode { .. }
            | Self::ChatTemplate { .. }
            | Self::TooLarge { .. } => ErrorCode::InvalidArgument,
            Self::Cancelled { .. } => ErrorCode::Closed,
            Self::Panicked { .. } => ErrorCode::Internal,
        }
    }

    /// What the caller can do about it, where there is something.
    pub fn remedy(&self) -> Option<String> {
        let remedy = match self {
            Self::NotFound { remedy, .. } => remedy.clone(),
            Self::InvalidFile { .. } => {
                "take the file from the model's own repository again, or save it with a current version of `tokenizers`"
                    .to_owned()
            }
            Self::NoChatTemplate { .. } => "pass `template`, or use a model that was trained for chat".to_owned(),
            Self::TooLarge { .. } => "split it".to_owned(),
            _ => return None,
        };
        Some(remedy)
    }

    pub(crate) fn argument(param: &'static str, expected: impl Into<String>, got: impl fmt::Display) -> Self {
        Self::InvalidArgument { param, expected: expected.into(), got: got.to_string() }
    }

    pub(crate) fn file(what: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::InvalidFile { what: what.into(), reason: reason.to_string() }
    }

    pub(crate) fn unsupported(component: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported { component: component.into(), reason: reason.into() }
    }
}

impl From<TokenizeError> for Error {
    fn from(error: TokenizeError) -> Self {
        let mut out = Error::new(error.code(), error.to_string()).with_stage(Stage::Tokenize);
        if let TokenizeError::InvalidArgument { param, .. } = &error {
            out = out.with_param(*param);
        }
        match error.remedy() {
            Some(remedy) => out.with_remedy(remedy),
            None => out,
        }
    }
}

/// Runs code of others; a panic in it becomes an error instead of ending the thread.
pub(crate) fn guard<T>(
    panicked: impl FnOnce(String) -> TokenizeError,
    run: impl FnOnce() -> Result<T, TokenizeError>,
) -> Result<T, TokenizeError> {
    // Unwind safety: the closures only read the tokenizer, whose caches hold whole entries at every point, and write to
    // buffers that are thrown away with the error.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        Err(panicked(text.unwrap_or_else(|| "no message".to_owned())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_keeps_its_code_and_remedy_on_the_way_out() {
        let missing = TokenizeError::NotFound {
            what: "tokenizer.json",
            path: "./m/tokenizer.json".into(),
            remedy: "copy it there".into(),
        };
        let out = Error::from(missing);
        assert_eq!(out.code(), ErrorCode::ModelNotFound);
        assert_eq!(out.remedy(), Some("copy it there"));
        assert_eq!(out.stage(), Some(Stage::Tokenize));

        let refused = Error::from(TokenizeError::argument("maxLength", "at least 3", 2));
        assert_eq!(refused.code(), ErrorCode::InvalidArgument);
        assert_eq!(refused.param(), Some("maxLength"));
        assert_eq!(refused.message(), "maxLength must be at least 3, got 2");
    }

    #[test]
    fn a_panic_becomes_an_error_with_its_text() {
        let error = guard(|reason| TokenizeError::Panicked { reason }, || -> Result<(), _> { panic!("index {}", 7) });
        assert_eq!(error.unwrap_err(), TokenizeError::Panicked { reason: "index 7".into() });
    }
}
