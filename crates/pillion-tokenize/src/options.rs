//! What a caller may ask of one call.

/// How to encode. The defaults are the public contract's: ids only, the file's special tokens added, none parsed in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Which columns to compute besides the ids.
    pub columns: Columns,
    /// Whether the file's template adds its special tokens (`[CLS]`, `<s>`, ...).
    pub add_special_tokens: bool,
    /// Whether special tokens that stand in the text become their ids.
    pub parse_special_tokens: ParseSpecialTokens,
    /// What offsets count.
    pub offset_unit: OffsetUnit,
    /// Where to cut, if anywhere.
    pub truncation: Option<Truncation>,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            columns: Columns::default(),
            add_special_tokens: true,
            parse_special_tokens: ParseSpecialTokens::None,
            offset_unit: OffsetUnit::Utf16,
            truncation: None,
        }
    }
}

/// Columns that are computed only when asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a set: each column is asked for by itself")]
pub struct Columns {
    /// Start and end of each token in its text.
    pub offsets: bool,
    /// 1 for every token; padding, which is added later, has 0.
    pub attention_mask: bool,
    /// 1 for tokens that the template added.
    pub special_tokens_mask: bool,
    /// Which segment of a pair a token belongs to, as the file's template numbers them.
    pub type_ids: bool,
    /// The word that a token came from, -1 for tokens that the template added.
    pub word_ids: bool,
}

impl Columns {
    /// No column at all: ids only.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Every column.
    pub fn all() -> Self {
        Self { offsets: true, attention_mask: true, special_tokens_mask: true, type_ids: true, word_ids: true }
    }
}

/// Which special tokens are recognised where they stand in a text. Added tokens that are not special always are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ParseSpecialTokens {
    /// None: they are ordinary text. Right for text that users wrote.
    #[default]
    None,
    /// All. Right for a rendered chat template.
    All,
    /// These, by their text.
    Only(Vec<String>),
}

/// What an offset counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffsetUnit {
    /// UTF-16 code units, as JavaScript indexes strings.
    #[default]
    Utf16,
    /// Unicode code points, as Python does.
    CodePoint,
    /// UTF-8 bytes.
    Byte,
}

/// Where and how to cut what is too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// Tokens that a row may have, those of the template included.
    pub max_length: usize,
    /// Which end is cut off.
    pub side: Side,
    /// Which text of a pair is cut.
    pub strategy: TruncationStrategy,
    /// Tokens that a piece repeats from the one before; only of use with `overflow`.
    pub stride: usize,
    /// Whether what was cut off becomes further rows.
    pub overflow: bool,
}

impl Truncation {
    /// Cuts the right end to `max_length`, without further rows.
    pub fn to(max_length: usize) -> Self {
        Self { max_length, side: Side::Right, strategy: TruncationStrategy::LongestFirst, stride: 0, overflow: false }
    }
}

/// An end of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// The beginning.
    Left,
    /// The end.
    #[default]
    Right,
}

/// Which text of a pair is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TruncationStrategy {
    /// The longer one, then both.
    #[default]
    LongestFirst,
    /// The first.
    OnlyFirst,
    /// The second.
    OnlySecond,
}

/// How to turn ids into text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Leaves out tokens that the file calls special.
    pub skip_special_tokens: bool,
    /// Undoes the spaces that simple tokenizers put before punctuation and English contractions.
    pub clean_up: bool,
}

/// How to render a chat.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TemplateOptions {
    /// JSON schemas of the tools that the model may call; `None` for no tools.
    pub tools: Option<serde_json::Value>,
    /// Ends with the opening of an assistant message.
    pub add_generation_prompt: bool,
    /// A Jinja template, or the name of one of the model's templates, instead of the model's default.
    pub template: Option<String>,
    /// Further variables for the template; they win over ours.
    pub variables: serde_json::Map<String, serde_json::Value>,
}
