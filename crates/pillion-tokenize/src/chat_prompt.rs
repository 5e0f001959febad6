//! A conversation to ids, in which special tokens that stand in a message's text are text: they end no turn and open none.
//!
//! A template mixes its own tokens and the messages into one text. So that the two can be told apart afterwards, special tokens inside messages
//! are put between two marks before rendering. Marks are noncharacters that occur nowhere in the conversation.

use std::ops::Range;

use serde_json::{Map, Value};

use crate::{
    engine::SpecialTokens, error::TokenizeError, options::TemplateOptions, tokenizer::Tokenizer, vocabulary::Vocabulary,
};

/// Code points that no text holds for a purpose of its own.
const NONCHARACTERS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

impl Tokenizer {
    /// Renders a conversation with the chat template and encodes it. Equal to [`Tokenizer::apply_chat_template`] and then
    /// [`Tokenizer::encode_rendered`], but that special tokens written in messages, tools and variables are encoded as the text they are.
    pub fn encode_chat(&self, messages: &Value, options: &TemplateOptions) -> Result<Vec<u32>, TokenizeError> {
        let specials = Specials::new(self.vocabulary());
        let found = strings(messages, options).any(|text| specials.occurs_in(text));
        if !found {
            return self.encode_rendered(&self.apply_chat_template(messages, options)?);
        }
        let marks = Marks::choose(messages, options)?;
        let marked = TemplateOptions {
            tools: options.tools.as_ref().map(|tools| marks.mark(tools, &specials)),
            variables: options.variables.iter().map(|(k, v)| (k.clone(), marks.mark(v, &specials))).collect(),
            ..options.clone()
        };
        let rendered = self.apply_chat_template(&marks.mark(messages, &specials), &marked)?;
        let (text, quoted) = marks.remove(&rendered);
        self.encode_quoting(&text, &specials, &quoted)
    }

    /// Encodes a text in which special tokens inside `quoted` ranges are text. Around each such range, up to the next special tokens that
    /// count, the text is encoded as one, as it would be if the quoted ones were any other words.
    fn encode_quoting(
        &self,
        text: &str,
        specials: &Specials<'_>,
        quoted: &[Range<usize>],
    ) -> Result<Vec<u32>, TokenizeError> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut encode = |range: Range<usize>, special: &SpecialTokens| match &text[range] {
            "" => Ok(()),
            part => self.encode_into(part, special, &mut ids),
        };
        // Where the text not yet encoded begins, where its last special token that counts ends, and whether it quotes any since then.
        let (mut start, mut counted, mut has_quote) = (0, 0, false);
        for found in specials.find_all(text, quoted) {
            if found.quoted {
                has_quote = true;
                continue;
            }
            if has_quote {
                encode(start..counted, &SpecialTokens::All)?;
                encode(counted..found.range.start, &SpecialTokens::None)?;
                (start, has_quote) = (found.range.start, false);
            }
            counted = found.range.end;
        }
        if has_quote {
            encode(start..counted, &SpecialTokens::All)?;
            encode(counted..text.len(), &SpecialTokens::None)?;
        } else {
            encode(start..text.len(), &SpecialTokens::All)?;
        }
        Ok(ids)
    }
}

/// The texts of the special tokens, longest first.
struct Specials<'v> {
    texts: Vec<&'v str>,
    first_bytes: [bool; 256],
}

struct Found {
    range: Range<usize>,
    quoted: bool,
}

impl<'v> Specials<'v> {
    fn new(vocabulary: &'v Vocabulary) -> Self {
        let ids = vocabulary.special_ids().iter();
        let mut texts: Vec<&str> = ids.filter_map(|id| vocabulary.text(*id)).filter(|text| !text.is_empty()).collect();
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let mut first_bytes = [false; 256];
        for text in &texts {
            first_bytes[text.as_bytes()[0] as usize] = true;
        }
        Self { texts, first_bytes }
    }

    fn occurs_in(&self, text: &str) -> bool {
        self.find(text, 0).is_some()
    }

    /// The first special token from a place on; of those that begin there the longest.
    fn find(&self, text: &str, from: usize) -> Option<Range<usize>> {
        let bytes = &text.as_bytes()[from..];
        let places = bytes.iter().enumerate().filter(|(_, byte)| self.first_bytes[**byte as usize]);
        places.map(|(at, _)| from + at).find_map(|at| {
            let rest = &text.as_bytes()[at..];
            let special = self.texts.iter().find(|special| rest.starts_with(special.as_bytes()))?;
            Some(at..at + special.len())
        })
    }

    /// All special tokens of a text; those that touch a quoted range are quoted.
    fn find_all(&self, text: &str, quoted: &[Range<usize>]) -> Vec<Found> {
        let mut all = Vec::new();
        let mut quoted = quoted.iter().peekable();
        let mut from = 0;
        while let Some(range) = self.find(text, from) {
            while quoted.next_if(|q| q.end <= range.start).is_some() {}
            let is_quoted = quoted.peek().is_some_and(|q| q.start < range.end);
            from = range.end;
            all.push(Found { range, quoted: is_quoted });
        }
        all
    }
}

/// What stands around a special token that is text.
struct Marks {
    open: char,
    close: char,
}

impl Marks {
    fn choose(messages: &Value, options: &TemplateOptions) -> Result<Self, TokenizeError> {
        let free = |mark: &char| {
            let escaped = escape(*mark);
            let template = options.template.iter().map(String::as_str);
            !strings(messages, options).chain(template).any(|text| text.contains(*mark) || text.contains(&escaped))
        };
        let mut free = NONCHARACTERS.filter(free);
        match (free.next(), free.next()) {
            (Some(open), Some(close)) => Ok(Self { open, close }),
            _ => Err(TokenizeError::argument("messages", "texts without noncharacters", "all of U+FDD0 to U+FDEF")),
        }
    }

    /// Puts marks around each special token in every text of a value; keys stay as they are.
    fn mark(&self, value: &Value, specials: &Specials<'_>) -> Value {
        match value {
            Value::String(text) => Value::String(self.mark_text(text, specials)),
            Value::Array(items) => items.iter().map(|item| self.mark(item, specials)).collect(),
            Value::Object(entries) => {
                let entries = entries.iter().map(|(key, item)| (key.clone(), self.mark(item, specials)));
                Value::Object(entries.collect::<Map<_, _>>())
            }
            other => other.clone(),
        }
    }

    fn mark_text(&self, text: &str, specials: &Specials<'_>) -> String {
        let mut out = String::with_capacity(text.len() + 8);
        let mut from = 0;
        while let Some(range) = specials.find(text, from) {
            out.push_str(&text[from..range.start]);
            out.push(self.open);
            out.push_str(&text[range.clone()]);
            out.push(self.close);
            from = range.end;
        }
        out.push_str(&text[from..]);
        out
    }

    /// Takes the marks out; gives the text and the ranges that stood between two of them. What a template made of one mark alone, by cutting
    /// a text, is just left out.
    fn remove(&self, rendered: &str) -> (String, Vec<Range<usize>>) {
        // A template may have asked for JSON in ASCII.
        let rendered = rendered
            .replace(&escape(self.open), self.open.encode_utf8(&mut [0; 4]))
            .replace(&escape(self.close), self.close.encode_utf8(&mut [0; 4]));
        let mut text = String::with_capacity(rendered.len());
        let mut quoted = Vec::new();
        let mut opened = None;
        for c in rendered.chars() {
            if c == self.open {
                opened = Some(text.len());
            } else if c == self.close {
                quoted.extend(opened.take().map(|start| start..text.len()));
            } else {
                text.push(c);
            }
        }
        // A mark that was never closed quotes to the end: the safe side.
        quoted.extend(opened.map(|start| start..text.len()));
        (text, quoted)
    }
}

fn escape(mark: char) -> String {
    format!("\\u{:04x}", mark as u32)
}

/// Every text that a caller hands to a template.
fn strings<'a>(messages: &'a Value, options: &'a TemplateOptions) -> impl Iterator<Item = &'a str> {
    let roots = std::iter::once(messages).chain(&options.tools).chain(options.variables.values());
    let mut stack: Vec<&Value> = roots.collect();
    std::iter::from_fn(move || {
        while let Some(value) = stack.pop() {
            match value {
                Value::String(text) => return Some(text.as_str()),
                Value::Array(items) => stack.extend(items),
                Value::Object(entries) => stack.extend(entries.values()),
                _ => {}
            }
        }
        None
    })
}
