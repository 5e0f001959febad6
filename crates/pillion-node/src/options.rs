//! The options of tokenizer calls, as JSON from `src/tokenizer.ts` and `src/chat.ts`.

use pillion_core::{Error, ErrorCode, Result};
use pillion_tokenize::{
    Columns, EncodeOptions, OffsetUnit, ParseSpecialTokens, Side, TemplateOptions, Truncation, TruncationStrategy,
};
use serde::Deserialize;

/// The options of a call, as `src/tokenizer.ts` writes them.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct EncodeJson {
    include: Vec<ColumnName>,
    add_special_tokens: Option<bool>,
    parse_special_tokens: Option<ParseJson>,
    offset_unit: Option<UnitJson>,
    truncation: Option<TruncationJson>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ColumnName {
    Offsets,
    AttentionMask,
    SpecialTokensMask,
    TypeIds,
    WordIds,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ParseJson {
    All(bool),
    Only(Vec<String>),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum UnitJson {
    Utf16,
    CodePoint,
    Byte,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TruncationJson {
    max_length: usize,
    side: Option<SideJson>,
    strategy: Option<StrategyJson>,
    #[serde(default)]
    stride: usize,
    #[serde(default)]
    overflow: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum SideJson {
    Left,
    Right,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StrategyJson {
    LongestFirst,
    OnlyFirst,
    OnlySecond,
}

/// The options of an encode. Without JSON, which costs more than a short text, they are switches: bit 0 leaves the template's special
/// tokens out, bit 1 parses those in the text.
pub(crate) fn encode_options(flags: u32, json: Option<&str>) -> Result<EncodeOptions> {
    let Some(json) = json else {
        return Ok(EncodeOptions {
            add_special_tokens: flags & 1 == 0,
            parse_special_tokens: if flags & 2 == 0 { ParseSpecialTokens::None } else { ParseSpecialTokens::All },
            ..EncodeOptions::default()
        });
    };
    let options: EncodeJson = serde_json::from_str(json).map_err(|e| bad_json("the options", &e))?;
    let mut columns = Columns::default();
    for column in &options.include {
        match column {
            ColumnName::Offsets => columns.offsets = true,
            ColumnName::AttentionMask => columns.attention_mask = true,
            ColumnName::SpecialTokensMask => columns.special_tokens_mask = true,
            ColumnName::TypeIds => columns.type_ids = true,
            ColumnName::WordIds => columns.word_ids = true,
        }
    }
    Ok(EncodeOptions {
        columns,
        add_special_tokens: options.add_special_tokens.unwrap_or(true),
        parse_special_tokens: match options.parse_special_tokens {
            None | Some(ParseJson::All(false)) => ParseSpecialTokens::None,
            Some(ParseJson::All(true)) => ParseSpecialTokens::All,
            Some(ParseJson::Only(names)) => ParseSpecialTokens::Only(names),
        },
        offset_unit: match options.offset_unit {
            None | Some(UnitJson::Utf16) => OffsetUnit::Utf16,
            Some(UnitJson::CodePoint) => OffsetUnit::CodePoint,
            Some(UnitJson::Byte) => OffsetUnit::Byte,
        },
        truncation: options.truncation.map(truncation),
    })
}

fn truncation(json: TruncationJson) -> Truncation {
    Truncation {
        max_length: json.max_length,
        side: match json.side {
            None | Some(SideJson::Right) => Side::Right,
            Some(SideJson::Left) => Side::Left,
        },
        strategy: match json.strategy {
            None | Some(StrategyJson::LongestFirst) => TruncationStrategy::LongestFirst,
            Some(StrategyJson::OnlyFirst) => TruncationStrategy::OnlyFirst,
            Some(StrategyJson::OnlySecond) => TruncationStrategy::OnlySecond,
        },
        stride: json.stride,
        overflow: json.overflow,
    }
}

/// The options of a template, as `src/chat.ts` writes them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TemplateJson {
    tools: Option<serde_json::Value>,
    #[serde(default)]
    add_generation_prompt: bool,
    template: Option<String>,
    #[serde(default)]
    variables: serde_json::Map<String, serde_json::Value>,
}

/// Reads a template's options.
pub(crate) fn template_options(json: &str) -> Result<TemplateOptions> {
    let TemplateJson { tools, add_generation_prompt, template, variables } =
        serde_json::from_str(json).map_err(|e| bad_json("the template's options", &e))?;
    Ok(TemplateOptions { tools, add_generation_prompt, template, variables })
}

/// Text that should be JSON of a known shape, and is not.
pub(crate) fn bad_json(what: &str, error: &serde_json::Error) -> Error {
    Error::new(ErrorCode::InvalidArgument, format!("{what} cannot be used: {error}"))
}
