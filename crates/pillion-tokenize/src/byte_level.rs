//! The alphabet of byte-level vocabularies: one printable character for each byte.

/// The character that stands for a byte.
pub fn char_of(byte: u8) -> char {
    CHARS[byte as usize]
}

/// The byte that a character stands for.
pub fn byte_of(c: char) -> Option<u8> {
    BYTES.get(c as usize).copied().flatten()
}

/// Appends what a token text stands for: its bytes if every character is of the alphabet, else the text itself.
pub fn push_bytes(token: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for c in token.chars() {
        let Some(byte) = byte_of(c) else {
            out.truncate(start);
            out.extend_from_slice(token.as_bytes());
            return;
        };
        out.push(byte);
    }
}

const fn is_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

const CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let mut next = 256u32;
    let mut b = 0usize;
    while b < 256 {
        let code = if is_itself(b as u8) {
            b as u32
        } else {
            next += 1;
            next - 1
        };
        chars[b] = match char::from_u32(code) {
            Some(c) => c,
            None => panic!("codes below 324 are characters"),
        };
        b += 1;
    }
    chars
};

const BYTES: [Option<u8>; 324] = {
    let mut bytes = [None; 324];
    let mut b = 0usize;
    while b < 256 {
        bytes[CHARS[b] as usize] = Some(b as u8);
        b += 1;
    }
    bytes
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_the_well_known_one() {
        assert_eq!(char_of(b' '), 'Ġ');
        assert_eq!(char_of(b'\n'), 'Ċ');
        assert_eq!(char_of(b'a'), 'a');
        assert_eq!(char_of(0), 'Ā');
        assert_eq!(char_of(0xAD), '\u{143}');
        for b in 0..=255 {
            assert_eq!(byte_of(char_of(b)), Some(b));
        }
        assert_eq!(byte_of(' '), None);
        assert_eq!(byte_of('▁'), None);
    }

    #[test]
    fn one_foreign_character_makes_the_token_itself() {
        let bytes = |token| {
            let mut out = vec![b'>'];
            push_bytes(token, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(bytes("ĠHi"), "> Hi");
        assert_eq!(bytes("ĠHi there"), ">ĠHi there");
    }
}
