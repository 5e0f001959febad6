//! Real tokenizers, where there are any: `PILLION_TOKENIZERS_DIR` names a folder whose subfolders hold a `tokenizer.json` each.
//!
//! A subfolder may also hold `oracle.json` (`[{"text", "ids", "offsets"}]`, special tokens in the text parsed, none added, offsets in code points),
//! made by another build of the reference, and `chat.json` (`[{"messages", "tools", "add_generation_prompt", "expected"}]`).
#![expect(clippy::unwrap_used, clippy::cast_possible_wrap, reason = "helpers of tests")]

mod common;

use std::path::PathBuf;

use pillion_tokenize::{
    Columns, DecodeOptions, EncodeOptions, OffsetUnit, ParseSpecialTokens, TemplateOptions, Tokenizer,
};
use serde_json::Value;

fn folders() -> Vec<PathBuf> {
    let Some(root) = std::env::var_os("PILLION_TOKENIZERS_DIR") else { return Vec::new() };
    let entries = std::fs::read_dir(root).expect("PILLION_TOKENIZERS_DIR is a folder");
    let mut folders: Vec<PathBuf> =
        entries.map(|e| e.unwrap().path()).filter(|p| p.join("tokenizer.json").is_file()).collect();
    folders.sort();
    folders
}

fn options() -> EncodeOptions {
    EncodeOptions {
        columns: Columns::all(),
        add_special_tokens: false,
        parse_special_tokens: ParseSpecialTokens::All,
        offset_unit: OffsetUnit::CodePoint,
        truncation: None,
    }
}

fn read(folder: &std::path::Path, file: &str) -> Vec<Value> {
    std::fs::read(folder.join(file)).map_or_else(|_| Vec::new(), |json| serde_json::from_slice(&json).unwrap())
}

#[test]
fn real_tokenizers_equal_the_reference() {
    for folder in folders() {
        let ours = Tokenizer::from_pretrained(&folder).unwrap();
        let mut reference = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
        reference.with_padding(None).with_truncation(None).unwrap();
        for text in common::CORPUS.iter().flat_map(|text| [(*text).to_owned(), text.repeat(3), text.to_uppercase()]) {
            let expected = reference.encode_char_offsets(text.as_str(), false).unwrap();
            let got = ours.encode(&text, &options()).unwrap();
            assert_eq!(got.ids, expected.get_ids(), "{} {text:?}", folder.display());
            let flat: Vec<u32> = expected.get_offsets().iter().flat_map(|o| [o.0 as u32, o.1 as u32]).collect();
            assert_eq!(got.columns.offsets.unwrap(), flat, "{} {text:?}", folder.display());
            let words: Vec<i32> = expected.get_word_ids().iter().map(|w| w.map_or(-1, |w| w as i32)).collect();
            assert_eq!(got.columns.word_ids.unwrap(), words, "{} {text:?}", folder.display());
            let ids = ours.encode_ids(&text, true).unwrap();
            for skip_special_tokens in [false, true] {
                let options = DecodeOptions { skip_special_tokens, clean_up: false };
                let expected = reference.decode(&ids, skip_special_tokens).unwrap();
                assert_eq!(ours.decode(&ids, &options).unwrap(), expected, "{} {text:?}", folder.display());
                let mut stream = ours.decode_stream(options);
                let mut streamed: String = ids.chunks(1).map(|id| stream.push(id)).collect();
                streamed.push_str(&stream.end());
                assert_eq!(streamed, expected, "{} {text:?}", folder.display());
            }
        }
        eprintln!("{}: {} ids, engine {:?}", folder.display(), ours.vocab_size(), ours.engine());
    }
}

#[test]
fn real_tokenizers_equal_the_oracle() {
    for folder in folders() {
        let ours = Tokenizer::from_pretrained(&folder).unwrap();
        let cases = read(&folder, "oracle.json");
        for case in &cases {
            let text = case["text"].as_str().unwrap();
            let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let offsets: Vec<(u32, u32)> = serde_json::from_value(case["offsets"].clone()).unwrap();
            let got = ours.encode(text, &options()).unwrap();
            assert_eq!(got.ids, expected, "{} {text:?}", folder.display());
            let flat: Vec<u32> = offsets.iter().flat_map(|o| [o.0, o.1]).collect();
            assert_eq!(got.columns.offsets.unwrap(), flat, "{} {text:?}", folder.display());
        }
        eprintln!("{}: {} oracle texts", folder.display(), cases.len());
    }
}

#[test]
fn real_chat_templates_equal_transformers() {
    for folder in folders() {
        let ours = Tokenizer::from_pretrained(&folder).unwrap();
        let cases = read(&folder, "chat.json");
        for case in &cases {
            let options = TemplateOptions {
                tools: case.get("tools").filter(|t| !t.is_null()).cloned(),
                add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap_or_default(),
                ..TemplateOptions::default()
            };
            let got = ours.apply_chat_template(&case["messages"], &options);
            match case["expected"].as_str() {
                Some(expected) => assert_eq!(got.unwrap(), expected, "{}", folder.display()),
                None => assert!(got.is_err(), "{}: {got:?}", folder.display()),
            }
        }
        eprintln!("{}: {} chats", folder.display(), cases.len());
    }
}
