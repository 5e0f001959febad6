//! The Jinja environment that templates of the hub expect.

use std::{io, sync::LazyLock};

use fancy_regex::Regex;
use minijinja::{
    Environment, Error, ErrorKind, UndefinedBehavior, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Rest},
};

use crate::{
    chat_template::{json, python},
    error::TokenizeError,
};

/// Steps that one rendering may take, each of which may also make 64 bytes: about a second, and 256 MB.
const FUEL: u64 = 4_000_000;
/// Bytes that a rendering may have.
const MAX_OUTPUT: usize = 64 << 20;
/// Bytes that a template may have.
const MAX_SOURCE: usize = 4 << 20;

/// The environment, without templates.
pub(super) fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid: this is a bug"));
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(python::method);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("tojson", to_json);
    environment.add_filter("indent", python::indent);
    environment.add_filter("wordcount", python::word_count);
    environment.add_test("sequence", python::is_sequence);
    environment.add_test("iterable", python::is_iterable);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", strftime_now);
    environment
}

/// Renders a template's source.
pub(super) fn render(
    environment: &Environment<'static>,
    source: &str,
    context: Value,
) -> Result<String, TokenizeError> {
    if source.len() > MAX_SOURCE {
        let reason = format!("its source has {} bytes, {MAX_SOURCE} are allowed", source.len());
        return Err(TokenizeError::ChatTemplate { reason });
    }
    let source = without_generation_tags(source);
    let mut out = Limited(Vec::new());
    environment
        .template_from_named_str("chat_template", &source)
        .and_then(|template| template.render_captured_to(context, &mut out).map(|_| ()))
        .map_err(|e| TokenizeError::ChatTemplate { reason: describe(&e) })?;
    String::from_utf8(out.0).map_err(|e| TokenizeError::ChatTemplate { reason: e.to_string() })
}

fn describe(error: &Error) -> String {
    let text = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it takes more steps than are allowed".to_owned(),
        (ErrorKind::WriteFailure, _) => format!("it gives more than {MAX_OUTPUT} bytes"),
        // What `raise_exception` says stands alone.
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    match error.line() {
        Some(line) => format!("{text} (line {line})"),
        None => text,
    }
}

/// The tags that mark an assistant's own tokens for training; for rendering they mean nothing.
fn without_generation_tags(source: &str) -> String {
    static TAGS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("a constant pattern: this is a bug")
    });
    TAGS.replace_all(source, |found: &fancy_regex::Captures<'_>| {
        let tag = if found.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {tag} {}%}}", &found[1], &found[3])
    })
    .into_owned()
}

/// Output that ends when it is too long.
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other("too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}")))
}

/// `transformers`' own `tojson`: no HTML escapes, and the options of Python's `json.dumps`.
#[expect(clippy::needless_pass_by_value, reason = "the template engine hands arguments over")]
fn to_json(value: &Value, rest: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [ensure_ascii, indent, separators, sort_keys] =
        ["ensure_ascii", "indent", "separators", "sort_keys"].map(|name| kwargs.get::<Option<Value>>(name));
    kwargs.assert_all_used()?;
    let option = |at: usize, keyword: Result<Option<Value>, Error>| -> Result<Option<Value>, Error> {
        Ok(rest.get(at).cloned().or(keyword?).filter(|v| !v.is_none() && !v.is_undefined()))
    };
    let mut style = json::Style::default();
    style.ensure_ascii = option(0, ensure_ascii)?.is_some_and(|v| v.is_true());
    style.sort_keys = option(3, sort_keys)?.is_some_and(|v| v.is_true());
    if let Some(indent) = option(1, indent)? {
        style.set_indent(&indent)?;
    }
    if let Some(separators) = option(2, separators)? {
        style.set_separators(&separators)?;
    }
    json::dumps(value, &style).map(Value::from_safe_string)
}
