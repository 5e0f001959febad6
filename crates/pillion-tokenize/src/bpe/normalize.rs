//! Normalization form C, with the tables of the reference (Unicode 9), and where each part of the result comes from.

use std::ops::Range;

use unicode_normalization_alignments::UnicodeNormalization;

use super::table::ClassTable;

/// Writes the normal form of `text` to `normal` and returns true, or returns false if the text is it already.
pub(super) fn compose(text: &str, normal: &mut String) -> bool {
    normal.clear();
    let (mut from, mut copied) = (0, 0);
    while let Some(segment) = next_unstable(text, from) {
        from = segment.end;
        let part = &text[segment.clone()];
        if part.chars().nfc().map(|(c, _)| c).eq(part.chars()) {
            continue;
        }
        normal.push_str(&text[copied..segment.start]);
        normal.extend(part.chars().nfc().map(|(c, _)| c));
        copied = segment.end;
    }
    // The normal form of a text that is not empty is not empty: nothing written means nothing changed.
    if copied == 0 {
        return false;
    }
    normal.push_str(&text[copied..]);
    true
}

/// The next part of the text that its normal form may differ in, at or after `from`: characters that may change, and
/// the one before them. What stands around it is stable, so the part normalizes as it would by itself.
fn next_unstable(text: &str, from: usize) -> Option<Range<usize>> {
    let table = ClassTable::get();
    let bytes = text.as_bytes();
    let (mut at, mut previous) = (from, from);
    let start = loop {
        let first = *bytes.get(at)?;
        // All code points below U+0300 are stable.
        if first < 0xcc {
            previous = at;
            at += if first < 0x80 { ascii(bytes, at, &mut previous) } else { 2 };
            continue;
        }
        let (class, len) = table.at(bytes, at);
        if class.is_unstable() {
            break previous;
        }
        previous = at;
        at += len;
    };
    while let Some((class, len)) = (at < bytes.len()).then(|| table.at(bytes, at)) {
        if !class.is_unstable() {
            break;
        }
        at += len;
    }
    Some(start..at)
}

/// The length of the run of ASCII at `at`, of which the last is `previous`; it may stop early.
#[inline]
fn ascii(bytes: &[u8], at: usize, previous: &mut usize) -> usize {
    const BLOCK: usize = 32;
    let mut len = 1;
    while let Some(block) = bytes.get(at + len..at + len + BLOCK) {
        if !block.is_ascii() {
            break;
        }
        len += BLOCK;
    }
    *previous = at + len - 1;
    len
}

/// For each byte of the normal form, the range of the text that it comes from, as the reference counts it.
pub(super) fn origins(text: &str) -> Vec<Range<u32>> {
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    let origin = |at: usize| chars.get(at).map_or(0..0, |&(start, c)| start as u32..(start + c.len_utf8()) as u32);
    let (mut taken, mut origins) = (0_usize, Vec::with_capacity(text.len()));
    for (c, change) in text.chars().nfc() {
        // A change of 1 is a character more than there were; of -n, one that stands for n more than itself.
        let from = if change > 0 { taken.checked_sub(1).map_or(0..0, origin) } else { origin(taken) };
        if change <= 0 {
            taken += 1 + change.unsigned_abs();
        }
        origins.extend(std::iter::repeat_n(from, c.len_utf8()));
    }
    origins
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str) {
        let whole: String = text.chars().nfc().map(|(c, _)| c).collect();
        let mut normal = String::from("left over");
        let changed = compose(text, &mut normal);
        assert_eq!(changed, whole != text, "{text:?}");
        if changed {
            assert_eq!(normal, whole, "{text:?}");
        }
        assert_eq!(origins(text).len(), whole.len());
    }

    #[test]
    fn parts_normalize_as_the_whole_does() {
        let marks = "e\u{301}\u{e9}\u{310}\u{1de4}\u{323}\u{307}q\u{307}\u{323}\u{340}\u{344}\u{32ff}\u{1cce1}";
        let scripts = "한글\u{1112}\u{1161}\u{11ab}가\u{11a8}か\u{3099}が\u{304b}\u{915}\u{93c}\u{958}\u{94d}\u{212b}";
        for text in ["", "plain", marks, scripts, "\u{301}", "\u{301}\u{323}a", "naïve café", "\u{1100}\u{1161}"] {
            check(text);
            check(&format!("{}{text}{}", "x".repeat(40), "y".repeat(3)));
            check(&text.repeat(3));
        }
    }

    #[test]
    fn every_code_point_normalizes_in_context() {
        for c in (0..=0x1_1fff).filter_map(char::from_u32) {
            check(&format!("a{c}\u{301}b"));
            check(&format!("\u{5d0}\u{5b0}{c}{c}"));
        }
    }

    proptest! {
        #[test]
        fn runs_of_marks_normalize(text in "[a-eéàê\u{300}-\u{36f}\u{1dc0}-\u{1dff}\u{1100}-\u{11ff}가-깋\u{900}-\u{94f}]{0,24}") {
            check(&text);
        }
    }
}
