//! Everything that encoding and decoding give, compared with the reference crate on random texts.
#![expect(clippy::unwrap_used, clippy::cast_possible_wrap, reason = "helpers of tests")]

mod common;

use std::sync::LazyLock;

use common::{Case, cases, texts};
use pillion_tokenize::{
    Columns, DecodeOptions, EncodeOptions, Encoding, OffsetUnit, ParseSpecialTokens, Side, Text, TextArena, Truncation,
    TruncationStrategy,
};
use proptest::prelude::*;
use tokenizers::{
    EncodeInput, TruncationDirection, TruncationParams,
    utils::truncation::{self, truncate_encodings},
};

static CASES: LazyLock<Vec<Case>> = LazyLock::new(cases);

fn options(add_special_tokens: bool) -> EncodeOptions {
    EncodeOptions {
        columns: Columns::all(),
        add_special_tokens,
        parse_special_tokens: ParseSpecialTokens::All,
        offset_unit: OffsetUnit::CodePoint,
        ..EncodeOptions::default()
    }
}

/// The reference's columns in our shapes.
fn columns(encoding: &tokenizers::Encoding) -> Encoding {
    let bytes = |column: &[u32]| Some(column.iter().map(|v| u8::try_from(*v).unwrap()).collect());
    Encoding {
        ids: encoding.get_ids().to_vec(),
        columns: pillion_tokenize::ColumnData {
            offsets: Some(encoding.get_offsets().iter().flat_map(|o| [o.0 as u32, o.1 as u32]).collect()),
            attention_mask: bytes(encoding.get_attention_mask()),
            special_tokens_mask: bytes(encoding.get_special_tokens_mask()),
            type_ids: bytes(encoding.get_type_ids()),
            word_ids: Some(encoding.get_word_ids().iter().map(|w| w.map_or(-1, |w| w as i32)).collect()),
        },
    }
}

fn check_encode(case: &Case, text: &str, pair: Option<&str>, add_special_tokens: bool) -> Result<(), TestCaseError> {
    let input: EncodeInput<'_> = match pair {
        Some(pair) => (text, pair).into(),
        None => text.into(),
    };
    let expected = columns(&case.reference.encode_char_offsets(input, add_special_tokens).unwrap());
    let options = options(add_special_tokens);
    let ours = match pair {
        Some(pair) => case.ours.encode_pair(text, pair, &options),
        None => case.ours.encode(text, &options),
    };
    prop_assert_eq!(ours.unwrap(), expected, "{} {:?} {:?} {}", case.name, text, pair, add_special_tokens);
    Ok(())
}

#[test]
fn each_file_runs_on_the_engine_that_fits_it() {
    let engines: Vec<(&str, &str)> = CASES.iter().map(|case| (case.name, case.ours.engine().name)).collect();
    assert_eq!(
        engines[..5],
        [
            ("byte_level_bpe", "pillion"),
            ("roberta", "pillion"),
            ("word_piece", "tokenizers"),
            ("unigram", "tokenizers"),
            ("llama2", "tokenizers"),
        ]
    );
    assert!(engines[5..].iter().all(|(_, engine)| *engine == "tokenizers") && engines.len() == 7);
    for case in CASES.iter() {
        assert_eq!(case.ours.engine().reason.is_some(), case.ours.engine().name == "tokenizers", "{}", case.name);
    }
}

#[test]
fn long_runs_equal_the_reference() {
    for case in CASES.iter() {
        for run in ["a", " ", "\n", "_", "猫", "e\u{301}", "9", " \n", "ab", "😀"] {
            let text = run.repeat(5_000);
            let expected = case.reference.encode_fast(text.as_str(), false).unwrap();
            assert!(case.ours.encode_ids(&text, false).unwrap() == expected.get_ids(), "{} {run:?}", case.name);
        }
    }
}

proptest! {
    #![proptest_config(common::config(150))]

    #[test]
    fn every_column_equals_the_reference(text in texts(), pair in prop::option::of(texts()), add: bool) {
        for case in CASES.iter() {
            check_encode(case, &text, pair.as_deref(), add)?;
        }
    }

    #[test]
    fn special_tokens_in_text_are_text_unless_asked_for(text in texts(), chosen in 0usize..4) {
        for case in CASES.iter() {
            let mut blind = case.reference.clone();
            blind.set_encode_special_tokens(true);
            let expected = blind.encode_fast(text.as_str(), true).unwrap();
            prop_assert_eq!(&case.ours.encode_ids(&text, true).unwrap(), expected.get_ids(), "{} {:?}", case.name, text);

            // A list: what stands between the chosen token is blind to the others.
            let specials: Vec<u32> = case.ours.special_ids().iter().copied().filter(|id| !unknown(case, *id)).collect();
            let id = specials[chosen % specials.len()];
            let token = case.ours.id_to_token(id).unwrap().to_owned();
            let mut options = options(false);
            options.parse_special_tokens = ParseSpecialTokens::Only(vec![token.clone()]);
            let ids = case.ours.encode(&text, &options).unwrap().ids;
            prop_assert_eq!(ids.contains(&id), text.contains(&token), "{} {:?} {:?}", case.name, text, token);
            prop_assert!(specials.iter().all(|s| *s == id || !ids.contains(s)), "{} {:?}", case.name, text);
        }
    }

    #[test]
    fn truncated_rows_equal_the_reference(
        text in texts(), pair in prop::option::of(texts()), add: bool, max_length in 0usize..14, stride in 0usize..5,
        left: bool, strategy in 0usize..3, overflow: bool,
    ) {
        let strategies = [TruncationStrategy::LongestFirst, TruncationStrategy::OnlyFirst, TruncationStrategy::OnlySecond];
        let truncation = Truncation {
            max_length, stride, overflow,
            side: if left { Side::Left } else { Side::Right },
            strategy: strategies[strategy],
        };
        for case in CASES.iter() {
            check_truncation(case, &text, pair.as_deref(), add, &truncation)?;
        }
    }

    #[test]
    fn units_point_at_the_same_text(text in texts(), pair in texts()) {
        for case in CASES.iter() {
            let in_unit = |offset_unit| {
                let options = EncodeOptions { offset_unit, ..options(false) };
                case.ours.encode_pair(&text, &pair, &options).unwrap().columns.offsets.unwrap()
            };
            let (bytes, chars, utf16) =
                (in_unit(OffsetUnit::Byte), in_unit(OffsetUnit::CodePoint), in_unit(OffsetUnit::Utf16));
            let second = case.ours.encode(&text, &options(false)).unwrap().ids.len() * 2;
            for (at, byte) in bytes.iter().enumerate() {
                let text = if at < second { &text } else { &pair };
                let before = &text[..*byte as usize];
                prop_assert_eq!(chars[at] as usize, before.chars().count());
                prop_assert_eq!(utf16[at] as usize, before.encode_utf16().count());
            }
        }
    }

    #[test]
    fn decoding_equals_the_reference_and_streams_join_to_it(
        seeds in prop::collection::vec(any::<u32>(), 0..24), cuts in prop::collection::vec(0usize..4, 0..12),
        skip_special_tokens: bool, clean_up: bool, text in texts(),
    ) {
        for case in CASES.iter() {
            // Random ids, some of them unknown, and those of a real text.
            let bound = case.ours.id_bound() as u32 + 3;
            let random: Vec<u32> = seeds.iter().map(|s| s % bound).collect();
            for ids in [random, case.ours.encode_ids(&text, true).unwrap()] {
                let expected = case.reference.decode(&ids, skip_special_tokens).unwrap();
                let options = DecodeOptions { skip_special_tokens, clean_up: false };
                prop_assert_eq!(&case.ours.decode(&ids, &options).unwrap(), &expected, "{} {:?}", case.name, ids);
                let options = DecodeOptions { clean_up, ..options };
                let whole = case.ours.decode(&ids, &options).unwrap();
                if clean_up {
                    prop_assert_eq!(&whole, &cleaned(&expected));
                }
                let mut stream = case.ours.decode_stream(options);
                for _ in 0..2 {
                    let mut rest = ids.as_slice();
                    let mut streamed = String::new();
                    for cut in &cuts {
                        let (now, later) = rest.split_at((*cut).min(rest.len()));
                        streamed.push_str(&stream.push(now));
                        prop_assert!(whole.starts_with(&streamed), "{}", case.name);
                        rest = later;
                    }
                    streamed.push_str(&stream.push(rest));
                    streamed.push_str(&stream.end());
                    prop_assert_eq!(&streamed, &whole, "{} {:?}", case.name, ids);
                }
            }
        }
    }

    #[test]
    fn a_text_cut_to_fit_fits_and_is_a_piece_of_the_text(text in texts(), max in 0usize..12, left: bool) {
        for case in CASES.iter() {
            let side = if left { Side::Left } else { Side::Right };
            let cut = case.ours.truncate_to_tokens(&text, max, side).unwrap();
            prop_assert!(if left { text.ends_with(&cut) } else { text.starts_with(&cut) }, "{} {:?} {:?}", case.name, text, cut);
            prop_assert!(cut.is_empty() || case.ours.fits(&cut, max).unwrap(), "{} {:?} {:?}", case.name, text, cut);
            if case.ours.fits(&text, max).unwrap() {
                prop_assert_eq!(&cut, &text);
            }
        }
    }

    #[test]
    fn a_batch_is_its_texts_one_by_one(texts in prop::collection::vec((texts(), prop::option::of(texts())), 0..12), add: bool) {
        let options = options(add);
        for case in CASES.iter() {
            let mut arena = TextArena::default();
            for (text, pair) in &texts {
                let utf16: Vec<u16> = text.encode_utf16().collect();
                match pair {
                    Some(pair) => arena.push_pair(Text::Utf16(&utf16), Text::Utf8(pair)),
                    None => arena.push(Text::Utf16(&utf16)),
                }
            }
            let batch = case.ours.encode_batch(&arena, &options, pillion_tokenize::BatchControl::default()).unwrap();
            prop_assert_eq!(batch.rows(), texts.len());
            let offsets = batch.columns.offsets.as_ref().unwrap();
            for (row, (text, pair)) in texts.iter().enumerate() {
                let single = match pair {
                    Some(pair) => case.ours.encode_pair(text, pair, &options),
                    None => case.ours.encode(text, &options),
                }.unwrap();
                prop_assert_eq!(batch.row(row), &single.ids);
                let start = batch.row_offsets[row] as usize;
                prop_assert_eq!(&offsets[start * 2..(start + single.ids.len()) * 2], &single.columns.offsets.unwrap());
                prop_assert_eq!(batch.sources[row] as usize, row);
            }
        }
    }
}

/// Whether an id may come from ordinary text: the unknown token does.
fn unknown(case: &Case, id: u32) -> bool {
    matches!(case.ours.id_to_token(id), Some("<unk>" | "[UNK]"))
}

fn cleaned(text: &str) -> String {
    [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// What the reference makes of two cut encodings, or `None` where it panics or fails.
fn reference_rows(
    case: &Case,
    text: &str,
    pair: Option<&str>,
    add: bool,
    truncation: &Truncation,
) -> Option<Vec<Encoding>> {
    let mut bare = case.reference.clone();
    bare.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
    let first = bare.encode_char_offsets(text, false).unwrap();
    let mut second = pair.map(|pair| bare.encode_char_offsets(pair, false).unwrap());
    if let Some(second) = &mut second {
        second.set_type_ids(vec![1; second.len()]);
    }
    let added = if add {
        let processor = case.reference.get_post_processor().unwrap();
        tokenizers::PostProcessor::added_tokens(processor, pair.is_some())
    } else {
        0
    };
    let params = TruncationParams {
        max_length: truncation.max_length.checked_sub(added)?,
        stride: if truncation.overflow { truncation.stride } else { 0 },
        direction: match truncation.side {
            Side::Left => TruncationDirection::Left,
            Side::Right => TruncationDirection::Right,
        },
        strategy: match truncation.strategy {
            TruncationStrategy::LongestFirst => truncation::TruncationStrategy::LongestFirst,
            TruncationStrategy::OnlyFirst => truncation::TruncationStrategy::OnlyFirst,
            TruncationStrategy::OnlySecond => truncation::TruncationStrategy::OnlySecond,
        },
    };
    if truncation.overflow && params.stride >= params.max_length {
        return None;
    }
    let cut = std::panic::AssertUnwindSafe(|| truncate_encodings(first, second, &params).ok());
    let (mut first, mut second) = std::panic::catch_unwind(cut).ok()??;
    if !truncation.overflow {
        first.take_overflowing();
        if let Some(second) = &mut second {
            second.take_overflowing();
        }
    }
    let whole = case.reference.post_process(first, second, add).unwrap();
    let mut rows = vec![columns(&whole)];
    rows.extend(whole.get_overflowing().iter().map(columns));
    Some(rows)
}

fn check_truncation(
    case: &Case,
    text: &str,
    pair: Option<&str>,
    add: bool,
    truncation: &Truncation,
) -> Result<(), TestCaseError> {
    // A pair of which one side keeps nothing: the reference then puts the whole text into the overflow.
    if truncation.overflow
        && pair.is_some()
        && truncation.strategy == TruncationStrategy::LongestFirst
        && truncation.max_length < 6
    {
        return Ok(());
    }
    let options = EncodeOptions { truncation: Some(truncation.clone()), ..options(add) };
    let mut arena = TextArena::default();
    match pair {
        Some(pair) => arena.push_pair(Text::Utf8(text), Text::Utf8(pair)),
        None => arena.push(Text::Utf8(text)),
    }
    let batch = case.ours.encode_batch(&arena, &options, pillion_tokenize::BatchControl::default());
    let Some(expected) = reference_rows(case, text, pair, add, truncation) else {
        prop_assert!(batch.is_err(), "{} {text:?} {truncation:?}", case.name);
        return Ok(());
    };
    let batch = batch.unwrap();
    prop_assert_eq!(batch.rows(), expected.len(), "{} {:?} {:?} {:?}", case.name, text, pair, truncation);
    let mut ids_only = options.clone();
    ids_only.columns = Columns { type_ids: true, ..Columns::default() };
    let ids = case.ours.encode_batch(&arena, &ids_only, pillion_tokenize::BatchControl::default()).unwrap();
    prop_assert_eq!(&ids.ids, &batch.ids);
    prop_assert_eq!(&ids.columns.type_ids, &batch.columns.type_ids);
    for (row, expected) in expected.iter().enumerate() {
        let range = batch.row_offsets[row] as usize..batch.row_offsets[row + 1] as usize;
        prop_assert_eq!(batch.row(row), &expected.ids, "{} {:?} {:?} {:?}", case.name, text, pair, truncation);
        let wide = range.start * 2..range.end * 2;
        prop_assert_eq!(
            &batch.columns.offsets.as_ref().unwrap()[wide],
            &expected.columns.offsets.as_ref().unwrap()[..],
            "{} {:?} {:?}",
            case.name,
            text,
            truncation
        );
        prop_assert_eq!(
            &batch.columns.type_ids.as_ref().unwrap()[range.clone()],
            &expected.columns.type_ids.as_ref().unwrap()[..],
            "{} {:?} {:?} row {}",
            case.name,
            text,
            truncation,
            row
        );
        prop_assert_eq!(
            &batch.columns.special_tokens_mask.as_ref().unwrap()[range.clone()],
            &expected.columns.special_tokens_mask.as_ref().unwrap()[..]
        );
        prop_assert_eq!(
            &batch.columns.word_ids.as_ref().unwrap()[range],
            &expected.columns.word_ids.as_ref().unwrap()[..]
        );
    }
    Ok(())
}
