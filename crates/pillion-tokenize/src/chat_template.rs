//! Chat templates as `transformers` renders them, within limits of time and size.

mod environment;
mod json;
mod python;

use std::{collections::BTreeMap, sync::OnceLock};

use minijinja::Environment;
use serde_json::{Map, Value};

use crate::{error::TokenizeError, options::TemplateOptions};

const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";
/// Roles of special tokens that `transformers` hands to templates.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Names under which a message's reasoning is passed; the first is the one that templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A model's chat templates, by name, and the special tokens that they may name.
#[derive(Debug, Default)]
pub struct ChatTemplates {
    templates: BTreeMap<String, String>,
    special_tokens: Map<String, Value>,
    /// Made at the first use. Templates are compiled per call, which costs less than rendering; so a broken one stops no tokenizer from
    /// loading.
    environment: OnceLock<Environment<'static>>,
}

impl ChatTemplates {
    /// The byte tokenizer's: the last message, nothing else.
    pub(crate) fn of_byte_tokenizer() -> Self {
        let mut out = Self::default();
        out.add(
            DEFAULT,
            concat!(
                "{%- if not messages %}{{ raise_exception('messages must not be empty') }}{% endif -%}",
                "{%- set content = messages[-1].content -%}",
                "{%- if content is string %}{{ content }}",
                "{%- else %}{% for part in content or [] %}{{ part.text }}{% endfor %}{% endif -%}",
            )
            .to_owned(),
        );
        out.special_tokens.insert("eos_token".into(), crate::engine::END_OF_TEXT.into());
        out
    }

    /// Adds a template, or replaces the one of that name.
    pub fn add(&mut self, name: &str, source: String) {
        self.templates.insert(name.to_owned(), source);
    }

    /// Takes the templates of a `tokenizer_config.json`: one text, or a list of named ones.
    pub fn add_config(&mut self, config: &Value) {
        match &config["chat_template"] {
            Value::String(source) => self.add(DEFAULT, source.clone()),
            Value::Array(named) => {
                for entry in named {
                    if let (Some(name), Some(source)) = (entry["name"].as_str(), entry["template"].as_str()) {
                        self.add(name, source.to_owned());
                    }
                }
            }
            Value::Object(named) => {
                for (name, source) in named {
                    if let Some(source) = source.as_str() {
                        self.add(name, source.to_owned());
                    }
                }
            }
            _ => {}
        }
    }

    /// Takes the special tokens of a `tokenizer_config.json` or `special_tokens_map.json`; each is a text or an object with `content`.
    pub fn add_special_tokens(&mut self, config: &Value) {
        for role in ROLES {
            let token = &config[role];
            if let Some(text) = token.as_str().or_else(|| token["content"].as_str()) {
                self.special_tokens.insert(role.to_owned(), text.into());
            }
        }
        if let Some(more) = config["additional_special_tokens"].as_array() {
            let texts = more.iter().filter_map(|t| t.as_str().or_else(|| t["content"].as_str()));
            self.special_tokens.insert("additional_special_tokens".into(), texts.collect());
        }
    }

    /// Whether there is a template to use when none is named.
    pub fn has_default(&self) -> bool {
        self.templates.contains_key(DEFAULT)
    }

    /// The text of a special token by its role, such as `eos_token`.
    pub fn special_token(&self, role: &str) -> Option<&str> {
        self.special_tokens.get(role)?.as_str()
    }

    /// Renders a conversation: a JSON array of messages.
    pub fn render(&self, messages: &Value, options: &TemplateOptions) -> Result<String, TokenizeError> {
        let source = match options.template.as_deref() {
            Some(source) => self.templates.get(source).map_or(source, String::as_str),
            None => &self.templates[self.choose(options)?],
        };
        let environment = self.environment.get_or_init(environment::new);
        environment::render(environment, source, self.context(messages, options)?)
    }

    fn choose(&self, options: &TemplateOptions) -> Result<&'static str, TokenizeError> {
        if options.tools.is_some() && self.templates.contains_key(TOOL_USE) {
            return Ok(TOOL_USE);
        }
        if self.has_default() {
            return Ok(DEFAULT);
        }
        let names: Vec<&str> = self.templates.keys().map(String::as_str).collect();
        let detail = match names.as_slice() {
            [] => String::new(),
            names => format!(" named \"default\"; it has {}", names.join(", ")),
        };
        Err(TokenizeError::NoChatTemplate { detail })
    }

    fn context(&self, messages: &Value, options: &TemplateOptions) -> Result<minijinja::Value, TokenizeError> {
        let Some(messages) = messages.as_array() else {
            return Err(TokenizeError::argument("messages", "an array of messages", kind(messages)));
        };
        let messages = messages.iter().map(alias_reasoning).collect::<Result<Vec<Value>, _>>()?;
        let mut context = self.special_tokens.clone();
        context.insert("messages".into(), Value::Array(messages));
        context.insert("tools".into(), options.tools.clone().unwrap_or(Value::Null));
        context.insert("documents".into(), Value::Null);
        context.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        context.extend(options.variables.clone());
        Ok(minijinja::Value::from(minijinja::value::Serde(Value::Object(context))))
    }
}

/// Fills in the names under which templates look for a message's reasoning.
fn alias_reasoning(message: &Value) -> Result<Value, TokenizeError> {
    let Some(message) = message.as_object() else {
        return Err(TokenizeError::argument("messages", "an array of objects", kind(message)));
    };
    let reasoning = REASONING.iter().find_map(|name| message.get(*name).filter(|v| !v.is_null())).cloned();
    let Some(reasoning) = reasoning else { return Ok(Value::Object(message.clone())) };
    let mut out = Map::new();
    out.insert("thinking".into(), reasoning.clone());
    out.extend(message.clone());
    out.insert("reasoning_content".into(), reasoning);
    Ok(Value::Object(out))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
