//! Long texts are worked on in parts: the parts have the ids of the whole, and a call can be taken back between them.
#![allow(clippy::unwrap_used, reason = "a test may unwrap")]

mod bpe_support;

use std::sync::{
    atomic::{AtomicBool, Ordering},
    mpsc,
};

use bpe_support::{added, file, pre_tokenizers};
use pillion_tokenize::{
    BatchControl, Columns, EncodeOptions, OffsetUnit, Pool, TokenizeError, Tokenizer,
    bpe::{ByteLevelBpe, Encoded, ParseSpecial, Scratch},
};
use serde_json::{Value, json};

/// What may stand on either side of a place to cut.
const FRAGMENTS: [&str; 24] = [
    "the",
    " then",
    " wasn't",
    " I'LL",
    " 12345",
    "7",
    " a",
    " b1",
    "  ",
    "\n\n",
    " \r\n\t",
    "é",
    " naïve",
    "e\u{301}",
    "カナ",
    " 漢字",
    " <|end|>",
    "<pad>",
    "!!!",
    " ...",
    "😀",
    "\u{212a} x",
    " X",
    "'s y",
];

/// Text in an order that never repeats, the same in every run.
fn text(bytes: usize) -> String {
    let mut text = String::new();
    let mut state = 7u64;
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(FRAGMENTS[(state >> 33) as usize % FRAGMENTS.len()]);
    }
    text
}

fn load(file: &Value) -> Tokenizer {
    Tokenizer::from_json(&serde_json::to_vec(file).unwrap()).unwrap()
}

#[test]
fn parts_have_the_tokens_of_the_whole() {
    let text = text(700_000);
    let columns = Columns { offsets: true, word_ids: true, ..Columns::default() };
    let options = EncodeOptions { columns, offset_unit: OffsetUnit::Byte, ..EncodeOptions::default() };
    for (name, pre_tokenizer) in pre_tokenizers() {
        let mut file = file(pre_tokenizer);
        file["normalizer"] = json!({ "type": "NFC" });
        file["added_tokens"] = json!([added("<|end|>", "lstrip rstrip"), added("<pad>", "single_word")]);
        for (at, token) in file["added_tokens"].as_array_mut().unwrap().iter_mut().enumerate() {
            token["id"] = (1000 + at).into();
        }
        let mut whole = Encoded::default();
        let bpe = ByteLevelBpe::from_json(&file).unwrap();
        bpe.encode_with_offsets(&text, ParseSpecial::None, &mut Scratch::new(), &mut whole).unwrap();
        let tokenizer = load(&file);
        assert_eq!(tokenizer.engine().name, "pillion");

        let parts = tokenizer.encode(&text, &options).unwrap();
        assert!(parts.ids == whole.ids, "{name}: ids");
        assert!(tokenizer.encode_ids(&text, false).unwrap() == whole.ids, "{name}: ids alone");
        let offsets: Vec<u32> = whole.offsets.iter().flat_map(|&(start, end)| [start, end]).collect();
        assert!(parts.columns.offsets.unwrap() == offsets, "{name}: offsets");
        let words: Vec<i32> = whole.word_ids.iter().map(|&word| word.cast_signed()).collect();
        assert!(parts.columns.word_ids.unwrap() == words, "{name}: words");
    }
}

/// One file for each engine.
fn engines() -> [Tokenizer; 2] {
    let file = file(pre_tokenizers().remove(1).1);
    let tokenizer = load(&file);
    let reference = Tokenizer::from_json_on_reference(&serde_json::to_vec(&file).unwrap()).unwrap();
    assert_eq!((tokenizer.engine().name, reference.engine().name), ("pillion", "tokenizers"));
    [tokenizer, reference]
}

#[test]
fn a_call_that_was_taken_back_before_does_nothing() {
    let cancel = AtomicBool::new(true);
    for tokenizer in engines() {
        let error = tokenizer.encode_unless(&cancel, "hello", None, &EncodeOptions::default()).unwrap_err();
        assert_eq!(error, TokenizeError::Cancelled { done: 0, total: 1 });
        cancel.store(false, Ordering::Relaxed);
        let encoding = tokenizer.encode_unless(&cancel, "hello", Some("you"), &EncodeOptions::default()).unwrap();
        assert_eq!(encoding, tokenizer.encode_pair("hello", "you", &EncodeOptions::default()).unwrap());
        cancel.store(true, Ordering::Relaxed);
    }
}

/// The text takes seconds, the abort comes within the first; without a look at it on the way the call would succeed.
#[test]
fn a_call_is_taken_back_in_the_middle_of_a_text() {
    let text = text(6_000_000);
    for tokenizer in engines() {
        for details in [false, true] {
            let options = EncodeOptions {
                columns: Columns { offsets: details, ..Columns::default() },
                ..EncodeOptions::default()
            };
            let (cancel, (begun, begins)) = (AtomicBool::new(false), mpsc::channel());
            std::thread::scope(|scope| {
                let call = scope.spawn(|| {
                    begun.send(()).unwrap();
                    tokenizer.encode_unless(&cancel, &text, None, &options)
                });
                begins.recv().unwrap();
                cancel.store(true, Ordering::Relaxed);
                let error = call.join().unwrap().unwrap_err();
                assert!(matches!(error, TokenizeError::Cancelled { .. }), "{error}");
            });
        }
    }
}

#[test]
fn a_batch_is_taken_back_in_the_middle_of_a_text_and_says_how_far_it_came() {
    let texts = ["hello ".repeat(8_000), text(6_000_000)];
    let pool = Pool::new(1);
    let [tokenizer, _] = engines();
    let cancel = AtomicBool::new(false);
    let (begun, begins) = mpsc::channel();
    let begun = std::sync::Mutex::new(begun);
    let progress = |_: usize, _: usize| begun.lock().unwrap().send(()).unwrap();
    let control = BatchControl { cancel: Some(&cancel), progress: Some(&progress), pool: Some(&pool) };
    std::thread::scope(|scope| {
        let call = scope.spawn(|| tokenizer.encode_batch(texts.as_slice(), &EncodeOptions::default(), control));
        begins.recv().unwrap();
        cancel.store(true, Ordering::Relaxed);
        assert_eq!(call.join().unwrap().unwrap_err(), TokenizeError::Cancelled { done: 1, total: 2 });
    });
}

#[test]
fn no_pattern_that_is_known_gives_up_on_a_long_run() {
    // The pattern engine gives up on more than a million steps.
    let text = " ".repeat(1_100_000) + "x";
    for (name, pre_tokenizer) in pre_tokenizers().into_iter().filter(|(name, _)| ["gpt2", "cl100k"].contains(name)) {
        let file = file(pre_tokenizer);
        let reference = Tokenizer::from_json_on_reference(&serde_json::to_vec(&file).unwrap()).unwrap();
        let expected = load(&file).encode_ids(&text, false).unwrap();
        let got = reference.encode_ids(&text, false);
        assert!(got.is_ok_and(|ids| ids == expected), "{name}");
    }
}
