//! A tokenizer that needs no file: every UTF-8 byte is a token.

use crate::{
    byte_level,
    engine::{EncodeCall, EngineInfo, SpecialTokens, TokenizerEngine, Tokens},
    error::TokenizeError,
    vocabulary::TokenEntry,
};

/// The text of id 256.
pub const END_OF_TEXT: &str = "<|endoftext|>";
const END_OF_TEXT_ID: u32 = 256;

/// Ids 0 to 255 are bytes, 256 is the end of the text.
#[derive(Debug)]
pub struct ByteEngine {
    info: EngineInfo,
}

impl ByteEngine {
    /// The engine; it has no settings.
    pub fn new() -> Self {
        Self { info: EngineInfo { name: "pillion", reason: None } }
    }

    /// Cuts the text at the special token, where it is to be seen.
    fn pieces<'t>(text: &'t str, special: &SpecialTokens, mut piece: impl FnMut(&'t str, usize, bool)) {
        let mut start = 0;
        if special.allows(END_OF_TEXT_ID) {
            for (at, found) in text.match_indices(END_OF_TEXT) {
                if start < at {
                    piece(&text[start..at], start, false);
                }
                piece(found, at, true);
                start = at + found.len();
            }
        }
        if start < text.len() {
            piece(&text[start..], start, false);
        }
    }
}

impl Default for ByteEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl TokenizerEngine for ByteEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn encode_ids(&self, text: &str, call: EncodeCall<'_>, out: &mut Vec<u32>) -> Result<(), TokenizeError> {
        Self::pieces(text, call.special, |piece, _, is_special| {
            if is_special {
                out.push(END_OF_TEXT_ID);
            } else {
                out.extend(piece.bytes().map(u32::from));
            }
        });
        Ok(())
    }

    fn encode_tokens(&self, text: &str, call: EncodeCall<'_>, out: &mut Tokens) -> Result<(), TokenizeError> {
        let mut word = 0;
        Self::pieces(text, call.special, |piece, start, is_special| {
            if is_special {
                out.push(END_OF_TEXT_ID, (start as u32, (start + piece.len()) as u32), word, piece);
            } else {
                // As in byte-level vocabularies, each byte of a character spans the whole character.
                for (at, c) in piece.char_indices() {
                    let span = ((start + at) as u32, (start + at + c.len_utf8()) as u32);
                    for byte in piece[at..at + c.len_utf8()].bytes() {
                        out.push(u32::from(byte), span, word, if byte == b' ' { " " } else { "" });
                    }
                }
            }
            word += 1;
        });
        Ok(())
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        if token == END_OF_TEXT {
            return Some(END_OF_TEXT_ID);
        }
        let mut chars = token.chars();
        let byte = byte_level::byte_of(chars.next()?)?;
        chars.next().is_none().then_some(u32::from(byte))
    }

    fn bytes_per_token(&self) -> usize {
        100
    }

    fn vocabulary(&self) -> Vec<TokenEntry> {
        let bytes = (0..=255u8).map(|b| TokenEntry {
            id: u32::from(b),
            text: byte_level::char_of(b).to_string(),
            special: false,
        });
        bytes.chain([TokenEntry { id: END_OF_TEXT_ID, text: END_OF_TEXT.to_owned(), special: true }]).collect()
    }
}
