//! `json.dumps` of Python, character for character: models were trained on its output.

use std::fmt::Write as _;

use minijinja::{Error, ErrorKind, Value, value::ValueKind};

/// Deeper values are refused, as Python refuses them.
const MAX_DEPTH: usize = 200;

/// The options of `json.dumps`.
pub(super) struct Style {
    pub(super) ensure_ascii: bool,
    pub(super) sort_keys: bool,
    indent: Option<String>,
    item_separator: Option<String>,
    key_separator: String,
}

impl Default for Style {
    fn default() -> Self {
        Self { ensure_ascii: false, sort_keys: false, indent: None, item_separator: None, key_separator: ": ".into() }
    }
}

impl Style {
    /// A number of spaces, or the text itself.
    pub(super) fn set_indent(&mut self, indent: &Value) -> Result<(), Error> {
        self.indent = Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(i64::try_from(indent.clone())?).unwrap_or(0).min(64)),
        });
        Ok(())
    }

    /// A pair of texts: between items, and between key and value.
    pub(super) fn set_separators(&mut self, separators: &Value) -> Result<(), Error> {
        let texts: Vec<String> = separators.try_iter()?.map(|v| v.to_string()).collect();
        let [item, key] = <[String; 2]>::try_from(texts)
            .map_err(|_| Error::new(ErrorKind::InvalidOperation, "tojson: separators must be a pair"))?;
        self.item_separator = Some(item);
        self.key_separator = key;
        Ok(())
    }

    fn item_separator(&self) -> &str {
        match (&self.item_separator, &self.indent) {
            (Some(separator), _) => separator,
            (None, Some(_)) => ",",
            (None, None) => ", ",
        }
    }
}

/// Writes a value.
pub(super) fn dumps(value: &Value, style: &Style) -> Result<String, Error> {
    let mut out = String::new();
    write_value(value, style, 0, &mut out)?;
    Ok(out)
}

fn write_value(value: &Value, style: &Style, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::BadSerialization, "tojson: the value is nested too deeply"));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => write_number(value, out),
        ValueKind::String => write_string(value.as_str().unwrap_or_default(), style, out),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?;
            write_all(items, ['[', ']'], style, depth, out, |item, out| write_value(&item, style, depth + 1, out))?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys.sort_by_cached_key(Value::to_string);
            }
            write_all(keys.into_iter(), ['{', '}'], style, depth, out, |key, out| {
                write_key(&key, style, out)?;
                out.push_str(&style.key_separator);
                write_value(&value.get_item(&key)?, style, depth + 1, out)
            })?;
        }
        kind => {
            let message = format!("tojson: a value of type {kind} is not JSON serializable");
            return Err(Error::new(ErrorKind::BadSerialization, message));
        }
    }
    Ok(())
}

fn write_all(
    items: impl Iterator<Item = Value>,
    [open, close]: [char; 2],
    style: &Style,
    depth: usize,
    out: &mut String,
    mut write: impl FnMut(Value, &mut String) -> Result<(), Error>,
) -> Result<(), Error> {
    let new_line = |depth: usize, out: &mut String| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    };
    out.push(open);
    let mut any = false;
    for item in items {
        if any {
            out.push_str(style.item_separator());
        }
        any = true;
        new_line(depth + 1, out);
        write(item, out)?;
    }
    if any {
        new_line(depth, out);
    }
    out.push(close);
    Ok(())
}

fn write_key(key: &Value, style: &Style, out: &mut String) -> Result<(), Error> {
    match key.kind() {
        ValueKind::String => write_string(key.as_str().unwrap_or_default(), style, out),
        ValueKind::None | ValueKind::Bool | ValueKind::Number => {
            out.push('"');
            write_value(key, style, 0, out)?;
            out.push('"');
        }
        kind => {
            let message = format!("tojson: keys must be text, numbers, booleans or none, not {kind}");
            return Err(Error::new(ErrorKind::BadSerialization, message));
        }
    }
    Ok(())
}

fn write_number(value: &Value, out: &mut String) {
    if value.is_integer() {
        out.push_str(&value.to_string());
    } else if let Ok(float) = f64::try_from(value.clone()) {
        write_float(float, out);
    }
}

/// Python's `repr` of a float: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
fn write_float(float: f64, out: &mut String) {
    if float.is_nan() {
        out.push_str("NaN");
    } else if float.is_infinite() {
        out.push_str(if float > 0.0 { "Infinity" } else { "-Infinity" });
    } else if float != 0.0 && !(1e-4..1e16).contains(&float.abs()) {
        let text = format!("{float:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or_default();
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{digits}e{sign}{:02}", exponent.abs());
    } else {
        let _ = write!(out, "{float:?}");
    }
}

fn write_string(text: &str, style: &Style, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c if style.ensure_ascii && !matches!(c, ' '..='~') => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
