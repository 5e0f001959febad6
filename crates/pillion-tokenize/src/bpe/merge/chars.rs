//! Characters whose bytes, or the first two of three, become one symbol before anything around them counts, so that a word can start from
//! them.

use std::collections::HashMap;

use super::{Merges, NO_SYMBOL, Seed, pairs};

/// The symbol of each character of the basic plane, or of its first two bytes, and the bytes beside it for which that is not certain.
#[derive(Default)]
pub(super) struct CharSymbols {
    chars: Vec<CharSymbol>,
    beside: Vec<BytesBeside>,
}

/// A symbol in the low bits, a bit that is set if it is that of the first two of three bytes, and above it the number of the bytes that
/// could interfere.
#[derive(Clone, Copy, PartialEq, Eq)]
struct CharSymbol(u32);

const NO_CHAR: CharSymbol = CharSymbol(u32::MAX);
const NUMBER_AT: u32 = pairs::BITS + 1;
const MAX_BESIDE: usize = 1 << (u32::BITS - NUMBER_AT);
const BASIC: usize = 1 << 16;

impl CharSymbol {
    fn new(symbol: u32, is_part: bool, number: usize) -> Self {
        Self(symbol | u32::from(is_part) << pairs::BITS | (number as u32) << NUMBER_AT)
    }

    #[inline(always)]
    fn symbol(self) -> u32 {
        self.0 & pairs::SYMBOL as u32
    }

    /// Bytes of the character that the symbol leaves out.
    #[inline(always)]
    fn left_out(self) -> usize {
        (self.0 >> pairs::BITS & 1) as usize
    }

    #[inline(always)]
    fn number(self) -> usize {
        (self.0 >> NUMBER_AT) as usize
    }
}

/// The bytes before and after a character that could interfere.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct BytesBeside {
    before: ByteMask,
    after: ByteMask,
}

/// A set of bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct ByteMask([u64; 4]);

impl ByteMask {
    #[inline(always)]
    fn has_any(&self, byte: Option<&u8>) -> bool {
        byte.is_some_and(|&byte| self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 != 0)
    }

    fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }
}

impl CharSymbols {
    /// What the character at `at` of `word` begins as, and its length, if that is certain there. The word may be cut anywhere, also within
    /// a character.
    #[inline(always)]
    pub(super) fn at(&self, word: &[u8], at: usize) -> Option<(Seed, usize)> {
        let (code_point, len) = decode(word.get(at..)?)?;
        let found = *self.chars.get(code_point)?;
        if found == NO_CHAR {
            return None;
        }
        let BytesBeside { before, after } = &self.beside[found.number()];
        let blocked =
            after.has_any(word.get(at + len)) || before.has_any(at.checked_sub(1).and_then(|at| word.get(at)));
        let last = word[at + len - 1];
        (!blocked).then_some((Seed { symbols: [found.symbol(), u32::from(last)], len: 1 + found.left_out() }, len))
    }

    /// Finds the symbols of all characters. `pairs` are those that merge and what they become; `bytes_of` gives a symbol's bytes.
    ///
    /// A character's symbol is certain if each merge within the character ranks before any that could take its first or
    /// last part away, and all of them before any merge of the whole character: then the merges of a word, in the
    /// reference's order, are those within its characters and, in the same order as without them, the others. What
    /// could interfere is a merge with a symbol that ends with the byte before the character, or begins with the one
    /// after it. For the first two bytes of a character that never becomes one symbol the same holds, and what comes after them is known.
    pub(super) fn new<'a>(
        merges: &Merges,
        pairs: &[([u32; 2], u32)],
        bytes_of: impl Fn(u32) -> Option<&'a [u8]>,
    ) -> Self {
        let merges_beside = Beside::new(pairs, bytes_of);
        let none = BytesBeside::default();
        let mut this = Self { chars: vec![NO_CHAR; BASIC], beside: vec![none] };
        let mut numbers = HashMap::from([(none, 0)]);
        for c in (0x80..BASIC as u32).filter_map(char::from_u32) {
            let Some((symbol, is_part, beside)) = merges_beside.symbol_of(merges, c) else { continue };
            let number = *numbers.entry(beside).or_insert(this.beside.len());
            if number == MAX_BESIDE {
                continue;
            }
            if number == this.beside.len() {
                this.beside.push(beside);
            }
            this.chars[c as usize] = CharSymbol::new(symbol, is_part, number);
        }
        this
    }
}

/// The character of two or three bytes with which `bytes` begin, and how many these are.
#[inline(always)]
fn decode(bytes: &[u8]) -> Option<(usize, usize)> {
    let more = |byte: u8| usize::from(byte & 0x3f);
    let is_more = |byte: u8| byte & 0xc0 == 0x80;
    match *bytes {
        [first @ 0xe0..0xf0, second, third, ..] if is_more(second) && is_more(third) => {
            Some((usize::from(first & 0x0f) << 12 | more(second) << 6 | more(third), 3))
        }
        [first @ 0xc2..0xe0, second, ..] if is_more(second) => Some((usize::from(first & 0x1f) << 6 | more(second), 2)),
        _ => None,
    }
}

/// For symbols that are a character or a part of one: which merges they are the right part of, by the last byte of the
/// left part, and the other way round.
struct Beside {
    before: HashMap<u32, Vec<(u8, u32)>>,
    after: HashMap<u32, Vec<(u8, u32)>>,
}

impl Beside {
    fn new<'a>(pairs: &[([u32; 2], u32)], bytes_of: impl Fn(u32) -> Option<&'a [u8]>) -> Self {
        let mut this = Self { before: HashMap::new(), after: HashMap::new() };
        let in_char = |bytes: &[u8]| bytes.len() <= 3 && bytes.iter().all(|&byte| byte >= 0x80);
        for &([left, right], becomes) in pairs {
            let (Some(left_bytes), Some(right_bytes)) = (bytes_of(left), bytes_of(right)) else { continue };
            let (Some(&last), Some(&first)) = (left_bytes.last(), right_bytes.first()) else { continue };
            if in_char(right_bytes) {
                this.before.entry(right).or_default().push((last, becomes));
            }
            if in_char(left_bytes) {
                this.after.entry(left).or_default().push((first, becomes));
            }
        }
        for list in this.before.values_mut().chain(this.after.values_mut()) {
            // The first merge for each byte is enough.
            list.sort_unstable();
            list.dedup_by_key(|entry| entry.0);
        }
        this
    }

    /// The symbol of a character or of its first two bytes, whether it is the latter, and the bytes before and after it that could interfere.
    fn symbol_of(&self, merges: &Merges, c: char) -> Option<(u32, bool, BytesBeside)> {
        let mut buffer = [0; 4];
        let bytes = c.encode_utf8(&mut buffer).as_bytes();
        if merges.loses_from(bytes) {
            return None;
        }
        let mut symbols = [0; 4];
        for (symbol, &byte) in symbols.iter_mut().zip(bytes) {
            *symbol = u32::from(byte);
        }
        let mut beside = BytesBeside::default();
        let (mut len, mut highest) = (bytes.len(), 0);
        while len > 1 {
            let pairs = (0..len - 1).map(|place| (merges.pairs.get(symbols[place], symbols[place + 1]), place));
            let (becomes, place) = pairs.min()?;
            if becomes == NO_SYMBOL {
                return self.part_of(merges, bytes);
            }
            self.block(&mut beside, symbols[0], symbols[len - 1], becomes);
            highest = becomes.max(highest);
            symbols[place] = becomes;
            symbols.copy_within(place + 2.., place + 1);
            len -= 1;
        }
        self.block(&mut beside, symbols[0], symbols[0], highest);
        Some((symbols[0], false, beside))
    }

    /// The same for the first two of a character's three bytes.
    fn part_of(&self, merges: &Merges, bytes: &[u8]) -> Option<(u32, bool, BytesBeside)> {
        let &[first, second, third] = bytes else { return None };
        let [first, second] = [first, second].map(u32::from);
        let symbol = merges.pairs.get(first, second);
        if symbol == NO_SYMBOL {
            return None;
        }
        let mut around = BytesBeside::default();
        self.block(&mut around, first, second, symbol);
        self.block(&mut around, symbol, symbol, symbol);
        let beside = BytesBeside { before: around.before, ..BytesBeside::default() };
        (!around.after.has_any(Some(&third))).then_some((symbol, true, beside))
    }

    /// Adds the bytes beside `first` and `last` that allow a merge of these which makes `highest` or a lower one.
    fn block(&self, BytesBeside { before, after }: &mut BytesBeside, first: u32, last: u32, highest: u32) {
        for (mask, list) in [(before, self.before.get(&first)), (after, self.after.get(&last))] {
            for &(byte, other) in list.into_iter().flatten() {
                if other <= highest {
                    mask.insert(byte);
                }
            }
        }
    }
}
