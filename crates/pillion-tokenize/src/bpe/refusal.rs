//! Why a `tokenizer.json` is not for this engine.

/// The part of a `tokenizer.json` that this engine would not do exactly as the reference does, or that is broken. The
/// reference engine has the last word on such a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{component}: {reason}")]
pub struct Refusal {
    component: &'static str,
    reason: String,
}

impl Refusal {
    pub(super) fn new(component: &'static str, reason: impl Into<String>) -> Self {
        Self { component, reason: reason.into() }
    }

    /// The path of the component in the file, for example `pre_tokenizer` or `model.dropout`.
    pub fn component(&self) -> &str {
        self.component
    }

    /// What about it is not supported.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}
