//! Random decoders and post-processors, compared with the reference: our own implementations must take every combination that it takes.
#![expect(clippy::needless_pass_by_value, reason = "helpers of tests")]

mod common;

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use pillion_tokenize::{
    BatchControl, Columns, DecodeOptions, EncodeOptions, OffsetUnit, Pairs, ParseSpecialTokens, Tokenizer,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const TOKENS: &[&str] = &[
    "a", "##b", "▁c", "▁", "▁▁d", "e</w>", "</w>", "<0xE2>", "<0x82>", "<0xAC>", "<0x41>", "<0xFF>", " f", "  ", "g .",
    "Ġh", "ã", "ģ", "Ĥ", "猫", "|", "<pad>", "do not", "n't", "</s>", "-", "--", "é",
];

/// A file whose model knows [`TOKENS`], and words of them.
fn file(decoder: Value, post_processor: Value) -> Value {
    let vocab: serde_json::Map<String, Value> =
        TOKENS.iter().enumerate().map(|(id, token)| ((*token).to_owned(), id.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{ "id": 24, "content": "</s>", "special": true, "normalized": false, "single_word": false, "lstrip": true, "rstrip": false }],
        "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": post_processor, "decoder": decoder,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "a" },
    })
}

fn decoder() -> impl Strategy<Value = Value> {
    let pattern = prop_oneof![
        prop::sample::select(&["▁", "c", " ", "--", "e</", "猫g", "", "n't", ". "][..])
            .prop_map(|p| json!({ "String": p })),
        prop::sample::select(&["[a-c]", "▁+", "(?<=a)e", "^\\s"][..]).prop_map(|p| json!({ "Regex": p })),
    ];
    let content = prop::sample::select(&["", " ", "x", "--"][..]);
    let leaf = prop_oneof![
        Just(json!({ "type": "ByteFallback" })),
        Just(json!({ "type": "Fuse" })),
        Just(json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true })),
        any::<bool>().prop_map(|cleanup| json!({ "type": "WordPiece", "prefix": "##", "cleanup": cleanup })),
        prop::sample::select(&["always", "never", "first"][..]).prop_map(
            |scheme| json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true })
        ),
        Just(json!({ "type": "BPEDecoder", "suffix": "</w>" })),
        any::<bool>().prop_map(
            |cleanup| json!({ "type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": cleanup })
        ),
        (pattern, content)
            .prop_map(|(pattern, content)| json!({ "type": "Replace", "pattern": pattern, "content": content })),
        (prop::sample::select(&[" ", "-", "a", "▁"][..]), 0usize..3, 0usize..3).prop_map(
            |(content, start, stop)| json!({ "type": "Strip", "content": content, "start": start, "stop": stop })
        ),
    ];
    let sequence = prop::collection::vec(leaf.clone(), 0..5)
        .prop_map(|decoders| json!({ "type": "Sequence", "decoders": decoders }));
    prop_oneof![1 => Just(Value::Null), 2 => leaf, 5 => sequence]
}

fn post_processor() -> impl Strategy<Value = Value> {
    let special = |id: &str, type_id: u32| json!({ "SpecialToken": { "id": id, "type_id": type_id } });
    let piece = move |pair: bool| {
        (0usize..if pair { 4 } else { 3 }, 0u32..4).prop_map(move |(which, type_id)| match which {
            0 => special("<pad>", type_id),
            1 => special("two", type_id),
            2 => json!({ "Sequence": { "id": "A", "type_id": type_id } }),
            _ => json!({ "Sequence": { "id": "B", "type_id": type_id } }),
        })
    };
    let template = (prop::collection::vec(piece(false), 0..4), prop::collection::vec(piece(true), 0..5)).prop_map(
        |(single, pair)| {
            json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {
            "<pad>": { "id": "<pad>", "ids": [21], "tokens": ["<pad>"] },
            "two": { "id": "two", "ids": [24, 25], "tokens": ["</s>", "-"] } } })
        },
    );
    let byte_level = (any::<bool>(), any::<bool>()).prop_map(|(prefix, trim)| {
        json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": trim, "use_regex": true })
    });
    let roberta = (any::<bool>(), any::<bool>()).prop_map(|(prefix, trim)| {
        json!({ "type": "RobertaProcessing", "sep": ["</s>", 24], "cls": ["<pad>", 21], "add_prefix_space": prefix, "trim_offsets": trim })
    });
    let leaf = prop_oneof![
        2 => template, 1 => byte_level, 1 => roberta,
        1 => Just(json!({ "type": "BertProcessing", "sep": ["</s>", 24], "cls": ["<pad>", 21] })),
    ];
    let sequence = prop::collection::vec(leaf.clone(), 0..4)
        .prop_map(|processors| json!({ "type": "Sequence", "processors": processors }));
    prop_oneof![1 => Just(Value::Null), 3 => leaf, 3 => sequence]
}

proptest! {
    #![proptest_config(common::config(700))]

    #[test]
    fn decoders_equal_the_reference(
        decoder in decoder(), ids in prop::collection::vec(0..TOKENS.len() as u32 + 2, 0..10), cuts in prop::collection::vec(0usize..3, 0..8),
    ) {
        let json = serde_json::to_vec(&file(decoder, Value::Null)).unwrap();
        let ours = Tokenizer::from_json(&json).unwrap();
        let options = DecodeOptions::default();
        let whole = ours.decode(&ids, &options).unwrap();
        let reference = tokenizers::Tokenizer::from_bytes(&json).unwrap();
        // The reference panics on some of these, such as stripping more than there is; we give the sensible text.
        let expected = catch_unwind(AssertUnwindSafe(|| reference.decode(&ids, false).unwrap()));
        if let Ok(expected) = expected {
            prop_assert_eq!(&whole, &expected);
        }
        let mut stream = ours.decode_stream(options);
        let mut streamed = String::new();
        let mut rest = ids.as_slice();
        for cut in cuts {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            streamed.push_str(&stream.push(now));
            rest = later;
        }
        streamed.push_str(&stream.push(rest));
        streamed.push_str(&stream.end());
        prop_assert_eq!(streamed, whole);
    }

    #[test]
    fn an_id_that_leaves_a_stream_as_it_was_always_gives_the_same(
        decoder in decoder(), clean_up: bool, rows in prop::collection::vec(prop::collection::vec(0..TOKENS.len() as u32 + 2, 0..10), 1..6),
    ) {
        let ours = Tokenizer::from_json(&serde_json::to_vec(&file(decoder, Value::Null)).unwrap()).unwrap();
        let options = DecodeOptions { clean_up, ..DecodeOptions::default() };
        // What a caller may keep, over all streams of the tokenizer, and what the stream is then not told of.
        let mut kept: HashMap<(u32, u32), String> = HashMap::new();
        for ids in rows {
            let mut stream = ours.decode_stream(options);
            let mut streamed = String::new();
            for id in &ids {
                let before = stream.state();
                if let Some(text) = before.and_then(|state| kept.get(&(state, *id))) {
                    streamed.push_str(text);
                    continue;
                }
                let text = stream.push(&[*id]);
                streamed.push_str(&text);
                if let (Some(state), true) = (before, before == stream.state()) {
                    kept.insert((state, *id), text);
                }
            }
            streamed.push_str(&stream.end());
            prop_assert_eq!(streamed, ours.decode(&ids, &options).unwrap(), "{:?}", ids);
        }
    }

    #[test]
    fn post_processors_equal_the_reference(
        post_processor in post_processor(), add: bool,
        words in prop::collection::vec(prop::sample::select(TOKENS), 0..5), pair in prop::option::of(prop::collection::vec(prop::sample::select(TOKENS), 0..5)),
    ) {
        let json = serde_json::to_vec(&file(Value::Null, post_processor)).unwrap();
        let ours = Tokenizer::from_json(&json).unwrap();
        let reference = tokenizers::Tokenizer::from_bytes(&json).unwrap();
        let text = words.join(" ");
        let pair = pair.map(|words| words.join(" "));
        let expected = catch_unwind(AssertUnwindSafe(|| match &pair {
            Some(pair) => reference.encode_char_offsets((text.as_str(), pair.as_str()), add).unwrap(),
            None => reference.encode_char_offsets(text.as_str(), add).unwrap(),
        }));
        let options = EncodeOptions {
            columns: Columns::all(), add_special_tokens: add, parse_special_tokens: ParseSpecialTokens::All,
            offset_unit: OffsetUnit::CodePoint, truncation: None,
        };
        let got = match &pair {
            Some(pair) => ours.encode_pair(&text, pair, &options),
            None => ours.encode(&text, &options),
        };
        let (Ok(expected), Ok(got)) = (&expected, &got) else {
            prop_assert!(got.is_err(), "the reference panics where we give {got:?}");
            prop_assert!(expected.is_err(), "we fail where the reference does not: {got:?}");
            return Ok(());
        };
        prop_assert_eq!(&got.ids[..], expected.get_ids());
        let flat: Vec<u32> = expected.get_offsets().iter().flat_map(|o| [o.0 as u32, o.1 as u32]).collect();
        prop_assert_eq!(got.columns.offsets.as_ref().unwrap(), &flat);
        let bytes = |column: &[u32]| column.iter().map(|v| *v as u8).collect::<Vec<u8>>();
        prop_assert_eq!(got.columns.type_ids.as_ref().unwrap(), &bytes(expected.get_type_ids()));
        prop_assert_eq!(got.columns.special_tokens_mask.as_ref().unwrap(), &bytes(expected.get_special_tokens_mask()));
        if let Some(pair) = &pair {
            let batch = ours.encode_batch(&Pairs(&[(&text, pair)]), &options, BatchControl::default()).unwrap();
            prop_assert_eq!(&batch.ids, &got.ids);
        }
    }
}
