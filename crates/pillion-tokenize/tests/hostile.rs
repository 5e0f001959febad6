//! Files and calls that are wrong, by accident or on purpose: an error that says what is wrong, never a crash, hang or blow-up.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pillion_core::ErrorCode;
use pillion_tokenize::{
    BatchControl, DecodeOptions, EncodeOptions, ParseSpecialTokens, Pool, Text, TextArena, TokenizeError, Tokenizer,
    Truncation,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Loads, and if that works uses, a file.
fn try_all(json: &[u8]) {
    let Ok(tokenizer) = Tokenizer::from_json(json) else { return };
    for text in ["", "Hello, the World's <|end|> 猫 123", "  \n\u{0}é"] {
        if let Ok(encoding) = tokenizer
            .encode(text, &EncodeOptions { columns: pillion_tokenize::Columns::all(), ..EncodeOptions::default() })
        {
            let _ = tokenizer.decode(&encoding.ids, &DecodeOptions::default());
        }
        let _ = tokenizer.encode_pair(text, text, &EncodeOptions::default());
        let _ = tokenizer.encode_rendered(text);
    }
    let _ = tokenizer.decode(&[0, 1, 255, u32::MAX], &DecodeOptions { skip_special_tokens: true, clean_up: true });
}

fn refused(file: &Value) -> TokenizeError {
    Tokenizer::from_json(&serde_json::to_vec(file).unwrap()).expect_err("the file must be refused")
}

proptest! {
    #![proptest_config(common::config(150))]

    #[test]
    fn damaged_files_are_errors_or_tokenizers(
        which in 0usize..5, cut in any::<prop::sample::Index>(), at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (_, file) = &common::all()[which];
        let json = serde_json::to_vec(file).unwrap();
        prop_assert!(Tokenizer::from_json(&json[..cut.index(json.len())]).is_err(), "a cut file");
        let mut damaged = json;
        for (at, value) in at {
            let at = at.index(damaged.len());
            damaged[at] = value;
        }
        try_all(&damaged);
    }

    #[test]
    fn files_with_a_wrong_part_are_errors_or_tokenizers(
        which in 0usize..5, key in 0usize..9, value in prop_oneof![
            Just(Value::Null), Just(json!(0)), Just(json!([])), Just(json!({})), Just(json!("x")), Just(json!({ "type": "Sequence" })),
            Just(json!({ "type": "Precompiled", "precompiled_charsmap": "AAAA" })),
            Just(json!({ "type": "Precompiled", "precompiled_charsmap": "/////wAAAAA=" })),
            Just(json!({ "type": "Strip", "content": "", "start": 1, "stop": 1 })),
            Just(json!({ "type": "Strip", "content": "a", "start": 9, "stop": 9 })),
            Just(json!({ "type": "Split", "pattern": { "Regex": "(" }, "behavior": "Isolated", "invert": false })),
            Just(json!({ "type": "Split", "pattern": { "Regex": "(a+)+$" }, "behavior": "Isolated", "invert": false })),
            Just(json!({ "type": "Replace", "pattern": { "Regex": "" }, "content": "x" })),
            Just(json!({ "type": "FixedLength", "length": 0 })),
        ],
    ) {
        let keys = ["version", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model", "truncation", "padding"];
        let mut file = common::all()[which].1.clone();
        file[keys[key]] = value;
        try_all(&serde_json::to_vec(&file).unwrap());
    }
}

#[test]
fn what_is_no_tokenizer_is_invalid() {
    for json in [
        &b""[..],
        b"{}",
        b"[]",
        b"null",
        b"\xFF\xFE",
        b"{\"version\":\"9.9\"}",
        b"{\"model\":{}}",
        "[".repeat(100_000).as_bytes(),
    ] {
        let error = Tokenizer::from_json(json).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidTokenizer, "{error}");
        assert!(error.remedy().is_some());
    }
}

#[test]
fn a_part_that_is_not_known_or_not_right_is_named() {
    let check = |part: &str, value: Value, code: ErrorCode, expected: &str| {
        let mut file = common::byte_level_bpe();
        *file.pointer_mut(part).unwrap() = value;
        let error = refused(&file);
        assert!(error.to_string().contains(expected), "{part}: {error}");
        assert_eq!(error.code(), code, "{part}: {error}");
    };
    let unknown = || json!({ "type": "Nope" });
    for part in ["normalizer", "pre_tokenizer", "post_processor", "decoder"] {
        let expected = format!("the tokenizer's {part} is not supported: there is no type \"Nope\"; known are ");
        check(&format!("/{part}"), unknown(), ErrorCode::Unsupported, &expected);
        check(&format!("/{part}"), json!(7), ErrorCode::InvalidTokenizer, &format!("the {part} of tokenizer.json"));
    }
    check("/model/type", json!("Nope"), ErrorCode::Unsupported, "tokenizer's model is not supported");
    check("/pre_tokenizer/pretokenizers/1", unknown(), ErrorCode::Unsupported, "pre_tokenizer.pretokenizers[1]");
    let charsmap = json!({ "type": "Precompiled", "precompiled_charsmap": "AAAA" });
    check("/normalizer", charsmap, ErrorCode::InvalidTokenizer, "the normalizer of tokenizer.json");
    check("/added_tokens", json!({}), ErrorCode::InvalidTokenizer, "the added_tokens of tokenizer.json");
    check("/model/merges", json!(7), ErrorCode::InvalidTokenizer, "the model or added_tokens of tokenizer.json");
}

#[test]
fn a_pattern_that_explodes_is_an_error_within_bounds() {
    let mut file = common::byte_level_bpe();
    file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"(?:(a|a)(a|a)?)+(?!\1)b".into();
    let tokenizer = Tokenizer::from_json(&serde_json::to_vec(&file).unwrap()).unwrap();
    let error = tokenizer.encode_ids(&"a".repeat(64), true).unwrap_err();
    assert!(matches!(error, TokenizeError::PatternLimit { .. }), "{error}");
    assert_eq!(tokenizer.encode_ids("c", false).unwrap().len(), 1, "other texts still work");

    let mut file = common::unigram();
    file["normalizer"]["normalizers"][1]["pattern"]["Regex"] = r"(?:(a|a)(a|a)?)+(?!\1)b".into();
    let tokenizer = Tokenizer::from_json(&serde_json::to_vec(&file).unwrap()).unwrap();
    let error = tokenizer.encode_ids(&"a".repeat(64), true).unwrap_err();
    assert!(matches!(error, TokenizeError::PatternLimit { .. }), "{error}");
}

#[test]
fn a_pattern_that_cannot_be_compiled_is_refused_at_load() {
    let mut file = common::byte_level_bpe();
    file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(unclosed".into();
    assert_eq!(refused(&file).code(), ErrorCode::InvalidTokenizer);
}

#[test]
fn far_ids_holes_and_huge_tokens_load() {
    let mut file = common::llama2();
    file["model"]["vocab"]["▁far"] = u32::MAX.into();
    file["model"]["vocab"]["▁half"] = (1u32 << 31).into();
    file["model"]["vocab"]["x".repeat(70_000)] = 5_000_000.into();
    let tokenizer = Tokenizer::from_json(&serde_json::to_vec(&file).unwrap()).unwrap();
    assert_eq!(tokenizer.id_to_token(u32::MAX), Some("▁far"));
    assert_eq!(tokenizer.id_bound(), 1 << 32);
    assert_eq!(tokenizer.decode(&[u32::MAX, 1 << 31, 77_777_777], &DecodeOptions::default()).unwrap(), "far half");
    file["model"]["vocab"]["▁over"] = (1u64 << 32).into();
    assert_eq!(refused(&file).code(), ErrorCode::InvalidTokenizer);
}

#[test]
fn a_merge_without_its_result_is_refused() {
    let mut file = common::llama2();
    file["model"]["vocab"].as_object_mut().unwrap().remove("▁the");
    assert!(refused(&file).to_string().contains("▁the"), "the message names it");
}

#[test]
fn options_that_cannot_be_are_refused_by_name() {
    let tokenizer = Tokenizer::from_json(&serde_json::to_vec(&common::word_piece()).unwrap()).unwrap();
    let refused = |options: EncodeOptions| {
        let error = pillion_core::Error::from(tokenizer.encode("the quick brown fox", &options).unwrap_err());
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{error}");
        error.param().unwrap().to_owned()
    };
    let with = |truncation| EncodeOptions { truncation: Some(truncation), ..EncodeOptions::default() };
    assert_eq!(refused(with(Truncation::to(1))), "truncation.maxLength");
    assert_eq!(refused(with(Truncation { overflow: true, ..Truncation::to(5) })), "truncation.overflow");
    let second = pillion_tokenize::TruncationStrategy::OnlySecond;
    assert_eq!(refused(with(Truncation { strategy: second, ..Truncation::to(3) })), "truncation.strategy");
    let unknown = ParseSpecialTokens::Only(vec!["[MASK]".into(), "the".into()]);
    assert_eq!(
        refused(EncodeOptions { parse_special_tokens: unknown, ..EncodeOptions::default() }),
        "parseSpecialTokens"
    );
    let batch = |stride| {
        let options = with(Truncation { overflow: true, stride, ..Truncation::to(5) });
        tokenizer.encode_batch(["the quick brown fox jumps"].as_slice(), &options, BatchControl::default())
    };
    assert!(batch(2).unwrap().rows() > 1);
    let error = pillion_core::Error::from(batch(3).unwrap_err());
    assert_eq!(error.param(), Some("truncation.stride"), "{error}");
}

#[test]
fn a_text_that_would_take_all_memory_is_refused() {
    let tokenizer = Tokenizer::from_json(&serde_json::to_vec(&common::word_piece()).unwrap()).unwrap();
    let error = tokenizer.encode_ids(&" ".repeat((64 << 20) + 1), false).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    assert!(error.to_string().contains("67108864 bytes of one text"), "{error}");
}

#[test]
fn rows_that_do_not_fit_the_ids_are_refused() {
    let tokenizer = Tokenizer::byte();
    for rows in [&[0, 4][..], &[2, 1], &[0, u32::MAX]] {
        let error =
            tokenizer.decode_batch(&[1, 2, 3], rows, DecodeOptions::default(), BatchControl::default()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
    }
    for rows in [&[][..], &[0], &[3]] {
        let texts =
            tokenizer.decode_batch(&[1, 2, 3], rows, DecodeOptions::default(), BatchControl::default()).unwrap();
        assert!(texts.is_empty());
    }
}

#[test]
fn a_batch_can_be_taken_back_and_tells_how_far_it_is() {
    let tokenizer = Tokenizer::byte();
    let texts = vec!["some text that is long enough ".repeat(100); 200];
    let pool = Pool::new(2);
    let (cancel, largest, calls) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let progress = |done: usize, total: usize| {
        assert_eq!(total, 200);
        largest.fetch_max(done, Ordering::Relaxed);
        calls.fetch_add(1, Ordering::Relaxed);
    };
    let control = BatchControl { cancel: Some(&cancel), progress: Some(&progress), pool: Some(&pool) };
    let batch = tokenizer.encode_batch(texts.as_slice(), &EncodeOptions::default(), control).unwrap();
    assert_eq!(batch.ids.len(), 200 * 3000);
    assert_eq!(largest.load(Ordering::Relaxed), 200);
    assert!(calls.load(Ordering::Relaxed) > 2);

    let stop_early = |_: usize, _: usize| cancel.store(true, Ordering::Relaxed);
    let control = BatchControl { progress: Some(&stop_early), ..control };
    let error = tokenizer.encode_batch(texts.as_slice(), &EncodeOptions::default(), control).unwrap_err();
    let TokenizeError::Cancelled { done, total } = error else { panic!("{error}") };
    assert!(done < total && total == 200, "{done} of {total}");
    let error = tokenizer.count_batch(["x"].as_slice(), control).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Closed, "taken back before it began");
}

#[test]
fn a_batch_names_the_text_that_is_wrong() {
    let mut arena = TextArena::default();
    arena.push(Text::Utf8Bytes(b"fine"));
    arena.push(Text::Utf8Bytes(b"not\xFFfine"));
    let error = Tokenizer::byte().encode_batch(&arena, &EncodeOptions::default(), BatchControl::default()).unwrap_err();
    assert_eq!(error.to_string(), "text must be valid UTF-8, got an invalid byte at 3 of text 1");
}

#[test]
fn a_lone_surrogate_is_one_replacement_character() {
    let mut arena = TextArena::default();
    arena.push(Text::Utf16(&[0x61, 0xDC00, 0x62]));
    let options = EncodeOptions {
        columns: pillion_tokenize::Columns { offsets: true, ..Default::default() },
        ..EncodeOptions::default()
    };
    let batch = Tokenizer::byte().encode_batch(&arena, &options, BatchControl::default()).unwrap();
    assert_eq!(batch.ids, [0x61, 0xEF, 0xBF, 0xBD, 0x62]);
    assert_eq!(batch.columns.offsets.unwrap(), [0, 1, 1, 2, 1, 2, 1, 2, 2, 3]);
}
