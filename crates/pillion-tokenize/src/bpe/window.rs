//! The next bytes of a text, of which all pre-tokens are found at once: each question that a pattern asks of a character is
//! asked of sixty-four together, and answered with a bit for each, the first in the lowest bit.
//!
//! That runs of anything can be found by adding, and starts of runs by shifting, is well known from parsers of JSON and of
//! CSV that work on 64 bytes at a time (Langdale and Lemire, "Parsing gigabytes of JSON per second", 2019).

use super::simd::{self, Block};
use super::word::{KEY_BYTES, ShortKey};

/// What is loaded: the bytes that are looked at, and behind them those of which a key may take a part.
const BYTES: usize = simd::BYTES + KEY_BYTES;

/// The bytes from a place in a text that begins a pre-token. They end with bytes that are not ASCII where the text ends.
pub(super) struct Window<'a, B> {
    bytes: &'a [u8; BYTES],
    block: B,
}

/// Texts that end sooner are not worth it.
const FEWEST: usize = 16;

/// Where the last bytes of a text are copied to, which are too few.
pub(super) struct Tail([u8; BYTES]);

impl Tail {
    pub(super) fn new() -> Self {
        Self([0xff; BYTES])
    }
}

impl<'a, B: Block> Window<'a, B> {
    /// The bytes from `start` on, if they are worth looking at together: at least sixteen, and those ASCII.
    #[inline(always)]
    pub(super) fn load(bytes: &'a [u8], start: usize, tail: &'a mut Tail) -> Option<Self> {
        let rest = bytes.get(start..)?;
        let bytes = match rest.first_chunk::<BYTES>() {
            Some(bytes) => bytes,
            None if rest.len() < FEWEST => return None,
            None => {
                tail.0.fill(0xff);
                let len = rest.len().min(BYTES);
                tail.0[..len].copy_from_slice(&rest[..len]);
                &tail.0
            }
        };
        let (block, _) = bytes.split_first_chunk::<{ simd::BYTES }>()?;
        let block = B::load(block);
        (block.wide() as u16 == 0).then_some(Self { bytes, block })
    }

    /// The key of `from..to`, two places in the first sixty-four bytes; [`ShortKey::NONE`] if that is too long for one.
    #[inline(always)]
    pub(super) fn key(&self, from: usize, to: usize) -> ShortKey {
        let from = from & (simd::BYTES - 1);
        match self.bytes[from..].first_chunk::<KEY_BYTES>() {
            Some(bytes) => ShortKey::of_first(*bytes, to - from),
            None => ShortKey::NONE,
        }
    }

    #[inline(always)]
    pub(super) fn byte(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or_default()
    }

    #[inline(always)]
    pub(super) fn kinds(&self) -> Kinds {
        let block = self.block;
        let (letters, numbers) = (block.lowercase().within(b'a', b'z'), block.within(b'0', b'9'));
        let newlines = block.is(b'\n') | block.is(b'\r');
        let spaces = block.is(b' ');
        let blanks = spaces | block.within(b'\t', b'\r') & !newlines;
        let wide = block.wide();
        let symbols = !(letters | numbers | newlines | blanks | wide);
        Kinds { letters, numbers, newlines, spaces, blanks, symbols, num_known: wide.trailing_zeros() }
    }

    #[inline(always)]
    pub(super) fn apostrophes(&self) -> u64 {
        self.block.is(b'\'')
    }

    #[inline(always)]
    pub(super) fn slashes(&self) -> u64 {
        self.block.is(b'/')
    }

    #[inline(always)]
    pub(super) fn uppercase(&self) -> u64 {
        self.block.within(b'A', b'Z')
    }

    /// Characters that are neither whitespace nor printed.
    #[inline(always)]
    pub(super) fn controls(&self) -> u64 {
        !(self.block.within(b' ', b'~') | self.block.within(b'\t', b'\r'))
    }
}

/// What the bytes are. Every one before the first that is not ASCII is of one kind, and spaces are blanks besides.
#[derive(Clone, Copy)]
pub(super) struct Kinds {
    pub(super) letters: u64,
    pub(super) numbers: u64,
    pub(super) newlines: u64,
    pub(super) spaces: u64,
    /// Whitespace that is no newline.
    pub(super) blanks: u64,
    pub(super) symbols: u64,
    /// Bytes before the first that is not ASCII; what comes after is not told.
    pub(super) num_known: u32,
}

/// The bits below `at`.
#[inline(always)]
pub(super) fn below(at: u32) -> u64 {
    1_u64.checked_shl(at).map_or(u64::MAX, |bit| bit - 1)
}

/// The bits of those runs of `bits` that begin where `starts` has a bit.
#[inline(always)]
pub(super) fn runs_from(starts: u64, bits: u64) -> u64 {
    bits & !bits.wrapping_add(starts)
}

/// Where a run of numbers is cut, every three or every one.
#[inline(always)]
pub(super) fn number_starts<const MAX: usize>(numbers: u64) -> u64 {
    if MAX == 1 {
        return numbers;
    }
    let mut starts = numbers & !(numbers << 1);
    let mut last = starts;
    loop {
        last = (last << 3) & numbers & (numbers << 1) & (numbers << 2);
        if last == 0 {
            return starts;
        }
        starts |= last;
    }
}

/// Where pre-tokens begin in a window, and up to where that is sure.
#[derive(Clone, Copy)]
pub(super) struct Starts {
    pub(super) bits: u64,
    pub(super) limit: u32,
}

impl Starts {
    #[inline(always)]
    pub(super) fn sure(self) -> u64 {
        self.bits & below(self.limit) & !1
    }
}

/// Where whitespace begins that `\s*[\r\n]+|\s+(?!\S)|\s+` matches, `absorbed` newlines aside, which belong to what is before
/// them. Before what is in `ends` a text counts as ended.
#[inline(always)]
pub(super) fn whitespace_starts(kinds: &Kinds, absorbed: u64, ends: u64) -> Starts {
    let Kinds { newlines, blanks, num_known, .. } = *kinds;
    let whitespace = newlines | blanks;
    let after_newline = (newlines << 1) & blanks;
    // The last blank goes with what follows.
    let last = blanks & !((whitespace | ends) >> 1);
    let bits = whitespace & !(whitespace << 1) & !absorbed | after_newline | last;
    // What comes after the last byte is not known, nor whether blanks that go on until there are before a newline.
    let trailing = (blanks << (64 - num_known)).leading_ones();
    let mut limit = (num_known - 1).min(num_known - trailing);
    // Blanks between newlines do not begin anything.
    let between = after_newline.wrapping_add(blanks) & !blanks & newlines;
    if between != 0 {
        let first = after_newline & below(between.trailing_zeros());
        limit = limit.min(63_u32.saturating_sub(first.leading_zeros()));
    }
    Starts { bits, limit }
}
