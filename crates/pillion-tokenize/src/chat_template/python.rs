//! Filters, tests and methods where the template engine's own differ from Jinja's in Python.

use std::sync::LazyLock;

use fancy_regex::Regex;
use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Kwargs, Rest, ValueKind},
};

/// Methods of Python's values.
pub(super) fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.as_str(), name, args) {
        (Some(text), "title", []) => Ok(title(text).into()),
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// Python's `str.title`: a word begins after whatever is no letter.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        if in_word {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        in_word = c.is_alphabetic();
    }
    out
}

/// Jinja's `indent(width=4, first=False, blank=False)`.
#[expect(clippy::needless_pass_by_value, reason = "the template engine hands arguments over")]
pub(super) fn indent(text: &str, rest: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let option = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(rest.get(at).cloned().or(kwargs.get::<Option<Value>>(name)?))
    };
    let width = option(0, "width")?;
    let first = option(1, "first")?.is_some_and(|v| v.is_true());
    let blank = option(2, "blank")?.is_some_and(|v| v.is_true());
    kwargs.assert_all_used()?;
    let indention = match width {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(i64::try_from(width)?).unwrap_or(0).min(256)),
        },
    };
    let mut out = String::with_capacity(text.len() + indention.len());
    if first {
        out.push_str(&indention);
    }
    for (at, line) in split_lines(text).into_iter().enumerate() {
        if at > 0 {
            out.push('\n');
            if blank || !line.is_empty() {
                out.push_str(&indention);
            }
        }
        out.push_str(line);
        if out.len() > text.len() + (1 << 26) {
            return Err(Error::new(ErrorKind::OutOfFuel, "indent"));
        }
    }
    Ok(out)
}

/// Python's `(text + "\n").splitlines()`.
fn split_lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_line_end) {
        lines.push(&rest[..at]);
        let end = rest[at..].chars().next().map_or(1, char::len_utf8);
        rest = &rest[at + end..];
        if text[..text.len() - rest.len()].ends_with('\r') {
            rest = rest.strip_prefix('\n').unwrap_or(rest);
        }
    }
    lines.push(rest);
    lines
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Jinja's `wordcount`.
pub(super) fn word_count(text: &str) -> usize {
    static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\w+").expect("a constant pattern: this is a bug"));
    WORD.find_iter(text).filter_map(Result::ok).count()
}

/// What has a length and can be indexed, texts, maps and missing values too.
pub(super) fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Undefined)
}

/// What can be looped over; `none` cannot.
pub(super) fn is_iterable(value: &Value) -> bool {
    is_sequence(value) || value.kind() == ValueKind::Iterable
}
