//! One fuzz target for the scanners and one for the reader of `tokenizer.json`. Each is a function of bytes; here bytes come from
//! proptest, as changes to good input, which runs on any toolchain and shrinks what it finds. `PILLION_FUZZ_CASES` says how many.
#![allow(clippy::unwrap_used, reason = "a test may unwrap")]

mod bpe_support;
mod common;

use std::cell::RefCell;

use bpe_support::{Pair, file, pre_tokenizers};
use pillion_core::ErrorCode;
use pillion_tokenize::{Columns, DecodeOptions, EncodeOptions, OffsetUnit, Tokenizer};
use proptest::prelude::*;

/// A text through every pattern: tokens, offsets and words are the reference's. The first byte picks the pattern.
fn scanner(data: &[u8]) {
    thread_local! {
        static PAIRS: RefCell<Vec<Pair>> =
            RefCell::new(pre_tokenizers().into_iter().map(|(_, pre_tokenizer)| Pair::new(&file(pre_tokenizer))).collect());
    }
    let Some((which, text)) = data.split_first() else { return };
    PAIRS.with_borrow_mut(|pairs| {
        let which = usize::from(*which) % pairs.len();
        pairs[which].check(&String::from_utf8_lossy(text));
    });
}

const TEXTS: [&str; 4] =
    ["", "Hello, the World's <|end|> 猫 123", "  \n\u{0}é\u{301} don't", "aaaaaaaaaaaaaaaaaaaaaaaa"];

/// A file: refused with a code that says so, or a tokenizer that works, and is the reference's where both take the file.
fn tokenizer_json(data: &[u8]) {
    let tokenizer = match Tokenizer::from_json(data) {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            let codes = [ErrorCode::InvalidTokenizer, ErrorCode::Unsupported];
            return assert!(codes.contains(&error.code()), "{} {error}", error.code());
        }
    };
    let columns = Columns::all();
    let options = EncodeOptions { columns, offset_unit: OffsetUnit::Byte, ..EncodeOptions::default() };
    let reference = Tokenizer::from_json_on_reference(data).ok().filter(|_| !shares_an_id(data));
    let added = post_processor_ids(data);
    for text in TEXTS {
        let ours = tokenizer.encode(text, &options);
        if let Ok(encoding) = &ours {
            check_encoding(&tokenizer, text, encoding, &added);
        }
        let _ = tokenizer.encode_pair(text, text, &options);
        let _ = tokenizer.encode_rendered(text);
        if let (Ok(ours), Some(reference)) = (ours, &reference)
            && let Ok(theirs) = reference.encode(text, &options)
        {
            assert_eq!(ours, theirs, "{text:?}");
        }
    }
    let far = [0, 1, 255, 1 << 31, u32::MAX];
    let _ = tokenizer.decode(&far, &DecodeOptions { skip_special_tokens: true, clean_up: true });
}

/// Whether two tokens of the model have one id. The reference takes either for it, another one each time that it loads the file, and trims
/// offsets accordingly.
fn shares_an_id(data: &[u8]) -> bool {
    let file: serde_json::Value = serde_json::from_slice(data).unwrap_or(serde_json::Value::Null);
    let mut seen = std::collections::HashSet::new();
    let mut ids = file["model"]["vocab"].as_object().into_iter().flat_map(|vocab| vocab.values());
    ids.any(|id| !seen.insert(id.as_u64()))
}

/// The numbers in a file's post-processor: it may add ids that the vocabulary does not have, as the reference lets it.
fn post_processor_ids(data: &[u8]) -> Vec<u64> {
    fn collect(value: &serde_json::Value, ids: &mut Vec<u64>) {
        match value {
            serde_json::Value::Number(number) => ids.extend(number.as_u64()),
            serde_json::Value::Array(values) => values.iter().for_each(|value| collect(value, ids)),
            serde_json::Value::Object(values) => values.values().for_each(|value| collect(value, ids)),
            _ => {}
        }
    }
    let mut ids = Vec::new();
    let file = serde_json::from_slice(data).unwrap_or(serde_json::Value::Null);
    collect(&file["post_processor"], &mut ids);
    ids
}

fn check_encoding(tokenizer: &Tokenizer, text: &str, encoding: &pillion_tokenize::Encoding, added: &[u64]) {
    let is_known = |id: u64| id < tokenizer.id_bound() || added.contains(&id);
    assert!(encoding.ids.iter().all(|&id| is_known(id.into())), "{text:?} {:?}", encoding.ids);
    let offsets = encoding.columns.offsets.as_ref().unwrap();
    assert_eq!(offsets.len(), encoding.ids.len() * 2);
    for span in offsets.chunks_exact(2) {
        assert!(span[0] <= span[1] && span[1] as usize <= text.len(), "{text:?} {span:?}");
    }
    let all = tokenizer.decode(&encoding.ids, &DecodeOptions::default()).unwrap();
    let mut stream = tokenizer.decode_stream(DecodeOptions::default());
    let pieces: String = encoding.ids.iter().map(|&id| stream.push(&[id])).collect();
    assert_eq!(pieces + &stream.end(), all, "{text:?}");
}

/// A change to bytes.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, &'static str),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Cut(prop::sample::Index),
}

/// What a number, a name or a delimiter may be replaced by or torn apart with.
const WORDS: [&str; 24] = [
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1e9",
    "255",
    "4294967295",
    "4294967296",
    "2147483648",
    "\"\"",
    "[]",
    "{}",
    ",",
    "\"",
    "\\ud800",
    "\\u0000",
    "\"Sequence\"",
    "\"ByteLevel\"",
    "\"content\":\"\",",
    "\"special\":true,",
    "\"id\":0,",
    "猫",
    " ",
];

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        4 => (at(), prop::sample::select(&WORDS[..])).prop_map(|(at, word)| Change::Insert(at, word)),
        3 => (at(), 1usize..30).prop_map(|(at, len)| Change::Remove(at, len)),
        2 => (at(), 1usize..40).prop_map(|(at, len)| Change::Repeat(at, len)),
        1 => at().prop_map(Change::Cut),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: Vec<Change>) -> Vec<u8> {
    for change in changes {
        let place = |at: prop::sample::Index| at.index(bytes.len() + 1);
        match change {
            Change::Set(at, byte) => {
                let at = place(at);
                bytes.splice(at..bytes.len().min(at + 1), [byte]);
            }
            Change::Insert(at, word) => {
                let at = place(at);
                bytes.splice(at..at, word.bytes());
            }
            Change::Remove(at, len) => {
                let at = place(at);
                bytes.drain(at..bytes.len().min(at + len));
            }
            Change::Repeat(at, len) => {
                let at = place(at);
                let part = bytes[at..bytes.len().min(at + len)].repeat(3);
                bytes.splice(at..at, part);
            }
            Change::Cut(at) => bytes.truncate(place(at)),
        }
    }
    bytes
}

/// A number in a file becomes another one, which leaves it readable more often than a change of bytes.
fn renumbered(mut bytes: Vec<u8>, numbers: &[(prop::sample::Index, u32)]) -> Vec<u8> {
    for (at, value) in numbers {
        let starts: Vec<usize> = (1..bytes.len())
            .filter(|&i| bytes[i].is_ascii_digit() && matches!(bytes[i - 1], b':' | b',' | b'['))
            .collect();
        let Some(&start) = starts.get(at.index(starts.len().max(1))) else { continue };
        let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        bytes.splice(start..start + digits, value.to_string().bytes());
    }
    bytes
}

fn json_seeds() -> &'static [Vec<u8>] {
    static SEEDS: std::sync::LazyLock<Vec<Vec<u8>>> = std::sync::LazyLock::new(|| {
        let own = pre_tokenizers().into_iter().map(|(_, pre_tokenizer)| file(pre_tokenizer));
        own.chain(common::all().iter().map(|(_, file)| file.clone()))
            .map(|file| serde_json::to_vec(&file).unwrap())
            .collect()
    });
    &SEEDS
}

const TEXT_SEEDS: [&str; 6] = [
    "The quick brown fox's 1234567 jumps; over the LAZY dog!\n\n  It'LL be 3.14 (maybe)\r\n\t",
    "カタカナ・漢字かな交じり文〇、テスト。한국어 ภาษาไทย अनुच्छेद العربيّة привет été e\u{301}\u{323}",
    "camelCaseHTTPServer XMLHttpRequest ǅabc ʰA ªB a'ſ 'S's x/* the *//\n// comment\n\r\n#include <a.h>",
    "  \n\u{a0}\u{3000}\u{2028}\u{85}\u{feff} \t \r \n \u{200b}\u{200d}x  ",
    "😀😀👨‍👩‍👧 𝒜𝟘 \u{10ffff}\u{e000} \u{bd}٣٤\u{11de0}\u{16ff4}\u{18d00}\u{1fac6}",
    "!!!a ...b -c _d “quoted” — dash… €5 +3 =4 ==>> <|end|>",
];

fn cases(default: u32) -> ProptestConfig {
    let asked = std::env::var("PILLION_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { max_shrink_iters: 20_000, ..common::config(asked.unwrap_or(default)) }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn fuzz_scanner(
        which in any::<u8>(), seed in 0usize..6, other in any::<String>(), changes in prop::collection::vec(change(), 0..12),
    ) {
        let mut data = vec![which];
        data.extend(changed([TEXT_SEEDS[seed].as_bytes(), other.as_bytes()].concat(), changes));
        scanner(&data);
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn fuzz_tokenizer_json(
        seed in any::<prop::sample::Index>(), changes in prop::collection::vec(change(), 0..3),
        numbers in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![0u32..600, any::<u32>()]), 0..4),
    ) {
        let seeds = json_seeds();
        tokenizer_json(&changed(renumbered(seeds[seed.index(seeds.len())].clone(), &numbers), changes));
    }
}

#[test]
fn what_the_targets_are_given_first_is_good() {
    for seed in json_seeds() {
        assert!(Tokenizer::from_json(seed).is_ok());
        tokenizer_json(seed);
    }
    for which in 0..=15 {
        for text in TEXT_SEEDS {
            scanner(&[&[which], text.as_bytes()].concat());
        }
    }
}
