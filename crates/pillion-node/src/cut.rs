//! Cuts a text to so many tokens.

use pillion_core::Result;
use pillion_tokenize::{Columns, EncodeOptions, OffsetUnit, Side, TokenizeError, Tokenizer};

/// Where the longest beginning (or end) lies that has at most `max` tokens, special tokens of the template included: its first unit and
/// the one behind its last. Both lie between characters.
pub(crate) fn cut_to_tokens(
    tokenizer: &Tokenizer,
    text: &str,
    max: usize,
    side: Side,
    unit: OffsetUnit,
) -> Result<(u32, u32), TokenizeError> {
    let (mut start, mut end) = (0, text.len());
    let budget = max.saturating_sub(tokenizer.count("")?);
    loop {
        let kept = &text[start..end];
        let spans = spans(tokenizer, kept)?;
        // What is left of a cut may split otherwise than before, by what followed it; each turn is at least one character shorter.
        if kept.is_empty() || spans.len() <= budget {
            return Ok((measure(&text[..start], unit), measure(&text[..end], unit)));
        }
        match side {
            // Where the first token begins that is too much: a character that it shares with the last one kept goes too.
            Side::Right => end = start + floor(kept, spans[budget].0),
            Side::Left => start += ceil(kept, spans[spans.len() - budget - 1].1),
        }
    }
}

/// Start and end of each token, in bytes.
fn spans(tokenizer: &Tokenizer, text: &str) -> Result<Vec<(usize, usize)>, TokenizeError> {
    let options = EncodeOptions {
        columns: Columns { offsets: true, ..Columns::default() },
        add_special_tokens: false,
        offset_unit: OffsetUnit::Byte,
        ..EncodeOptions::default()
    };
    let offsets = tokenizer.encode(text, &options)?.columns.offsets.unwrap_or_default();
    Ok(offsets.chunks_exact(2).map(|span| (span[0] as usize, span[1] as usize)).collect())
}

/// The last place between characters up to `at` that makes the text shorter.
fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len() - 1);
    (0..=at).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

/// The first place between characters from `at` on that makes the text shorter.
fn ceil(text: &str, at: usize) -> usize {
    (at.max(1)..=text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len())
}

fn measure(text: &str, unit: OffsetUnit) -> u32 {
    let units = match unit {
        OffsetUnit::Utf16 => text.encode_utf16().count(),
        OffsetUnit::CodePoint => text.chars().count(),
        OffsetUnit::Byte => text.len(),
    };
    units as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, max: usize, side: Side, kept: &str) {
        let tokenizer = Tokenizer::byte();
        let (start, end) = cut_to_tokens(&tokenizer, text, max, side, OffsetUnit::Byte).unwrap();
        assert_eq!(&text[start as usize..end as usize], kept);
    }

    #[test]
    fn cuts_between_characters() {
        check("hello", 5, Side::Right, "hello");
        check("hello", 3, Side::Right, "hel");
        check("hello", 3, Side::Left, "llo");
        check("a🌍b", 4, Side::Right, "a");
        check("a🌍b", 5, Side::Right, "a🌍");
        check("a🌍b", 4, Side::Left, "b");
        check("a🌍b", 0, Side::Left, "");
        check("", 0, Side::Right, "");
    }

    #[test]
    fn counts_in_the_callers_unit() {
        let tokenizer = Tokenizer::byte();
        let (_, end) = cut_to_tokens(&tokenizer, "é🌍x", 6, Side::Right, OffsetUnit::Utf16).unwrap();
        assert_eq!(end, 3);
    }
}
