//! The reference's decoders as steps that take one token (or, once tokens are joined, one piece of text) at a time.

use std::sync::Arc;

use fancy_regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use crate::{byte_level, decoder::steps::literal::Literal, error::TokenizeError};

pub(super) mod literal;

/// One step. "Text" steps come after tokens were joined, and see the joined text in pieces.
#[derive(Clone)]
pub(super) enum Step {
    /// Joins the bytes that byte-level tokens stand for into text. Must see whole tokens.
    Bytes,
    /// Puts a space between tokens: what the reference does without a decoder.
    Spaces,
    ByteFallback,
    WordPiece {
        prefix: String,
        cleanup: bool,
    },
    Metaspace {
        replacement: char,
        drop_first: bool,
    },
    EndOfWord {
        suffix: String,
    },
    Ctc {
        pad: String,
        delimiter: String,
        cleanup: bool,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
    /// Joins tokens. Pieces pass as they are.
    Fuse,
    /// Replaces in joined text.
    TextReplace(Arc<Literal>),
    /// Strips joined text.
    TextStrip {
        content: char,
        start: usize,
        stop: usize,
    },
    /// A token step on joined text that only the whole can tell: kept until the end.
    Whole(Box<Step>),
}

#[derive(Clone)]
pub(super) enum Pattern {
    Text(String),
    Regex(Regex),
}

/// What a step remembers.
#[derive(Clone, PartialEq)]
pub(super) enum State {
    None,
    /// Bytes of an unfinished character, or of a run of byte tokens.
    Bytes(Vec<u8>),
    /// Whether a token came before.
    Started(bool),
    /// A token, or text, that is held back.
    Held(Option<String>),
    Matched(literal::Progress),
    Strip {
        stripped: usize,
        at_start: bool,
        held: usize,
    },
    Whole(String, Box<State>),
}

impl State {
    pub(super) fn new(step: &Step) -> Self {
        match step {
            Step::Bytes | Step::ByteFallback => Self::Bytes(Vec::new()),
            Step::Spaces | Step::WordPiece { .. } | Step::Metaspace { .. } => Self::Started(false),
            Step::EndOfWord { .. } | Step::Ctc { .. } => Self::Held(None),
            Step::Replace { .. } | Step::Strip { .. } | Step::Fuse => Self::None,
            Step::TextReplace(_) => Self::Matched(literal::Progress::default()),
            Step::TextStrip { .. } => Self::Strip { stripped: 0, at_start: true, held: 0 },
            Step::Whole(step) => Self::Whole(String::new(), Box::new(Self::new(step))),
        }
    }

    /// Whether it keeps no part of a token: of these states there are only a few, and streams come back to them.
    pub(super) fn is_resting(&self) -> bool {
        match self {
            Self::Bytes(held) => held.is_empty(),
            Self::Held(held) => held.is_none(),
            Self::Whole(..) => false,
            Self::None | Self::Started(_) | Self::Matched(_) | Self::Strip { .. } => true,
        }
    }
}

/// Hands one token to the first step and what comes of it to the next ones.
pub(super) fn feed(steps: &[Step], states: &mut [State], token: &str, out: &mut String) {
    match (steps.split_first(), states.split_first_mut()) {
        (Some((step, steps)), Some((state, states))) => {
            step.push(state, token, &mut |token| feed(steps, states, token, out));
        }
        _ => out.push_str(token),
    }
}

/// [`feed`] for a first step of [`Step::Bytes`], whose bytes are known.
pub(super) fn feed_bytes(steps: &[Step], states: &mut [State], bytes: &[u8], out: &mut String) {
    if let (Some((_, steps)), Some((State::Bytes(held), states))) = (steps.split_first(), states.split_first_mut()) {
        push_utf8(held, bytes, &mut |text| feed(steps, states, text, out));
    }
}

/// Lets every step give what it holds back.
pub(super) fn finish(steps: &[Step], states: &mut [State], out: &mut String) {
    if let (Some((step, steps)), Some((state, states))) = (steps.split_first(), states.split_first_mut()) {
        step.finish(state, &mut |token| feed(steps, states, token, out));
        finish(steps, states, out);
    }
}

impl Step {
    fn push(&self, state: &mut State, token: &str, emit: &mut dyn FnMut(&str)) {
        match (self, state) {
            (Self::Bytes, State::Bytes(held)) => {
                let mut bytes = Vec::with_capacity(token.len());
                byte_level::push_bytes(token, &mut bytes);
                push_utf8(held, &bytes, emit);
            }
            (Self::Spaces, State::Started(started)) => {
                if std::mem::replace(started, true) {
                    emit(" ");
                }
                emit(token);
            }
            (Self::ByteFallback, State::Bytes(run)) => {
                if let Some(byte) = byte_token(token) {
                    run.push(byte);
                } else {
                    end_run(run, emit);
                    emit(token);
                }
            }
            (Self::WordPiece { prefix, cleanup }, State::Started(started)) => {
                let token = if std::mem::replace(started, true) {
                    token.strip_prefix(prefix.as_str()).map_or_else(|| format!(" {token}"), str::to_owned)
                } else {
                    token.to_owned()
                };
                emit(&if *cleanup { word_piece_cleanup(&token) } else { token });
            }
            (Self::Metaspace { replacement, drop_first }, State::Started(started)) => {
                let drop = !std::mem::replace(started, true) && *drop_first;
                let spaced: String = token
                    .chars()
                    .filter(|c| !(drop && c == replacement))
                    .map(|c| if c == *replacement { ' ' } else { c })
                    .collect();
                emit(&spaced);
            }
            (Self::EndOfWord { suffix }, State::Held(held)) => {
                if let Some(previous) = held.replace(token.to_owned()) {
                    emit(&previous.replace(suffix, " "));
                }
            }
            (Self::Ctc { pad, delimiter, cleanup }, State::Held(previous)) => {
                if previous.as_deref() == Some(token) {
                    return;
                }
                *previous = Some(token.to_owned());
                let mut text = token.replace(pad, "");
                if *cleanup {
                    text = word_piece_cleanup(&text).replace(delimiter, " ");
                }
                if !text.is_empty() {
                    emit(&text);
                }
            }
            (Self::Replace { pattern, content }, _) => emit(&pattern.replace(token, content)),
            (Self::Strip { content, start, stop }, _) => emit(strip(token, *content, *start, *stop)),
            (Self::TextReplace(literal), State::Matched(progress)) => literal.push(progress, token, emit),
            (Self::TextStrip { .. }, state @ State::Strip { .. }) => self.push_strip(state, token, emit),
            (Self::Whole(_), State::Whole(text, _)) => text.push_str(token),
            _ => emit(token),
        }
    }

    fn finish(&self, state: &mut State, emit: &mut dyn FnMut(&str)) {
        match (self, state) {
            (Self::Bytes, State::Bytes(held)) if !held.is_empty() => {
                held.clear();
                emit("\u{fffd}");
            }
            (Self::ByteFallback, State::Bytes(run)) => end_run(run, emit),
            (Self::EndOfWord { suffix }, State::Held(held)) => {
                if let Some(last) = held.take() {
                    emit(&last.replace(suffix, ""));
                }
            }
            (Self::TextReplace(literal), State::Matched(progress)) => literal.finish(progress, emit),
            (Self::TextStrip { content, stop, .. }, State::Strip { held, .. }) => {
                let kept = held.saturating_sub(*stop);
                emit(&content.to_string().repeat(kept));
            }
            (Self::Whole(step), State::Whole(text, state)) => {
                step.push(state, text, emit);
                step.finish(state, emit);
            }
            _ => {}
        }
    }

    /// Holds back trailing characters that the end may strip; as many as there are, since all but the last few turn out to stay.
    fn push_strip(&self, state: &mut State, text: &str, emit: &mut dyn FnMut(&str)) {
        let (Self::TextStrip { content, start, stop }, State::Strip { stripped, at_start, held }) = (self, state)
        else {
            return;
        };
        let mut rest = text;
        while *at_start && !rest.is_empty() {
            if *stripped < *start && rest.starts_with(*content) {
                *stripped += 1;
                rest = &rest[content.len_utf8()..];
            } else {
                *at_start = false;
            }
        }
        if rest.is_empty() {
            return;
        }
        let body = rest.trim_end_matches(*content);
        let tail = rest[body.len()..].chars().count();
        if body.is_empty() {
            *held += tail;
        } else {
            if *held > 0 {
                emit(&content.to_string().repeat(*held));
            }
            emit(body);
            *held = tail;
        }
        // More than `stop` can never be stripped.
        if *held > *stop {
            emit(&content.to_string().repeat(*held - *stop));
            *held = *stop;
        }
    }
}

impl Pattern {
    fn replace(&self, token: &str, content: &str) -> String {
        match self {
            // The reference finds nothing in an empty token.
            _ if token.is_empty() => String::new(),
            Self::Text(text) => token.replace(text, content),
            Self::Regex(regex) => {
                let mut out = String::new();
                let mut end = 0;
                // The reference stops at the first failure of the pattern engine and keeps the rest as it is; so do we.
                for found in regex.find_iter(token).map_while(Result::ok) {
                    out.push_str(&token[end..found.start()]);
                    out.push_str(content);
                    end = found.end();
                }
                out.push_str(&token[end..]);
                out
            }
        }
    }
}

fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if token.len() != 6 || !digits.is_ascii() {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

fn end_run(run: &mut Vec<u8>, emit: &mut dyn FnMut(&str)) {
    if run.is_empty() {
        return;
    }
    match std::str::from_utf8(run) {
        Ok(text) => emit(text),
        Err(_) => run.iter().for_each(|_| emit("\u{fffd}")),
    }
    run.clear();
}

fn strip(token: &str, content: char, start: usize, stop: usize) -> &str {
    let mut rest = token;
    for _ in 0..start {
        match rest.strip_prefix(content) {
            Some(stripped) => rest = stripped,
            None => break,
        }
    }
    for _ in 0..stop {
        match rest.strip_suffix(content) {
            Some(stripped) => rest = stripped,
            None => break,
        }
    }
    rest
}

/// Appends bytes and gives the characters that are complete. What can be no UTF-8 becomes U+FFFD, once for each maximal part.
fn push_utf8(held: &mut Vec<u8>, bytes: &[u8], emit: &mut dyn FnMut(&str)) {
    if held.is_empty()
        && let Ok(text) = std::str::from_utf8(bytes)
    {
        if !text.is_empty() {
            emit(text);
        }
        return;
    }
    held.extend_from_slice(bytes);
    let mut start = 0;
    let mut text = String::new();
    loop {
        match std::str::from_utf8(&held[start..]) {
            Ok(valid) => {
                text.push_str(valid);
                start = held.len();
                break;
            }
            Err(error) => {
                let valid = start + error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&held[start..valid]));
                start = valid;
                let Some(invalid) = error.error_len() else { break };
                text.push('\u{fffd}');
                start += invalid;
            }
        }
    }
    held.drain(..start);
    if !text.is_empty() {
        emit(&text);
    }
}

const CLEAN_UP: [(&str, &str); 10] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

/// The steps of `clean_up`, on joined text.
pub(super) fn clean_up() -> impl Iterator<Item = Step> {
    CLEAN_UP.iter().map(|(from, to)| Step::TextReplace(Arc::new(Literal::new(from, to))))
}

/// The WordPiece decoder's own list, which has one entry more.
fn word_piece_cleanup(token: &str) -> String {
    let mut text = token.to_owned();
    for (at, (from, to)) in CLEAN_UP.iter().enumerate() {
        if at == 7 {
            text = text.replace(" do not", " don't");
        }
        text = text.replace(from, to);
    }
    text
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Written {
    BPEDecoder {
        suffix: String,
    },
    ByteLevel {},
    WordPiece {
        prefix: String,
        cleanup: bool,
    },
    Metaspace {
        replacement: char,
        prepend_scheme: String,
    },
    #[serde(rename = "CTC")]
    Ctc {
        pad_token: String,
        word_delimiter_token: String,
        cleanup: bool,
    },
    Sequence {
        decoders: Vec<Value>,
    },
    Replace {
        pattern: WrittenPattern,
        content: String,
    },
    Fuse {},
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
    ByteFallback {},
}

#[derive(Deserialize)]
enum WrittenPattern {
    String(String),
    Regex(String),
}

/// Reads a decoder in the reference's own written form.
pub(super) fn compile(json: &Value) -> Result<Vec<Step>, TokenizeError> {
    if json.is_null() {
        return Ok(vec![Step::Spaces]);
    }
    let mut steps = Vec::new();
    push(json, &mut steps)?;
    Ok(steps)
}

fn push(json: &Value, steps: &mut Vec<Step>) -> Result<(), TokenizeError> {
    let written = Written::deserialize(json).map_err(|e| TokenizeError::file("decoder", e))?;
    let step = match written {
        Written::Sequence { decoders } => return decoders.iter().try_for_each(|part| push(part, steps)),
        Written::BPEDecoder { suffix } => Step::EndOfWord { suffix },
        Written::ByteLevel {} => Step::Bytes,
        Written::WordPiece { prefix, cleanup } => Step::WordPiece { prefix, cleanup },
        Written::Metaspace { replacement, prepend_scheme } => {
            Step::Metaspace { replacement, drop_first: prepend_scheme != "never" }
        }
        Written::Ctc { pad_token, word_delimiter_token, cleanup } => {
            Step::Ctc { pad: pad_token, delimiter: word_delimiter_token, cleanup }
        }
        Written::Fuse {} => Step::Fuse,
        Written::Strip { content, start, stop } => Step::Strip { content, start, stop },
        Written::ByteFallback {} => Step::ByteFallback,
        Written::Replace { pattern, content } => Step::Replace { pattern: pattern.compile()?, content },
    };
    let joined = steps.iter().any(|s| matches!(s, Step::Fuse | Step::Bytes));
    steps.push(if joined { on_text(step) } else { step });
    Ok(())
}

impl WrittenPattern {
    fn compile(self) -> Result<Pattern, TokenizeError> {
        match self {
            Self::String(text) => Ok(Pattern::Text(text)),
            Self::Regex(regex) => Regex::new(&regex)
                .map(Pattern::Regex)
                .map_err(|e| TokenizeError::file(format!("decoder pattern {regex:?}"), e)),
        }
    }
}

/// The form of a step for joined text.
fn on_text(step: Step) -> Step {
    match step {
        Step::Fuse => Step::Fuse,
        Step::Strip { content, start, stop } => Step::TextStrip { content, start, stop },
        Step::Replace { pattern: Pattern::Text(text), content } if !text.is_empty() => {
            Step::TextReplace(Arc::new(Literal::new(&text, &content)))
        }
        other => Step::Whole(Box::new(other)),
    }
}
