//! Where to cut sequences that are too long, as the reference cuts them.

use std::ops::Range;

use crate::{
    error::TokenizeError,
    options::{Side, Truncation, TruncationStrategy},
};

/// The pieces of each sequence; the first is what the main row keeps, the others are its overflow.
pub(crate) type Parts = Vec<Range<usize>>;

fn one(part: Range<usize>) -> Parts {
    Vec::from([part])
}

/// Cuts one or two sequences of these lengths so that they and `added` special tokens fit.
pub(crate) fn parts(
    lens: &[usize],
    added: usize,
    truncation: Option<&Truncation>,
) -> Result<Vec<Parts>, TokenizeError> {
    let whole = || lens.iter().map(|&len| one(0..len)).collect();
    let Some(truncation) = truncation else { return Ok(whole()) };
    let Some(max) = truncation.max_length.checked_sub(added) else {
        let expected = format!("at least {added}, the number of special tokens that are added");
        return Err(TokenizeError::argument("truncation.maxLength", expected, truncation.max_length));
    };
    if truncation.overflow && truncation.stride >= max {
        let expected = format!("less than the {max} tokens of text that a row may have");
        return Err(TokenizeError::argument("truncation.stride", expected, truncation.stride));
    }
    let total: usize = lens.iter().sum();
    if total <= max {
        return Ok(whole());
    }
    let keep = kept_lengths(lens, max, total, truncation.strategy)?;
    lens.iter().zip(keep).map(|(&len, keep)| split(len, keep, truncation)).collect()
}

/// How many tokens of each sequence the main row keeps.
fn kept_lengths(
    lens: &[usize],
    max: usize,
    total: usize,
    strategy: TruncationStrategy,
) -> Result<Vec<usize>, TokenizeError> {
    if max == 0 {
        return Ok(vec![0; lens.len()]);
    }
    let target = match strategy {
        TruncationStrategy::LongestFirst => return Ok(longest_first(lens, max)),
        TruncationStrategy::OnlyFirst => 0,
        TruncationStrategy::OnlySecond => 1,
    };
    let remove = total - max;
    let Some(&len) = lens.get(target) else {
        return Err(TokenizeError::argument(
            "truncation.strategy",
            "'longest-first' or 'only-first' without a pair",
            "'only-second'",
        ));
    };
    if len <= remove {
        let expected = format!("such that the text to cut keeps a token; it has {len} and {remove} are too many");
        return Err(TokenizeError::argument("truncation.maxLength", expected, max));
    }
    let mut keep = lens.to_vec();
    keep[target] = len - remove;
    Ok(keep)
}

fn longest_first(lens: &[usize], max: usize) -> Vec<usize> {
    let &[first, second] = lens else { return vec![max] };
    let (short, long) = (first.min(second), first.max(second));
    // Either the short one fits beside a cut long one, or both get about half.
    let mut short_keep = short;
    let mut long_keep = if short > max { short } else { short.max(max - short) };
    if short_keep + long_keep > max {
        short_keep = max / 2;
        long_keep = short_keep + max % 2;
    }
    // The reference swaps only if the first is truly longer.
    let (first_keep, second_keep) = if first > second { (long_keep, short_keep) } else { (short_keep, long_keep) };
    debug_assert!(long >= short);
    vec![first_keep, second_keep]
}

fn split(len: usize, keep: usize, truncation: &Truncation) -> Result<Parts, TokenizeError> {
    if keep >= len {
        return Ok(one(0..len));
    }
    if !truncation.overflow || keep == 0 {
        return Ok(match truncation.side {
            Side::Right => one(0..keep),
            Side::Left => one(len - keep..len),
        });
    }
    if truncation.stride >= keep {
        let expected = format!("less than the {keep} tokens that one text of the pair may have");
        return Err(TokenizeError::argument("truncation.stride", expected, truncation.stride));
    }
    let step = keep - truncation.stride;
    let mut parts = Vec::with_capacity(len / step + 1);
    match truncation.side {
        Side::Right => {
            let mut start = 0;
            loop {
                let end = (start + keep).min(len);
                parts.push(start..end);
                if end == len {
                    break;
                }
                start += step;
            }
        }
        Side::Left => {
            let mut end = len;
            loop {
                let start = end.saturating_sub(keep);
                parts.push(start..end);
                if start == 0 {
                    break;
                }
                end -= step;
            }
        }
    }
    Ok(parts)
}
