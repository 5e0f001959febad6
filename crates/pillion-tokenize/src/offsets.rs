//! Offsets in the unit that the caller counts in, and without the white space that some files ask to leave out.

use crate::options::OffsetUnit;

/// Turns byte offsets of one text into another unit. Offsets that go up cost one pass over the text.
pub(crate) struct OffsetMap<'t> {
    text: &'t [u8],
    unit: OffsetUnit,
    /// Whether all units are bytes here.
    plain: bool,
    byte: usize,
    units: u32,
}

impl<'t> OffsetMap<'t> {
    pub(crate) fn new(text: &'t str, unit: OffsetUnit) -> Self {
        let plain = unit == OffsetUnit::Byte || text.is_ascii();
        Self { text: text.as_bytes(), unit, plain, byte: 0, units: 0 }
    }

    /// The offset of the character that begins at, or holds, this byte.
    pub(crate) fn get(&mut self, byte: u32) -> u32 {
        if self.plain {
            return byte;
        }
        let mut byte = (byte as usize).min(self.text.len());
        while byte > 0 && self.text.get(byte).is_some_and(|b| is_continuation(*b)) {
            byte -= 1;
        }
        if byte >= self.byte {
            self.units += count(&self.text[self.byte..byte], self.unit);
        } else {
            self.units -= count(&self.text[byte..self.byte], self.unit);
        }
        self.byte = byte;
        self.units
    }
}

fn count(bytes: &[u8], unit: OffsetUnit) -> u32 {
    let chars = bytes.iter().filter(|b| !is_continuation(**b)).count();
    let pairs = match unit {
        OffsetUnit::Utf16 => bytes.iter().filter(|b| **b >= 0xF0).count(),
        _ => 0,
    };
    (chars + pairs) as u32
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}

/// How a file asks to leave white space out of offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trim {
    /// The pre-tokenizer put a space before the text, which offsets do not count.
    pub(crate) add_prefix_space: bool,
    /// Whether the sequence's first token was the first of all when trimming took place.
    pub(crate) leads: bool,
}

impl Trim {
    /// Trims one token's byte offsets. `spaces` counts characters of the token, and the text is walked by characters, as the reference
    /// does it.
    pub(crate) fn apply(self, text: &str, index: usize, span: (u32, u32), spaces: (u32, u32)) -> (u32, u32) {
        let (mut start, mut end) = (span.0 as usize, span.1 as usize);
        let (mut leading, trailing) = spaces;
        let is_first = (index == 0 && self.leads) || start == 0;
        if is_first && self.add_prefix_space && leading == 1 {
            leading = 0;
        }
        for _ in 0..leading {
            if start >= end {
                break;
            }
            start += char_len(text, start);
        }
        start = start.min(end);
        if trailing > 0
            && let Some(before) = chars_before(text, end, trailing)
        {
            end = before.max(start);
        }
        (start as u32, end as u32)
    }
}

fn char_len(text: &str, at: usize) -> usize {
    text.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8)
}

/// Where the character `count` before `end` begins, if there are so many.
fn chars_before(text: &str, end: usize, count: u32) -> Option<usize> {
    text.get(..end)?.char_indices().rev().nth(count as usize - 1).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "aé€😀z";

    fn map(unit: OffsetUnit, bytes: &[u32]) -> Vec<u32> {
        let mut map = OffsetMap::new(TEXT, unit);
        bytes.iter().map(|b| map.get(*b)).collect()
    }

    #[test]
    fn each_unit_counts_its_own_way() {
        let at = [0, 1, 3, 6, 10, 11];
        assert_eq!(map(OffsetUnit::Byte, &at), at);
        assert_eq!(map(OffsetUnit::CodePoint, &at), [0, 1, 2, 3, 4, 5]);
        assert_eq!(map(OffsetUnit::Utf16, &at), [0, 1, 2, 3, 5, 6]);
        assert_eq!(map(OffsetUnit::Utf16, &[11, 0, 10, 3]), [6, 0, 5, 2], "back and forth");
        assert_eq!(map(OffsetUnit::CodePoint, &[2, 99]), [1, 5], "inside a character, past the end");
    }

    #[test]
    fn trimming_follows_the_reference() {
        let trim = Trim { add_prefix_space: true, leads: true };
        assert_eq!(trim.apply(" Hello ", 0, (0, 6), (1, 0)), (0, 6), "a first space may be ours");
        assert_eq!(trim.apply("x Hello ", 1, (1, 7), (1, 0)), (2, 7));
        assert_eq!(trim.apply("  Hello ", 0, (0, 7), (2, 0)), (2, 7));
        assert_eq!(trim.apply("Hello  ", 3, (5, 7), (2, 2)), (7, 7), "nothing but space");
        let plain = Trim { add_prefix_space: false, leads: true };
        assert_eq!(plain.apply(" Hello ", 0, (0, 6), (1, 0)), (1, 6));
        assert_eq!(plain.apply("é\u{a0}\u{a0}x", 1, (2, 6), (2, 2)), (6, 6), "wide white space");
    }

    proptest! {
        #[test]
        fn units_agree_with_the_standard_library(text in "\\PC{0,40}", order in any::<bool>()) {
            let mut bounds: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
            if order { bounds.reverse(); }
            let mut utf16 = OffsetMap::new(&text, OffsetUnit::Utf16);
            let mut chars = OffsetMap::new(&text, OffsetUnit::CodePoint);
            for b in bounds {
                prop_assert_eq!(utf16.get(b as u32) as usize, text[..b].encode_utf16().count());
                prop_assert_eq!(chars.get(b as u32) as usize, text[..b].chars().count());
            }
        }
    }
}
