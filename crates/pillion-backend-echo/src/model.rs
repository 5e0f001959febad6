//! The model itself: slots in, tokens out, no thread.

use pillion_core::{
    Error, Result,
    step::{ROW_SAMPLE, Row, SEQUENCE_LOGPROBS, Step, StepOutput, TopLogprob},
};

/// The id after the 256 bytes.
pub const EOS_TOKEN_ID: u32 = 256;
/// The bytes and the end of the text.
pub const VOCAB_SIZE: u32 = 257;

/// Answers each sequence with its prompt. Checks what the scheduler asks for as strictly as a cache would.
#[derive(Debug)]
pub struct EchoModel {
    slots: Vec<Option<Slot>>,
}

#[derive(Debug)]
struct Slot {
    prompt: Vec<u32>,
    /// Positions computed so far; the next row must begin here.
    computed: u32,
    logprobs: bool,
    alternatives: u32,
}

impl EchoModel {
    /// All slots are free.
    pub fn new(num_slots: u32) -> Self {
        Self { slots: (0..num_slots).map(|_| None).collect() }
    }

    /// Runs one step.
    pub fn step(&mut self, step: &Step) -> Result<StepOutput> {
        for &slot in &step.freed {
            *self.slot(slot)? = None;
        }
        for new in &step.new {
            let at = new.prompt_offset as usize;
            let prompt = step
                .prompts
                .get(at..at + new.prompt_len as usize)
                .ok_or_else(|| Error::internal(format!("the prompt of slot {} lies outside its section", new.slot)))?
                .to_vec();
            *self.slot(new.slot)? = Some(Slot {
                prompt,
                computed: 0,
                logprobs: new.flags & SEQUENCE_LOGPROBS != 0,
                alternatives: new.logprobs,
            });
        }
        let mut output = StepOutput { step_id: step.step_id, ..StepOutput::default() };
        let wants_logprobs = self.slots.iter().flatten().any(|s| s.logprobs);
        for row in &step.rows {
            self.row(row, wants_logprobs, &mut output)?;
        }
        Ok(output)
    }

    fn row(&mut self, row: &Row, wants_logprobs: bool, output: &mut StepOutput) -> Result<()> {
        let slot = self
            .slot(row.slot)?
            .as_mut()
            .ok_or_else(|| Error::internal(format!("a row for slot {}, which is free", row.slot)))?;
        if row.start != slot.computed {
            return Err(Error::internal(format!(
                "a row of slot {} begins at {} where {} comes next",
                row.slot, row.start, slot.computed
            )));
        }
        slot.computed += row.count;
        if row.flags & ROW_SAMPLE == 0 {
            return Ok(());
        }
        let answered = (slot.computed as usize).saturating_sub(slot.prompt.len());
        let id = slot.prompt.get(answered).copied().unwrap_or(EOS_TOKEN_ID);
        if wants_logprobs {
            let index = output.tokens.len() as u32;
            output.logprobs.push(0.0);
            if slot.alternatives > 0 {
                output.top.push(TopLogprob { index, id, logprob: 0.0 });
            }
        }
        output.tokens.push(id);
        Ok(())
    }

    fn slot(&mut self, slot: u32) -> Result<&mut Option<Slot>> {
        self.slots.get_mut(slot as usize).ok_or_else(|| Error::internal(format!("slot {slot} is beyond the cache")))
    }
}

#[cfg(test)]
mod tests {
    use pillion_core::step::NewSequence;

    use super::*;

    fn enter(slot: u32, prompt: &[u32]) -> Step {
        Step {
            step_id: 1,
            new: vec![NewSequence { slot, prompt_len: prompt.len() as u32, ..NewSequence::default() }],
            prompts: prompt.to_vec(),
            rows: vec![Row { slot, start: 0, count: prompt.len() as u32, flags: ROW_SAMPLE }],
            ..Step::default()
        }
    }

    #[test]
    fn answers_with_the_prompt_and_the_end() {
        let mut model = EchoModel::new(2);
        assert_eq!(model.step(&enter(1, &[7, 8])).unwrap().tokens, [7]);
        let decode =
            |start| Step { rows: vec![Row { slot: 1, start, count: 1, flags: ROW_SAMPLE }], ..Step::default() };
        assert_eq!(model.step(&decode(2)).unwrap().tokens, [8]);
        assert_eq!(model.step(&decode(3)).unwrap().tokens, [EOS_TOKEN_ID]);
    }

    #[test]
    fn refuses_what_a_cache_could_not_do() {
        let mut model = EchoModel::new(1);
        assert!(model.step(&enter(1, &[7])).is_err(), "no such slot");
        model.step(&enter(0, &[7, 8])).unwrap();
        let skip = Step { rows: vec![Row { slot: 0, start: 5, count: 1, flags: 0 }], ..Step::default() };
        assert!(model.step(&skip).unwrap_err().message().contains("begins at 5 where 2"));
        model.step(&Step { freed: vec![0], ..Step::default() }).unwrap();
        let freed = Step { rows: vec![Row { slot: 0, start: 0, count: 1, flags: 0 }], ..Step::default() };
        assert!(model.step(&freed).unwrap_err().message().contains("which is free"));
    }
}
