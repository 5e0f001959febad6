//! Small tokenizers made on the spot, and the comparison with the reference crate.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::assigning_clones,
    clippy::needless_pass_by_value,
    reason = "each test file uses its own part, and a test may unwrap"
)]

use pillion_tokenize::bpe::{ByteLevelBpe, Encoded, ParseSpecial, Scratch};
use serde_json::{Value, json};

/// The split patterns, as files write them.
pub mod patterns {
    pub const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    pub const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    pub const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    pub const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    pub const DEEPSEEK: [&str; 3] = [
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    ];
}

/// The character that stands for a byte in a byte-level vocabulary.
pub fn byte_char(byte: u8) -> char {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let before = (0..byte).filter(|&other| !prints(other)).count() as u32;
    if prints(byte) { char::from(byte) } else { char::from_u32(0x100 + before).unwrap() }
}

pub fn token(text: &str) -> String {
    text.bytes().map(byte_char).collect()
}

pub fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

pub fn splits(regexes: &[&str]) -> Value {
    let split =
        |regex: &&str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let steps: Vec<Value> = regexes.iter().map(split).chain([byte_level(false)]).collect();
    json!({"type": "Sequence", "pretokenizers": steps})
}

pub fn added(content: &str, flags: &str) -> Value {
    let flag = |name: &str| flags.split(' ').any(|flag| flag == name);
    json!({
        "id": 0, "content": content, "single_word": flag("single_word"), "lstrip": flag("lstrip"),
        "rstrip": flag("rstrip"), "normalized": flag("normalized"), "special": flag("special"),
    })
}

/// The vocabulary of all bytes, and of what training on a few words gives.
pub fn model() -> Value {
    let mut words: Vec<Vec<String>> =
        "the then there's wasn't I'LL 12345 2024 カタカナ 漢字 かな été naïve привет мир \
        hello worldwide worlds world  \n\n \r\n !!! ... ==>> /* the */ अनुच्छेद ภาษาไทย 한국어 العربية \u{301}\u{301} 😀😀"
            .split_inclusive(' ')
            .map(|word| word.bytes().map(|byte| byte_char(byte).to_string()).collect())
            .collect();
    let mut vocab: Vec<String> = (0..=255).map(|byte| byte_char(byte).to_string()).collect();
    let mut merges: Vec<Value> = Vec::new();
    while merges.len() < 180 {
        let mut counts = std::collections::BTreeMap::new();
        for pair in words.iter().flat_map(|word| word.windows(2)) {
            *counts.entry((pair[0].clone(), pair[1].clone())).or_insert(0) += 1;
        }
        let Some(((left, right), _)) = counts.into_iter().max_by_key(|(_, count)| *count) else { break };
        let joined = format!("{left}{right}");
        for word in &mut words {
            let mut at = 0;
            while at + 1 < word.len() {
                if word[at] == left && word[at + 1] == right {
                    word[at] = joined.clone();
                    word.remove(at + 1);
                }
                at += 1;
            }
        }
        merges.push(json!([left, right]));
        if !vocab.contains(&joined) {
            vocab.push(joined);
        }
    }
    let vocab: serde_json::Map<String, Value> =
        vocab.into_iter().zip(0..).map(|(token, id)| (token, json!(id))).collect();
    json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        "vocab": vocab, "merges": merges,
    })
}

/// A file with the given pre-tokenizer and nothing else out of the ordinary.
pub fn file(pre_tokenizer: Value) -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": byte_level(true), "model": model(),
    })
}

/// Every pre-tokenizer that the engine takes.
pub fn pre_tokenizers() -> Vec<(&'static str, Value)> {
    let mut removed = splits(&[patterns::O200K]);
    removed["pretokenizers"][0]["behavior"] = json!("Removed");
    removed["pretokenizers"][0]["invert"] = json!(true);
    let digits = json!([{"type": "Digits", "individual_digits": true}, byte_level(true)]);
    let mut prefixed = byte_level(true);
    prefixed["add_prefix_space"] = json!(true);
    vec![
        ("gpt2", byte_level(true)),
        ("cl100k", splits(&[patterns::CL100K])),
        ("qwen2", splits(&[patterns::QWEN2])),
        ("o200k", splits(&[patterns::O200K])),
        ("o200k removed", removed),
        ("tekken", splits(&[patterns::TEKKEN])),
        ("deepseek", splits(&patterns::DEEPSEEK)),
        ("digits", json!({"type": "Sequence", "pretokenizers": digits})),
        ("prefix space", prefixed),
        ("whole", byte_level(false)),
    ]
}

/// Both engines on one file.
pub struct Pair {
    pub ours: ByteLevelBpe,
    pub reference: tokenizers::Tokenizer,
    scratch: Scratch,
    encoded: Encoded,
}

impl Pair {
    pub fn new(file: &Value) -> Self {
        let ours = ByteLevelBpe::from_json(file).unwrap();
        let reference: tokenizers::Tokenizer = file.to_string().parse().unwrap();
        assert_eq!(ours.vocab_size(), reference.get_vocab_size(true));
        Self { ours, reference, scratch: Scratch::new(), encoded: Encoded::default() }
    }

    /// Ids, offsets and word ids are those of the reference, and so are ids with a fresh scratch.
    pub fn check(&mut self, text: &str) {
        let expected = self.reference.encode(text, false).unwrap();
        assert_eq!(self.ids(text, ParseSpecial::All), expected.get_ids(), "{text:?}");
        self.ours.encode_with_offsets(text, ParseSpecial::All, &mut self.scratch, &mut self.encoded).unwrap();
        assert_eq!(self.encoded.ids, expected.get_ids(), "{text:?}");
        let offsets: Vec<(usize, usize)> =
            self.encoded.offsets.iter().map(|&(start, end)| (start as usize, end as usize)).collect();
        assert_eq!(offsets, expected.get_offsets(), "{text:?} {:?}", expected.get_tokens());
        let words: Vec<Option<u32>> = self.encoded.word_ids.iter().copied().map(Some).collect();
        assert_eq!(words, expected.get_word_ids(), "{text:?}");
    }

    pub fn check_ids(&mut self, text: &str) {
        let expected = self.reference.encode_fast(text, false).unwrap();
        assert_eq!(self.ids(text, ParseSpecial::All), expected.get_ids(), "{text:?}");
    }

    /// The ids with the shared scratch, which equal those with a new one.
    pub fn ids(&mut self, text: &str, parse: ParseSpecial<'_>) -> Vec<u32> {
        let mut ids = vec![9];
        self.ours.encode_into(text, parse, &mut self.scratch, &mut ids).unwrap();
        let mut fresh = Vec::new();
        self.ours.encode_into(text, parse, &mut Scratch::new(), &mut fresh).unwrap();
        assert_eq!(ids[1..], fresh, "{text:?}");
        fresh
    }
}
