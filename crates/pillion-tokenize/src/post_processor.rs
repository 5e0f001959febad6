//! What a file adds around the text: special tokens, segment numbers, and whether offsets leave out white space.
//!
//! The file's processors are run once, on symbols instead of tokens, so that every engine shares one plain list of pieces.

use serde::Deserialize;
use serde_json::Value;

use crate::{error::TokenizeError, offsets::Trim};

/// The rows that a file's post-processor makes of one text and of a pair.
pub(crate) struct PostProcessor {
    single: Variant,
    pair: Variant,
}

struct Variant {
    with_special: Result<Layout, TokenizeError>,
    without_special: Result<Layout, TokenizeError>,
}

/// What a row is made of, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Layout {
    pub(crate) groups: Vec<Group>,
    /// Special tokens in a row, as the file's processors count them for truncation.
    pub(crate) added: usize,
}

/// Neighbouring pieces with at most one sequence among them. Overflow combines the pieces of different groups.
pub(crate) type Group = Vec<Piece>;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    /// One of the texts.
    Sequence { index: usize, type_ids: TypeIds, trims: Vec<Trim> },
    /// Tokens that the file adds. `mask` is what the mask of special tokens says of them.
    Special { ids: Vec<u32>, type_ids: TypeIds, mask: u8 },
}

/// Segment numbers; in overflow the reference keeps those of before some processors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TypeIds {
    pub(crate) main: u8,
    pub(crate) overflow: u8,
}

impl PostProcessor {
    /// Reads the processor in the reference's own written form; `null` for none.
    pub(crate) fn new(json: &Value) -> Result<Self, TokenizeError> {
        let processors = match json {
            Value::Null => Vec::new(),
            json => flatten(json)?,
        };
        let variant = |texts| Variant {
            with_special: layout(&processors, texts, true),
            without_special: layout(&processors, texts, false),
        };
        Ok(Self { single: variant(1), pair: variant(2) })
    }

    /// The layout of one kind of row.
    pub(crate) fn layout(&self, is_pair: bool, add_special_tokens: bool) -> Result<&Layout, TokenizeError> {
        let variant = if is_pair { &self.pair } else { &self.single };
        let layout = if add_special_tokens { &variant.with_special } else { &variant.without_special };
        layout.as_ref().map_err(Clone::clone)
    }
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Processor {
    BertProcessing {
        sep: (String, u32),
        cls: (String, u32),
    },
    RobertaProcessing {
        sep: (String, u32),
        cls: (String, u32),
        trim_offsets: bool,
        add_prefix_space: bool,
    },
    ByteLevel {
        add_prefix_space: bool,
        trim_offsets: bool,
    },
    TemplateProcessing {
        single: Vec<TemplatePiece>,
        pair: Vec<TemplatePiece>,
        special_tokens: std::collections::HashMap<String, TemplateToken>,
    },
}

#[derive(Deserialize)]
enum TemplatePiece {
    Sequence { id: SequenceName, type_id: u32 },
    SpecialToken { id: String, type_id: u32 },
}

#[derive(Clone, Copy, Deserialize)]
enum SequenceName {
    A,
    B,
}

#[derive(Deserialize)]
struct TemplateToken {
    ids: Vec<u32>,
}

fn flatten(json: &Value) -> Result<Vec<Processor>, TokenizeError> {
    if json["type"] == "Sequence" {
        let parts = json["processors"].as_array().map(Vec::as_slice).unwrap_or_default();
        return Ok(parts.iter().map(flatten).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect());
    }
    let processor = Processor::deserialize(json).map_err(|e| TokenizeError::file("post_processor", e))?;
    Ok(vec![processor])
}

fn layout(processors: &[Processor], texts: usize, add_special: bool) -> Result<Layout, TokenizeError> {
    let mut groups: Vec<Group> = (0..texts)
        .map(|index| {
            let type_ids = TypeIds { main: index as u8, overflow: index as u8 };
            vec![Piece::Sequence { index, type_ids, trims: Vec::new() }]
        })
        .collect();
    let mut added = 0;
    for processor in processors {
        match processor {
            Processor::ByteLevel { add_prefix_space, trim_offsets } => {
                trim(&mut groups, *trim_offsets, *add_prefix_space);
            }
            Processor::RobertaProcessing { sep, cls, trim_offsets, add_prefix_space } => {
                trim(&mut groups, *trim_offsets, *add_prefix_space);
                roberta(&mut groups, cls.1, sep.1, add_special);
                added += if texts == 2 { 4 } else { 2 };
            }
            Processor::BertProcessing { sep, cls } => {
                if add_special {
                    bert(&mut groups, cls.1, sep.1);
                }
                added += if texts == 2 { 3 } else { 2 };
            }
            Processor::TemplateProcessing { single, pair, special_tokens } => {
                let template = match groups.len() {
                    1 => single,
                    2 => pair,
                    _ => return Err(broken("a template follows another one")),
                };
                groups = apply_template(template, special_tokens, &groups, add_special)?;
                // The reference counts by the number of texts, whatever came before.
                let counted = if texts == 2 { pair } else { single };
                added += count(counted, special_tokens);
            }
        }
    }
    Ok(Layout { groups, added: if add_special { added } else { 0 } })
}

fn count(template: &[TemplatePiece], tokens: &std::collections::HashMap<String, TemplateToken>) -> usize {
    let ids = |piece: &TemplatePiece| match piece {
        TemplatePiece::SpecialToken { id, .. } => tokens.get(id).map_or(0, |t| t.ids.len()),
        TemplatePiece::Sequence { .. } => 0,
    };
    template.iter().map(ids).sum()
}

fn broken(reason: &str) -> TokenizeError {
    TokenizeError::file("post_processor", reason)
}

fn trim(groups: &mut [Group], trim_offsets: bool, add_prefix_space: bool) {
    if !trim_offsets {
        return;
    }
    for group in groups {
        for (at, piece) in group.iter_mut().enumerate() {
            if let Piece::Sequence { trims, .. } = piece {
                trims.push(Trim { add_prefix_space, leads: at == 0 });
            }
        }
    }
}

fn set_type_ids(group: &mut Group, set: impl Fn(&mut TypeIds)) {
    for piece in group {
        match piece {
            Piece::Sequence { type_ids, .. } | Piece::Special { type_ids, .. } => set(type_ids),
        }
    }
}

fn special(id: u32, type_id: u8) -> Piece {
    Piece::Special { ids: vec![id], type_ids: TypeIds { main: type_id, overflow: type_id }, mask: 1 }
}

/// The processors of BERT and `RoBERTa` take everything between their own tokens for text.
fn unmask(group: &mut Group) {
    for piece in group {
        if let Piece::Special { mask, .. } = piece {
            *mask = 0;
        }
    }
}

fn roberta(groups: &mut [Group], cls: u32, sep: u32, add_special: bool) {
    for (at, group) in groups.iter_mut().enumerate() {
        set_type_ids(group, |t| t.main = 0);
        if add_special {
            set_type_ids(group, |t| t.overflow = 0);
            unmask(group);
            group.insert(0, special(if at == 0 { cls } else { sep }, 0));
            group.push(special(sep, 0));
        }
    }
}

fn bert(groups: &mut [Group], cls: u32, sep: u32) {
    for (at, group) in groups.iter_mut().enumerate() {
        unmask(group);
        if at == 0 {
            group.insert(0, special(cls, 0));
        }
        group.push(special(sep, u8::from(at > 0)));
    }
}

fn apply_template(
    template: &[TemplatePiece],
    tokens: &std::collections::HashMap<String, TemplateToken>,
    groups: &[Group],
    add_special: bool,
) -> Result<Vec<Group>, TokenizeError> {
    let mut out = Vec::new();
    for piece in template {
        match piece {
            TemplatePiece::Sequence { id, type_id } => {
                let index = match id {
                    SequenceName::A => 0,
                    SequenceName::B => 1,
                };
                let mut group =
                    groups.get(index).cloned().ok_or_else(|| broken("the template for one text names a second"))?;
                let type_id = narrow(*type_id)?;
                set_type_ids(&mut group, |t| t.main = type_id);
                out.push(group);
            }
            TemplatePiece::SpecialToken { id, type_id } if add_special => {
                let token = tokens
                    .get(id)
                    .ok_or_else(|| broken(&format!("the template uses {id:?}, which is not in its special_tokens")))?;
                let type_id = narrow(*type_id)?;
                out.push(vec![Piece::Special {
                    ids: token.ids.clone(),
                    type_ids: TypeIds { main: type_id, overflow: type_id },
                    mask: 1,
                }]);
            }
            TemplatePiece::SpecialToken { .. } => {}
        }
    }
    Ok(out)
}

fn narrow(type_id: u32) -> Result<u8, TokenizeError> {
    u8::try_from(type_id)
        .map_err(|_| TokenizeError::unsupported("post_processor", format!("the type id {type_id} is over 255")))
}
