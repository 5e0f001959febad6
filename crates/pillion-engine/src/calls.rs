//! The items that wait for a forward pass, and those under way. Pure: told what happened, it says what to submit and which calls ended.

use std::collections::{HashMap, VecDeque};

use pillion_core::{
    Error, Result, Stage,
    forward::{ForwardBatch, ForwardItem, ForwardOutput},
};

use crate::event::NewCall;

/// A batch ends before it is longer, unless its first item is: about what copying may cost a worker between two passes.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// What of a call is told to its caller when it has ended.
#[derive(Debug)]
pub(crate) struct EndedCall {
    pub(crate) run: u32,
    pub(crate) results: Vec<Result<ForwardItem>>,
}

/// All calls of an engine.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    by_run: HashMap<u32, Call>,
    /// First come, first served; a call's items stand together.
    waiting: VecDeque<Item>,
    /// Oldest first.
    in_flight: VecDeque<InFlight>,
    next_forward: u64,
}

#[derive(Debug)]
struct Call {
    /// Its place in the order of arrival; tells calls apart that had the same run number one after the other.
    arrival: u64,
    request_id: String,
    results: Vec<Option<Result<ForwardItem>>>,
    num_missing: usize,
}

/// Where an item's result belongs.
#[derive(Clone, Copy, Debug)]
struct Place {
    run: u32,
    arrival: u64,
    index: usize,
}

#[derive(Debug)]
struct Item {
    place: Place,
    item: ForwardItem,
}

#[derive(Debug)]
struct InFlight {
    forward_id: u64,
    places: Vec<Place>,
}

impl Calls {
    /// Takes a call in. One without items has ended at once.
    pub(crate) fn add(&mut self, new: NewCall) -> Option<EndedCall> {
        let NewCall { run, arrival, request_id, items, .. } = new;
        if items.is_empty() {
            return Some(EndedCall { run, results: Vec::new() });
        }
        let results = items.iter().map(|_| None).collect();
        self.by_run.insert(run, Call { arrival, request_id, num_missing: items.len(), results });
        // Calls are made ready by several threads, and a later one may be ready first.
        let after = self.waiting.split_off(self.waiting.partition_point(|item| item.place.arrival < arrival));
        let items = items.into_iter().enumerate();
        self.waiting.extend(items.map(|(index, item)| Item { place: Place { run, arrival, index }, item }));
        self.waiting.extend(after);
        None
    }

    /// Forgets a call; gives its request id. What is under way for it is of no use any more.
    pub(crate) fn remove(&mut self, run: u32) -> Option<String> {
        let call = self.by_run.remove(&run)?;
        self.waiting.retain(|item| item.place.arrival != call.arrival);
        Some(call.request_id)
    }

    pub(crate) fn contains(&self, run: u32) -> bool {
        self.by_run.contains_key(&run)
    }

    pub(crate) fn runs(&self) -> Vec<u32> {
        self.by_run.keys().copied().collect()
    }

    pub(crate) fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn num_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The callers' names for what is under way, in this forward or in all, each once.
    pub(crate) fn names_in_flight(&self, forward_id: Option<u64>) -> Vec<String> {
        let batches = self.in_flight.iter().filter(|batch| forward_id.is_none_or(|id| id == batch.forward_id));
        let calls = batches.flat_map(|batch| &batch.places).filter_map(|place| self.by_run.get(&place.run));
        let mut names: Vec<String> = calls.map(|call| call.request_id.clone()).collect();
        // Items of a call stand together.
        names.dedup();
        names
    }

    /// The next items to submit, at most so many; from now on they are under way.
    pub(crate) fn next_batch(&mut self, max_items: usize) -> Option<ForwardBatch> {
        let mut bytes = 0;
        let mut batch = ForwardBatch::default();
        let mut places = Vec::new();
        while batch.items.len() < max_items
            && let Some(next) = self.waiting.front()
            && (batch.items.is_empty() || bytes + next.item.size() <= MAX_BATCH_BYTES)
            && let Some(Item { place, item }) = self.waiting.pop_front()
        {
            bytes += item.size();
            let call = self.by_run.get(&place.run);
            batch.request_ids.push(call.map(|call| call.request_id.clone()).unwrap_or_default());
            places.push(place);
            batch.items.push(item);
        }
        if places.is_empty() {
            return None;
        }
        self.next_forward += 1;
        batch.forward_id = self.next_forward;
        self.in_flight.push_back(InFlight { forward_id: batch.forward_id, places });
        Some(batch)
    }

    /// The runs of the batch that was made last.
    pub(crate) fn runs_entered(&self) -> Vec<u32> {
        let mut runs: Vec<u32> = self.in_flight.back().into_iter().flat_map(|b| &b.places).map(|p| p.run).collect();
        runs.dedup();
        runs
    }

    /// The batch that was made last did not reach the worker: its items wait again, in front.
    pub(crate) fn put_back(&mut self, batch: ForwardBatch) {
        let Some(InFlight { places, .. }) = self.in_flight.pop_back() else { return };
        for (place, item) in places.into_iter().zip(batch.items).rev() {
            if self.by_run.get(&place.run).is_some_and(|call| call.arrival == place.arrival) {
                self.waiting.push_front(Item { place, item });
            }
        }
    }

    /// A forward was answered. One that nobody waits for is left alone.
    pub(crate) fn answered(&mut self, output: ForwardOutput) -> Vec<EndedCall> {
        let Some(at) = self.in_flight.iter().position(|b| b.forward_id == output.forward_id) else { return Vec::new() };
        let Some(InFlight { places, .. }) = self.in_flight.remove(at) else { return Vec::new() };
        let error = output.error.or_else(|| {
            let (given, wanted) = (output.results.len(), places.len());
            (given != wanted).then(|| Error::internal(format!("the worker gave {given} results for {wanted} inputs")))
        });
        match error {
            Some(error) => self.fail(places, &error),
            None => places.into_iter().zip(output.results).filter_map(|(p, result)| self.put(p, result)).collect(),
        }
    }

    /// What is under way will not be answered. It is not tried again, since it may have had effects; what waits goes to another worker.
    pub(crate) fn lost(&mut self, error: &Error) -> Vec<EndedCall> {
        let batches = std::mem::take(&mut self.in_flight);
        batches.into_iter().flat_map(|batch| self.fail(batch.places, error)).collect()
    }

    /// The batch that was made last was refused.
    pub(crate) fn refused(&mut self, error: &Error) -> Vec<EndedCall> {
        let Some(InFlight { places, .. }) = self.in_flight.pop_back() else { return Vec::new() };
        self.fail(places, error)
    }

    fn fail(&mut self, places: Vec<Place>, error: &Error) -> Vec<EndedCall> {
        places.into_iter().filter_map(|place| self.put(place, Err(error.clone()))).collect()
    }

    /// The call if this was its last result.
    fn put(&mut self, place: Place, result: Result<ForwardItem>) -> Option<EndedCall> {
        let call = self.by_run.get_mut(&place.run).filter(|call| call.arrival == place.arrival)?;
        let result = result.map_err(|e| e.with_stage(Stage::Forward).with_request_id(call.request_id.clone()));
        let slot = call.results.get_mut(place.index).filter(|slot| slot.is_none())?;
        *slot = Some(result);
        call.num_missing -= 1;
        if call.num_missing > 0 {
            return None;
        }
        let call = self.by_run.remove(&place.run)?;
        Some(EndedCall { run: place.run, results: call.results.into_iter().flatten().collect() })
    }
}

#[cfg(test)]
mod tests {
    use pillion_core::ErrorCode;
    use proptest::prelude::*;

    use super::*;

    fn item(json: &str) -> ForwardItem {
        ForwardItem { json: json.to_owned(), tensors: Vec::new() }
    }

    fn call(run: u32, items: &[&str]) -> NewCall {
        call_at(u64::from(run), run, items)
    }

    fn call_at(arrival: u64, run: u32, items: &[&str]) -> NewCall {
        NewCall {
            run,
            arrival,
            request_id: format!("r{run}"),
            items: items.iter().map(|json| item(json)).collect(),
            deadline: None,
        }
    }

    fn texts(items: &[ForwardItem]) -> Vec<&str> {
        items.iter().map(|item| item.json.as_str()).collect()
    }

    fn answer(calls: &mut Calls, batch: ForwardBatch) -> Vec<EndedCall> {
        let results = batch.items.into_iter().map(Ok).collect();
        calls.answered(ForwardOutput { forward_id: batch.forward_id, results, ..ForwardOutput::default() })
    }

    #[test]
    fn all_that_waits_goes_together_up_to_a_bound() {
        let mut calls = Calls::default();
        assert!(calls.add(call(1, &["1", "2"])).is_none());
        assert!(calls.add(call(2, &["3"])).is_none());
        assert!(calls.add(call(3, &["4", "5"])).is_none());
        let first = calls.next_batch(4).unwrap();
        assert_eq!((texts(&first.items), calls.runs_entered()), (vec!["1", "2", "3", "4"], vec![1, 2, 3]));
        assert_eq!(first.request_ids, ["r1", "r1", "r2", "r3"]);
        let second = calls.next_batch(4).unwrap();
        assert_eq!(texts(&second.items), ["5"]);
        assert!(calls.next_batch(4).is_none());
        let ended = answer(&mut calls, first);
        assert_eq!(ended.iter().map(|e| e.run).collect::<Vec<_>>(), [1, 2]);
        let ended = answer(&mut calls, second);
        let results: Vec<_> = ended[0].results.iter().map(|r| r.as_ref().unwrap().json.as_str()).collect();
        assert_eq!((ended[0].run, results), (3, vec!["4", "5"]));
        assert_eq!((calls.num_in_flight(), calls.runs().len()), (0, 0));
    }

    #[test]
    fn what_came_first_goes_first_though_it_was_ready_later() {
        let mut calls = Calls::default();
        for run in [2, 4, 1, 3] {
            calls.add(call(run, &[&run.to_string(), "0"]));
        }
        assert_eq!(texts(&calls.next_batch(9).unwrap().items), ["1", "0", "2", "0", "3", "0", "4", "0"]);
    }

    #[test]
    fn a_batch_is_bounded_in_bytes_but_takes_a_long_item_alone() {
        let mut calls = Calls::default();
        let long = "1".repeat(MAX_BATCH_BYTES + 1);
        calls.add(call(1, &["1", &long, "2", "3"]));
        let lens: Vec<_> = std::iter::from_fn(|| calls.next_batch(9).map(|b| b.items.len())).collect();
        assert_eq!(lens, [1, 1, 2]);
    }

    #[test]
    fn a_removed_call_leaves_nothing_and_its_number_can_be_used_again() {
        let mut calls = Calls::default();
        calls.add(call(1, &["1", "2"]));
        let batch = calls.next_batch(1).unwrap();
        assert_eq!(calls.remove(1).as_deref(), Some("r1"));
        assert_eq!((calls.remove(1), calls.num_waiting()), (None, 0));
        calls.add(call_at(2, 1, &["3"]));
        assert!(answer(&mut calls, batch).is_empty(), "an answer to the old call is not the new one's");
        let batch = calls.next_batch(1).unwrap();
        assert_eq!(answer(&mut calls, batch)[0].results, [Ok(item("3"))]);
    }

    #[test]
    fn a_failed_forward_fails_its_items_only() {
        let mut calls = Calls::default();
        calls.add(call(1, &["1", "2"]));
        let first = calls.next_batch(1).unwrap();
        let boom = Error::new(ErrorCode::PythonError, "boom");
        assert!(calls.answered(ForwardOutput::failed(first.forward_id, boom)).is_empty());
        let second = calls.next_batch(1).unwrap();
        let ended = answer(&mut calls, second);
        let error = ended[0].results[0].as_ref().unwrap_err();
        assert_eq!(
            (error.code(), error.request_id(), error.stage()),
            (ErrorCode::PythonError, Some("r1"), Some(Stage::Forward))
        );
        assert_eq!(ended[0].results[1], Ok(item("2")));
    }

    #[test]
    fn a_wrong_number_of_results_is_an_error_of_all() {
        let mut calls = Calls::default();
        calls.add(call(1, &["1", "2"]));
        let mut batch = calls.next_batch(2).unwrap();
        batch.items.pop();
        let ended = answer(&mut calls, batch);
        assert!(ended[0].results.iter().all(|r| r.as_ref().is_err_and(|e| e.message().contains("1 results for 2"))));
    }

    #[test]
    fn what_is_under_way_is_lost_with_its_worker_and_the_rest_waits_on() {
        let mut calls = Calls::default();
        calls.add(call(1, &["1"]));
        calls.add(call(2, &["2"]));
        let lost = calls.next_batch(1).unwrap();
        let ended = calls.lost(&Error::new(ErrorCode::WorkerLost, "killed"));
        assert!(ended.len() == 1 && ended[0].results[0].as_ref().is_err_and(Error::is_retryable));
        assert!(answer(&mut calls, lost).is_empty());
        assert_eq!(texts(&calls.next_batch(9).unwrap().items), ["2"]);
    }

    #[test]
    fn what_did_not_reach_the_worker_goes_first_next_time() {
        let mut calls = Calls::default();
        calls.add(call(1, &["1", "2", "3"]));
        let batch = calls.next_batch(2).unwrap();
        calls.put_back(batch);
        assert_eq!(texts(&calls.next_batch(9).unwrap().items), ["1", "2", "3"]);
        assert_eq!(calls.num_in_flight(), 1);
        assert_eq!(calls.refused(&Error::internal("no")).len(), 1);
    }

    #[test]
    fn a_call_without_items_has_ended() {
        assert!(Calls::default().add(call(1, &[])).unwrap().results.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Op {
        Add(usize),
        Submit(usize),
        Answer,
        Fail,
        Lose,
        PutBack,
        Remove(prop::sample::Index),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0..6usize).prop_map(Op::Add),
            4 => (1..5usize).prop_map(Op::Submit),
            3 => Just(Op::Answer),
            1 => Just(Op::Fail),
            1 => Just(Op::Lose),
            1 => Just(Op::PutBack),
            1 => any::<prop::sample::Index>().prop_map(Op::Remove),
        ]
    }

    /// What a call was given, by its run.
    type Open = HashMap<u32, Vec<String>>;

    /// Every result is the input's own, or an error; a call ends once.
    fn check(open: &mut Open, ended: Vec<EndedCall>) -> Result<(), TestCaseError> {
        for call in ended {
            let inputs = open.remove(&call.run);
            prop_assert!(inputs.is_some(), "run {} ended twice, or after it was removed", call.run);
            let inputs = inputs.unwrap();
            prop_assert_eq!(call.results.len(), inputs.len());
            for (result, input) in call.results.iter().zip(&inputs) {
                prop_assert!(result.as_ref().map_or(true, |item| item.json == *input));
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn every_call_ends_once_with_its_own_results(ops in prop::collection::vec(op(), 0..60)) {
            let (mut calls, mut open, mut sent) = (Calls::default(), Open::new(), VecDeque::new());
            let error = Error::new(ErrorCode::WorkerLost, "killed");
            for (number, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Add(len) => {
                        // Few numbers, so that they are used again.
                        let Some(run) = (0..5u32).find(|run| !open.contains_key(run)) else { continue };
                        let inputs: Vec<_> = (0..len).map(|i| format!("[{number},{i}]")).collect();
                        let new = call_at(number as u64, run, &inputs.iter().map(String::as_str).collect::<Vec<_>>());
                        open.insert(run, inputs);
                        let ended = calls.add(new);
                        check(&mut open, ended.into_iter().collect())?;
                    }
                    Op::Submit(max) => sent.extend(calls.next_batch(max)),
                    Op::Answer => if let Some(batch) = sent.pop_front() {
                        check(&mut open, answer(&mut calls, batch))?;
                    },
                    Op::Fail => if let Some(batch) = sent.pop_front() {
                        let output = ForwardOutput::failed(batch.forward_id, error.clone());
                        check(&mut open, calls.answered(output))?;
                    },
                    Op::Lose => {
                        let ended = calls.lost(&error);
                        check(&mut open, ended)?;
                        // Late answers of the lost worker mean nothing.
                        for batch in sent.drain(..) {
                            prop_assert!(answer(&mut calls, batch).is_empty());
                        }
                    }
                    Op::PutBack => if let Some(batch) = sent.pop_back() {
                        calls.put_back(batch);
                    },
                    Op::Remove(which) => {
                        let run = which.index(5) as u32;
                        prop_assert_eq!(calls.remove(run).is_some(), open.remove(&run).is_some());
                    }
                }
                prop_assert_eq!(calls.num_in_flight(), sent.len());
            }
            for batch in sent {
                check(&mut open, answer(&mut calls, batch))?;
            }
            while let Some(batch) = calls.next_batch(3) {
                check(&mut open, answer(&mut calls, batch))?;
            }
            prop_assert!(open.is_empty(), "{open:?} never ended");
            prop_assert_eq!((calls.runs().len(), calls.num_waiting(), calls.num_in_flight()), (0, 0, 0));
        }
    }
}
