//! Finds texts that end an answer while the answer is still being made.

/// Looks for stop strings in text that comes in pieces. Text that can no longer be part of a match is let through at once.
///
/// The stop string whose match is complete first wins, and of those that are complete at the same place the longest; where the text is cut
/// into pieces makes no difference.
#[derive(Clone, Debug)]
pub struct StopStrings {
    stops: Vec<Stop>,
    /// The end of the text that may still become a match.
    held: String,
    /// What was found; nothing is let through after it.
    found: Option<usize>,
}

#[derive(Clone, Debug)]
struct Stop {
    text: Vec<u8>,
    /// For each prefix of the text, the longest proper prefix that it ends with.
    fallback: Vec<usize>,
    /// How much of it the text so far ends with.
    matched: usize,
}

impl StopStrings {
    /// Looks for these texts. Empty ones are never found.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops: stops.into_iter().map(Stop::new).collect(), held: String::new(), found: None }
    }

    /// Takes the next piece of text and appends to `out` what is certain to come before any match. Gives the index of the stop string once
    /// one is found; the match and what follows it are not let through, then or later.
    pub fn push(&mut self, delta: &str, out: &mut String) -> Option<usize> {
        if self.found.is_some() {
            return self.found;
        }
        if self.stops.is_empty() {
            out.push_str(delta);
            return None;
        }
        let before = self.held.len();
        self.held.push_str(delta);
        for (at, byte) in delta.bytes().enumerate() {
            if let Some((index, len)) = self.step(byte) {
                // No character is cut: a match consists of whole characters.
                out.push_str(&self.held[..before + at + 1 - len]);
                self.held = String::new();
                self.found = Some(index);
                return self.found;
            }
        }
        let keep = self.stops.iter().map(|s| s.matched).max().unwrap_or(0);
        out.push_str(&self.held[..self.held.len() - keep]);
        self.held.drain(..self.held.len() - keep);
        None
    }

    /// Appends what was held back: no more text will come. Does nothing after a match.
    pub fn flush(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
        for stop in &mut self.stops {
            stop.matched = 0;
        }
    }

    /// Advances every stop string by one byte; gives the longest that is complete now, with its length.
    fn step(&mut self, byte: u8) -> Option<(usize, usize)> {
        let mut best: Option<(usize, usize)> = None;
        for (index, stop) in self.stops.iter_mut().enumerate() {
            if stop.step(byte) && best.is_none_or(|(_, len)| stop.text.len() > len) {
                best = Some((index, stop.text.len()));
            }
        }
        best
    }
}

impl Stop {
    fn new(text: String) -> Self {
        let text = text.into_bytes();
        let mut fallback = vec![0; text.len() + 1];
        let mut len = 0;
        for at in 1..text.len() {
            while len > 0 && text[at] != text[len] {
                len = fallback[len];
            }
            if text[at] == text[len] {
                len += 1;
            }
            fallback[at + 1] = len;
        }
        Self { text, fallback, matched: 0 }
    }

    /// Whether the byte completes the text.
    fn step(&mut self, byte: u8) -> bool {
        if self.text.is_empty() {
            return false;
        }
        while self.matched > 0 && self.text[self.matched] != byte {
            self.matched = self.fallback[self.matched];
        }
        if self.text[self.matched] == byte {
            self.matched += 1;
        }
        self.matched == self.text.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pushes the pieces; gives what was let through after each, and what was found.
    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<usize>) {
        let mut matcher = StopStrings::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut found = None;
        let seen = pieces
            .iter()
            .map(|piece| {
                let mut out = String::new();
                found = matcher.push(piece, &mut out);
                out
            })
            .collect();
        (seen, found)
    }

    #[test]
    fn only_what_may_become_a_match_is_held_back() {
        let (seen, found) = run(&["</s>"], &["Hi <", "/", "p> and </", "s> more", "late"]);
        assert_eq!(seen, ["Hi ", "", "</p> and ", "", ""]);
        assert_eq!(found, Some(0));
    }

    #[test]
    fn the_first_to_be_complete_wins_and_the_longest_of_these() {
        assert_eq!(run(&["abcd", "c"], &["xabcd"]), (vec!["xab".into()], Some(1)));
        assert_eq!(run(&["c", "bc", "abc"], &["xab", "cd"]), (vec!["x".into(), String::new()], Some(2)));
        assert_eq!(run(&["b", "a"], &["a", "b"]), (vec![String::new(), String::new()], Some(1)));
    }

    #[test]
    fn nothing_to_look_for_lets_everything_through() {
        assert_eq!(run(&[], &["a", "b"]), (vec!["a".into(), "b".into()], None));
        assert_eq!(run(&[""], &["a"]), (vec!["a".into()], None));
    }

    #[test]
    fn flush_gives_what_was_held() {
        let mut matcher = StopStrings::new(vec!["END".into()]);
        let mut out = String::new();
        assert_eq!(matcher.push("the EN", &mut out), None);
        assert_eq!(out, "the ");
        matcher.flush(&mut out);
        assert_eq!(out, "the EN");
        assert_eq!(matcher.push("D", &mut out), None, "a flush ends the text");
    }

    fn naive(stops: &[String], text: &str) -> Option<(usize, usize)> {
        let mut ends = (1..=text.len()).filter(|end| text.is_char_boundary(*end));
        ends.find_map(|end| {
            let mut here: Vec<(usize, usize)> = stops
                .iter()
                .enumerate()
                .filter(|(_, stop)| !stop.is_empty() && text[..end].ends_with(stop.as_str()))
                .map(|(index, stop)| (index, end - stop.len()))
                .collect();
            here.sort_by_key(|(index, start)| (*start, *index));
            here.into_iter().next()
        })
    }

    proptest! {
        #[test]
        fn pieces_find_what_a_naive_search_of_the_whole_finds(
            stops in prop::collection::vec("[abé]{0,4}", 0..4),
            pieces in prop::collection::vec("[abé]{0,4}", 0..12),
        ) {
            let text = pieces.concat();
            let mut matcher = StopStrings::new(stops.clone());
            let (mut out, mut found) = (String::new(), None);
            let mut fed = String::new();
            for piece in &pieces {
                found = matcher.push(piece, &mut out);
                fed.push_str(piece);
                if found.is_none() {
                    // Held back: the longest end of the text that begins a stop string, and no more.
                    let longest = (0..=fed.len())
                        .filter(|at| fed.is_char_boundary(*at))
                        .find(|at| stops.iter().any(|s| s.starts_with(&fed[*at..])))
                        .unwrap_or(fed.len());
                    prop_assert_eq!(&out, &fed[..longest]);
                }
            }
            if let Some((index, start)) = naive(&stops, &text) {
                prop_assert_eq!(found, Some(index));
                prop_assert_eq!(out, &text[..start]);
            } else {
                prop_assert_eq!(found, None);
                matcher.flush(&mut out);
                prop_assert_eq!(out, text);
            }
        }
    }
}
