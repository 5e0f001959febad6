//! The scanners for engines that find words as this one does and do all else in another way.

use super::pattern::{Pattern, Split, with_scanner};
use super::scan::{Piece, Scanner};

/// A split pattern that has a scanner and that matches every character, so that its words are all of a text.
#[derive(Clone, Copy, Debug)]
pub struct Words(Pattern);

impl Words {
    /// The pattern of `ByteLevel`.
    pub const BYTE_LEVEL: Self = Self(Pattern::Gpt2);

    /// The scanner of a pattern, if there is one.
    pub fn of_regex(regex: &str) -> Option<Self> {
        Pattern::of_splits(&[Split { regex: regex.to_owned(), drops_rest: false }]).map(Self)
    }

    /// Calls `each` with the end of each word of a text that is not empty, until it fails.
    pub fn each_end<E>(self, text: &str, mut each: impl FnMut(usize) -> Result<(), E>) -> Result<(), E> {
        let piece = Piece::new(text);
        with_scanner!(self.0, scanner => {
            let mut at = 0;
            while at < text.len() {
                at = scanner.next(piece, at);
                each(at)?;
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::pattern::CL100K;
    use super::*;

    fn check(words: Words, text: &str, expected: &[&str]) {
        let (mut found, mut start) = (Vec::new(), 0);
        let each = |end| {
            found.push(&text[start..end]);
            start = end;
            Ok::<_, ()>(())
        };
        words.each_end(text, each).unwrap();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_words_of_known_patterns() {
        check(Words::BYTE_LEVEL, "I'm 1234  well ", &["I", "'m", " 1234", " ", " well", " "]);
        check(Words::of_regex(CL100K).unwrap(), "I'M 1234  well ", &["I", "'M", " ", "123", "4", " ", " well", " "]);
        check(Words::BYTE_LEVEL, "", &[]);
        assert!(Words::of_regex(r"\s+").is_none());
        assert!(Words::of_regex(r"\p{N}{1,3}").is_none(), "it does not match every character");
    }

    #[test]
    fn it_stops_at_the_first_failure() {
        let mut calls = 0;
        let each = |_| {
            calls += 1;
            Err("enough")
        };
        assert_eq!(Words::BYTE_LEVEL.each_end("a b c", each), Err("enough"));
        assert_eq!(calls, 1);
    }
}
