//! The byte-level BPE engine against the reference on real files: every `tokenizer.json` below the folder that
//! `PILLION_TOKENIZERS_DIR` names. Nothing to do where it is not set.
#![allow(
    clippy::unwrap_used,
    clippy::format_collect,
    clippy::print_stdout,
    clippy::type_complexity,
    reason = "a test may unwrap and tell"
)]

mod bpe_support;

use std::path::{Path, PathBuf};

use bpe_support::Pair;
use pillion_tokenize::bpe::ByteLevelBpe;
use serde_json::Value;

#[test]
fn real_files() {
    let Some(folder) = std::env::var_os("PILLION_TOKENIZERS_DIR") else { return };
    let mut files = Vec::new();
    find(Path::new(&folder), &mut files);
    assert!(!files.is_empty(), "no tokenizer.json below {}", folder.display());
    for path in files {
        let file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        match ByteLevelBpe::from_json(&file) {
            Ok(_) => check(&path, &file),
            Err(refusal) => println!("{}: {refusal}", path.display()),
        }
    }
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            find(&path, files);
        } else if path.file_name().is_some_and(|name| name == "tokenizer.json") {
            files.push(path);
        }
    }
}

fn check(path: &Path, file: &Value) {
    const TOGETHER: usize = 200;
    let mut pair = Pair::new(file);
    let mut texts = 0;
    let mut check = |text: &str| {
        pair.check(text);
        texts += 1;
    };
    let vocab: Vec<&String> = file["model"]["vocab"].as_object().unwrap().keys().collect();
    for some in vocab.chunks(TOGETHER) {
        check(&some.iter().map(|token| token.replace('Ġ', " ").replace('Ċ', "\n")).collect::<String>());
    }
    let chars: Vec<char> = (0..0x3_2000).filter_map(char::from_u32).collect();
    for some in chars.chunks(TOGETHER) {
        check(&some.iter().map(|c| format!("a{c}b {c}'s{c}{c}1")).collect::<String>());
    }
    let added = file["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    for token in added.iter().filter_map(|token| token["content"].as_str()) {
        check(&format!("a{token}b {token} {token}{token}\n{}", &token[..token.len().min(1)]));
    }
    println!("{}: {texts} texts", path.display());
}
