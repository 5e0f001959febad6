//! Every pre-tokenizer of the byte-level BPE engine against the reference: ids, offsets and word ids.
#![allow(
    clippy::unwrap_used,
    clippy::format_collect,
    clippy::print_stdout,
    clippy::type_complexity,
    reason = "a test may unwrap and tell"
)]

mod bpe_support;

use bpe_support::{Pair, file, pre_tokenizers};
use proptest::prelude::*;

const TEXTS: [&str; 30] = [
    "",
    " ",
    "a",
    "hello world",
    "  hello   world  ",
    "Hello, World! It's 2024; I'LL be there'S.",
    "don't 'twas 'ſabc a'ſ a'Sx",
    "\n\n\n  \r\n\t x \u{a0}\u{3000} y\n",
    "カタカナ・漢字かな交じり文〇、テスト。ﾃｽﾄ",
    "été naïve e\u{301}\u{323}a \u{301}x",
    "अनुच्छेद १ ภาษาไทย 한국어 العربيّة привет",
    "😀😀👨‍👩‍👧 𝒜𝟘 \u{10ffff}\u{e000}",
    "12345 67 8\u{bd}٣٤\u{11de0}\u{16ff4}",
    "camelCaseHTTPServer XMLHttpRequest ǅabc ʰA ªB aA\u{301}b",
    "x/* the *//\n// comment\n\r\n#include <a.h>",
    "\0\u{1}\u{200b}a\u{200b}\u{200d} \u{200b}!",
    "!!!a ...b -c _d",
    "a\u{11de0}b\u{18d00}\u{1fac6}c",
    "   \n   \n",
    "tab\tsep\t\tx",
    "“quoted” — dash… €5 +3 =4",
    "\u{feff}bom",
    "the the the the the the the the the the the the the the the the the the the the the the the the the",
    "\r\r\n\n\r",
    " '",
    "' 's",
    "a  1  2   b",
    "一二三12四5\u{3099}ゝ ー・ー",
    "中文abc中文 def",
    "\u{3040}\u{3097}あ\u{3040}",
];

#[test]
fn known_texts() {
    for (name, pre_tokenizer) in pre_tokenizers() {
        println!("{name}");
        let mut pair = Pair::new(&file(pre_tokenizer));
        for text in TEXTS {
            pair.check(text);
            pair.check(&format!("{text}{text} the hello world, and more of it"));
        }
        pair.check(&TEXTS.concat());
    }
}

#[test]
fn long_runs() {
    for (name, pre_tokenizer) in pre_tokenizers() {
        println!("{name}");
        let mut pair = Pair::new(&file(pre_tokenizer));
        for unit in ["a", " ", "_", "カ", "\n", "0", "e\u{301}", "😀", "aA", "= ", "the"] {
            for times in [15, 16, 17, 63, 64, 65, 127, 128, 129, 1000] {
                pair.check(&format!("{} b", unit.repeat(times)));
            }
            pair.check_ids(&unit.repeat(20_000));
        }
    }
}

fn text() -> impl Strategy<Value = String> {
    "([a-zA-Z]{1,18}|[ \t\r\n\u{a0}]{1,3}|[0-9٣½]{1,5}|'[sStTrReEvVmMlLdD\u{17f}]|[!-/:-@]{1,3}|[ぁ-ヿ一-丿]{1,6}|[\u{300}-\u{310}]|[ʰªǅЖжا가]|[\0\u{200b}€+😀]){0,16}"
}

proptest! {
    #[test]
    fn mixed_texts(texts in prop::collection::vec(text(), 1..4)) {
        for (_, pre_tokenizer) in pre_tokenizers() {
            let mut pair = Pair::new(&file(pre_tokenizer));
            for text in &texts {
                pair.check(text);
            }
        }
    }
}
