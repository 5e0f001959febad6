//! From a `tokenizer.json` to an engine, or the reason why not. It takes only what the engine does exactly.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use unicode_normalization_alignments::UnicodeNormalization;

use super::Refusal;
use super::added::{AddedToken, AddedTokens};
use super::alphabet;
use super::hash::HashKey;
use super::merge::{MAX_MERGES, Merge, Merges, NO_BYTE};
use super::offsets::Trim;
use super::pattern::{Pattern, Split};
use super::vocab::Vocab;

/// What the pre-tokenizer of a file comes to.
pub(super) struct PreTokenizer {
    pub(super) pattern: Pattern,
    pub(super) prefix_space: bool,
}

/// The parts of a file, each as the engine needs it.
pub(super) struct Parts {
    pub(super) vocab: Vocab,
    pub(super) merges: Merges,
    pub(super) added: AddedTokens,
    pub(super) pre_tokenizer: PreTokenizer,
    pub(super) composes: bool,
    pub(super) trim: Trim,
    pub(super) decodes_bytes: bool,
    pub(super) key: HashKey,
}

impl Parts {
    pub(super) fn from_json(file: &Value) -> Result<Self, Refusal> {
        let key = HashKey::random();
        let pre_tokenizer = pre_tokenizer(&file["pre_tokenizer"])?;
        let composes = normalizer(&file["normalizer"])?;
        let model = Model::from_json(&file["model"])?;
        let (mut vocab, merges) = model.build(key)?;
        mark_whole(&mut vocab, &merges, model.ignores_merges);
        let added = added_tokens(&file["added_tokens"], &vocab, composes)?;
        let trim = Trim::of_post_processor(&file["post_processor"]);
        let decodes_bytes = file["decoder"]["type"] == "ByteLevel";
        Ok(Self { vocab, merges, added, pre_tokenizer, composes, trim, decodes_bytes, key })
    }
}

/// Marks the tokens that their own bytes become: all of them if merges are ignored for whole words.
fn mark_whole(vocab: &mut Vocab, merges: &Merges, ignores_merges: bool) {
    let known = || vocab.ids().filter(|&id| vocab.known_bytes_of(id).is_some()).collect();
    let whole: Vec<u32> = if ignores_merges { known() } else { merges.reached().collect() };
    whole.into_iter().for_each(|id| vocab.set_whole(id));
}

/// The model as the file has it.
struct Model<'a> {
    vocab: Vec<(&'a str, u32)>,
    merges: Vec<(&'a str, &'a str)>,
    ignores_merges: bool,
    replaces_unknown: bool,
}

impl<'a> Model<'a> {
    fn from_json(model: &'a Value) -> Result<Self, Refusal> {
        if model["type"] != "BPE" {
            return Err(Refusal::new("model.type", format!("{} is not \"BPE\"", model["type"])));
        }
        if !(model["dropout"].is_null() || model["dropout"].as_f64() == Some(0.0)) {
            return Err(Refusal::new("model.dropout", format!("{} is not 0", model["dropout"])));
        }
        for (field, component) in [
            ("continuing_subword_prefix", "model.continuing_subword_prefix"),
            ("end_of_word_suffix", "model.end_of_word_suffix"),
        ] {
            if !(model[field].is_null() || model[field] == "") {
                return Err(Refusal::new(component, format!("{} is not empty", model[field])));
            }
        }
        // With a token for every byte nothing is ever unknown, so that these change nothing.
        optional_bool(model, "fuse_unk", "model.fuse_unk")?;
        let byte_fallback = optional_bool(model, "byte_fallback", "model.byte_fallback")?;
        if !(model["unk_token"].is_null() || model["unk_token"].is_string()) {
            return Err(Refusal::new("model.unk_token", "not a string"));
        }
        Ok(Self {
            vocab: vocab(&model["vocab"])?,
            merges: merges(&model["merges"])?,
            ignores_merges: optional_bool(model, "ignore_merges", "model.ignore_merges")?,
            replaces_unknown: byte_fallback || model["unk_token"].is_string(),
        })
    }

    fn build(&self, key: HashKey) -> Result<(Vocab, Merges), Refusal> {
        let vocab = Vocab::new(&self.vocab, key)?;
        let mut byte_ids = [NO_BYTE; 256];
        for (byte, id) in (0..=u8::MAX).zip(&mut byte_ids) {
            match vocab.id_of(&[byte]) {
                Some(known) => *id = known,
                // The reference drops such a byte, unless there is something to put in its place.
                None if !self.replaces_unknown => {}
                None => return Err(Refusal::new("model.vocab", format!("no token for the byte {byte:#04x}"))),
            }
        }
        let mut joined = String::new();
        let merges: Result<Vec<_>, Refusal> =
            self.merges.iter().map(|&(left, right)| merge(&vocab, left, right, &mut joined)).collect();
        let merges = Merges::new(byte_ids, &merges?, |id| vocab.known_bytes_of(id), key);
        Ok((vocab, merges))
    }
}

/// The ids of a merge, or none if no text leads to it.
fn merge(vocab: &Vocab, left: &str, right: &str, joined: &mut String) -> Result<Option<Merge>, Refusal> {
    let id_of = |token: &str| {
        vocab
            .id_of_token(token)
            .ok_or_else(|| Refusal::new("model.merges", format!("{token:?} is not in the vocabulary")))
    };
    joined.clear();
    joined.push_str(left);
    joined.push_str(right);
    let merge = Merge { left: id_of(left)?, right: id_of(right)?, result: id_of(joined)? };
    let known = [merge.left, merge.right].iter().all(|&id| vocab.known_bytes_of(id).is_some());
    Ok(known.then_some(merge))
}

fn optional_bool(object: &Value, field: &str, component: &'static str) -> Result<bool, Refusal> {
    match &object[field] {
        Value::Null => Ok(false),
        Value::Bool(value) => Ok(*value),
        other => Err(Refusal::new(component, format!("{other} is not a boolean"))),
    }
}

fn required_bool(object: &Value, field: &str, component: &'static str) -> Result<bool, Refusal> {
    object[field].as_bool().ok_or_else(|| Refusal::new(component, format!("{field} is not a boolean")))
}

fn vocab(vocab: &Value) -> Result<Vec<(&str, u32)>, Refusal> {
    let refuse = |reason: String| Refusal::new("model.vocab", reason);
    let vocab: &Map<String, Value> = vocab.as_object().ok_or_else(|| refuse("not an object".to_owned()))?;
    let tokens = vocab.iter().map(|(token, id)| {
        let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
        Ok((token.as_str(), number.ok_or_else(|| refuse(format!("the id of {token:?} is {id}")))?))
    });
    tokens.collect()
}

/// The merges in either form: pairs, or strings with a space between the two.
fn merges(merges: &Value) -> Result<Vec<(&str, &str)>, Refusal> {
    let refuse = |reason: String| Refusal::new("model.merges", reason);
    let list = merges.as_array().ok_or_else(|| refuse("not an array".to_owned()))?;
    let legacy = list.first().is_some_and(Value::is_string);
    let mut pairs = Vec::with_capacity(list.len());
    for merge in list {
        let pair = match merge {
            Value::String(line) if legacy && line.starts_with("#version") => continue,
            Value::String(line) if legacy => line.split_once(' ').filter(|(_, right)| !right.contains(' ')),
            Value::Array(pair) if !legacy => match &pair[..] {
                [Value::String(left), Value::String(right)] => Some((left.as_str(), right.as_str())),
                _ => None,
            },
            _ => None,
        };
        pairs.push(pair.ok_or_else(|| refuse(format!("{merge} is not a pair")))?);
    }
    if pairs.len() > MAX_MERGES {
        return Err(refuse(format!("{} are more than {MAX_MERGES}", pairs.len())));
    }
    Ok(pairs)
}

/// Whether the normalizer composes: the only thing one may do here.
fn normalizer(normalizer: &Value) -> Result<bool, Refusal> {
    let refuse = |value: &Value| Refusal::new("normalizer", format!("{} is not NFC", value["type"]));
    match (normalizer["type"].as_str(), normalizer["normalizers"].as_array()) {
        (Some("NFC"), _) => Ok(true),
        (Some("Sequence"), Some(list)) => match &list[..] {
            [] => Ok(false),
            [only] if only["type"] == "NFC" => Ok(true),
            [first, ..] => Err(refuse(first)),
        },
        _ if normalizer.is_null() => Ok(false),
        _ => Err(refuse(normalizer)),
    }
}

const PRE_TOKENIZER: &str = "pre_tokenizer";

fn pre_tokenizer(value: &Value) -> Result<PreTokenizer, Refusal> {
    let refuse = |reason: &str| Refusal::new(PRE_TOKENIZER, reason);
    let one = [value.clone()];
    let steps = match (value["type"].as_str(), value["pretokenizers"].as_array()) {
        (Some("Sequence"), Some(list)) => &list[..],
        _ => &one,
    };
    let Some((last, before)) = steps.split_last().filter(|(last, _)| last["type"] == "ByteLevel") else {
        return Err(refuse("it does not end with ByteLevel"));
    };
    let prefix_space = required_bool(last, "add_prefix_space", PRE_TOKENIZER)?;
    required_bool(last, "trim_offsets", PRE_TOKENIZER)?;
    let uses_regex = match last.get("use_regex") {
        None => true,
        Some(_) => required_bool(last, "use_regex", PRE_TOKENIZER)?,
    };
    let pattern = match before {
        [] if uses_regex => Pattern::Gpt2,
        [] => Pattern::Whole,
        [digits] if digits["type"] == "Digits" && uses_regex => {
            if !required_bool(digits, "individual_digits", PRE_TOKENIZER)? {
                return Err(refuse("Digits without individual_digits"));
            }
            Pattern::Gpt2Digits
        }
        splits if !uses_regex => {
            let splits: Result<Vec<Split>, Refusal> = splits.iter().map(split).collect();
            Pattern::of_splits(&splits?).ok_or_else(|| refuse("a Split with a pattern that has no scanner"))?
        }
        _ => return Err(refuse("ByteLevel splits again what was split before")),
    };
    if prefix_space && !before.is_empty() {
        return Err(refuse("add_prefix_space on pieces that were split before"));
    }
    Ok(PreTokenizer { pattern, prefix_space })
}

fn split(step: &Value) -> Result<Split, Refusal> {
    let refuse = |reason: String| Refusal::new(PRE_TOKENIZER, reason);
    if step["type"] != "Split" {
        return Err(refuse(format!("{} before ByteLevel", step["type"])));
    }
    let pattern = step["pattern"].as_object().filter(|pattern| pattern.len() == 1);
    let regex = pattern.and_then(|pattern| pattern.get("Regex")).and_then(Value::as_str);
    let regex = regex.ok_or_else(|| refuse("a Split by a literal".to_owned()))?;
    let drops_rest = match (step["behavior"].as_str(), required_bool(step, "invert", PRE_TOKENIZER)?) {
        (Some("Isolated"), _) => false,
        (Some("Removed"), true) => true,
        (behavior, invert) => {
            return Err(refuse(format!("a Split with behavior {behavior:?} and invert {invert}")));
        }
    };
    Ok(Split { regex: regex.to_owned(), drops_rest })
}

/// The added tokens with the ids that the reference gives them: that of the same token in the vocabulary, or else the
/// next after its size, whatever id the file writes.
fn added_tokens(list: &Value, vocab: &Vocab, composes: bool) -> Result<AddedTokens, Refusal> {
    let refuse = |reason: String| Refusal::new("added_tokens", reason);
    let list = match list {
        Value::Null => &Vec::new(),
        Value::Array(list) => list,
        _ => return Err(refuse("not an array".to_owned())),
    };
    let mut tokens: Vec<AddedToken> = Vec::with_capacity(list.len());
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut special = HashSet::new();
    let mut used = HashSet::new();
    let mut next = vocab.len() as u32;
    for value in list {
        let mut token = added_token(value, composes)?;
        if token.content.is_empty() {
            continue;
        }
        if token.special {
            special.insert(token.content.clone());
        }
        if let Some(&at) = known.get(&token.content) {
            token.id = tokens[at].id;
            tokens[at] = token;
            continue;
        }
        token.id = vocab.id_of_token(&token.content).unwrap_or_else(|| {
            next += 1;
            next - 1
        });
        if !used.insert(token.id) {
            return Err(refuse(format!("two tokens have id {}", token.id)));
        }
        known.insert(token.content.clone(), tokens.len());
        tokens.push(token);
    }
    AddedTokens::new(tokens, special)
}

fn added_token(value: &Value, composes: bool) -> Result<AddedToken, Refusal> {
    let refuse = |reason: &str| Refusal::new("added_tokens", format!("{reason} in {value}"));
    let flag = |name: &str| value[name].as_bool().ok_or_else(|| refuse(name));
    value["id"].as_u64().filter(|&id| u32::try_from(id).is_ok()).ok_or_else(|| refuse("id"))?;
    let content = value["content"].as_str().ok_or_else(|| refuse("content"))?.to_owned();
    let normalized = flag("normalized")?;
    let normal = (normalized && composes).then(|| content.chars().nfc().map(|(c, _)| c).collect::<String>());
    Ok(AddedToken {
        id: 0,
        normal: normal.filter(|normal| *normal != content),
        content,
        single_word: flag("single_word")?,
        lstrip: flag("lstrip")?,
        rstrip: flag("rstrip")?,
        normalized,
        special: flag("special")?,
    })
}

/// The bytes that the reference's byte-level decoder makes of a token.
pub(super) fn decoded(token: &str) -> Vec<u8> {
    alphabet::to_bytes(token).unwrap_or_else(|| token.as_bytes().to_vec())
}
