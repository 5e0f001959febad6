//! Continuous batching: sequences enter and leave the running batch at step boundaries.

use std::collections::{HashMap, VecDeque};

use pillion_core::{
    Error, FinishReason, Result, SamplingParams, Sequence, StopMatch,
    step::{NO_TOKEN, NewSequence, ROW_SAMPLE, Row, SEQUENCE_LOGPROBS, Step, StepOutput},
};

use crate::{queue::WaitingQueue, slots::SlotAllocator};

/// What the scheduler must know of the model and the limits.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Sequences that may run at once.
    pub num_slots: u32,
    /// Tokens that the cache holds over all slots. At least the longest sequence, else that one waits for ever.
    pub kv_tokens: u64,
    /// Tokens that one step may compute; at least `num_slots`.
    pub max_batch_tokens: u32,
    /// Ids that end a text.
    pub eos_token_ids: Vec<u32>,
}

/// A token that a step gave to a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenEvent {
    /// Whose.
    pub run: u32,
    /// The token.
    pub id: u32,
    /// Index of the token in the step's output, for log probabilities.
    pub index: usize,
    /// Whether it is an end-of-text token, which is no part of the text.
    pub is_eos: bool,
}

/// Why the scheduler ended a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// It came to its own end.
    Finished {
        /// Whose.
        run: u32,
        /// Why.
        reason: FinishReason,
        /// Which end-of-text token, if one.
        stop_match: Option<StopMatch>,
    },
    /// Its row failed; the worker goes on.
    RowFailed {
        /// Whose.
        run: u32,
    },
}

/// A sequence that has a slot.
#[derive(Debug)]
struct Running {
    run: u32,
    arrival: u64,
    sequence: Sequence,
    /// Positions handed to the worker so far, in flight or done.
    num_scheduled: u32,
    /// Tokens asked for so far, in flight or known.
    num_sampled: u32,
    /// Tokens known so far; what a new worker would need.
    emitted: Vec<u32>,
}

impl Running {
    fn prompt_len(&self) -> u32 {
        self.sequence.prompt_ids().len() as u32
    }

    fn is_prefilling(&self) -> bool {
        self.num_scheduled < self.prompt_len()
    }

    /// Rows that are sure to end at `max_tokens` are not computed ahead.
    fn may_decode(&self) -> bool {
        !self.is_prefilling() && self.num_sampled < self.sequence.max_tokens()
    }
}

/// A step that was planned and not yet answered: who gets its tokens.
#[derive(Debug)]
struct InFlight {
    step_id: u64,
    /// Slot and run of each row that samples, in the order of the rows.
    sampled: Vec<(u32, u32)>,
    /// Every run with a row, sampling or not.
    runs: Vec<u32>,
}

/// Plans steps and takes in their outputs. See the module's words.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    waiting: WaitingQueue,
    slots: SlotAllocator,
    /// By slot.
    running: Vec<Option<Running>>,
    slot_of: HashMap<u32, u32>,
    /// Slots given back since the last step.
    freed: Vec<u32>,
    in_flight: VecDeque<InFlight>,
    next_step_id: u64,
}

impl Scheduler {
    /// A scheduler with nothing waiting or running.
    pub fn new(config: SchedulerConfig) -> Self {
        Self {
            slots: SlotAllocator::new(config.num_slots, config.kv_tokens),
            running: (0..config.num_slots).map(|_| None).collect(),
            config,
            waiting: WaitingQueue::default(),
            slot_of: HashMap::new(),
            freed: Vec::new(),
            in_flight: VecDeque::new(),
            next_step_id: 1,
        }
    }

    /// Queues a sequence. `seed` in its params must be known by now.
    pub fn add(&mut self, run: u32, arrival: u64, sequence: Sequence) {
        self.waiting.push(run, arrival, sequence);
    }

    /// Ends a run wherever it is; its slot is free from the next step on. `false` if it is not here.
    pub fn remove(&mut self, run: u32) -> bool {
        self.waiting.remove(run).is_some() || self.release(run)
    }

    /// The next step, or `None` if there is nothing to compute. Decode rows first, then prompts already begun, then new ones, within the
    /// token budget. May be called again before the first step is answered.
    pub fn schedule(&mut self) -> Option<Step> {
        let mut step = Step::default();
        let mut budget = self.config.max_batch_tokens;
        let mut plan = InFlight { step_id: self.next_step_id, sampled: Vec::new(), runs: Vec::new() };
        self.decode_rows(&mut step, &mut plan, &mut budget);
        self.prefill_rows(&mut step, &mut plan, &mut budget);
        self.admit(&mut step, &mut plan, &mut budget);
        if step.rows.is_empty() {
            return None;
        }
        step.step_id = self.next_step_id;
        self.next_step_id += 1;
        self.in_flight.push_back(plan);
        Some(step)
    }

    fn decode_rows(&mut self, step: &mut Step, plan: &mut InFlight, budget: &mut u32) {
        for (slot, running) in (0..).zip(&mut self.running) {
            let Some(r) = running.as_mut().filter(|r| r.may_decode()) else { continue };
            if *budget == 0 {
                return;
            }
            *budget -= 1;
            step.rows.push(Row { slot, start: r.num_scheduled, count: 1, flags: ROW_SAMPLE });
            r.num_scheduled += 1;
            r.num_sampled += 1;
            plan.sampled.push((slot, r.run));
            plan.runs.push(r.run);
        }
    }

    fn prefill_rows(&mut self, step: &mut Step, plan: &mut InFlight, budget: &mut u32) {
        for (slot, running) in (0..).zip(&mut self.running) {
            let Some(r) = running.as_mut().filter(|r| r.is_prefilling()) else { continue };
            if *budget == 0 {
                return;
            }
            prefill_chunk(slot, r, step, plan, budget);
        }
    }

    fn admit(&mut self, step: &mut Step, plan: &mut InFlight, budget: &mut u32) {
        while *budget > 0 {
            let Some(next) = self.waiting.peek() else { break };
            let max_len = next.prompt_ids().len() as u32 + next.max_tokens();
            let Some(slot) = self.slots.allocate(u64::from(max_len)) else { break };
            let Some((run, arrival, sequence)) = self.waiting.pop() else { break };
            enter(step, slot, max_len, &sequence);
            let emitted = Vec::new();
            let mut r = Running { run, arrival, sequence, num_scheduled: 0, num_sampled: 0, emitted };
            prefill_chunk(slot, &mut r, step, plan, budget);
            self.running[slot as usize] = Some(r);
            self.slot_of.insert(run, slot);
        }
        // A slot given back and handed out again within one step is named in both lists; the worker frees first.
        if !step.rows.is_empty() {
            step.freed = std::mem::take(&mut self.freed);
        }
    }

    /// The runs that got their slots in this step.
    pub fn runs_entered(&self, step: &Step) -> Vec<u32> {
        step.new.iter().filter_map(|n| self.running[n.slot as usize].as_ref()).map(|r| r.run).collect()
    }

    /// Refuses an answer that has not one token for each row that wants one: no row would know which is its own.
    pub fn check_output(&self, output: &StepOutput) -> Result<()> {
        let Some(plan) = self.in_flight.front().filter(|plan| plan.step_id == output.step_id) else { return Ok(()) };
        let (wanted, got) = (plan.sampled.len(), output.tokens.len());
        if wanted == got {
            return Ok(());
        }
        let message = format!("the model answered step {} with {got} tokens for {wanted} rows", output.step_id);
        Err(Error::internal(message))
    }

    /// Takes in what a step gave, which was checked. Tokens of runs that have ended meanwhile are dropped.
    pub fn update_from_output(&mut self, output: &StepOutput) -> (Vec<TokenEvent>, Vec<Ended>) {
        let (mut tokens, mut ended) = (Vec::new(), Vec::new());
        let Some(plan) = self.take_plan(output.step_id) else { return (tokens, ended) };
        for (index, ((slot, run), &id)) in plan.sampled.iter().zip(&output.tokens).enumerate() {
            let Some(r) = self.running[*slot as usize].as_mut().filter(|r| r.run == *run) else { continue };
            if id == NO_TOKEN {
                self.release(*run);
                ended.push(Ended::RowFailed { run: *run });
                continue;
            }
            r.emitted.push(id);
            let is_eos = !r.sequence.params().ignore_eos && self.config.eos_token_ids.contains(&id);
            let is_last = r.emitted.len() as u32 >= r.sequence.max_tokens();
            tokens.push(TokenEvent { run: *run, id, index, is_eos });
            if is_eos || is_last {
                self.release(*run);
                ended.push(if is_eos {
                    let stop_match = Some(StopMatch::Token(id));
                    Ended::Finished { run: *run, reason: FinishReason::Stop, stop_match }
                } else {
                    Ended::Finished { run: *run, reason: FinishReason::Length, stop_match: None }
                });
            }
        }
        (tokens, ended)
    }

    /// A step failed as a whole: the runs with a row in it that are still here, now ended.
    pub fn step_failed(&mut self, step_id: u64) -> Vec<u32> {
        let Some(plan) = self.take_plan(step_id) else { return Vec::new() };
        let runs: Vec<u32> = plan.runs.into_iter().filter(|run| self.slot_of.contains_key(run)).collect();
        for &run in &runs {
            self.release(run);
        }
        runs
    }

    /// The worker is gone and another, with empty slots, may take its place: what ran waits again, ahead of what came later, with the tokens that it
    /// has. Gives the runs that were cut.
    pub fn requeue_running(&mut self) -> Vec<u32> {
        self.in_flight.clear();
        self.slot_of.clear();
        self.freed.clear();
        self.slots = SlotAllocator::new(self.config.num_slots, self.config.kv_tokens);
        let cut: Vec<Running> = self.running.iter_mut().filter_map(Option::take).collect();
        let runs = cut.iter().map(|r| r.run).collect();
        for r in cut {
            self.waiting.push(r.run, r.arrival, r.sequence.resume(&r.emitted));
        }
        runs
    }

    /// Forgets everything: slots, steps in flight and all sequences.
    pub fn clear(&mut self) {
        let config = self.config.clone();
        let next_step_id = self.next_step_id;
        *self = Self::new(config);
        self.next_step_id = next_step_id;
    }

    /// Sequences with a slot.
    pub fn num_running(&self) -> usize {
        self.slot_of.len()
    }

    /// Sequences without one.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Prompt tokens of the waiting sequences.
    pub fn num_waiting_tokens(&self) -> u64 {
        self.waiting.num_tokens()
    }

    /// Steps planned and not answered.
    pub fn num_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn take_plan(&mut self, step_id: u64) -> Option<InFlight> {
        // Steps are answered in order; anything else belongs to a worker that is gone.
        if self.in_flight.front()?.step_id == step_id { self.in_flight.pop_front() } else { None }
    }

    fn release(&mut self, run: u32) -> bool {
        let Some(slot) = self.slot_of.remove(&run) else { return false };
        self.running[slot as usize] = None;
        self.slots.free(slot);
        self.freed.push(slot);
        true
    }
}

fn prefill_chunk(slot: u32, r: &mut Running, step: &mut Step, plan: &mut InFlight, budget: &mut u32) {
    let left = r.prompt_len() - r.num_scheduled;
    let count = left.min(*budget);
    let flags = if count == left { ROW_SAMPLE } else { 0 };
    step.rows.push(Row { slot, start: r.num_scheduled, count, flags });
    r.num_scheduled += count;
    *budget -= count;
    plan.runs.push(r.run);
    if flags == ROW_SAMPLE {
        r.num_sampled += 1;
        plan.sampled.push((slot, r.run));
    }
}

fn enter(step: &mut Step, slot: u32, max_len: u32, sequence: &Sequence) {
    let SamplingParams { temperature, top_p, top_k, min_p, seed, logprobs, .. } = *sequence.params();
    step.new.push(NewSequence {
        slot,
        prompt_offset: step.prompts.len() as u32,
        prompt_len: sequence.prompt_ids().len() as u32,
        flags: if logprobs.is_some() { SEQUENCE_LOGPROBS } else { 0 },
        temperature,
        top_p,
        top_k,
        min_p,
        seed: seed.unwrap_or_default(),
        logprobs: logprobs.unwrap_or_default(),
        max_len,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
    });
    step.prompts.extend_from_slice(sequence.prompt_ids());
    step.request_ids.push(sequence.request_id().to_owned());
}

#[cfg(test)]
mod tests;
