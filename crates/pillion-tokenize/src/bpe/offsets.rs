//! Where tokens stand in the text, as the reference counts it. Used only on request: ids alone need none of this.

use std::ops::Range;

use serde_json::Value;

use super::ByteLevelBpe;
use super::TextTooLong;
use super::added::ParseSpecial;
use super::alphabet;
use super::encode::Scratch;
use super::merge::NO_BYTE;
use super::normalize;
use super::pattern::with_scanner;
use super::scan::{Piece, Scanner};
use super::sink::Sink;

/// The tokens of a text and where they stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The ids.
    pub ids: Vec<u32>,
    /// For each token the bytes of the text that it comes from. A token that is a part of a character has all of it.
    pub offsets: Vec<(u32, u32)>,
    /// For each token the number of the pre-token or added token that it comes from.
    pub word_ids: Vec<u32>,
}

impl Encoded {
    /// Empties the lists and keeps their room.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.offsets.clear();
        self.word_ids.clear();
    }
}

/// What the post-processor does to offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trim {
    /// Nothing.
    Never,
    /// It leaves out whitespace around tokens; with `keeps_first`, not a single space that a text's first token has.
    Spaces { keeps_first: bool },
    /// Something that this engine does not know.
    Unknown,
}

impl Trim {
    pub(super) fn of_post_processor(value: &Value) -> Self {
        let flag = |name: &str| value[name].as_bool();
        match value["type"].as_str() {
            None if value.is_null() => Self::Never,
            Some("TemplateProcessing" | "BertProcessing") => Self::Never,
            Some("ByteLevel" | "RobertaProcessing") => match (flag("trim_offsets"), flag("add_prefix_space")) {
                (Some(true), Some(keeps_first)) => Self::Spaces { keeps_first },
                (Some(false), Some(_)) => Self::Never,
                _ => Self::Unknown,
            },
            Some("Sequence") => {
                let steps = value["processors"].as_array().map_or(&[][..], Vec::as_slice);
                let mut trims = steps.iter().map(Self::of_post_processor).filter(|&trim| trim != Self::Never);
                match (trims.next(), trims.next()) {
                    (trim, None) => trim.unwrap_or(Self::Never),
                    _ => Self::Unknown,
                }
            }
            _ => Self::Unknown,
        }
    }
}

/// Why [`ByteLevelBpe::encode_with_offsets`] leaves a text to the reference engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoOffsets {
    /// The text is longer than offsets can tell.
    #[error(transparent)]
    TextTooLong(#[from] TextTooLong),
    /// The file's post-processor changes offsets in a way that this engine does not know.
    #[error("post_processor: what it does to offsets is not known")]
    PostProcessor,
}

impl ByteLevelBpe {
    /// Sets `out` to the tokens of `text`, without those that the post-processor adds, and where each stands; offsets
    /// are trimmed as the post-processor does for a text that is not truncated.
    ///
    /// If the encoding is then truncated on its left, or cut into overlapping parts, and [`Self::keeps_first_space`]
    /// holds, the first token of a part that begins within the text has other offsets in the reference.
    pub fn encode_with_offsets(
        &self,
        text: &str,
        parse: ParseSpecial<'_>,
        scratch: &mut Scratch,
        out: &mut Encoded,
    ) -> Result<(), NoOffsets> {
        TextTooLong::check(text)?;
        if self.trim == Trim::Unknown {
            return Err(NoOffsets::PostProcessor);
        }
        scratch.own(self);
        out.clear();
        let mut writer = Writer { tokenizer: self, text, parse, out, words: 0 };
        self.added.split_plain(text, parse, |part| match part.id {
            Some(id) => writer.added(id, part.range),
            None => writer.between(part.range, scratch),
        });
        Ok(())
    }

    /// The tokens of `word`, which `ids` begin with, as start and length in bytes of the characters that stand for bytes.
    fn spans_of_word(&self, word: &[u8], ids: &[u32]) -> Vec<(usize, usize)> {
        let written = |bytes: &[u8]| bytes.iter().map(|&byte| alphabet::CHARS[usize::from(byte)].len_utf8()).sum();
        let kept: Vec<u8> = word.iter().copied().filter(|&byte| self.merges.byte_id(byte) != NO_BYTE).collect();
        // A token may hold a byte that has none of its own, but only as the whole of the word.
        let whole = ids.first().filter(|&&id| self.vocab.bytes_of(id) == Some(word));
        let len: usize = written(if whole.is_some() { word } else { &kept });
        let mut spans = Vec::new();
        let mut start = 0;
        for &id in ids {
            if start >= len {
                break;
            }
            let token: usize = written(self.vocab.bytes_of(id).unwrap_or_default());
            spans.push((start, token));
            start += token;
        }
        spans
    }

    /// Whether the offsets of a part's first token depend on where the part begins.
    pub fn keeps_first_space(&self) -> bool {
        matches!(self.trim, Trim::Spaces { keeps_first: true })
    }
}

struct Writer<'a> {
    tokenizer: &'a ByteLevelBpe,
    text: &'a str,
    parse: ParseSpecial<'a>,
    out: &'a mut Encoded,
    words: u32,
}

impl Writer<'_> {
    /// An added token that stands at `range` of the text.
    fn added(&mut self, id: u32, range: Range<usize>) {
        let token = &self.text[range.clone()];
        let is_space = |c: char| c == '\u{120}' || c.is_whitespace();
        let leading = token.chars().take_while(|&c| is_space(c)).count();
        let trailing = token.chars().rev().take_while(|&c| is_space(c)).count();
        self.out.ids.push(id);
        self.push_offsets(range, leading, trailing);
        self.words += 1;
    }

    /// The text between added tokens that are not normalized.
    fn between(&mut self, range: Range<usize>, scratch: &mut Scratch) {
        let text = &self.text[range.clone()];
        let mut normal = std::mem::take(&mut scratch.normal);
        let changed = self.tokenizer.composes && normalize::compose(text, &mut normal);
        let origins = if changed { normalize::origins(text) } else { Vec::new() };
        let source = Source { base: range.start, origins: changed.then_some(&origins[..]) };
        let text = if changed { normal.as_str() } else { text };
        let tokenizer = self.tokenizer;
        tokenizer.added.split_normalized(text, self.parse, |part| match part.id {
            Some(id) => self.added(id, source.range(text, part.range)),
            None => self.piece(text, part.range, source, scratch),
        });
        scratch.normal = normal;
    }

    fn piece(&mut self, text: &str, range: Range<usize>, source: Source<'_>, scratch: &mut Scratch) {
        let piece = &text[range.clone()];
        let first = self.out.ids.len();
        let mut sink = Sink::new(&mut self.out.ids);
        self.tokenizer.piece(piece, scratch, &mut sink);
        sink.finish();
        if !self.tokenizer.prefix_space || piece.starts_with(' ') {
            return with_scanner!(self.tokenizer.pattern, scanner => {
                self.locate(scanner, first, text, range, source);
            });
        }
        // The space comes from where the first character does.
        let space = range.start..range.start + piece.chars().next().map_or(0, char::len_utf8);
        let spans = std::iter::once(space).chain(range.map(|at| at..at + 1));
        let origins = spans.map(|span| source.range(text, span)).map(|origin| origin.start as u32..origin.end as u32);
        let origins: Vec<Range<u32>> = origins.collect();
        let prefixed = format!(" {piece}");
        let source = Source { base: 0, origins: Some(&origins) };
        with_scanner!(self.tokenizer.pattern, scanner => {
            self.locate(scanner, first, &prefixed, 0..prefixed.len(), source);
        });
    }

    /// Finds where the tokens from number `first` on stand, which are those of `range` of `text`.
    fn locate<S: Scanner>(&mut self, scanner: S, first: usize, text: &str, range: Range<usize>, source: Source<'_>) {
        let piece = Piece::new(&text[range.clone()]);
        if self.tokenizer.merges.loses_from(piece.bytes) {
            return self.locate_lossy(scanner, first, text, range, source);
        }
        let (mut at, mut word_end) = (0, 0);
        for token in first..self.out.ids.len() {
            if at == word_end && at < piece.bytes.len() {
                self.words += u32::from(at > 0);
                word_end = scanner.next(piece, at);
            }
            let bytes = self.tokenizer.vocab.bytes_of(self.out.ids[token]).unwrap_or_default();
            let origin = source.range(text, range.start + at..range.start + at + bytes.len());
            self.push_token(bytes, origin);
            at += bytes.len();
        }
        self.words += 1;
    }

    /// Like [`Self::locate`], where some bytes have no token. The reference counts the tokens of a word from its beginning,
    /// in bytes of the characters that stand for bytes, and does not count what the word lost.
    fn locate_lossy<S: Scanner>(
        &mut self,
        scanner: S,
        first: usize,
        text: &str,
        range: Range<usize>,
        source: Source<'_>,
    ) {
        let tokenizer = self.tokenizer;
        let piece = Piece::new(&text[range.clone()]);
        let (mut token, mut at) = (first, 0);
        let mut origin_of = Vec::new();
        while at < piece.bytes.len() {
            let end = scanner.next(piece, at);
            origin_of.clear();
            for (place, &byte) in piece.bytes[at..end].iter().enumerate() {
                origin_of.extend(std::iter::repeat_n(place, alphabet::CHARS[usize::from(byte)].len_utf8()));
            }
            for (start, len) in tokenizer.spans_of_word(&piece.bytes[at..end], &self.out.ids[token..]) {
                let bytes = tokenizer.vocab.bytes_of(self.out.ids[token]).unwrap_or_default();
                let (from, to) = (origin_of[start], origin_of[start + len - 1] + 1);
                let origin = source.range(text, range.start + at + from..range.start + at + to);
                self.push_token(bytes, origin);
                token += 1;
            }
            self.words += 1;
            at = end;
        }
    }

    /// Adds the offsets of a token of the vocabulary, given its bytes.
    fn push_token(&mut self, bytes: &[u8], origin: Range<usize>) {
        let leading = bytes.iter().take_while(|&&byte| byte == b' ').count();
        let trailing = bytes.iter().rev().take_while(|&&byte| byte == b' ').count();
        self.push_offsets(origin, leading, trailing);
    }

    /// Adds the offsets of a token, given how many characters of whitespace it begins and ends with. A space that was
    /// put before the text counts for the character that it was put before, as in the reference.
    fn push_offsets(&mut self, range: Range<usize>, leading: usize, trailing: usize) {
        let (mut start, mut end) = (range.start, range.end);
        if let Trim::Spaces { keeps_first } = self.tokenizer.trim {
            let is_first = self.out.offsets.is_empty() || start == 0;
            if leading > 0 && !(is_first && keeps_first && leading == 1) {
                start = self.text[start..end].char_indices().nth(leading).map_or(end, |(at, _)| start + at);
            }
            if trailing > 0 {
                let last = self.text[start..end].char_indices().nth_back(trailing - 1);
                end = last.map_or(start, |(at, _)| start + at);
            }
        }
        self.out.offsets.push((start as u32, end as u32));
        self.out.word_ids.push(self.words);
    }
}

/// Where the bytes of a text, that may have been changed, come from.
#[derive(Clone, Copy)]
struct Source<'a> {
    /// Where the text begins in the one given.
    base: usize,
    /// For each byte the range it comes from, counted from `base`; none if the text was not changed.
    origins: Option<&'a [Range<u32>]>,
}

impl Source<'_> {
    /// What the bytes of `range` come from: whole characters.
    fn range(&self, text: &str, range: Range<usize>) -> Range<usize> {
        let Some(origins) = self.origins else {
            return self.base + floor_char(text, range.start)..self.base + ceil_char(text, range.end);
        };
        let origin = |at: usize| origins.get(at).cloned().unwrap_or_default();
        let last = range.end.max(range.start + 1) - 1;
        self.base + origin(range.start).start as usize..self.base + origin(last).end as usize
    }
}

fn floor_char(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn ceil_char(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}
