//! Added tokens: which ones stand where in a text. Knows nothing of the model.

mod automaton;

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::Refusal;
use super::table::ClassTable;
use automaton::Automaton;

/// Which special tokens that are written in a text count as such. Added tokens that are not special always do.
#[derive(Clone, Copy, Debug)]
pub enum ParseSpecial<'a> {
    /// None: their characters are text, as for input that is not trusted.
    None,
    /// All, as the reference does by default.
    All,
    /// Those with these ids.
    Only(&'a HashSet<u32>),
}

/// An added token as the file describes it, with the id that the reference gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    /// The content as it is found in text that is normalized.
    pub(super) normal: Option<String>,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) normalized: bool,
    pub(super) special: bool,
}

impl AddedToken {
    /// What the token reads as when it is decoded.
    pub(super) fn text(&self) -> &str {
        self.normal.as_deref().unwrap_or(&self.content)
    }
}

/// The added tokens of a tokenizer.
pub(super) struct AddedTokens {
    tokens: Vec<AddedToken>,
    by_id: HashMap<u32, usize>,
    by_content: HashMap<String, u32>,
    /// Contents that are special: an id is special if it reads as one of them.
    special: HashSet<String>,
    /// Those looked for in the text as it is.
    plain: Automaton,
    /// Those looked for in the normalized text between them.
    normalized: Automaton,
}

/// A part of a text: an added token, or what stands between.
pub(super) struct Part {
    pub(super) id: Option<u32>,
    pub(super) range: Range<usize>,
}

impl AddedTokens {
    /// `tokens` with distinct ids and contents; `special` are the contents of all that are or were special.
    pub(super) fn new(tokens: Vec<AddedToken>, special: HashSet<String>) -> Result<Self, Refusal> {
        let find = |normalized: bool| {
            let patterns = tokens.iter().enumerate().filter(|(_, token)| token.normalized == normalized);
            let patterns: Vec<(&str, usize)> = patterns.map(|(at, token)| (token.text(), at)).collect();
            Automaton::new(&patterns).map_err(|reason| Refusal::new("added_tokens", reason))
        };
        Ok(Self {
            plain: find(false)?,
            normalized: find(true)?,
            by_id: tokens.iter().enumerate().map(|(at, token)| (token.id, at)).collect(),
            by_content: tokens.iter().map(|token| (token.content.clone(), token.id)).collect(),
            special,
            tokens,
        })
    }

    pub(super) fn get(&self, id: u32) -> Option<&AddedToken> {
        self.by_id.get(&id).and_then(|&at| self.tokens.get(at))
    }

    pub(super) fn id_of(&self, content: &str) -> Option<u32> {
        self.by_content.get(content).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &AddedToken> {
        self.tokens.iter()
    }

    pub(super) fn is_special(&self, text: &str) -> bool {
        self.special.contains(text)
    }

    /// Calls `each` with the parts of a text that is as it was given: first of the reference's two rounds.
    pub(super) fn split_plain(&self, text: &str, parse: ParseSpecial<'_>, each: impl FnMut(Part)) {
        self.split(&self.plain, text, parse, each);
    }

    /// Calls `each` with the parts of a normalized text: second round, on what the first left over.
    pub(super) fn split_normalized(&self, text: &str, parse: ParseSpecial<'_>, each: impl FnMut(Part)) {
        self.split(&self.normalized, text, parse, each);
    }

    #[inline]
    fn split(&self, automaton: &Automaton, text: &str, parse: ParseSpecial<'_>, mut each: impl FnMut(Part)) {
        let (mut at, mut done) = (0, 0);
        while let Some((found, matched)) = automaton.find(text.as_bytes(), at) {
            at = matched.end;
            let token = &self.tokens[found];
            if !self.parses(token, parse) || token.single_word && !stands_alone(text, &matched) {
                continue;
            }
            let mut range = matched;
            if token.lstrip {
                range.start = trailing_space(&text[..range.start]).max(done);
            }
            if token.rstrip {
                range.end += leading_space(&text[range.end..]);
            }
            if done < range.start {
                each(Part { id: None, range: done..range.start });
            }
            done = range.end;
            each(Part { id: Some(token.id), range });
        }
        if done != text.len() {
            each(Part { id: None, range: done..text.len() });
        }
    }

    fn parses(&self, token: &AddedToken, parse: ParseSpecial<'_>) -> bool {
        match parse {
            ParseSpecial::All => true,
            ParseSpecial::None => !self.is_special(&token.content),
            ParseSpecial::Only(ids) => ids.contains(&token.id) || !self.is_special(&token.content),
        }
    }
}

fn stands_alone(text: &str, range: &Range<usize>) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(|c| ClassTable::get().of_char(c).is_word());
    !is_word(text[..range.start].chars().next_back()) && !is_word(text[range.end..].chars().next())
}

fn is_space(c: char) -> bool {
    ClassTable::get().of_char(c).is_space()
}

/// Where the whitespace at the end of `text` begins.
fn trailing_space(text: &str) -> usize {
    text.trim_end_matches(is_space).len()
}

/// The length of the whitespace at the start of `text`.
fn leading_space(text: &str) -> usize {
    text.len() - text.trim_start_matches(is_space).len()
}
