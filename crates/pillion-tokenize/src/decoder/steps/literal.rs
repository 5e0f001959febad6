//! Replaces one fixed text by another in text that comes in pieces, holding back only what may still become a match.

/// What to look for and what to put there.
pub(crate) struct Literal {
    pattern: Vec<char>,
    /// For each prefix of the pattern, the longest proper prefix of the pattern that it ends with.
    fallback: Vec<usize>,
    content: String,
}

/// How much of the pattern the text so far ends with; that much is held back.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Progress(usize);

impl Literal {
    pub(crate) fn new(pattern: &str, content: &str) -> Self {
        let pattern: Vec<char> = pattern.chars().collect();
        let mut fallback = vec![0; pattern.len() + 1];
        let mut len = 0;
        for at in 1..pattern.len() {
            while len > 0 && pattern[at] != pattern[len] {
                len = fallback[len];
            }
            if pattern[at] == pattern[len] {
                len += 1;
            }
            fallback[at + 1] = len;
        }
        Self { pattern, fallback, content: content.to_owned() }
    }

    pub(crate) fn push(&self, progress: &mut Progress, text: &str, emit: &mut dyn FnMut(&str)) {
        let mut out = String::with_capacity(text.len() + 8);
        for c in text.chars() {
            while progress.0 > 0 && self.pattern[progress.0] != c {
                let shorter = self.fallback[progress.0];
                out.extend(&self.pattern[..progress.0 - shorter]);
                progress.0 = shorter;
            }
            if self.pattern[progress.0] == c {
                progress.0 += 1;
            } else {
                out.push(c);
            }
            if progress.0 == self.pattern.len() {
                out.push_str(&self.content);
                progress.0 = 0;
            }
        }
        if !out.is_empty() {
            emit(&out);
        }
    }

    pub(crate) fn finish(&self, progress: &mut Progress, emit: &mut dyn FnMut(&str)) {
        if progress.0 > 0 {
            let held: String = self.pattern[..progress.0].iter().collect();
            progress.0 = 0;
            emit(&held);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_replace_as_the_whole_does(
            pattern in "[abé]{1,4}", content in "[abx]{0,2}", pieces in prop::collection::vec("[abé]{0,5}", 0..8),
        ) {
            let literal = Literal::new(&pattern, &content);
            let (mut progress, mut out) = (Progress::default(), String::new());
            for piece in &pieces {
                literal.push(&mut progress, piece, &mut |text| out.push_str(text));
            }
            literal.finish(&mut progress, &mut |text| out.push_str(text));
            prop_assert_eq!(out, pieces.concat().replace(&pattern, &content));
        }
    }
}
