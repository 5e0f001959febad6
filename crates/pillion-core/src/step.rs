//! The step record, version 1: one message each way per iteration, the same bytes in every bridge.
//!
//! Little-endian, 4-byte aligned. A record is a header of 32 bytes, a table of sections (8 bytes each), and the sections:
//!
//! | header | type | meaning |
//! |---|---|---|
//! | 0 | u32 | magic, the bytes `PLLN` |
//! | 4 | u16 | version, 1 |
//! | 6 | u16 | kind: 1 step, 2 forward, 3 step output, 4 forward output ([`crate::forward`]) |
//! | 8 | u32 | length of the whole record in bytes |
//! | 12 | u32 | number of sections |
//! | 16 | u64 | step id |
//! | 24 | u64 | step, forward: 0. outputs: nanoseconds of the forward pass |
//!
//! Each entry of the table is `(offset u32, count u32)`: where the section begins, in bytes from the start of the record, and how
//! many elements it has. Sections of a step, in order: freed slots (u32), new sequences ([`NewSequence`], 64 bytes), their prompts
//! (u32), copies ([`Copy`], 8 bytes), grammar bitmask (u32), rows ([`Row`], 16 bytes), and only if there are any the request ids of the new
//! sequences (bytes: for each its length as u32 and its UTF-8). Sections of an output: token ids (u32), log
//! probabilities (f32), alternatives ([`TopLogprob`], 12 bytes), error (bytes of UTF-8 JSON). The receiver handles the sections of
//! a step in that order. A receiver accepts more sections than it knows and leaves them alone.

pub use crate::record::{HEADER_LEN, MAGIC, RecordKind, VERSION};
use crate::{
    error::{Error, Result},
    record::{Reader, Writer, bad, le32, le64, read_texts},
};

/// [`Row::flags`]: sample a token for the position after the row's last one.
pub const ROW_SAMPLE: u32 = 1;
/// [`Row::flags`]: the next words of the bitmask section say which ids are allowed.
pub const ROW_MASKED: u32 = 2;
/// [`NewSequence::flags`]: log probabilities are wanted; `logprobs` says how many alternatives.
pub const SEQUENCE_LOGPROBS: u32 = 1;
/// In place of a token id: this row failed (its logits were not finite).
pub const NO_TOKEN: u32 = u32::MAX;

/// A sequence that enters a slot. 64 bytes in the record, in this order, then 8 bytes of zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewSequence {
    /// Where its tokens and cache live from now on.
    pub slot: u32,
    /// Where its prompt begins in the prompts section, in tokens.
    pub prompt_offset: u32,
    /// How many tokens the prompt has.
    pub prompt_len: u32,
    /// See [`SEQUENCE_LOGPROBS`].
    pub flags: u32,
    /// 0 for greedy.
    pub temperature: f32,
    /// 1 for all.
    pub top_p: f32,
    /// 0 for all.
    pub top_k: u32,
    /// 0 for all.
    pub min_p: f32,
    /// Key of the counter-based generator; the counter is the position of the token to be sampled.
    pub seed: u64,
    /// Alternatives to report per token.
    pub logprobs: u32,
    /// Positions that the sequence may come to use; its cache needs no more.
    pub max_len: u32,
    /// 1 for none.
    pub repetition_penalty: f32,
    /// 0 for none.
    pub presence_penalty: f32,
}

/// A cache copy from one slot to another, before the rows run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// The slot that is read.
    pub from: u32,
    /// The slot that is written.
    pub to: u32,
}

/// A run of positions of one slot to compute in this step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Whose.
    pub slot: u32,
    /// The first position. The worker knows the tokens: prompts came with the sequence, answers are its own.
    pub start: u32,
    /// How many positions; 1 in decode.
    pub count: u32,
    /// See [`ROW_SAMPLE`], [`ROW_MASKED`].
    pub flags: u32,
}

/// One iteration's work.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// Counts up; the output carries it back.
    pub step_id: u64,
    /// Slots whose sequences are gone.
    pub freed: Vec<u32>,
    /// Sequences that enter.
    pub new: Vec<NewSequence>,
    /// Their prompts, one after the other.
    pub prompts: Vec<u32>,
    /// Cache copies.
    pub copies: Vec<Copy>,
    /// `ceil(vocabulary / 32)` words for each row with [`ROW_MASKED`], in the order of the rows.
    pub bitmask: Vec<u32>,
    /// What to compute, at most one row per slot.
    pub rows: Vec<Row>,
    /// The callers' names for the sequences that enter, for the worker's log: none at all, or one for each.
    pub request_ids: Vec<String>,
}

/// An alternative to a sampled token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TopLogprob {
    /// Index into [`StepOutput::tokens`].
    pub index: u32,
    /// The alternative.
    pub id: u32,
    /// Its log probability.
    pub logprob: f32,
}

/// The answer to a [`Step`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOutput {
    /// The step's id.
    pub step_id: u64,
    /// Time of the forward pass and sampling.
    pub forward_ns: u64,
    /// A token for each row with [`ROW_SAMPLE`], in the order of the rows; empty if `error` is set.
    pub tokens: Vec<u32>,
    /// A log probability for each of them, or none at all if no sequence wants them.
    pub logprobs: Vec<f32>,
    /// Alternatives, ordered by `index`, then by falling log probability.
    pub top: Vec<TopLogprob>,
    /// Why no token was made. The rows of this step have failed; the worker itself goes on.
    pub error: Option<Error>,
}

impl Step {
    /// Writes the record over whatever `out` held.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let sections = if self.request_ids.is_empty() { 6 } else { 7 };
        let mut w = Writer::new(out, RecordKind::Step, self.step_id, 0, sections);
        w.section(&self.freed, |w, v| w.u32(*v));
        w.section(&self.new, write_new_sequence);
        w.section(&self.prompts, |w, v| w.u32(*v));
        w.section(&self.copies, |w, c| {
            w.u32(c.from);
            w.u32(c.to);
        });
        w.section(&self.bitmask, |w, v| w.u32(*v));
        w.section(&self.rows, |w, r| {
            w.u32(r.slot);
            w.u32(r.start);
            w.u32(r.count);
            w.u32(r.flags);
        });
        if !self.request_ids.is_empty() {
            w.texts(&self.request_ids);
        }
        w.finish();
    }

    /// Reads a record, checking every size.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let r = Reader::new(bytes, RecordKind::Step, 6)?;
        let step = Self {
            step_id: r.step_id,
            freed: r.section(0, 4, |b| le32(b, 0))?,
            new: r.section(1, 64, read_new_sequence)?,
            prompts: r.section(2, 4, |b| le32(b, 0))?,
            copies: r.section(3, 8, |b| Copy { from: le32(b, 0), to: le32(b, 4) })?,
            bitmask: r.section(4, 4, |b| le32(b, 0))?,
            rows: r.section(5, 16, |b| Row {
                slot: le32(b, 0),
                start: le32(b, 4),
                count: le32(b, 8),
                flags: le32(b, 12),
            })?,
            request_ids: if r.sections > 6 { read_texts(r.bytes(6)?)? } else { Vec::new() },
        };
        if !step.request_ids.is_empty() && step.request_ids.len() != step.new.len() {
            return Err(bad(format_args!("{} request ids for {} sequences", step.request_ids.len(), step.new.len())));
        }
        let prompts = step.prompts.len() as u64;
        for n in &step.new {
            if u64::from(n.prompt_offset) + u64::from(n.prompt_len) > prompts {
                return Err(bad(format_args!("the prompt of slot {} lies outside its section", n.slot)));
            }
        }
        Ok(step)
    }
}

impl StepOutput {
    /// An output that says that the whole step failed.
    pub fn failed(step_id: u64, error: Error) -> Self {
        Self { step_id, error: Some(error), ..Self::default() }
    }

    /// Writes the record over whatever `out` held.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let mut w = Writer::new(out, RecordKind::StepOutput, self.step_id, self.forward_ns, 4);
        w.section(&self.tokens, |w, v| w.u32(*v));
        w.section(&self.logprobs, |w, v| w.u32(v.to_bits()));
        w.section(&self.top, |w, t| {
            w.u32(t.index);
            w.u32(t.id);
            w.u32(t.logprob.to_bits());
        });
        let error = self.error.as_ref().map(Error::to_json).unwrap_or_default();
        w.section(error.as_bytes(), |w, b| w.out.push(*b));
        w.finish();
    }

    /// Reads a record, checking every size.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let r = Reader::new(bytes, RecordKind::StepOutput, 4)?;
        let tokens = r.section(0, 4, |b| le32(b, 0))?;
        let logprobs: Vec<f32> = r.section(1, 4, |b| f32::from_bits(le32(b, 0)))?;
        if !logprobs.is_empty() && logprobs.len() != tokens.len() {
            return Err(bad(format_args!("{} log probabilities for {} tokens", logprobs.len(), tokens.len())));
        }
        let top: Vec<TopLogprob> = r.section(2, 12, |b| TopLogprob {
            index: le32(b, 0),
            id: le32(b, 4),
            logprob: f32::from_bits(le32(b, 8)),
        })?;
        if let Some(t) = top.iter().find(|t| t.index as usize >= tokens.len()) {
            return Err(bad(format_args!("an alternative for row {} of {}", t.index, tokens.len())));
        }
        let error = r.bytes(3)?;
        let error = match std::str::from_utf8(error) {
            Ok("") => None,
            Ok(json) => Some(Error::from_json(json)),
            Err(_) => return Err(bad(format_args!("an error text that is not UTF-8"))),
        };
        Ok(Self { step_id: r.step_id, forward_ns: r.time_ns, tokens, logprobs, top, error })
    }
}

fn read_new_sequence(b: &[u8]) -> NewSequence {
    NewSequence {
        slot: le32(b, 0),
        prompt_offset: le32(b, 4),
        prompt_len: le32(b, 8),
        flags: le32(b, 12),
        temperature: f32::from_bits(le32(b, 16)),
        top_p: f32::from_bits(le32(b, 20)),
        top_k: le32(b, 24),
        min_p: f32::from_bits(le32(b, 28)),
        seed: le64(b, 32),
        logprobs: le32(b, 40),
        max_len: le32(b, 44),
        repetition_penalty: f32::from_bits(le32(b, 48)),
        presence_penalty: f32::from_bits(le32(b, 52)),
    }
}

fn write_new_sequence(w: &mut Writer<'_>, n: &NewSequence) {
    for v in [n.slot, n.prompt_offset, n.prompt_len, n.flags] {
        w.u32(v);
    }
    w.u32(n.temperature.to_bits());
    w.u32(n.top_p.to_bits());
    w.u32(n.top_k);
    w.u32(n.min_p.to_bits());
    w.out.extend_from_slice(&n.seed.to_le_bytes());
    w.u32(n.logprobs);
    w.u32(n.max_len);
    w.u32(n.repetition_penalty.to_bits());
    w.u32(n.presence_penalty.to_bits());
    w.out.extend_from_slice(&[0; 8]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::{ErrorCode, PythonException};

    fn sequence() -> impl Strategy<Value = (u32, Vec<u32>, u32, f32, u64)> {
        (any::<u32>(), prop::collection::vec(any::<u32>(), 0..20), any::<u32>(), 0.0f32..2.0, any::<u64>())
    }

    prop_compose! {
        fn step()(
            step_id: u64,
            freed in prop::collection::vec(any::<u32>(), 0..8),
            sequences in prop::collection::vec(sequence(), 0..5),
            copies in prop::collection::vec((any::<u32>(), any::<u32>()), 0..4),
            bitmask in prop::collection::vec(any::<u32>(), 0..9),
            rows in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>()), 0..40),
            name in prop::option::of("\\PC{0,20}"),
        ) -> Step {
            let mut s = Step { step_id, freed, bitmask, ..Step::default() };
            for (slot, prompt, top_k, temperature, seed) in sequences {
                s.new.push(NewSequence {
                    slot, top_k, temperature, seed,
                    prompt_offset: s.prompts.len() as u32,
                    prompt_len: prompt.len() as u32,
                    top_p: 0.5, max_len: 9, repetition_penalty: 1.0,
                    ..NewSequence::default()
                });
                s.prompts.extend(prompt);
            }
            s.copies = copies.into_iter().map(|(from, to)| Copy { from, to }).collect();
            s.rows = rows.into_iter().map(|(slot, start, count, flags)| Row { slot, start, count, flags }).collect();
            if let Some(name) = name {
                s.request_ids = s.new.iter().map(|n| format!("{name}-{}", n.slot)).collect();
            }
            s
        }
    }

    prop_compose! {
        fn output()(
            step_id: u64, forward_ns: u64,
            rows in prop::collection::vec((any::<u32>(), -20.0f32..0.0), 0..40),
            want: bool,
            error in prop::option::of("\\PC{0,40}"),
        ) -> StepOutput {
            let mut o = StepOutput { step_id, forward_ns, ..StepOutput::default() };
            o.tokens = rows.iter().map(|r| r.0).collect();
            if want {
                o.logprobs = rows.iter().map(|r| r.1).collect();
                o.top = rows.iter().enumerate().map(|(i, r)| TopLogprob { index: i as u32, id: r.0, logprob: r.1 }).collect();
            }
            o.error = error.map(|m| Error::new(ErrorCode::PythonError, m).with_python(PythonException {
                python_type: "ValueError".into(), traceback: "t".into(),
            }));
            o
        }
    }

    /// Neither panics; what is no record is a typed error, and no section is longer than its record.
    fn check_decoders(record: &[u8]) -> Result<(), TestCaseError> {
        let is_typed = |e: &Error| matches!(e.code(), ErrorCode::Internal | ErrorCode::VersionMismatch);
        match Step::decode(record) {
            Ok(step) => {
                prop_assert!(4 * step.prompts.len().max(step.bitmask.len()).max(step.rows.len()) <= record.len());
            }
            Err(error) => prop_assert!(is_typed(&error), "{}", error),
        }
        match StepOutput::decode(record) {
            Ok(output) => {
                prop_assert!(4 * output.tokens.len().max(output.top.len()) <= record.len());
            }
            Err(error) => prop_assert!(is_typed(&error), "{}", error),
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn a_step_round_trips(step in step()) {
            let mut bytes = vec![7; 3];
            step.encode_into(&mut bytes);
            prop_assert_eq!(Step::decode(&bytes).unwrap(), step);
        }

        #[test]
        fn an_output_round_trips(output in output()) {
            let mut bytes = Vec::new();
            output.encode_into(&mut bytes);
            prop_assert_eq!(StepOutput::decode(&bytes).unwrap(), output);
        }

        #[test]
        fn damage_is_an_error_or_another_record_never_a_panic(
            step in step(), output in output(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let (mut sent, mut answered) = (Vec::new(), Vec::new());
            step.encode_into(&mut sent);
            output.encode_into(&mut answered);
            prop_assert!(Step::decode(&sent[..cut.index(sent.len())]).is_err());
            prop_assert!(StepOutput::decode(&answered[..cut.index(answered.len())]).is_err());
            for record in [&mut sent, &mut answered] {
                for (at, value) in &changes {
                    let at = at.index(record.len());
                    record[at] ^= value;
                }
                check_decoders(record)?;
            }
        }

        /// A word of the tables is where a hostile side would put its lie.
        #[test]
        fn a_lie_in_a_table_is_an_error_or_another_record(
            step in step(), output in output(), at in any::<prop::sample::Index>(),
            value in prop_oneof![any::<u32>(), 0..200u32, Just(u32::MAX), Just(u32::MAX - 3)],
        ) {
            let (mut sent, mut answered) = (Vec::new(), Vec::new());
            step.encode_into(&mut sent);
            output.encode_into(&mut answered);
            for (record, sections) in [(&mut sent, 6), (&mut answered, 4)] {
                let at = 12 + 4 * at.index((HEADER_LEN - 12) / 4 + 2 * sections);
                record[at..at + 4].copy_from_slice(&value.to_le_bytes());
                check_decoders(record)?;
            }
        }

        #[test]
        fn noise_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Step::decode(&bytes).is_err() && StepOutput::decode(&bytes).is_err());
        }
    }

    #[test]
    fn request_ids_are_for_all_sequences_or_for_none() {
        let new = vec![NewSequence::default(), NewSequence::default()];
        for ids in [vec!["a".to_owned()], vec!["a".to_owned(); 3]] {
            let mut bytes = Vec::new();
            Step { new: new.clone(), request_ids: ids, ..Step::default() }.encode_into(&mut bytes);
            let error = Step::decode(&bytes).unwrap_err();
            assert!(error.message().contains("request ids for 2 sequences"), "{error}");
        }
        assert!(read_texts(&[9, 0, 0, 0, b'x']).is_err());
        assert!(read_texts(&[1, 0, 0, 0, 0xff]).is_err());
        assert!(read_texts(&[1, 0]).is_err());
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = Vec::new();
        Step::default().encode_into(&mut bytes);
        bytes[4] = 2;
        let error = Step::decode(&bytes).unwrap_err();
        assert_eq!(error.code(), ErrorCode::VersionMismatch);
        assert!(error.message().contains("version 2"), "{error}");
    }

    /// The same bytes stand in `python/tests/test_step.py`.
    #[test]
    fn the_layout_is_pinned() {
        let step = Step {
            step_id: 5,
            freed: vec![3],
            rows: vec![Row { slot: 1, start: 9, count: 1, flags: ROW_SAMPLE }],
            ..Step::default()
        };
        let mut bytes = Vec::new();
        step.encode_into(&mut bytes);
        let digits = |b: &u8| [b >> 4, b & 15].map(|d| char::from_digit(u32::from(d), 16).unwrap());
        assert_eq!(
            bytes.iter().flat_map(digits).collect::<String>(),
            concat!(
                "504c4c4e",
                "0100",
                "0100",
                "64000000",
                "06000000",
                "0500000000000000",
                "0000000000000000",
                "5000000001000000",
                "5400000000000000",
                "5400000000000000",
                "5400000000000000",
                "5400000000000000",
                "5400000001000000",
                "03000000",
                "01000000090000000100000001000000",
            )
        );
    }
}
