//! The one list of error codes and the one error type that crosses every border as data.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, retryable $retryable:literal;)+) => {
        /// What went wrong, as callers test for it. The same list stands in `src/errors.ts` and `python/pillion/errors.py`;
        /// a test compares the three.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)+
        }

        impl ErrorCode {
            /// Every code, in the order of the public contract.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The code as callers see it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Whether the same call may succeed later without any change by the caller.
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)+ }
            }
        }
    };
}

error_codes! {
    /// A value that the call does not take.
    InvalidArgument = "invalid_argument", retryable false;
    /// A tokenizer file that cannot be read as one.
    InvalidTokenizer = "invalid_tokenizer", retryable false;
    /// Something that this build, model or platform does not do.
    Unsupported = "unsupported", retryable false;
    /// Prompt and requested tokens do not fit the model's context.
    ContextLengthExceeded = "context_length_exceeded", retryable false;
    /// An input that does not fit the model's declared schema.
    SchemaViolation = "schema_violation", retryable false;
    /// The native binary could not be loaded.
    NativeLoadFailed = "native_load_failed", retryable false;
    /// No Python interpreter was found.
    PythonNotFound = "python_not_found", retryable false;
    /// The interpreter is too old, free-threaded or not CPython.
    PythonUnsupported = "python_unsupported", retryable false;
    /// The interpreter has no shared libpython to load.
    PythonLibraryMissing = "python_library_missing", retryable false;
    /// A Python package that the model needs is not installed.
    PythonPackageMissing = "python_package_missing", retryable false;
    /// The model folder, or its weights, are not there.
    ModelNotFound = "model_not_found", retryable false;
    /// The model is there but did not load.
    ModelLoadFailed = "model_load_failed", retryable false;
    /// The asked-for way to Python cannot be used here.
    BridgeUnavailable = "bridge_unavailable", retryable false;
    /// Two parts of pillion have different versions.
    VersionMismatch = "version_mismatch", retryable false;
    /// As many requests or tokens wait as may wait.
    QueueFull = "queue_full", retryable true;
    /// The caller has used up its share.
    RateLimited = "rate_limited", retryable true;
    /// `timeoutMs` passed before the answer was there.
    DeadlineExceeded = "deadline_exceeded", retryable true;
    /// Python code raised.
    PythonError = "python_error", retryable false;
    /// The Python worker ended.
    WorkerLost = "worker_lost", retryable true;
    /// Host or device memory ran out.
    OutOfMemory = "out_of_memory", retryable true;
    /// The engine or stream has been closed.
    Closed = "closed", retryable false;
    /// A bug of ours.
    Internal = "internal", retryable false;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The step of the data's way in which an error arose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each variant is a step of the table in docs/architecture.md")]
pub enum Stage {
    Receive,
    Validate,
    Admit,
    Tokenize,
    Queue,
    Schedule,
    Load,
    Forward,
    Update,
    Detokenize,
    Stream,
}

/// What a raised Python exception was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PythonException {
    /// The exception's class, such as `ValueError`; qualified by its module unless that is `builtins`.
    pub python_type: String,
    /// The formatted traceback, the exception's own line included.
    pub traceback: String,
}

/// How a worker process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerExit {
    /// The exit status, if it exited by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal's name, such as `SIGKILL`, if one ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_signal: Option<String>,
    /// The last lines that it wrote to its standard error.
    #[serde(default)]
    pub stderr_tail: String,
}

/// An error with everything that a caller on any side may ask of it. One pointer wide.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Error(Box<ErrorData>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ErrorData {
    code: ErrorCode,
    message: String,
    retryable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stage: Option<Stage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    param: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    python: Option<PythonException>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    worker: Option<WorkerExit>,
}

impl Error {
    /// An error with the code's own answer to "may I retry?". Messages are lower case, without a full stop.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorData {
            code,
            message: message.into(),
            retryable: code.is_retryable(),
            stage: None,
            request_id: None,
            retry_after_ms: None,
            param: None,
            remedy: None,
            cause: None,
            python: None,
            worker: None,
        }))
    }

    /// A refused option: names the option, what was expected and the value that came.
    pub fn invalid(param: &str, expected: &str, got: impl fmt::Display) -> Self {
        Self::new(ErrorCode::InvalidArgument, format!("{param} must be {expected}, got {got}")).with_param(param)
    }

    /// A bug of ours; the message says which belief was wrong.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, message)
    }

    /// What a caught panic becomes.
    pub fn from_panic(payload: &(dyn std::any::Any + Send)) -> Self {
        let text = payload
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        Self::internal(format!("a Rust panic was caught: {text}"))
    }

    /// Names the step in which it arose, unless that is known already.
    #[must_use]
    pub fn with_stage(mut self, stage: Stage) -> Self {
        self.0.stage.get_or_insert(stage);
        self
    }

    /// Names the request that failed.
    #[must_use]
    pub fn with_request_id(mut self, id: impl Into<String>) -> Self {
        self.0.request_id = Some(id.into());
        self
    }

    /// Names the option that was refused.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.0.param = Some(param.into());
        self
    }

    /// Says what to do, as one sentence or command.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    /// Keeps the text of what caused it.
    #[must_use]
    pub fn with_cause(mut self, cause: impl fmt::Display) -> Self {
        self.0.cause = Some(cause.to_string());
        self
    }

    /// Says when to try again, in milliseconds.
    #[must_use]
    pub fn with_retry_after_ms(mut self, ms: u64) -> Self {
        self.0.retry_after_ms = Some(ms);
        self
    }

    /// Overrides the code's own answer to "may I retry?".
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// Keeps the Python exception behind it.
    #[must_use]
    pub fn with_python(mut self, python: PythonException) -> Self {
        self.0.python = Some(python);
        self
    }

    /// Keeps how the worker ended.
    #[must_use]
    pub fn with_worker(mut self, worker: WorkerExit) -> Self {
        self.0.worker = Some(worker);
        self
    }

    /// The code from the one list.
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// What happened, with the value that it happened to.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// The step in which it arose.
    pub fn stage(&self) -> Option<Stage> {
        self.0.stage
    }

    /// The request that failed.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// When to try again, in milliseconds.
    pub fn retry_after_ms(&self) -> Option<u64> {
        self.0.retry_after_ms
    }

    /// The option that was refused.
    pub fn param(&self) -> Option<&str> {
        self.0.param.as_deref()
    }

    /// What to do.
    pub fn remedy(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }

    /// The Python exception behind it.
    pub fn python(&self) -> Option<&PythonException> {
        self.0.python.as_ref()
    }

    /// How the worker ended.
    pub fn worker(&self) -> Option<&WorkerExit> {
        self.0.worker.as_ref()
    }

    /// The error as JSON with the public contract's field names.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|e| {
            format!(r#"{{"code":"internal","message":"an error could not be written: {e}","retryable":false}}"#)
        })
    }

    /// Reads what [`Error::to_json`] wrote; anything else becomes an internal error that quotes it.
    pub fn from_json(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_else(|e| {
            let quoted: String = json.chars().take(400).collect();
            Self::internal(format!("an error arrived in a form that cannot be read ({e}): {quoted}"))
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)?;
        if let Some(remedy) = &self.0.remedy {
            write!(f, "\nhint: {remedy}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crosses_as_json_and_back() {
        let error = Error::invalid("temperature", "a number from 0 to 100", -1)
            .with_stage(Stage::Validate)
            .with_request_id("r1")
            .with_remedy("pass 0 for greedy decoding")
            .with_python(PythonException { python_type: "ValueError".into(), traceback: "tb".into() });
        assert_eq!(Error::from_json(&error.to_json()), error);
        assert!(error.to_json().contains(r#""code":"invalid_argument""#));
        assert!(error.to_json().contains(r#""requestId":"r1""#));
    }

    #[test]
    fn text_that_is_no_error_is_quoted_not_lost() {
        let error = Error::from_json("Segmentation fault");
        assert_eq!(error.code(), ErrorCode::Internal);
        assert!(error.message().contains("Segmentation fault"));
    }

    #[test]
    fn names_are_unique_and_parse_back() {
        for code in ErrorCode::ALL {
            let json = format!("\"{code}\"");
            assert_eq!(serde_json::from_str::<ErrorCode>(&json).unwrap(), *code);
        }
        let names: std::collections::HashSet<_> = ErrorCode::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
    }
}
