//! Texts as callers hold them: UTF-8 or UTF-16, apart or in one arena.

use std::borrow::Cow;

use encoding_rs::mem::convert_utf16_to_str;

use crate::error::TokenizeError;

/// One text, wherever its memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text<'a> {
    /// UTF-8 that is known to be valid.
    Utf8(&'a str),
    /// UTF-8 that is checked when it is read; invalid bytes are an error that says where.
    Utf8Bytes(&'a [u8]),
    /// UTF-16; a surrogate that stands alone becomes U+FFFD, which is one unit too, so offsets stay true.
    Utf16(&'a [u16]),
}

impl<'a> Text<'a> {
    /// The text as UTF-8.
    pub fn to_str(self) -> Result<Cow<'a, str>, TokenizeError> {
        match self {
            Self::Utf8(text) => Ok(Cow::Borrowed(text)),
            Self::Utf8Bytes(bytes) => checked(bytes).map(Cow::Borrowed),
            Self::Utf16(units) => Ok(Cow::Owned(utf16_to_string(units))),
        }
    }

    /// The text as UTF-8, in `room` where it is not UTF-8 yet: saves making room for each of many texts.
    pub fn to_str_in<'b>(self, room: &'b mut TextRoom) -> Result<&'b str, TokenizeError>
    where
        'a: 'b,
    {
        match self {
            Self::Utf16(units) => Ok(room.text_of(units)),
            Self::Utf8(text) => Ok(text),
            Self::Utf8Bytes(bytes) => checked(bytes),
        }
    }

    /// Its length in its own units: bytes, or UTF-16 units. What chunks of work are measured by.
    pub fn len(self) -> usize {
        match self {
            Self::Utf8(text) => text.len(),
            Self::Utf8Bytes(bytes) => bytes.len(),
            Self::Utf16(units) => units.len(),
        }
    }

    /// Whether there is no text.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

fn checked(bytes: &[u8]) -> Result<&str, TokenizeError> {
    std::str::from_utf8(bytes).map_err(|e| {
        let got = format!("an invalid byte at {}", e.valid_up_to());
        TokenizeError::argument("text", "valid UTF-8", got)
    })
}

/// UTF-16 as a string; surrogates that stand alone become U+FFFD.
pub fn utf16_to_string(units: &[u16]) -> String {
    let mut text = String::new();
    let len = utf16_into(units, &mut text);
    text.truncate(len);
    text
}

/// The most bytes of UTF-8 that a UTF-16 unit becomes.
const MAX_BYTES: usize = 3;

/// Writes UTF-16 as UTF-8 to the beginning of `room`, which it may make longer; gives how many bytes these are.
fn utf16_into(units: &[u16], room: &mut String) -> usize {
    let needed = MAX_BYTES * units.len();
    if room.len() < needed {
        *room = "\0".repeat(needed);
    }
    convert_utf16_to_str(units, room)
}

/// Room for one text after the other that has to become UTF-8.
#[derive(Debug, Default)]
pub struct TextRoom {
    /// ASCII, which most texts in English and in code are, takes a way of its own, in less than half the time.
    ascii: Vec<u8>,
    text: String,
}

impl TextRoom {
    /// Forgets its memory if that has become more than so many bytes.
    pub fn shrink(&mut self, max: usize) {
        if self.ascii.len().max(self.text.len()) > max {
            *self = Self::default();
        }
    }

    fn text_of(&mut self, units: &[u16]) -> &str {
        let Self { ascii, text } = self;
        if narrow(units, ascii)
            && let Ok(text) = std::str::from_utf8(&ascii[..units.len()])
        {
            return text;
        }
        let len = utf16_into(units, text);
        &text[..len]
    }
}

/// Units that are narrowed before it is asked whether they were ASCII.
const NARROW: usize = 64;

/// Writes UTF-16 to the beginning of `bytes`, as far as it is ASCII; gives whether all is.
fn narrow(units: &[u16], bytes: &mut Vec<u8>) -> bool {
    let mut start = 0;
    units.chunks(NARROW).all(|units| {
        let end = start + units.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        // A plain loop that the compiler makes vector instructions of.
        let mut any = 0;
        for (&unit, byte) in units.iter().zip(&mut bytes[start..end]) {
            any |= unit;
            *byte = unit as u8;
        }
        start = end;
        any < 0x80
    })
}

/// The texts of a batch.
pub trait BatchInput: Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// One of them, and the second text if it is a pair.
    fn get(&self, index: usize) -> (Text<'_>, Option<Text<'_>>);

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: AsRef<str> + Sync> BatchInput for [T] {
    fn len(&self) -> usize {
        self.len()
    }

    fn get(&self, index: usize) -> (Text<'_>, Option<Text<'_>>) {
        (Text::Utf8(self[index].as_ref()), None)
    }
}

/// Pairs of texts.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a>(pub &'a [(&'a str, &'a str)]);

impl BatchInput for Pairs<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, index: usize) -> (Text<'_>, Option<Text<'_>>) {
        let (first, second) = self.0[index];
        (Text::Utf8(first), Some(Text::Utf8(second)))
    }
}

/// Owned texts in two arenas, as they come over a border: made with one call per text, read by any thread.
#[derive(Clone, Debug, Default)]
pub struct TextArena {
    utf16: Units<u16>,
    utf8: Units<u8>,
    items: Vec<Item>,
}

/// Units of texts one after another. What is forgotten stays written, so that memory is cleared once and not for each text.
#[derive(Clone, Debug, Default)]
struct Units<T> {
    memory: Vec<T>,
    used: usize,
}

impl<T: Copy + Default> Units<T> {
    /// Adds what `write` fills in of `len` units; it returns how many these are. Gives where they begin and end.
    fn push_with(&mut self, len: usize, write: impl FnOnce(&mut [T]) -> usize) -> (usize, usize) {
        let start = self.used;
        if self.memory.len() < start + len {
            self.memory.resize(start + len, T::default());
        }
        self.used += write(&mut self.memory[start..start + len]).min(len);
        (start, self.used)
    }

    fn push(&mut self, units: &[T]) -> (usize, usize) {
        self.push_with(units.len(), |room| {
            room.copy_from_slice(units);
            units.len()
        })
    }

    fn clear(&mut self, max_kept: usize) {
        self.used = 0;
        self.memory.truncate(max_kept);
        self.memory.shrink_to(max_kept);
    }
}

#[derive(Clone, Copy, Debug)]
struct Item {
    first: Span,
    second: Option<Span>,
}

#[derive(Clone, Copy, Debug)]
enum Span {
    Utf16(usize, usize),
    Utf8(usize, usize),
}

impl TextArena {
    /// An empty arena with room for `texts` texts of `units` UTF-16 units in all.
    pub fn with_capacity(texts: usize, units: usize) -> Self {
        let utf16 = Units { memory: Vec::with_capacity(units), used: 0 };
        Self { utf16, utf8: Units::default(), items: Vec::with_capacity(texts) }
    }

    /// How many UTF-16 units and bytes it holds.
    pub fn units(&self) -> usize {
        self.utf16.used + self.utf8.used
    }

    /// Forgets the text that was pushed last.
    pub fn pop(&mut self) {
        let Some(Item { first, second }) = self.items.pop() else { return };
        for span in [Some(first), second].into_iter().flatten() {
            match span {
                Span::Utf16(start, _) => self.utf16.used = self.utf16.used.min(start),
                Span::Utf8(start, _) => self.utf8.used = self.utf8.used.min(start),
            }
        }
    }

    /// Forgets all texts; keeps their memory, unless they were long.
    pub fn clear(&mut self) {
        const MAX_KEPT: usize = 1 << 20;
        self.utf16.clear(MAX_KEPT);
        self.utf8.clear(MAX_KEPT);
        self.items.clear();
    }

    /// Adds a text.
    pub fn push(&mut self, text: Text<'_>) {
        let first = self.store(text);
        self.items.push(Item { first, second: None });
    }

    /// Adds a pair.
    pub fn push_pair(&mut self, first: Text<'_>, second: Text<'_>) {
        let first = self.store(first);
        let second = Some(self.store(second));
        self.items.push(Item { first, second });
    }

    /// Adds a text of `units` UTF-16 units that `write` fills in; it returns how many it wrote. Saves a copy where the source can
    /// only write into a buffer.
    pub fn push_utf16_with(&mut self, units: usize, write: impl FnOnce(&mut [u16]) -> usize) {
        let (start, end) = self.utf16.push_with(units, write);
        self.items.push(Item { first: Span::Utf16(start, end), second: None });
    }

    /// [`TextArena::push_utf16_with`] for `bytes` bytes of UTF-8, which are checked when they are read.
    pub fn push_utf8_with(&mut self, bytes: usize, write: impl FnOnce(&mut [u8]) -> usize) {
        let (start, end) = self.utf8.push_with(bytes, write);
        self.items.push(Item { first: Span::Utf8(start, end), second: None });
    }

    /// Makes the text pushed last a part of the one before it, for texts that come in pieces of one kind. Texts of two kinds stay apart.
    pub fn join_last(&mut self) {
        let [.., before, last] = self.items.as_mut_slice() else { return };
        let joined = match (before.first, last.first) {
            (Span::Utf16(start, end), Span::Utf16(next, last)) if end == next => Span::Utf16(start, last),
            (Span::Utf8(start, end), Span::Utf8(next, last)) if end == next => Span::Utf8(start, last),
            _ => return,
        };
        before.first = joined;
        self.items.pop();
    }

    /// Takes the last text apart again, if it is UTF-8: `bounds` are where its parts begin and where the last one ends, counted from its
    /// own beginning.
    pub fn split_last(&mut self, bounds: &[u32]) -> Result<(), TokenizeError> {
        let Some(Item { first: Span::Utf8(start, end), .. }) = self.items.pop() else {
            return Err(TokenizeError::argument("bytes", "a Uint8Array with UTF-8", "a string"));
        };
        for (at, pair) in bounds.windows(2).enumerate() {
            if pair[0] > pair[1] || pair[1] as usize > end - start {
                let expected = format!("ascending and at most the {} bytes there are", end - start);
                let got = format!("{} and {} at {at}", pair[0], pair[1]);
                return Err(TokenizeError::argument("rowOffsets", expected, got));
            }
        }
        let span = |pair: &[u32]| Span::Utf8(start + pair[0] as usize, start + pair[1] as usize);
        self.items.extend(bounds.windows(2).map(|pair| Item { first: span(pair), second: None }));
        Ok(())
    }

    /// Joins the last text to the one before it as its pair.
    pub fn join_last_pair(&mut self) {
        if self.items.len() >= 2
            && let Some(last) = self.items.pop()
            && let Some(before) = self.items.last_mut()
        {
            before.second = Some(last.first);
        }
    }

    fn store(&mut self, text: Text<'_>) -> Span {
        let utf8 = |(start, end)| Span::Utf8(start, end);
        match text {
            Text::Utf16(units) => {
                let (start, end) = self.utf16.push(units);
                Span::Utf16(start, end)
            }
            Text::Utf8(text) => utf8(self.utf8.push(text.as_bytes())),
            Text::Utf8Bytes(bytes) => utf8(self.utf8.push(bytes)),
        }
    }

    fn text(&self, span: Span) -> Text<'_> {
        match span {
            Span::Utf16(start, end) => Text::Utf16(&self.utf16.memory[start..end]),
            Span::Utf8(start, end) => Text::Utf8Bytes(&self.utf8.memory[start..end]),
        }
    }
}

impl BatchInput for TextArena {
    fn len(&self) -> usize {
        self.items.len()
    }

    fn get(&self, index: usize) -> (Text<'_>, Option<Text<'_>>) {
        let item = self.items[index];
        (self.text(item.first), item.second.map(|span| self.text(span)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn utf16_is_what_the_standard_library_says(units in prop::collection::vec(prop_oneof![
            0u16..0x80, 0xD800u16..0xE000, any::<u16>(),
        ], 0..40), ascii in 0usize..100) {
            let units = [vec![0x61; ascii], units, vec![0x62; ascii]].concat();
            let expected = String::from_utf16_lossy(&units);
            prop_assert_eq!(&utf16_to_string(&units), &expected);
            let mut room = TextRoom::default();
            for before in ["", "what was there before", &"was war da?".repeat(30), "früher"] {
                let before: Vec<u16> = before.encode_utf16().collect();
                Text::Utf16(&before).to_str_in(&mut room).unwrap();
                prop_assert_eq!(Text::Utf16(&units).to_str_in(&mut room).unwrap(), &expected);
            }
        }
    }

    #[test]
    fn an_arena_gives_back_what_it_was_given() {
        let mut arena = TextArena::with_capacity(4, 8);
        let hello: Vec<u16> = "héllo".encode_utf16().collect();
        arena.push(Text::Utf16(&hello));
        arena.push_pair(Text::Utf8Bytes("a€".as_bytes()), Text::Utf16(&[0xD800, 0x61]));
        arena.push_utf16_with(5, |buffer| {
            buffer[..2].copy_from_slice(&[0x68, 0x69]);
            2
        });
        arena.push(Text::Utf8("second"));
        arena.join_last_pair();
        let read = |i: usize| {
            let (first, second) = arena.get(i);
            (first.to_str().unwrap().into_owned(), second.map(|t| t.to_str().unwrap().into_owned()))
        };
        assert_eq!(arena.len(), 3);
        assert_eq!(read(0), ("héllo".into(), None));
        assert_eq!(read(1), ("a€".into(), Some("\u{fffd}a".into())));
        assert_eq!(read(2), ("hi".into(), Some("second".into())));
        arena.clear();
        assert!(arena.is_empty());
        arena.push(Text::Utf16(&hello));
        assert_eq!(arena.get(0), (Text::Utf16(&hello), None));
    }

    #[test]
    fn texts_may_come_in_pieces_and_be_taken_apart() {
        let mut arena = TextArena::default();
        // A surrogate pair and a character of three bytes, each over two pieces.
        arena.push(Text::Utf16(&[0x61, 0xD83C]));
        arena.push(Text::Utf16(&[0xDF0D]));
        arena.join_last();
        arena.push(Text::Utf8Bytes(b"ab\xE2"));
        arena.push_utf8_with(9, |buffer| {
            buffer[..3].copy_from_slice(b"\x82\xACd");
            3
        });
        arena.join_last();
        let read = |arena: &TextArena, i: usize| arena.get(i).0.to_str().unwrap().into_owned();
        assert_eq!((arena.len(), read(&arena, 0), read(&arena, 1)), (2, "a\u{1f30d}".into(), "ab€d".into()));
        // A string and bytes do not join.
        arena.push(Text::Utf16(&[0x61]));
        arena.join_last();
        assert_eq!(arena.len(), 3);
        assert!(arena.split_last(&[0, 1]).is_err(), "no bytes");

        arena.split_last(&[0, 2, 2, 5, 6]).unwrap();
        assert_eq!(arena.len(), 5);
        assert_eq!([1, 2, 3, 4].map(|i| read(&arena, i)), ["ab", "", "€", "d"]);
        for bad in [&[0, 7][..], &[2, 1], &[0, u32::MAX]] {
            let mut arena = TextArena::default();
            arena.push(Text::Utf8Bytes(b"abcdef"));
            assert!(arena.split_last(bad).unwrap_err().to_string().starts_with("rowOffsets must be"), "{bad:?}");
        }
    }

    #[test]
    fn invalid_utf8_is_named_by_place() {
        let error = Text::Utf8Bytes(b"ok\xFFno").to_str().unwrap_err();
        assert_eq!(error.to_string(), "text must be valid UTF-8, got an invalid byte at 2");
    }
}
