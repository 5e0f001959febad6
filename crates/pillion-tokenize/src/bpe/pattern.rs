//! The split patterns that have a scanner, recognised by their exact text.

use super::scan::{Cl100k, DeepSeek, Gpt2, O200k, Whole};

/// Which scanner finds the pre-tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    Whole,
    Gpt2,
    Gpt2Digits,
    Cl100k,
    Qwen2,
    Qwen35,
    O200k,
    Tekken,
    DeepSeek,
}

pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const GPT2_SHORT: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
pub(super) const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
pub(super) const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
pub(super) const DEEPSEEK: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"##,
        r"\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];

/// A `Split` of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) regex: String,
    /// Whether the pieces between matches are dropped rather than kept.
    pub(super) drops_rest: bool,
}

impl Pattern {
    /// The scanner that does the same as `splits`, one after the other.
    pub(super) fn of_splits(splits: &[Split]) -> Option<Self> {
        let regexes: Vec<String> = splits.iter().map(|split| escape_newlines(&split.regex)).collect();
        let regexes: Vec<&str> = regexes.iter().map(String::as_str).collect();
        let pattern = match regexes[..] {
            [GPT2 | GPT2_SHORT] => Self::Gpt2,
            [CL100K] => Self::Cl100k,
            [QWEN2] => Self::Qwen2,
            [QWEN35] => Self::Qwen35,
            [O200K] => Self::O200k,
            [TEKKEN] => Self::Tekken,
            _ if regexes == DEEPSEEK => Self::DeepSeek,
            _ => return None,
        };
        // All but DeepSeek's match every character, so that nothing is left to drop.
        let covers = pattern != Self::DeepSeek;
        (covers || splits.iter().all(|split| !split.drops_rest)).then_some(pattern)
    }
}

/// Some files hold the newlines themselves in place of their escapes; to the regex both are the same.
fn escape_newlines(regex: &str) -> String {
    regex.replace('\r', r"\r").replace('\n', r"\n")
}

/// Evaluates `$body` with `$scanner` bound to the scanner of `$pattern`, compiled for each.
macro_rules! with_scanner {
    ($pattern:expr, $scanner:ident => $body:expr) => {{
        use $crate::bpe::pattern::{Pattern, scanners};
        match $pattern {
            Pattern::Whole => {
                let $scanner = scanners::WHOLE;
                $body
            }
            Pattern::Gpt2 => {
                let $scanner = scanners::GPT2;
                $body
            }
            Pattern::Gpt2Digits => {
                let $scanner = scanners::GPT2_DIGITS;
                $body
            }
            Pattern::Cl100k => {
                let $scanner = scanners::CL100K;
                $body
            }
            Pattern::Qwen2 => {
                let $scanner = scanners::QWEN2;
                $body
            }
            Pattern::Qwen35 => {
                let $scanner = scanners::QWEN35;
                $body
            }
            Pattern::O200k => {
                let $scanner = scanners::O200K;
                $body
            }
            Pattern::Tekken => {
                let $scanner = scanners::TEKKEN;
                $body
            }
            Pattern::DeepSeek => {
                let $scanner = scanners::DEEPSEEK;
                $body
            }
        }
    }};
}
pub(super) use with_scanner;

pub(super) mod scanners {
    use super::{Cl100k, DeepSeek, Gpt2, O200k, Whole};

    pub(in crate::bpe) const WHOLE: Whole = Whole;
    pub(in crate::bpe) const GPT2: Gpt2<false> = Gpt2;
    pub(in crate::bpe) const GPT2_DIGITS: Gpt2<true> = Gpt2;
    pub(in crate::bpe) const CL100K: Cl100k<3, false> = Cl100k;
    pub(in crate::bpe) const QWEN2: Cl100k<1, false> = Cl100k;
    pub(in crate::bpe) const QWEN35: Cl100k<1, true> = Cl100k;
    pub(in crate::bpe) const O200K: O200k<3, true> = O200k;
    pub(in crate::bpe) const TEKKEN: O200k<1, false> = O200k;
    pub(in crate::bpe) const DEEPSEEK: DeepSeek = DeepSeek;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(regexes: &[&str], drops_rest: bool, expected: Option<Pattern>) {
        let splits: Vec<Split> = regexes.iter().map(|&regex| Split { regex: regex.to_owned(), drops_rest }).collect();
        assert_eq!(Pattern::of_splits(&splits), expected, "{regexes:?}");
    }

    #[test]
    fn only_exact_patterns_are_known() {
        check(&[CL100K], false, Some(Pattern::Cl100k));
        check(&[O200K], true, Some(Pattern::O200k));
        check(&DEEPSEEK, false, Some(Pattern::DeepSeek));
        check(&DEEPSEEK, true, None);
        check(&DEEPSEEK[..2], false, None);
        check(&[&CL100K.replace(r"[\r\n]", "[\r\n]")], false, Some(Pattern::Cl100k));
        check(&[&CL100K[1..]], false, None);
        check(&[&CL100K.replace("{1,3}", "{1,4}")], false, None);
        check(&[GPT2, CL100K], false, None);
        check(&[], false, None);
        check(&[r"\s+"], false, None);
    }
}
