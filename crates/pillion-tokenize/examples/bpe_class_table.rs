//! Prints `src/bpe/table_data.rs`, the class of every code point, from the Unicode tables of two pinned crates:
//! `regex-syntax` (Unicode 16, as the reference's regex engine) and `unicode-normalization-alignments` (Unicode 9,
//! the reference's normalizer).
//!
//! `cargo run -p pillion-tokenize --example bpe_class_table > crates/pillion-tokenize/src/bpe/table_data.rs`

#![allow(clippy::print_stdout, reason = "the table goes to standard output")]

use std::io::Write;

use regex_syntax::hir::{Class, HirKind};
use unicode_normalization_alignments::{UnicodeNormalization, char as normal};

const CODE_POINTS: usize = 0x11_0000;

/// One bit or number to set in the class byte, for all code points that match a pattern.
const CATEGORIES: [(&str, u8); 9] = [
    (r"[\p{Lu}\p{Lt}]", 1),
    (r"\p{Ll}", 2),
    (r"[\p{Lm}\p{Lo}]", 3),
    (r"\p{M}", 4),
    (r"\p{N}", 5),
    (r"\p{P}", 6),
    (r"\p{S}", 7),
    (r"\s", 8),
    (r"[\r\n]", 9),
];

/// The standard library of the reference's build knows Unicode 17: its numeric code points that Unicode 16 lacks.
const NUMERIC_17: [(u32, u32); 2] = [(0x1_1DE0, 0x1_1DE9), (0x1_6FF4, 0x1_6FF6)];

fn main() -> std::io::Result<()> {
    let mut classes = vec![0_u8; CODE_POINTS];
    for (pattern, class) in CATEGORIES {
        for_each_match(pattern, |code_point| classes[code_point] = class);
    }
    for_each_match("[一-龥぀-ゟ゠-ヿ]", |code_point| classes[code_point] |= 0x10);
    for_each_match(r"\p{N}", |code_point| classes[code_point] |= 0x20);
    for (first, last) in NUMERIC_17 {
        (first..=last).for_each(|code_point| classes[code_point as usize] |= 0x20);
    }
    for_each_match(r"\w", |code_point| classes[code_point] |= 0x80);
    mark_normalization(&mut classes);
    write_table(&classes)
}

fn for_each_match(pattern: &str, mut set: impl FnMut(usize)) {
    let hir = regex_syntax::parse(pattern).expect("a valid pattern");
    match hir.kind() {
        HirKind::Class(Class::Unicode(class)) => {
            for range in class.iter() {
                (range.start() as usize..=range.end() as usize).for_each(&mut set);
            }
        }
        other => panic!("{pattern} is not a class: {other:?}"),
    }
}

/// Marks every code point that normalization form C may change or move, alone or by what stands around it: all but
/// those that are starters, map to themselves, and never are the later part of a composition.
fn mark_normalization(classes: &mut [u8]) {
    let mut changes = vec![false; CODE_POINTS];
    for c in (0..CODE_POINTS as u32).filter_map(char::from_u32) {
        let composed: Vec<char> = std::iter::once(c).nfc().map(|(c, _)| c).collect();
        let decomposed: Vec<char> = std::iter::once(c).nfd().map(|(c, _)| c).collect();
        let starts = normal::canonical_combining_class(c) == 0 && normal::canonical_combining_class(decomposed[0]) == 0;
        changes[c as usize] |= composed != [c] || !starts;
        for &later in &decomposed[1..] {
            changes[later as usize] = true;
        }
    }
    // A composite whose first part composes backwards does so itself.
    for c in (0..CODE_POINTS as u32).filter_map(char::from_u32) {
        let first = std::iter::once(c).nfd().next().map_or(c, |(c, _)| c);
        changes[c as usize] |= changes[first as usize];
    }
    for (class, changes) in classes.iter_mut().zip(changes) {
        *class |= u8::from(changes) << 6;
    }
}

fn write_table(classes: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "//! Made by `examples/bpe_class_table.rs`: do not edit.\n")?;
    writeln!(out, "/// First code point of each range and the class byte of the whole range, in ascending order.")?;
    writeln!(out, "#[rustfmt::skip]\npub(super) const RANGES: &[(u32, u8)] = &[")?;
    let mut line = String::new();
    for (code_point, &class) in classes.iter().enumerate() {
        if code_point > 0 && class == classes[code_point - 1] {
            continue;
        }
        let entry = format!("({code_point},{class}),");
        if line.len() + entry.len() > 116 {
            writeln!(out, "    {line}")?;
            line.clear();
        }
        line.push_str(&entry);
    }
    writeln!(out, "    {line}\n];")
}
