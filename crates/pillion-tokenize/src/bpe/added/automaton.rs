//! Leftmost-longest search for many strings at once, in one pass over the text.

use std::collections::VecDeque;
use std::ops::Range;

use crate::bpe::simd::{self, Block, Work, fastest};

/// An Aho-Corasick automaton. A state stands for the longest part of the text so far that begins a pattern.
pub(super) struct Automaton {
    states: Vec<State>,
    /// The edges of all states, those of one state together and in the order of their bytes.
    edges: Vec<(u8, u32)>,
    /// The state after the first byte of a pattern.
    first: Vec<u32>,
    /// The first bytes of patterns, if they are few: some of them may stand here twice.
    few: Option<[u8; MAX_FEW]>,
    /// Whether a byte may come after the first one of a pattern, or a pattern has only one.
    second: [bool; 256],
}

#[derive(Clone, Copy, Default)]
struct State {
    edges_start: u32,
    edges_end: u32,
    depth: u32,
    /// Where to go on if no edge fits, or [`DEAD`] if the best match would be lost.
    fail: u32,
    best: Option<Best>,
}

/// The way to the next byte that may begin a pattern, if only few bytes do.
struct Skip<'a> {
    firsts: [u8; MAX_FEW],
    second: &'a [bool; 256],
    text: &'a [u8],
    /// From where on; then where that byte is, or else where the last bytes begin, which are too few to look at together.
    end: &'a mut Result<usize, usize>,
}

impl Work for Skip<'_> {
    #[inline(always)]
    fn run<B: Block>(self) {
        let Self { firsts, second, text, end } = self;
        let (Ok(mut at) | Err(mut at)) = *end;
        while let Some(bytes) = text.get(at..).and_then(|rest| rest.first_chunk::<{ simd::BYTES }>()) {
            let block = B::load(bytes);
            let mut found = firsts.into_iter().fold(0, |bits, byte| bits | block.is(byte));
            while found != 0 {
                let first = at + found.trailing_zeros() as usize;
                if text.get(first + 1).is_none_or(|&byte| second[usize::from(byte)]) {
                    *end = Ok(first);
                    return;
                }
                found &= found - 1;
            }
            at += simd::BYTES;
        }
        *end = Err(at);
    }
}

/// The leftmost-longest match within the bytes of a state, as distances from its first byte.
#[derive(Clone, Copy)]
struct Best {
    pattern: u32,
    start: u32,
    end: u32,
}

const ROOT: u32 = 0;
const DEAD: u32 = u32::MAX;
const MAX_FEW: usize = 3;
const MAX_STATES: usize = 1 << 26;

impl Automaton {
    /// Patterns and the numbers to report for them; none may be empty, and no two equal.
    pub(super) fn new(patterns: &[(&str, usize)]) -> Result<Self, String> {
        let trie = Trie::new(patterns)?;
        let mut this =
            Self { states: Vec::new(), edges: Vec::new(), first: vec![ROOT; 256], few: None, second: [false; 256] };
        for node in &trie.nodes {
            let edges_start = this.edges.len() as u32;
            this.edges.extend_from_slice(&node.edges);
            let edges_end = this.edges.len() as u32;
            this.states.push(State { edges_start, edges_end, depth: node.depth, fail: ROOT, best: None });
        }
        for &(byte, state) in &trie.nodes[0].edges {
            this.first[usize::from(byte)] = state;
        }
        let firsts = &trie.nodes[0].edges;
        if let [(last, _), ..] = firsts[..]
            && firsts.len() <= MAX_FEW
        {
            this.few = Some(std::array::from_fn(|at| firsts.get(at).map_or(last, |&(byte, _)| byte)));
        }
        for &(_, child) in firsts {
            let Node { edges, pattern, .. } = &trie.nodes[child as usize];
            for second in 0..=u8::MAX {
                let follows = pattern.is_some() || edges.iter().any(|&(byte, _)| byte == second);
                this.second[usize::from(second)] |= follows;
            }
        }
        this.link(&trie);
        Ok(this)
    }

    /// Fills in, state by state from the root, the best match and where to go on.
    fn link(&mut self, trie: &Trie) {
        let mut suffix = vec![ROOT; self.states.len()];
        let mut queue: VecDeque<u32> = trie.nodes[0].edges.iter().map(|&(_, child)| child).collect();
        let mut parent_best = vec![None; self.states.len()];
        while let Some(state) = queue.pop_front() {
            let State { depth, .. } = self.states[state as usize];
            let behind = self.states[suffix[state as usize] as usize];
            let skipped = depth - behind.depth;
            let own = trie.nodes[state as usize].pattern.map(|pattern| Best { pattern, start: 0, end: depth });
            let later = behind.best.map(|best| Best { start: best.start + skipped, end: best.end + skipped, ..best });
            let all = [own, parent_best[state as usize], later];
            let best = all.into_iter().flatten().min_by_key(|best| (best.start, std::cmp::Reverse(best.end)));
            self.states[state as usize].best = best;
            let loses_best = best.is_some_and(|best| best.start < skipped);
            self.states[state as usize].fail = if loses_best { DEAD } else { suffix[state as usize] };
            for &(byte, child) in &trie.nodes[state as usize].edges {
                suffix[child as usize] = trie.suffix(&suffix, state, byte);
                parent_best[child as usize] = best;
                queue.push_back(child);
            }
        }
    }

    /// The first match that begins at or after `from`, and of those that begin there the longest.
    #[inline]
    pub(super) fn find(&self, text: &[u8], from: usize) -> Option<(usize, Range<usize>)> {
        if self.edges.is_empty() {
            return None;
        }
        let mut at = from;
        loop {
            at = self.skip(text, at);
            let state = self.first[usize::from(*text.get(at)?)];
            match self.follow(text, at + 1, state) {
                Ok(found) => return Some(found),
                Err(next) => at = next,
            }
        }
    }

    /// Where the next byte is that may begin a pattern.
    #[inline]
    fn skip(&self, text: &[u8], mut at: usize) -> usize {
        if let Some(firsts) = self.few {
            let mut end = Err(at);
            fastest(Skip { firsts, second: &self.second, text, end: &mut end });
            match end {
                Ok(first) => return first,
                Err(rest) => at = rest,
            }
        }
        while text.get(at).is_some_and(|&byte| self.first[usize::from(byte)] == ROOT) {
            at += 1;
        }
        at
    }

    /// Goes on from a state that the byte before `at` led to, up to a match or back to the root.
    fn follow(&self, text: &[u8], mut at: usize, mut state: u32) -> Result<(usize, Range<usize>), usize> {
        loop {
            let State { edges_start, edges_end, depth, fail, best } = self.states[state as usize];
            let edges = &self.edges[edges_start as usize..edges_end as usize];
            let next = text.get(at).and_then(|&byte| child(edges, byte));
            if let Some(next) = next {
                state = next;
                at += 1;
                continue;
            }
            let ended = at >= text.len();
            match best {
                Some(Best { pattern, start, end }) if fail == DEAD || ended => {
                    let first = at - depth as usize;
                    return Ok((pattern as usize, first + start as usize..first + end as usize));
                }
                _ if fail == ROOT || ended => return Err(at),
                _ => state = fail,
            }
        }
    }
}

fn child(edges: &[(u8, u32)], byte: u8) -> Option<u32> {
    if edges.len() < 8 {
        return edges.iter().find(|edge| edge.0 == byte).map(|edge| edge.1);
    }
    edges.binary_search_by_key(&byte, |edge| edge.0).ok().map(|at| edges[at].1)
}

#[derive(Default)]
struct Node {
    edges: Vec<(u8, u32)>,
    pattern: Option<u32>,
    depth: u32,
}

struct Trie {
    nodes: Vec<Node>,
}

impl Trie {
    fn new(patterns: &[(&str, usize)]) -> Result<Self, String> {
        let mut trie = Self { nodes: vec![Node::default()] };
        for &(pattern, number) in patterns {
            let mut node = 0;
            for &byte in pattern.as_bytes() {
                node = trie.child_or_new(node, byte);
            }
            if trie.nodes.len() > MAX_STATES {
                return Err("too much text".to_owned());
            }
            if trie.nodes[node].pattern.replace(number as u32).is_some() {
                return Err(format!("{pattern:?} stands for two tokens"));
            }
        }
        Ok(trie)
    }

    fn child_or_new(&mut self, node: usize, byte: u8) -> usize {
        let at = match self.nodes[node].edges.binary_search_by_key(&byte, |edge| edge.0) {
            Ok(at) => return self.nodes[node].edges[at].1 as usize,
            Err(at) => at,
        };
        let child = self.nodes.len();
        self.nodes[node].edges.insert(at, (byte, child as u32));
        self.nodes.push(Node { depth: self.nodes[node].depth + 1, ..Node::default() });
        child
    }

    /// The longest proper suffix of the child of `state` by `byte` that is a state, given those of shorter states.
    fn suffix(&self, suffix: &[u32], mut state: u32, byte: u8) -> u32 {
        while state != ROOT {
            state = suffix[state as usize];
            if let Some(found) = child(&self.nodes[state as usize].edges, byte) {
                return found;
            }
        }
        ROOT
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same by trying every pattern at every place.
    fn naive(patterns: &[String], text: &str, from: usize) -> Option<(usize, Range<usize>)> {
        (from..text.len()).find_map(|at| {
            let here = patterns.iter().enumerate();
            let here = here.filter(|(_, pattern)| text.as_bytes()[at..].starts_with(pattern.as_bytes()));
            here.max_by_key(|(_, pattern)| pattern.len()).map(|(found, pattern)| (found, at..at + pattern.len()))
        })
    }

    fn check(patterns: &[String], text: &str) {
        let numbered: Vec<(&str, usize)> = patterns.iter().map(String::as_str).zip(0..).collect();
        let automaton = Automaton::new(&numbered).unwrap();
        let mut at = 0;
        loop {
            let found = automaton.find(text.as_bytes(), at);
            assert_eq!(found, naive(patterns, text, at), "{patterns:?} in {text:?} from {at}");
            match found {
                Some((_, range)) => at = range.end,
                None => break,
            }
        }
    }

    #[test]
    fn the_leftmost_match_wins_and_then_the_longest() {
        let cases: [(&[&str], &str); 9] = [
            (&["abcde", "bc"], "abcdx abcde abc"),
            (&["a", "ab", "abc"], "abab abcd a"),
            (&["abcd", "bcde", "cd"], "abcde xbcde bcd cde"),
            (&["aaaab", "aa"], "aaaaaaaaab"),
            (&["<|end|>", "<|", "|>"], "<|end|> <|end |> <<|end|>"),
            (&["あ", "いう"], "あいうい"),
            (&["b", "abcx", "cd"], "abcd"),
            (&["abcabd", "ca", "b"], "abcabcabd"),
            (&[], "text"),
        ];
        for (patterns, text) in cases {
            let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            check(&patterns, text);
            check(&patterns, &"-".repeat(200).replace("--------", text));
        }
    }

    #[test]
    fn equal_patterns_are_refused() {
        assert!(Automaton::new(&[("a", 0), ("b", 1), ("a", 2)]).is_err());
    }

    proptest! {
        #[test]
        fn it_finds_what_trying_everything_finds(
            patterns in prop::collection::hash_set("[abc]{1,6}", 0..12),
            text in "[abcd]{0,200}",
        ) {
            check(&patterns.into_iter().collect::<Vec<_>>(), &text);
        }
    }
}
