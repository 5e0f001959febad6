//! Added tokens and normalization of the byte-level BPE engine against the reference.
#![allow(
    clippy::unwrap_used,
    clippy::format_collect,
    clippy::print_stdout,
    clippy::type_complexity,
    reason = "a test may unwrap and tell"
)]

mod bpe_support;

use std::collections::HashSet;

use bpe_support::{Pair, added, byte_level, file, patterns, splits, token};
use pillion_tokenize::bpe::ParseSpecial;
use proptest::prelude::*;
use serde_json::{Value, json};

fn with_added(normalizer: Value, tokens: &[Value]) -> Value {
    let mut file = file(splits(&[patterns::CL100K]));
    file["normalizer"] = normalizer;
    file["added_tokens"] = json!(tokens);
    file
}

fn tokens() -> Vec<Value> {
    vec![
        added("<|end|>", "special"),
        added("<|", "special"),
        added("<|endless|>", ""),
        added("<mask>", "special lstrip"),
        added("[R]", "rstrip"),
        added("[LR]", "lstrip rstrip normalized"),
        added("tok", "single_word normalized"),
        added("ken", "single_word"),
        added(" x", "rstrip normalized"),
        added("é\u{323}", "normalized"),
        added("\u{e9}", ""),
        added("the", "normalized"),
        added("日本", "special normalized"),
    ]
}

const PIECES: [&str; 30] = [
    "<|end|>",
    "<|end",
    "<|endless|>",
    "<|",
    "|>",
    "<mask>",
    " ",
    "  ",
    "\n",
    "\u{3000}",
    "[R]",
    "[LR]",
    "[",
    "tok",
    "ken",
    "token",
    "a",
    "_",
    "1",
    " x",
    "x",
    "é",
    "e\u{301}",
    "\u{323}",
    "the",
    "日本",
    "日",
    "hello world",
    "'s",
    "\u{1112}\u{1161}\u{11ab}",
];

#[test]
fn every_piece_beside_every_other() {
    for normalizer in [Value::Null, json!({"type": "NFC"}), json!({"type": "Sequence", "normalizers": []})] {
        let mut pair = Pair::new(&with_added(normalizer, &tokens()));
        for first in PIECES {
            for second in PIECES {
                pair.check(&format!("{first}{second}"));
                pair.check(&format!("a{first}{second}{first} the"));
            }
        }
    }
}

#[test]
fn every_word_character_beside_a_single_word() {
    let mut pair = Pair::new(&with_added(Value::Null, &tokens()));
    let chars: Vec<char> = (0..=0x1_ffff_u32).filter_map(char::from_u32).collect();
    for some in chars.chunks(50) {
        pair.check_ids(&some.iter().map(|c| format!("{c}tok{c} ken{c}ken <mask>{c}<mask>[R]{c}")).collect::<String>());
    }
}

#[test]
fn specials_are_text_where_they_are_not_parsed() {
    let file = with_added(json!({"type": "NFC"}), &tokens());
    let mut pair = Pair::new(&file);
    pair.reference.set_encode_special_tokens(true);
    let end = pair.ours.token_to_id("<|end|>").unwrap();
    let only = HashSet::from([end]);
    for first in PIECES {
        for second in PIECES {
            let text = format!("{first}{second}{first}");
            let expected = pair.reference.encode_fast(text.as_str(), false).unwrap();
            assert_eq!(pair.ids(&text, ParseSpecial::None), expected.get_ids(), "{text:?}");
            assert_eq!(pair.ids(&text, ParseSpecial::Only(&HashSet::new())), expected.get_ids(), "{text:?}");
        }
    }
    assert_eq!(pair.ids("<|end|>", ParseSpecial::Only(&only)), [end]);
    assert_ne!(pair.ids("<mask>", ParseSpecial::Only(&only)).len(), 1);
    assert_eq!(pair.ids("<|endless|>", ParseSpecial::None).len(), 1, "it is not special");
}

#[test]
fn names_and_bytes_are_those_of_the_reference() {
    let mut tokens = tokens();
    tokens.push(added(&token(" the"), "special"));
    tokens.push(added("<|end|>", ""));
    let pair = Pair::new(&with_added(json!({"type": "NFC"}), &tokens));
    for id in (0..pair.ours.vocab_size() as u32 + 3).chain([u32::MAX]) {
        let name = pair.reference.id_to_token(id);
        assert_eq!(pair.ours.id_to_token(id), name);
        assert_eq!(pair.ours.token_bytes(id).is_some(), name.is_some());
        let special = pair.reference.get_added_vocabulary();
        assert_eq!(pair.ours.is_special(id), name.is_some_and(|name| special.is_special_token(&name)));
        let bytes = pair.ours.token_bytes(id).unwrap_or_default();
        assert_eq!(String::from_utf8_lossy(bytes), pair.reference.decode(&[id], false).unwrap(), "{id}");
    }
    for name in tokens.iter().filter_map(|token| token["content"].as_str()).chain(["a", "nothing", ""]) {
        assert_eq!(pair.ours.token_to_id(name), pair.reference.token_to_id(name), "{name}");
    }
    assert!(pair.ours.decodes_bytes());
}

#[test]
fn offsets_are_trimmed_as_the_post_processor_does() {
    let trims =
        |space: bool| json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": true});
    let template = json!({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {}});
    for post_processor in
        [trims(true), trims(false), json!({"type": "Sequence", "processors": [trims(true), template]})]
    {
        let mut file = with_added(json!({"type": "NFC"}), &tokens()[..2]);
        file["post_processor"] = post_processor;
        file["pre_tokenizer"] = byte_level(true);
        let mut pair = Pair::new(&file);
        for text in
            ["hello world", " hello", "  hello  ", " ", "   ", "the\u{a0} é<|end|> a", "e\u{301} e\u{301} ", "\n a\n"]
        {
            pair.check(text);
        }
    }
}

proptest! {
    #[test]
    fn any_pieces(picks in prop::collection::vec(0..PIECES.len(), 0..12), composes: bool) {
        let normalizer = if composes { json!({"type": "NFC"}) } else { Value::Null };
        let mut pair = Pair::new(&with_added(normalizer, &tokens()));
        pair.check(&picks.iter().map(|&pick| PIECES[pick]).collect::<String>());
    }

    #[test]
    fn marks_in_any_order(text in "[a-eéàê\u{300}-\u{36f}\u{1dc0}-\u{1dff}\u{1100}-\u{11ff}가-깋\u{900}-\u{94f} ]{0,24}") {
        let mut pair = Pair::new(&with_added(json!({"type": "NFC"}), &tokens()));
        pair.check(&text);
    }
}
