use pillion_core::{GenerateRequest, GenerationDefaults, Prompt, SamplingOptions};
use proptest::prelude::*;

use super::*;

const EOS: u32 = 999;

fn config(num_slots: u32, max_batch_tokens: u32) -> SchedulerConfig {
    SchedulerConfig { num_slots, kv_tokens: 10_000, max_batch_tokens, eos_token_ids: vec![EOS] }
}

fn sequence(prompt_len: u32, max_tokens: u32) -> Sequence {
    let request = GenerateRequest {
        request_id: "r".into(),
        prompt: Prompt::Ids(vec![0; prompt_len as usize]),
        sampling: SamplingOptions { max_tokens: Some(f64::from(max_tokens)), ..SamplingOptions::default() },
    };
    let valid = request.validate(&GenerationDefaults::default(), 1000).unwrap();
    Sequence::new(valid, (0..prompt_len).collect(), 1 << 20).unwrap()
}

fn rows(step: &Step) -> Vec<(u32, u32, u32, bool)> {
    step.rows.iter().map(|r| (r.slot, r.start, r.count, r.flags & ROW_SAMPLE != 0)).collect()
}

fn answer(step: &Step, id: u32) -> StepOutput {
    let n = step.rows.iter().filter(|r| r.flags & ROW_SAMPLE != 0).count();
    StepOutput { step_id: step.step_id, tokens: vec![id; n], ..StepOutput::default() }
}

#[test]
fn a_sequence_prefills_decodes_and_ends_at_max_tokens() {
    let mut s = Scheduler::new(config(4, 100));
    s.add(7, 0, sequence(3, 2));
    let step = s.schedule().unwrap();
    assert_eq!(rows(&step), [(0, 0, 3, true)]);
    assert_eq!((step.new.len(), step.prompts.as_slice()), (1, [0, 1, 2].as_slice()));
    let (tokens, ended) = s.update_from_output(&answer(&step, 5));
    assert_eq!(tokens, [TokenEvent { run: 7, id: 5, index: 0, is_eos: false }]);
    assert!(ended.is_empty());
    let step = s.schedule().unwrap();
    assert_eq!(rows(&step), [(0, 3, 1, true)]);
    let (_, ended) = s.update_from_output(&answer(&step, 6));
    assert_eq!(ended, [Ended::Finished { run: 7, reason: FinishReason::Length, stop_match: None }]);
    assert_eq!((s.num_running(), s.schedule()), (0, None));
}

#[test]
fn end_of_text_ends_and_the_slot_is_freed_in_the_next_step() {
    let mut s = Scheduler::new(config(2, 100));
    s.add(1, 0, sequence(2, 50));
    let step = s.schedule().unwrap();
    let (tokens, ended) = s.update_from_output(&answer(&step, EOS));
    assert!(tokens[0].is_eos);
    let stop_match = Some(StopMatch::Token(EOS));
    assert_eq!(ended, [Ended::Finished { run: 1, reason: FinishReason::Stop, stop_match }]);
    s.add(2, 1, sequence(2, 50));
    let step = s.schedule().unwrap();
    assert_eq!((step.freed.as_slice(), step.new[0].slot), ([0].as_slice(), 0));
}

#[test]
fn requests_join_and_leave_a_running_batch() {
    let mut s = Scheduler::new(config(4, 100));
    s.add(1, 0, sequence(5, 10));
    let first = s.schedule().unwrap();
    s.update_from_output(&answer(&first, 1));
    s.add(2, 1, sequence(4, 10));
    let step = s.schedule().unwrap();
    assert_eq!(rows(&step), [(0, 5, 1, true), (1, 0, 4, true)]);
    s.update_from_output(&answer(&step, 1));
    assert!(s.remove(1));
    let step = s.schedule().unwrap();
    assert_eq!((rows(&step), step.freed.clone()), (vec![(1, 4, 1, true)], vec![0]));
    assert!(!s.remove(1), "it is gone already");
}

#[test]
fn a_long_prompt_is_cut_to_the_budget_and_decodes_go_first() {
    let mut s = Scheduler::new(config(4, 8));
    s.add(1, 0, sequence(2, 10));
    s.add(2, 1, sequence(20, 10));
    let step = s.schedule().unwrap();
    assert_eq!(rows(&step), [(0, 0, 2, true), (1, 0, 6, false)]);
    let (tokens, _) = s.update_from_output(&answer(&step, 1));
    assert_eq!(tokens.len(), 1, "an unfinished prompt gives no token");
    let step = s.schedule().unwrap();
    assert_eq!(rows(&step), [(0, 2, 1, true), (1, 6, 7, false)]);
    s.update_from_output(&answer(&step, 1));
    let step = s.schedule().unwrap();
    assert_eq!(rows(&step), [(0, 3, 1, true), (1, 13, 7, true)]);
}

#[test]
fn two_steps_in_flight_and_a_token_after_the_end_is_dropped() {
    let mut s = Scheduler::new(config(2, 100));
    s.add(1, 0, sequence(3, 10));
    let a = s.schedule().unwrap();
    let b = s.schedule().unwrap();
    assert_eq!((rows(&b), s.num_in_flight()), (vec![(0, 3, 1, true)], 2));
    let (_, ended) = s.update_from_output(&answer(&a, EOS));
    assert_eq!(ended.len(), 1);
    s.add(2, 1, sequence(2, 10));
    let c = s.schedule().unwrap();
    assert_eq!((c.freed.as_slice(), rows(&c)), ([0].as_slice(), vec![(0, 0, 2, true)]));
    let (tokens, _) = s.update_from_output(&answer(&b, 5));
    assert!(tokens.is_empty(), "the slot has another owner now");
    let (tokens, _) = s.update_from_output(&answer(&c, 6));
    assert_eq!(tokens[0].run, 2);
}

#[test]
fn rows_sure_to_end_are_not_computed_ahead() {
    let mut s = Scheduler::new(config(2, 100));
    s.add(1, 0, sequence(3, 1));
    s.schedule().unwrap();
    assert_eq!(s.schedule(), None);
}

#[test]
fn priority_goes_first_then_arrival() {
    let with = |priority: f64| {
        let request = GenerateRequest {
            request_id: "r".into(),
            prompt: Prompt::Ids(vec![0]),
            sampling: SamplingOptions { priority: Some(priority), max_tokens: Some(1.0), ..SamplingOptions::default() },
        };
        Sequence::new(request.validate(&GenerationDefaults::default(), 10).unwrap(), vec![1], 100).unwrap()
    };
    let mut q = WaitingQueue::default();
    q.push(1, 5, with(0.0));
    q.push(2, 4, with(0.0));
    q.push(3, 6, with(1.0));
    q.push(4, 3, with(0.0));
    assert!(q.remove(4).is_some() && q.remove(4).is_none());
    let order: Vec<u32> = std::iter::from_fn(|| q.pop().map(|(run, ..)| run)).collect();
    assert_eq!((order, q.num_tokens()), (vec![3, 2, 1], 0));
}

#[test]
fn what_does_not_fit_the_cache_waits_in_order() {
    let mut s = Scheduler::new(SchedulerConfig { kv_tokens: 30, ..config(4, 100) });
    s.add(1, 0, sequence(10, 10));
    s.add(2, 1, sequence(10, 10));
    s.add(3, 2, sequence(1, 1));
    let step = s.schedule().unwrap();
    assert_eq!(rows(&step).len(), 1, "the second does not fit and the third does not overtake it");
    s.remove(1);
    assert_eq!(s.num_waiting(), 2);
    let step = s.schedule().unwrap();
    assert_eq!(rows(&step), [(0, 0, 10, true), (1, 0, 1, true)]);
}

#[test]
fn a_failed_step_ends_its_runs_and_a_failed_row_only_its_own() {
    let mut s = Scheduler::new(config(4, 100));
    for run in 1..=3 {
        s.add(run, u64::from(run), sequence(2, 10));
    }
    let step = s.schedule().unwrap();
    let output = StepOutput { tokens: vec![5, NO_TOKEN, 6], ..answer(&step, 0) };
    let (tokens, ended) = s.update_from_output(&output);
    assert_eq!((tokens.len(), ended), (2, vec![Ended::RowFailed { run: 2 }]));
    let step = s.schedule().unwrap();
    assert_eq!(s.step_failed(step.step_id), [1, 3]);
    assert_eq!((s.num_running(), s.num_in_flight()), (0, 0));
}

#[test]
fn after_a_lost_worker_what_ran_goes_on_first_with_its_tokens() {
    let mut s = Scheduler::new(config(1, 100));
    s.add(1, 0, sequence(3, 5));
    s.add(2, 1, sequence(2, 5));
    let a = s.schedule().unwrap();
    s.update_from_output(&answer(&a, 41));
    let b = s.schedule().unwrap();
    s.update_from_output(&answer(&b, 42));
    let lost = s.schedule().unwrap();
    assert_eq!(s.requeue_running(), [1]);
    assert_eq!((s.num_running(), s.num_waiting(), s.num_in_flight()), (0, 2, 0));
    let again = s.schedule().unwrap();
    assert_eq!((again.prompts.as_slice(), again.freed.len()), ([0, 1, 2, 41, 42].as_slice(), 0));
    assert_eq!(again.new[0].max_len, 8, "the room is what it was");
    assert!(s.update_from_output(&answer(&lost, 9)).0.is_empty(), "a late answer of the lost worker");
    for left in (0..3).rev() {
        let step = if left == 2 { again.clone() } else { s.schedule().unwrap() };
        let (_, ended) = s.update_from_output(&answer(&step, 43));
        assert_eq!(ended.is_empty(), left > 0);
    }
}

#[test]
fn an_answer_to_an_unknown_step_changes_nothing() {
    let mut s = Scheduler::new(config(4, 100));
    s.add(1, 0, sequence(2, 10));
    let step = s.schedule().unwrap();
    let stray = StepOutput { step_id: step.step_id + 9, tokens: vec![1], ..StepOutput::default() };
    assert_eq!(s.update_from_output(&stray), (vec![], vec![]));
    assert!(s.step_failed(77).is_empty());
    assert_eq!(s.update_from_output(&answer(&step, 3)).0.len(), 1);
}

proptest! {
    /// Whatever is added and removed, with one or two steps in flight: every run ends exactly once with the right number of tokens, positions
    /// are computed once and in order, and no slot is used twice at a time.
    #[test]
    fn every_run_ends_once(
        runs in prop::collection::vec((1u32..40, 1u32..12, 0u8..10), 1..30),
        slots in 1u32..6, budget in 6u32..50, depth in 1usize..3,
    ) {
        let mut s = Scheduler::new(SchedulerConfig { kv_tokens: 120, ..config(slots, budget) });
        let mut waiting: Vec<_> = (1u32..).zip(runs.iter().copied()).collect();
        let mut got: HashMap<u32, u32> = HashMap::new();
        let mut ended: HashMap<u32, bool> = HashMap::new();
        let mut owner: HashMap<u32, (u32, u32)> = HashMap::new(); // slot -> (next position, prompt)
        let mut steps: VecDeque<Step> = VecDeque::new();
        for tick in 0u32..4000 {
            if let Some((run, (prompt, max, _))) = waiting.pop() {
                s.add(run, u64::from(tick), sequence(prompt, max));
            }
            while steps.len() < depth {
                let Some(step) = s.schedule() else { break };
                prop_assert!(step.rows.iter().map(|r| r.count).sum::<u32>() <= budget);
                for slot in &step.freed { owner.remove(slot); }
                for n in &step.new { prop_assert!(owner.insert(n.slot, (0, n.prompt_len)).is_none()); }
                for r in &step.rows {
                    let (next, _) = owner.get_mut(&r.slot).expect("a row of a slot with an owner");
                    prop_assert_eq!(*next, r.start);
                    *next += r.count;
                }
                steps.push_back(step);
            }
            let Some(step) = steps.pop_front() else {
                if waiting.is_empty() { break }
                continue;
            };
            let (tokens, over) = s.update_from_output(&answer(&step, 1));
            for t in tokens { *got.entry(t.run).or_default() += 1; }
            for e in over {
                let Ended::Finished { run, .. } = e else { panic!("no row failed") };
                prop_assert!(ended.insert(run, true).is_none());
            }
            for (run, (_, _, abort_at)) in (1u32..).zip(&runs) {
                if *abort_at > 7 && got.get(&run).copied().unwrap_or(0) == 2 && s.remove(run) {
                    prop_assert!(ended.insert(run, false).is_none());
                }
            }
        }
        prop_assert_eq!((s.num_running(), s.num_waiting()), (0, 0));
        for (run, (_, max, _)) in (1u32..).zip(&runs) {
            let natural = ended.get(&run).copied();
            prop_assert!(natural.is_some(), "run {} never ended", run);
            if natural == Some(true) { prop_assert_eq!(got[&run], *max); }
        }
    }
}
