//! Model folders: what is read from where, and what is said when something is missing or wrong.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{fs, path::Path};

use pillion_core::ErrorCode;
use pillion_tokenize::{TemplateOptions, Tokenizer};
use serde_json::{Value, json};

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn tokenizer_json() -> String {
    common::llama2().to_string()
}

fn render(tokenizer: &Tokenizer) -> String {
    let messages = json!([{ "role": "user", "content": "hi" }]);
    tokenizer.apply_chat_template(&messages, &TemplateOptions::default()).unwrap()
}

fn config(template: &Value) -> String {
    json!({ "bos_token": { "content": "<s>" }, "eos_token": "</s>", "chat_template": template }).to_string()
}

#[test]
fn a_tokenizer_json_alone_is_enough() {
    let dir = folder(&[("tokenizer.json", &tokenizer_json())]);
    let tokenizer = Tokenizer::from_pretrained(dir.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), Tokenizer::from_file(&dir.path().join("tokenizer.json")).unwrap().vocab_size());
    assert!(!tokenizer.has_chat_template());
    assert_eq!(tokenizer.special_ids(), [0, 1, 2]);
    assert_eq!(tokenizer.special_token_id("eos_token"), None);
}

#[test]
fn template_and_special_tokens_come_from_the_configuration() {
    let dir = folder(&[
        ("tokenizer.json", &tokenizer_json()),
        (
            "tokenizer_config.json",
            &config(&json!("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}")),
        ),
        ("special_tokens_map.json", r#"{"pad_token": "<unk>", "eos_token": "overruled"}"#),
    ]);
    let tokenizer = Tokenizer::from_pretrained(dir.path()).unwrap();
    assert_eq!(render(&tokenizer), "<s>hi</s><unk>");
    assert_eq!(tokenizer.special_token_id("eos_token"), Some(2));
    assert_eq!(tokenizer.special_token_id("cls_token"), None);
}

#[test]
fn a_template_file_wins_over_the_configuration() {
    let dir = folder(&[
        ("tokenizer.json", &tokenizer_json()),
        ("tokenizer_config.json", &config(&json!("from the configuration"))),
        ("chat_template.jinja", "from the file {{ messages[0].content }}\n"),
        ("additional_chat_templates/tool_use.jinja", "tools {{ tools | length }}"),
        ("additional_chat_templates/readme.txt", "not a template"),
    ]);
    let tokenizer = Tokenizer::from_pretrained(dir.path()).unwrap();
    assert_eq!(render(&tokenizer), "from the file hi");
    let options = TemplateOptions { tools: Some(json!([{}, {}])), ..TemplateOptions::default() };
    assert_eq!(tokenizer.apply_chat_template(&json!([]), &options).unwrap(), "tools 2");
}

#[test]
fn a_broken_template_stops_only_chats() {
    let dir = folder(&[("tokenizer.json", &tokenizer_json()), ("chat_template.jinja", "{% for %}")]);
    let tokenizer = Tokenizer::from_pretrained(dir.path()).unwrap();
    assert!(!tokenizer.encode_ids("the", true).unwrap().is_empty());
    let error = tokenizer.apply_chat_template(&json!([]), &TemplateOptions::default()).unwrap_err();
    assert!(error.to_string().contains("(line 1)"), "{error}");
}

fn refused(dir: &Path, code: ErrorCode, says: &str) {
    let error = pillion_core::Error::from(Tokenizer::from_pretrained(dir).unwrap_err());
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(says), "{error}");
    assert!(error.remedy().is_some(), "{error}");
}

#[test]
fn what_is_missing_is_named_with_a_remedy() {
    let empty = folder(&[]);
    refused(empty.path(), ErrorCode::ModelNotFound, "copy tokenizer.json from the model's repository");
    refused(&empty.path().join("nowhere"), ErrorCode::ModelNotFound, "there is no such folder");
    let slow = folder(&[("tokenizer.model", "x")]);
    refused(slow.path(), ErrorCode::ModelNotFound, "save_pretrained");
    let file = folder(&[("tokenizer.json", &tokenizer_json())]);
    refused(&file.path().join("tokenizer.json"), ErrorCode::ModelNotFound, "tokenizer.json");
}

#[test]
fn what_is_wrong_is_named_with_its_file() {
    let nested = folder(&[("tokenizer.json/inner", "x")]);
    refused(nested.path(), ErrorCode::InvalidTokenizer, "it is a folder");
    refused(folder(&[("tokenizer.json", "{")]).path(), ErrorCode::InvalidTokenizer, "tokenizer.json");
    let config = folder(&[("tokenizer.json", &tokenizer_json()), ("tokenizer_config.json", "{not json")]);
    refused(config.path(), ErrorCode::InvalidTokenizer, "tokenizer_config.json");
    let dir = folder(&[("tokenizer.json", &tokenizer_json())]);
    fs::write(dir.path().join("chat_template.jinja"), b"\xFF").unwrap();
    refused(dir.path(), ErrorCode::InvalidTokenizer, "chat_template.jinja");
}
