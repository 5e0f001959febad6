//! The characters that stand for the 256 bytes in a byte-level vocabulary.

/// The character that stands for each byte: itself where it prints, else one from U+0100 on.
pub(super) const CHARS: [char; 256] = chars();

/// The byte of each character below U+0144.
const BYTES: [Option<u8>; 0x144] = bytes();

const fn chars() -> [char; 256] {
    let mut chars = ['\0'; 256];
    let (mut byte, mut next) = (0, 0x100);
    while byte < 256 {
        let prints = matches!(byte as u8, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let code_point = if prints { byte as u32 } else { next };
        next += !prints as u32;
        chars[byte] = match char::from_u32(code_point) {
            Some(c) => c,
            None => '\0',
        };
        byte += 1;
    }
    chars
}

const fn bytes() -> [Option<u8>; 0x144] {
    let mut bytes = [None; 0x144];
    let mut byte = 0;
    while byte < 256 {
        bytes[CHARS[byte] as usize] = Some(byte as u8);
        byte += 1;
    }
    bytes
}

/// The bytes that `token` stands for, or none if a character of it stands for no byte.
pub(super) fn to_bytes(token: &str) -> Option<Vec<u8>> {
    token.chars().map(|c| BYTES.get(c as usize).copied().flatten()).collect()
}

/// The characters that stand for `bytes`.
pub(super) fn to_token(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| CHARS[usize::from(byte)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        let all: Vec<u8> = (0..=255).collect();
        let token = to_token(&all);
        assert_eq!(to_bytes(&token), Some(all));
        assert_eq!(token.chars().count(), 256);
        assert_eq!(to_token(b" \n\0a"), "\u{120}\u{10a}\u{100}a");
        assert_eq!(to_token("é".as_bytes()), "Ã©");
    }

    #[test]
    fn other_characters_stand_for_nothing() {
        for token in [" ", "a b", "\u{a0}", "\u{ad}", "\u{144}", "▁a", "\u{10ffff}"] {
            assert_eq!(to_bytes(token), None, "{token:?}");
        }
    }
}
