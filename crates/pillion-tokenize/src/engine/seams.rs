//! Where a long text can be cut so that its parts have the ids of the whole.
//!
//! The place is before a space that stands between an ASCII letter or digit and an ASCII letter. In every pattern that has a scanner a
//! word begins there: no alternative that takes a letter or digit takes a space behind it, and the one for words takes one space before
//! its letters. No normal form joins anything over a space. What could still reach over the place is an added token with a space in it,
//! or one that takes the white space behind it; files with those are not cut.

use std::ops::Range;

use serde_json::Value;

/// Bytes of a part: so few that an abort is seen within milliseconds, so many that cutting costs nothing.
const PART_BYTES: usize = 256 * 1024;

/// How the texts of one file may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seams {
    part_bytes: Option<usize>,
}

impl Seams {
    /// Of a `tokenizer.json` that the byte-level engine has taken.
    pub(super) fn of_file(file: &Value) -> Self {
        let tokens = file["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
        let allowed = has_pattern(&file["pre_tokenizer"]) && !tokens.iter().any(reaches_over);
        Self { part_bytes: allowed.then_some(PART_BYTES) }
    }

    /// The text in parts, in order; short texts are one.
    pub(super) fn parts(self, text: &str) -> impl Iterator<Item = Range<usize>> {
        let mut start = 0;
        std::iter::from_fn(move || {
            if start == text.len() {
                return None;
            }
            let end = self.part_bytes.and_then(|bytes| next(text.as_bytes(), start, bytes)).unwrap_or(text.len());
            let part = start..end;
            start = end;
            Some(part)
        })
    }
}

/// The first place to cut that is at least `bytes` behind `start`.
fn next(text: &[u8], start: usize, bytes: usize) -> Option<usize> {
    let from = start + bytes;
    let fits = |w: &[u8]| w[0].is_ascii_alphanumeric() && w[1] == b' ' && w[2].is_ascii_alphabetic();
    text.get(from - 1..)?.windows(3).position(fits).map(|at| from + at)
}

/// Whether words are found by a pattern at all: without one a text is a single word.
fn has_pattern(pre_tokenizer: &Value) -> bool {
    match pre_tokenizer["type"].as_str() {
        Some("Sequence") => pre_tokenizer["pretokenizers"].as_array().is_some_and(|all| all.iter().any(has_pattern)),
        Some("ByteLevel") => pre_tokenizer["use_regex"].as_bool().unwrap_or(true),
        Some("Split") => true,
        _ => false,
    }
}

fn reaches_over(token: &Value) -> bool {
    let content = token["content"].as_str().unwrap_or_default();
    let flag = |name: &str, default| token[name].as_bool().unwrap_or(default);
    let normalized = flag("normalized", !flag("special", false));
    let takes_space = flag("rstrip", false) && !content.ends_with(|c: char| c.is_ascii_punctuation());
    // The normal form of a token may end in a letter that it does not show.
    content.contains(' ') || takes_space || normalized && !content.is_ascii()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parts(text: &str, part_bytes: usize) -> Vec<&str> {
        Seams { part_bytes: Some(part_bytes) }.parts(text).map(|part| &text[part]).collect()
    }

    #[test]
    fn a_cut_lies_between_words_only() {
        assert_eq!(parts("one two three", 2), ["one", " two", " three"]);
        assert_eq!(parts("one two three", 4), ["one two", " three"]);
        assert_eq!(parts("one two three", 99), ["one two three"]);
        assert_eq!(parts("a  b, c\n d 1 é", 1), ["a  b, c\n d 1 é"]);
        assert_eq!(parts("1 a", 1), ["1", " a"]);
        assert!(parts("", 1).is_empty());
    }

    #[test]
    fn files_whose_tokens_reach_over_a_space_are_not_cut() {
        let check = |added: Value, pre_tokenizer: Value, cuts: bool| {
            let file = json!({ "added_tokens": added, "pre_tokenizer": pre_tokenizer });
            assert_eq!(Seams::of_file(&file).part_bytes.is_some(), cuts, "{file}");
        };
        let byte_level = json!({ "type": "ByteLevel", "use_regex": true });
        let whole = json!({ "type": "Sequence", "pretokenizers": [{ "type": "ByteLevel", "use_regex": false }] });
        check(json!([]), byte_level.clone(), true);
        check(json!([]), whole, false);
        check(json!([]), Value::Null, false);
        check(json!([{ "content": "<|end|>", "rstrip": true, "lstrip": true }]), byte_level.clone(), true);
        check(json!([{ "content": "end", "rstrip": true }]), byte_level.clone(), false);
        check(json!([{ "content": "the end" }]), byte_level.clone(), false);
        check(json!([{ "content": "<｜end｜>", "normalized": false, "rstrip": true }]), byte_level.clone(), true);
        check(json!([{ "content": "\u{212a}" }]), byte_level, false);
    }
}
