//! Every scanner against the pattern that it stands for, run by the regex engine of the reference.

use fancy_regex::Regex;

use super::*;
use crate::bpe::pattern::{self, scanners};
use crate::bpe::simd::Any;
use crate::bpe::table::ClassTable;
use crate::bpe::window::{Tail, Window, below};

/// Cuts each piece at the matches of a regex; what lies between two matches is a piece too.
fn split(pieces: Vec<String>, pattern: &Regex) -> Vec<String> {
    let mut cut = Vec::new();
    for piece in pieces {
        let mut done = 0;
        for found in pattern.find_iter(&piece) {
            let found = found.unwrap();
            if done < found.start() {
                cut.push(piece[done..found.start()].to_owned());
            }
            cut.push(found.as_str().to_owned());
            done = found.end();
        }
        if done < piece.len() {
            cut.push(piece[done..].to_owned());
        }
    }
    cut
}

fn scan(scanner: impl Scanner, text: &str) -> Vec<String> {
    let piece = Piece::new(text);
    let (mut start, mut cut) = (0, Vec::new());
    while start < text.len() {
        let end = scanner.next(piece, start);
        cut.push(text[start..end].to_owned());
        start = end;
    }
    check_windows(scanner, piece, &cut);
    cut
}

/// From each pre-token on, a window finds the same ones, as far as it is sure.
fn check_windows(scanner: impl Scanner, piece: Piece<'_>, cut: &[String]) {
    let starts = cut.iter().scan(0, |end, word| Some(std::mem::replace(end, *end + word.len())));
    let starts: Vec<usize> = starts.collect();
    for (at, &from) in starts.iter().enumerate() {
        let mut tail = Tail::new();
        let Some(window) = Window::<Any>::load(piece.bytes, from, &mut tail) else { continue };
        let found = scanner.starts(&window);
        let expected = starts[at + 1..].iter().take_while(|&&start| start - from < 64);
        let expected = expected.fold(0_u64, |bits, start| bits | 1 << (start - from));
        let sure = below(64 - found.leading_zeros());
        assert_eq!(found, expected & sure, "in {:?}", String::from_utf8_lossy(&piece.bytes[from..]));
    }
}

fn check(scanner: impl Scanner, patterns: &[Regex], texts: &[String]) {
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let expected = patterns.iter().fold(vec![text.clone()], split);
        assert_eq!(scan(scanner, text), expected, "{text:?}");
        // With something behind it a window can see it all.
        let longer = format!("{text}\n{}", ".".repeat(70));
        let expected = patterns.iter().fold(vec![longer.clone()], split);
        assert_eq!(scan(scanner, &longer), expected, "{longer:?}");
    }
}

fn check_all(texts: &[String]) {
    let one = |pattern: &str| vec![Regex::new(pattern).unwrap()];
    check(scanners::GPT2, &one(pattern::GPT2), texts);
    check(scanners::CL100K, &one(pattern::CL100K), texts);
    check(scanners::QWEN2, &one(pattern::QWEN2), texts);
    check(scanners::QWEN35, &one(pattern::QWEN35), texts);
    check(scanners::O200K, &one(pattern::O200K), texts);
    check(scanners::TEKKEN, &one(pattern::TEKKEN), texts);
    check(scanners::DEEPSEEK, &pattern::DEEPSEEK.map(|pattern| Regex::new(pattern).unwrap()), texts);
    // Unicode 17 has more numbers than the regex engine knows: these are what the reference's build cuts out.
    let digit = Regex::new(r"[\p{N}\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}]").unwrap();
    check(scanners::GPT2_DIGITS, &[digit, Regex::new(pattern::GPT2).unwrap()], texts);
    check(scanners::WHOLE, &[], texts);
}

/// Code points of the planes that have any, in texts of a few contexts each.
fn contexts(templates: &[&str]) -> Vec<String> {
    const TOGETHER: usize = 64;
    let assigned = (0..0x3_2000).chain(0xe_0000..0xe_0200).chain([0xf_0000, 0x10_ffff]);
    let chars: Vec<char> = assigned.filter_map(char::from_u32).collect();
    let mut texts = Vec::new();
    for some in chars.chunks(TOGETHER) {
        for template in templates {
            texts.push(some.iter().map(|c| template.replace('?', c.encode_utf8(&mut [0; 4]))).collect());
        }
    }
    texts
}

#[test]
fn every_code_point_in_context() {
    check_all(&contexts(&["a?a.", " ?", "?'s", "A?b?\n", "??1 "]));
}

#[test]
fn every_class_alone_and_after_every_other() {
    // The first code points of every kind and property, of which each scanner sees no more.
    let mut seen = std::collections::HashMap::new();
    for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
        let class = ClassTable::get().of_char(c);
        let kind = (class.kind(), class.is_cjk(), class.is_numeric(), c.is_ascii(), c.len_utf8());
        let known: &mut Vec<char> = seen.entry(kind).or_default();
        if known.len() < 2 {
            known.push(c);
        }
    }
    let chars: Vec<char> =
        seen.into_values().flatten().chain("\u{17f}\u{212a}sStTrReEvVmMlLdD'/ \r\n".chars()).collect();
    let mut texts: Vec<String> = Vec::new();
    for &first in &chars {
        texts.push(first.to_string());
        for &second in &chars {
            texts.push([first, second].iter().collect());
            texts.push(format!(" {first}{second}"));
            texts.push(format!("{first}'{second}"));
        }
    }
    check_all(&texts);
}

#[test]
fn whitespace_and_apostrophes() {
    let spaces = ["", " ", "  ", "\n", " \n", "\n ", "\r\n", "\t", "\u{a0}", "\u{3000}\n ", "\u{85}", "\n\n\n  "];
    let words =
        ["", "a", "Ab", "ABc", "1", "12345", "!", "'s", "'LL", "'\u{17f}", "あ", "カ・", "e\u{301}", "/", "\0", "ǅ"];
    let mut texts = Vec::new();
    for before in words {
        for space in spaces {
            for after in words {
                texts.push(format!("{before}{space}{after}"));
                texts.push(format!("{before}'{after}{space}"));
            }
        }
    }
    check_all(&texts);
}

proptest::proptest! {
    #[test]
    fn mixed_text(text in "([a-zA-Z]{1,20}|[ \t\r\n\u{a0}]{1,3}|[0-9٣½]{1,5}|'[sStTrReEvVmMlLdD\u{17f}]|[!-/:-@]{1,3}|[ぁ-ヿ一-丿]{1,4}|[\u{300}-\u{310}\u{903}]|[ʰªǅЖжا가]|[\0\u{200b}\u{e000}€+]){0,12}") {
        check_all(&[text]);
    }
}
