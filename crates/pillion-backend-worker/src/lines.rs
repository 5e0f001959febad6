//! What the worker writes to its standard streams, as lines of bounded length and number, and the last of them. Pure: the time is
//! an argument.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A line is cut after so many bytes.
const MAX_LINE: usize = 8 << 10;
/// Lines that are passed on in one second.
const MAX_PER_SECOND: u32 = 1000;

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub(crate) struct LineSplitter {
    rest: Vec<u8>,
}

impl LineSplitter {
    /// Takes the next bytes; gives each line that has become whole, without its end. Empty lines are left out.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(String)) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.rest.len();
            let window = &bytes[..bytes.len().min(room)];
            // A carriage return is what progress bars end their lines by.
            if let Some(end) = window.iter().position(|&b| b == b'\n' || b == b'\r') {
                self.rest.extend_from_slice(&window[..end]);
                bytes = &bytes[end + 1..];
                self.flush(&mut line);
            } else {
                self.rest.extend_from_slice(window);
                bytes = &bytes[window.len()..];
                if self.rest.len() == MAX_LINE {
                    self.flush(&mut line);
                }
            }
        }
    }

    /// Gives what has no end of line.
    pub(crate) fn flush(&mut self, mut line: impl FnMut(String)) {
        if !self.rest.is_empty() {
            line(String::from_utf8_lossy(&self.rest).into_owned());
            self.rest.clear();
        }
    }
}

/// The last lines, within a bound.
#[derive(Debug)]
pub(crate) struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
    max_bytes: usize,
}

impl Tail {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { lines: VecDeque::new(), bytes: 0, max_bytes }
    }

    pub(crate) fn push(&mut self, line: String) {
        self.bytes += line.len() + 1;
        self.lines.push_back(line);
        while self.bytes > self.max_bytes
            && let Some(first) = self.lines.pop_front()
        {
            self.bytes -= first.len() + 1;
        }
    }

    pub(crate) fn text(&self) -> String {
        self.lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Keeps a worker that writes without end from filling the engine's queue.
#[derive(Debug)]
pub(crate) struct LineBudget {
    since: Instant,
    used: u32,
    left_out: u64,
}

impl LineBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, used: 0, left_out: 0 }
    }

    /// Whether one more line may pass.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.used = 0;
        }
        let passes = self.used < MAX_PER_SECOND;
        if passes {
            self.used += 1;
        } else {
            self.left_out += 1;
        }
        passes
    }

    /// How many lines did not pass since this was last asked, once lines may pass again.
    pub(crate) fn left_out(&mut self, now: Instant) -> Option<u64> {
        let is_over = now.saturating_duration_since(self.since) >= Duration::from_secs(1);
        (is_over && self.left_out > 0).then(|| std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(parts: &[&[u8]]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut splitter = LineSplitter::default();
        for part in parts {
            splitter.push(part, |l| lines.push(l));
        }
        splitter.flush(|l| lines.push(l));
        lines
    }

    #[test]
    fn lines_come_whole_whatever_the_parts() {
        assert_eq!(split(&[b"a\nb", b"c\r\n\n", b"d"]), ["a", "bc", "d"]);
        assert_eq!(split(&[b"\xff\xfe\n"]), ["\u{fffd}\u{fffd}"]);
        let long = split(&[&[b'x'; MAX_LINE + 5]]);
        assert_eq!(long.iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE, 5]);
    }

    #[test]
    fn a_flood_of_lines_is_cut_and_counted() {
        let start = Instant::now();
        let mut budget = LineBudget::new(start);
        assert_eq!((0..1500).filter(|_| budget.take(start)).count(), 1000);
        assert_eq!(budget.left_out(start), None);
        let later = start + Duration::from_secs(1);
        assert_eq!(budget.left_out(later), Some(500));
        assert!(budget.take(later));
        assert_eq!(budget.left_out(later + Duration::from_secs(1)), None);
    }

    proptest! {
        #[test]
        fn parts_do_not_matter(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200), at in any::<prop::sample::Index>()) {
            let (a, b) = bytes.split_at(at.index(bytes.len() + 1));
            prop_assert_eq!(split(&[a, b]), split(&[&bytes]));
        }

        #[test]
        fn a_tail_is_bounded_and_ends_with_the_last_line(lines in prop::collection::vec("[a-z]{0,30}", 0..40)) {
            let mut tail = Tail::new(100);
            for line in &lines {
                tail.push(line.clone());
            }
            prop_assert!(tail.text().len() <= 100);
            if let Some(last) = lines.last() {
                prop_assert!(tail.text().ends_with(last.as_str()));
            }
        }
    }
}
