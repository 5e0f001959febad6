//! Small but real tokenizers, trained or written out here, so that tests need no file from elsewhere.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "fixtures, of which each test file uses its own part"
)]

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::{
    AddedToken, Model,
    models::{
        ModelWrapper, TrainerWrapper,
        bpe::{BPE, BpeTrainerBuilder},
        unigram::{Unigram, UnigramTrainerBuilder},
        wordpiece::{WordPiece, WordPieceTrainerBuilder},
    },
};

pub const CORPUS: &[&str] = &[
    "The quick brown fox jumps over the lazy dog, doesn't it? It's the dog's day; they'll see we've won.",
    "Tokenizers turn text into ids: 12345 numbers, 3.14, 2026-11-23, and $100 too!",
    "fn main() {\n    let x = vec![1, 2, 3];\n\tprintln!(\"{}\", x.len());\n}\n\n",
    "Der schnelle braune Fuchs springt über den faulen Hund. Größe, Straße, naïve café.",
    "吾輩は猫である。名前はまだ無い。どこで生れたか頓と見当がつかぬ。",
    "Быстрая коричневая лиса прыгает через ленивую собаку. مرحبا بالعالم नमस्ते दुनिया",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 and ligatures ﬁ ﬂ, combining e\u{301} a\u{308}, ſ long s",
];

/// GPT-2's and Llama 3's shape: byte-level BPE, a pattern, special tokens, a template that begins texts.
pub fn byte_level_bpe() -> Value {
    let specials = ["<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"];
    let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
    let trainer = BpeTrainerBuilder::new()
        .vocab_size(420)
        .show_progress(false)
        .initial_alphabet(alphabet.into_iter().collect())
        .special_tokens(specials.iter().map(|s| AddedToken::from(*s, true)).collect())
        .build();
    let pre_tokenizer = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "behavior": "Isolated", "invert": false, "pattern": { "Regex":
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+" } },
        { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
    ] });
    let mut file = train(BPE::default().into(), trainer.into(), &Value::Null, &pre_tokenizer);
    file["added_tokens"].as_array_mut().unwrap().push(json!({
        "id": 420, "content": "<tool>", "special": false, "normalized": false, "single_word": false, "lstrip": true, "rstrip": true,
    }));
    file["decoder"] = json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
    file["post_processor"] = json!({ "type": "Sequence", "processors": [
        { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true },
        { "type": "TemplateProcessing",
          "single": [{ "SpecialToken": { "id": "<|begin|>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
          "pair": [{ "SpecialToken": { "id": "<|begin|>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
                   { "SpecialToken": { "id": "<|begin|>", "type_id": 1 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
          "special_tokens": { "<|begin|>": { "id": "<|begin|>", "ids": [0], "tokens": ["<|begin|>"] } } },
    ] });
    file
}

/// `RoBERTa`'s shape: a space before the text, trimmed offsets, a mask that takes the space before it, and settings that are to be ignored.
pub fn roberta() -> Value {
    let mut file = byte_level_bpe();
    file["pre_tokenizer"] =
        json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
    file["post_processor"] = json!({ "type": "RobertaProcessing", "sep": ["<|end|>", 1], "cls": ["<|begin|>", 0],
        "trim_offsets": true, "add_prefix_space": true });
    file["added_tokens"][3]["lstrip"] = true.into();
    file["truncation"] = json!({ "direction": "Right", "max_length": 6, "strategy": "LongestFirst", "stride": 0 });
    file["padding"] = json!({ "strategy": { "Fixed": 16 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 1,
        "pad_type_id": 0, "pad_token": "<|end|>" });
    file
}

/// BERT's shape.
pub fn word_piece() -> Value {
    let specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let trainer = WordPieceTrainerBuilder::new()
        .vocab_size(400)
        .show_progress(false)
        .special_tokens(specials.iter().map(|s| AddedToken::from(*s, true)).collect())
        .build();
    let normalizer = json!({ "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
        "lowercase": true });
    let mut file = train(
        WordPiece::builder().unk_token("[UNK]".into()).build().unwrap().into(),
        trainer.into(),
        &normalizer,
        &json!({ "type": "BertPreTokenizer" }),
    );
    file["decoder"] = json!({ "type": "WordPiece", "prefix": "##", "cleanup": true });
    file["post_processor"] = json!({ "type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2] });
    file
}

/// The shape of T5 and `XLNet`.
pub fn unigram() -> Value {
    let trainer = UnigramTrainerBuilder::default()
        .vocab_size(300)
        .show_progress(false)
        .unk_token(Some("<unk>".to_owned()))
        .special_tokens(["<unk>", "</s>"].iter().map(|s| AddedToken::from(*s, true)).collect())
        .build()
        .unwrap();
    let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
    let normalizer = json!({ "type": "Sequence", "normalizers": [
        { "type": "NFKC" }, { "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " } ] });
    let mut file = train(Unigram::default().into(), trainer.into(), &normalizer, &metaspace);
    file["decoder"] = metaspace;
    file["post_processor"] = json!({ "type": "TemplateProcessing",
        "single": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "SpecialToken": { "id": "</s>", "type_id": 0 } }],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "SpecialToken": { "id": "</s>", "type_id": 0 } },
                 { "Sequence": { "id": "B", "type_id": 2 } }, { "SpecialToken": { "id": "</s>", "type_id": 3 } }],
        "special_tokens": { "</s>": { "id": "</s>", "ids": [1], "tokens": ["</s>"] } } });
    file
}

/// Llama 2's shape: no pre-tokenizer, spaces as ▁, bytes for what is unknown.
pub fn llama2() -> Value {
    let mut vocab = serde_json::Map::new();
    for token in ["<unk>", "<s>", "</s>"] {
        vocab.insert(token.into(), vocab.len().into());
    }
    for byte in 0..=255 {
        vocab.insert(format!("<0x{byte:02X}>"), vocab.len().into());
    }
    for letter in "▁abcdefghijklmnopqrstuvwxyzé".chars() {
        vocab.insert(letter.to_string(), vocab.len().into());
    }
    let merges = ["▁ t", "h e", "▁t he", "i n", "▁ a", "e r", "▁ ▁", "o n"];
    for merge in merges {
        vocab.insert(merge.replace(' ', ""), vocab.len().into());
    }
    let special = |id: u32, content: &str| json!({ "id": id, "content": content, "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false });
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" } ] },
        "pre_tokenizer": null,
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
                     { "SpecialToken": { "id": "<s>", "type_id": 1 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } } },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] },
        "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": merges },
    })
}

/// All of them, by name.
pub fn all() -> &'static [(&'static str, Value)] {
    static ALL: LazyLock<Vec<(&'static str, Value)>> = LazyLock::new(|| {
        vec![
            ("byte_level_bpe", byte_level_bpe()),
            ("roberta", roberta()),
            ("word_piece", word_piece()),
            ("unigram", unigram()),
            ("llama2", llama2()),
        ]
    });
    &ALL
}

fn train(model: ModelWrapper, mut trainer: TrainerWrapper, normalizer: &Value, pre_tokenizer: &Value) -> Value {
    // The trainers work on rayon's global pool otherwise.
    tokenizers::parallelism::set_parallelism(false);
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    if !normalizer.is_null() {
        let normalizer: tokenizers::NormalizerWrapper = serde_json::from_value(normalizer.clone()).unwrap();
        tokenizer.with_normalizer(Some(normalizer)).unwrap();
    }
    let pre_tokenizer: tokenizers::PreTokenizerWrapper = serde_json::from_value(pre_tokenizer.clone()).unwrap();
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
    tokenizer.train(&mut trainer, CORPUS.iter().copied()).unwrap();
    assert!(tokenizer.get_model().get_vocab_size() > 100);
    serde_json::to_value(&tokenizer).unwrap()
}

/// A fixture as both the reference and we read it.
pub struct Case {
    pub name: &'static str,
    pub reference: tokenizers::Tokenizer,
    pub ours: pillion_tokenize::Tokenizer,
}

/// Every fixture, loaded on both sides.
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = all().iter().map(|(name, file)| case(name, file)).collect();
    // Files that our own engine takes must be right on the reference too.
    for (name, file) in all() {
        let mut case = case(name, file);
        if case.ours.engine().name == "pillion" {
            case.ours =
                pillion_tokenize::Tokenizer::from_json_on_reference(&serde_json::to_vec(file).unwrap()).unwrap();
            cases.push(case);
        }
    }
    cases
}

pub fn case(name: &'static str, file: &Value) -> Case {
    let json = serde_json::to_vec(file).unwrap();
    let mut reference = tokenizers::Tokenizer::from_bytes(&json).unwrap();
    reference.with_padding(None).with_truncation(None).unwrap();
    Case { name, reference, ours: pillion_tokenize::Tokenizer::from_json(&json).unwrap() }
}

/// Random tests that write no files; `PILLION_TEST_FACTOR` makes them that many times longer.
pub fn config(cases: u32) -> ProptestConfig {
    let factor = std::env::var("PILLION_TEST_FACTOR").ok().and_then(|f| f.parse().ok()).unwrap_or(1);
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases * factor) }
}

/// Texts with everything that has gone wrong in some tokenizer.
pub fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(CORPUS).prop_flat_map(|text| {
            let chars: Vec<char> = text.chars().collect();
            (0..chars.len(), 1..12usize).prop_map(move |(at, len)| chars[at..].iter().take(len).collect::<String>())
        }),
        2 => "[a-z ]{1,8}",
        2 => prop::sample::select(&[
            " ", "  ", "\n", "\r\n", "\t", "\u{a0}", "\u{3000}", "'s", "'S", "'\u{17f}", "'ll", "1", "1234", "é", "e\u{301}", "ﬁ", "猫", "😀",
            "\u{200d}", "\u{feff}", "\0", "<|end|>", "<|im_end|>", "<|begin|>", "<tool>", " <tool> ", "<s>", "</s>", "[MASK]", "[CLS]", "▁",
        ][..]).prop_map(str::to_owned),
        1 => "\\PC{1,4}",
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}
