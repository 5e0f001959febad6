//! What the byte-level BPE engine takes and refuses: a file that it takes gives the reference's ids.
#![allow(
    clippy::unwrap_used,
    clippy::format_collect,
    clippy::print_stdout,
    clippy::type_complexity,
    reason = "a test may unwrap and tell"
)]

mod bpe_support;

use std::cell::RefCell;

use bpe_support::{Pair, added, byte_char, byte_level, file, model, pre_tokenizers, splits, token};
use pillion_tokenize::bpe::{ByteLevelBpe, ParseSpecial, Scratch};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};

const TEXT: &str = "the then there's hello worldwide 12345 漢字 カタカナ\n\n  !!! 😀";

fn refused(file: &Value) -> String {
    ByteLevelBpe::from_json(file).err().map(|refusal| refusal.component().to_owned()).unwrap_or_default()
}

/// A usable file, changed.
fn changed(change: impl FnOnce(&mut Value)) -> Value {
    let mut file = file(byte_level(true));
    change(&mut file);
    file
}

#[test]
fn settings_that_change_nothing_are_taken() {
    let changes: [fn(&mut Value); 9] = [
        |file| file["model"]["dropout"] = json!(0.0),
        |file| file["model"]["unk_token"] = json!("a"),
        |file| file["model"]["byte_fallback"] = json!(true),
        |file| file["model"]["fuse_unk"] = json!(true),
        |file| file["model"]["end_of_word_suffix"] = json!(""),
        |file| file["model"]["continuing_subword_prefix"] = json!(""),
        |file| file["model"]["ignore_merges"] = json!(true),
        |file| {
            let lines = file["model"]["merges"].as_array().unwrap().iter();
            let lines = lines.map(|pair| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()));
            file["model"]["merges"] = std::iter::once("#version: 0.2".to_owned()).chain(lines).collect();
        },
        |file| file["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "NFC"}]}),
    ];
    for change in changes {
        Pair::new(&changed(change)).check(TEXT);
    }
}

#[test]
fn what_is_not_done_exactly_is_named() {
    let cases: [(&str, fn(&mut Value)); 24] = [
        ("model.type", |file| file["model"]["type"] = json!("WordPiece")),
        ("model.type", |file| *file = json!({})),
        ("model.dropout", |file| file["model"]["dropout"] = json!(0.1)),
        ("model.end_of_word_suffix", |file| file["model"]["end_of_word_suffix"] = json!("</w>")),
        ("model.continuing_subword_prefix", |file| file["model"]["continuing_subword_prefix"] = json!("##")),
        ("model.byte_fallback", |file| file["model"]["byte_fallback"] = json!("yes")),
        ("model.vocab", |file| {
            file["model"]["vocab"].as_object_mut().unwrap().remove("Q");
            file["model"]["unk_token"] = json!("a");
        }),
        ("model.vocab", |file| {
            file["model"]["vocab"].as_object_mut().unwrap().remove("Q");
            file["model"]["byte_fallback"] = json!(true);
        }),
        ("model.merges", |file| {
            file["model"]["vocab"].as_object_mut().unwrap().remove("a");
        }),
        ("model.vocab", |file| file["model"]["vocab"]["b"] = file["model"]["vocab"]["a"].clone()),
        ("model.vocab", |file| file["model"]["vocab"]["new"] = json!(4_294_967_295_u32)),
        ("model.vocab", |file| file["model"]["vocab"]["new"] = json!(1_u32 << 31)),
        ("model.vocab", |file| file["model"]["vocab"]["new"] = json!(4_294_967_296_u64)),
        ("model.vocab", |file| file["model"]["vocab"]["new"] = json!(-1)),
        ("model.merges", |file| file["model"]["merges"][0] = json!(["a", "nothing"])),
        ("model.merges", |file| file["model"]["merges"][0] = json!(["q", "q"])),
        ("model.merges", |file| file["model"]["merges"][0] = json!("a b")),
        ("model.merges", |file| file["model"]["merges"] = Value::Null),
        ("normalizer", |file| file["normalizer"] = json!({"type": "NFKC"})),
        ("pre_tokenizer", |file| file["pre_tokenizer"] = Value::Null),
        ("pre_tokenizer", |file| file["pre_tokenizer"] = splits(&[r"\w+"])),
        ("pre_tokenizer", |file| file["pre_tokenizer"]["add_prefix_space"] = Value::Null),
        ("added_tokens", |file| file["added_tokens"] = json!([{"id": 1, "content": "x"}])),
        ("added_tokens", |file| file["added_tokens"] = json!("x")),
    ];
    for (component, change) in cases {
        let mut file = file(byte_level(true));
        let pre_tokenizer = file["pre_tokenizer"].clone();
        change(&mut file);
        if file == json!({}) {
            file["pre_tokenizer"] = pre_tokenizer;
        }
        assert_eq!(refused(&file), component);
    }
}

#[test]
fn odd_vocabularies_give_the_ids_of_the_reference() {
    let changes: [fn(&mut Value); 6] = [
        // A token of more bytes than 16 bits count.
        |file| {
            file["model"]["vocab"]["x".repeat(70_000)] = json!(5_000);
            file["model"]["ignore_merges"] = json!(true);
        },
        // Holes: the id that an added token gets may be another token's.
        |file| {
            let size = file["model"]["vocab"].as_object().unwrap().len();
            file["model"]["vocab"]["zzzz"] = json!(size + 1);
            file["model"]["vocab"]["<free>"] = json!(100_000);
            file["added_tokens"] = json!([added("<one>", "special"), added("<free>", "")]);
        },
        // The same pair twice: the later rank counts.
        |file| {
            let merges = file["model"]["merges"].as_array_mut().unwrap();
            let again = merges[0].clone();
            merges.push(again);
        },
        // Parts that rank after what they make.
        |file| file["model"]["merges"].as_array_mut().unwrap().reverse(),
        // An empty token, and merges that no text leads to.
        |file| {
            file["model"]["vocab"][""] = json!(7_000);
            file["model"]["vocab"]["a b"] = json!(7_001);
            file["model"]["vocab"][" b"] = json!(7_002);
            file["model"]["merges"].as_array_mut().unwrap().extend([
                json!(["a", " b"]),
                json!(["", "a"]),
                json!(["a", ""]),
            ]);
        },
        |file| file["model"]["merges"] = json!([]),
    ];
    for change in changes {
        let mut pair = Pair::new(&changed(change));
        for text in [TEXT, "<one><free>", &"x".repeat(70_000), &"x".repeat(70_001), "zzzz a b"] {
            pair.check_ids(text);
        }
    }
}

/// Files of which the vocabulary lacks bytes: of control characters, of letters, and of parts of characters.
fn lossy_files() -> Vec<Value> {
    let mut files = Vec::new();
    for (_, pre_tokenizer) in pre_tokenizers() {
        for ignore_merges in [false, true] {
            let mut file = file(pre_tokenizer.clone());
            file["model"]["ignore_merges"] = json!(ignore_merges);
            file["post_processor"] = byte_level(true);
            let vocab = file["model"]["vocab"].as_object_mut().unwrap();
            for lost in [0x04, 0x1d, b'Q', b'%', 0x80, 0xbf, 0xc3, 0xf1] {
                vocab.remove(&byte_char(lost).to_string());
            }
            vocab.insert("the%".to_owned(), json!(9_000));
            let vocab = vocab.clone();
            let known = |part: &Value| vocab.contains_key(part.as_str().unwrap());
            let merges = file["model"]["merges"].as_array_mut().unwrap();
            merges.retain(|pair| {
                let joined = format!("{}{}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
                known(&pair[0]) && known(&pair[1]) && vocab.contains_key(&joined)
            });
            files.push(file);
        }
    }
    files
}

#[test]
fn bytes_without_a_token_are_lost_as_in_the_reference() {
    let mut runner = TestRunner::new(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() });
    let pieces =
        ["\u{4}", "\u{1d}", "Q", "%", "the", " ", "worl", "d", "é", "漢", "字", "😀", "\u{10ffff}", "1", "\n", "カ"];
    let texts = proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..40);
    for file in lossy_files() {
        let pair = RefCell::new(Pair::new(&file));
        runner
            .run(&texts, |pieces| {
                pair.borrow_mut().check(&pieces.concat());
                Ok(())
            })
            .unwrap();
        for text in ["the%", "\u{4}", "the\u{4} world\u{4}wide Q", &"t\u{4}he ".repeat(5_000), &"%".repeat(70_000)] {
            pair.borrow_mut().check(text);
        }
    }
}

#[test]
fn one_scratch_serves_several_tokenizers() {
    let files: Vec<Value> = pre_tokenizers().into_iter().map(|(_, pre_tokenizer)| file(pre_tokenizer)).collect();
    let mut shifted = model();
    for id in shifted["vocab"].as_object_mut().unwrap().values_mut() {
        *id = json!(id.as_u64().unwrap() + 1_000);
    }
    let mut other = files[0].clone();
    other["model"] = shifted;
    let engines: Vec<ByteLevelBpe> =
        files.iter().chain([&other]).map(|file| ByteLevelBpe::from_json(file).unwrap()).collect();
    let mut scratch = Scratch::new();
    for _ in 0..3 {
        for engine in &engines {
            let (mut ids, mut fresh) = (Vec::new(), Vec::new());
            engine.encode_into(TEXT, ParseSpecial::All, &mut scratch, &mut ids).unwrap();
            engine.encode_into(TEXT, ParseSpecial::All, &mut Scratch::new(), &mut fresh).unwrap();
            assert_eq!(ids, fresh);
        }
    }
}

#[test]
fn broken_files_are_refused_or_work() {
    // Each value of the file, replaced by others of every type.
    let whole = file(splits(&[bpe_support::patterns::CL100K]));
    let replacements =
        [Value::Null, json!(true), json!(-1), json!(1e300), json!(""), json!("x"), json!([]), json!([[]]), json!({})];
    let mut paths = Vec::new();
    collect_paths(&whole, String::new(), &mut paths);
    for path in paths {
        for replacement in &replacements {
            let mut broken = whole.clone();
            *broken.pointer_mut(&path).unwrap() = replacement.clone();
            let Ok(engine) = ByteLevelBpe::from_json(&broken) else { continue };
            let mut ids = Vec::new();
            engine.encode_into(TEXT, ParseSpecial::All, &mut Scratch::new(), &mut ids).unwrap();
            assert!(ids.iter().all(|&id| engine.id_to_token(id).is_some()), "{path} {replacement}");
        }
    }
    assert!(engine_of(&whole).token_to_id(&token("the")).is_some());
}

fn engine_of(file: &Value) -> ByteLevelBpe {
    ByteLevelBpe::from_json(file).unwrap()
}

/// The paths of all values but most of the vocabulary and the merges, which are all alike.
fn collect_paths(value: &Value, path: String, paths: &mut Vec<String>) {
    const ALIKE: usize = 4;
    match value {
        Value::Object(object) => {
            for (key, value) in object.iter().take(if object.len() > 20 { ALIKE } else { 20 }) {
                let key = key.replace('~', "~0").replace('/', "~1");
                collect_paths(value, format!("{path}/{key}"), paths);
            }
        }
        Value::Array(list) => {
            for (at, value) in list.iter().enumerate().take(ALIKE) {
                collect_paths(value, format!("{path}/{at}"), paths);
            }
        }
        _ => {}
    }
    paths.push(path);
}
