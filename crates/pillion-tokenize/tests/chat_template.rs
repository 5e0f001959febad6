//! Chat templates, compared with what transformers renders (`tests/data/chat_cases.py` says how its file was made).

use pillion_core::ErrorCode;
use pillion_tokenize::{ChatTemplates, TemplateOptions, TokenizeError, Tokenizer};
use serde_json::{Value, json};

fn special() -> Value {
    json!({ "bos_token": "<s>", "eos_token": { "content": "</s>", "special": true } })
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/chat_cases.json")).unwrap();
    let mut failed = Vec::new();
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let mut templates = ChatTemplates::default();
        templates.add_special_tokens(&special());
        let options = TemplateOptions {
            tools: case.get("tools").cloned(),
            add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap_or_default(),
            template: case["template"].as_str().map(str::to_owned),
            variables: case["variables"].as_object().cloned().unwrap_or_default(),
        };
        match (templates.render(&case["messages"], &options), case["expected"].as_str()) {
            (Ok(got), Some(expected)) if got == expected => {}
            (Err(TokenizeError::ChatTemplate { reason }), None) if reason.contains(case["fails"].as_str().unwrap()) => {
            }
            (got, expected) => failed.push(format!("{name}\n  expected {expected:?}\n  got      {got:?}")),
        }
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

fn render(templates: &ChatTemplates, options: &TemplateOptions) -> Result<String, TokenizeError> {
    templates.render(&json!([{ "role": "user", "content": "hi" }]), options)
}

#[test]
fn the_template_is_chosen_as_transformers_does() {
    let mut templates = ChatTemplates::default();
    let error = render(&templates, &TemplateOptions::default()).unwrap_err();
    assert_eq!(
        (error.code(), error.to_string().as_str()),
        (ErrorCode::Unsupported, "the tokenizer has no chat template")
    );

    templates.add_config(&json!({ "chat_template": [{ "name": "rag", "template": "rag" }, { "name": "tool_use", "template": "tools" }] }));
    let error = render(&templates, &TemplateOptions::default()).unwrap_err();
    assert!(error.to_string().ends_with("it has rag, tool_use"), "{error}");
    assert!(error.remedy().unwrap().contains("`template`"));

    templates.add_config(&json!({ "chat_template": "plain {{ messages[0].content }}" }));
    let choose = |tools: Option<Value>, template: Option<&str>| {
        let options = TemplateOptions { tools, template: template.map(str::to_owned), ..TemplateOptions::default() };
        render(&templates, &options).unwrap()
    };
    assert_eq!(choose(None, None), "plain hi");
    assert_eq!(choose(Some(json!([])), None), "tools");
    assert_eq!(choose(Some(json!([])), Some("default")), "plain hi");
    assert_eq!(choose(None, Some("rag")), "rag");
    assert_eq!(choose(None, Some("own {{ messages | length }}")), "own 1");
}

#[test]
fn a_template_cannot_run_or_grow_without_end() {
    let templates = ChatTemplates::default();
    let long = "x".repeat(1 << 20);
    for template in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ range(100000000) | list }}",
        "{{ 'x' * 2000000000 }}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in range(200) %}{{ messages[0].content }}{% endfor %}",
    ] {
        let options = TemplateOptions { template: Some(template.to_owned()), ..TemplateOptions::default() };
        let error = templates.render(&json!([{ "role": "user", "content": long }]), &options).unwrap_err();
        assert!(matches!(error, TokenizeError::ChatTemplate { .. }), "{template}: {error}");
    }
    let source = TemplateOptions { template: Some("x".repeat(5 << 20)), ..TemplateOptions::default() };
    assert!(render(&templates, &source).is_err());
}

#[test]
fn messages_must_be_an_array_of_objects() {
    let tokenizer = Tokenizer::byte();
    for (messages, got) in
        [(json!("hi"), "a string"), (json!(["hi"]), "a string"), (json!(null), "null"), (json!([1]), "a number")]
    {
        let error = tokenizer.apply_chat_template(&messages, &TemplateOptions::default()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        assert!(error.to_string().ends_with(&format!("got {got}")), "{error}");
    }
}

#[test]
fn the_byte_tokenizers_template_is_the_last_message() {
    let tokenizer = Tokenizer::byte();
    let render = |messages: Value| tokenizer.apply_chat_template(&messages, &TemplateOptions::default());
    assert_eq!(
        render(json!([{ "role": "system", "content": "no" }, { "role": "user", "content": " a\nb " }])).unwrap(),
        " a\nb "
    );
    let parts =
        json!([{ "role": "user", "content": [{ "type": "text", "text": "x" }, { "type": "text", "text": "y" }] }]);
    assert_eq!(render(parts).unwrap(), "xy");
    assert_eq!(render(json!([{ "role": "assistant", "content": null }])).unwrap(), "");
    assert!(render(json!([])).unwrap_err().to_string().contains("messages must not be empty"));
}

#[test]
fn today_is_printed_in_the_asked_form() {
    let options = TemplateOptions {
        template: Some("{{ strftime_now('%d %b %Y|%Y-%m-%d') }}".into()),
        ..TemplateOptions::default()
    };
    let text = render(&ChatTemplates::default(), &options).unwrap();
    let (words, digits) = text.split_once('|').unwrap();
    assert_eq!(&words[..2], &digits[8..], "{text}");
    assert_eq!((words.len(), digits.len()), (11, 10), "{text}");
    assert_eq!(&words[7..], &digits[..4], "{text}");
}
