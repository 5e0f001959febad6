//! The steps and forwards that are under way, and how long each may take. Pure: the time is an argument.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use pillion_core::{Error, Result, step::RecordKind};

use crate::options::SuperviseOptions;

/// Steps that may be submitted and unanswered.
pub(crate) const MAX_IN_FLIGHT: usize = 2;
/// One part in so many of an average is the newest value.
const AVERAGE: f64 = 8.0;

/// Steps in the order in which they were submitted.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    steps: VecDeque<InFlight>,
    /// When the first of them became the first: from then on the worker works on it.
    head_since: Option<Instant>,
    predictor: Predictor,
}

#[derive(Debug)]
struct InFlight {
    kind: RecordKind,
    step_id: u64,
    /// Positions that it computes; items of a forward.
    positions: u64,
}

impl Flight {
    /// Before the step is handed over, so that its answer cannot come first.
    pub(crate) fn submitted(&mut self, kind: RecordKind, step_id: u64, positions: u64, now: Instant) -> Result<()> {
        if self.steps.len() >= MAX_IN_FLIGHT {
            return Err(Error::internal(format!("step {step_id} was submitted while {MAX_IN_FLIGHT} were in flight")));
        }
        self.steps.push_back(InFlight { kind, step_id, positions });
        self.head_since.get_or_insert(now);
        Ok(())
    }

    /// The newest step could not be handed over after all.
    pub(crate) fn withdraw(&mut self) {
        self.steps.pop_back();
        if self.steps.is_empty() {
            self.head_since = None;
        }
    }

    /// What the next answer must be an answer to.
    pub(crate) fn expected(&self) -> Option<RecordKind> {
        self.steps.front().map(|head| head.kind)
    }

    /// The worker gave an answer; it must be that to the oldest step.
    pub(crate) fn answered(&mut self, step_id: u64, now: Instant) -> Result<()> {
        let Some(head) = self.steps.front() else {
            return Err(Error::internal(format!("the worker answered step {step_id}, which nobody asked for")));
        };
        if head.step_id != step_id {
            return Err(Error::internal(format!(
                "the worker answered step {step_id} in place of step {}",
                head.step_id
            )));
        }
        if let Some(since) = self.head_since {
            self.predictor.learn(head.positions, now.saturating_duration_since(since));
        }
        self.steps.pop_front();
        self.head_since = (!self.steps.is_empty()).then_some(now);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// When the worker must have answered the oldest step, its id, and how long it will have had then.
    pub(crate) fn deadline(&self, options: &SuperviseOptions) -> Option<(Instant, u64, Duration)> {
        let (head, since) = (self.steps.front()?, self.head_since?);
        let limit = self.predictor.limit(head.positions, options);
        Some((since.checked_add(limit)?, head.step_id, limit))
    }
}

/// Predicts a step's time from those before: the larger of the average step and its share by positions.
#[derive(Debug, Default)]
struct Predictor {
    seconds_per_step: Option<f64>,
    seconds_per_position: Option<f64>,
}

impl Predictor {
    #[expect(clippy::cast_precision_loss, reason = "a count of positions is far below 2^52")]
    fn learn(&mut self, positions: u64, took: Duration) {
        let took = took.as_secs_f64();
        let average = |old: Option<f64>, new: f64| Some(old.map_or(new, |old| old + (new - old) / AVERAGE));
        self.seconds_per_step = average(self.seconds_per_step, took);
        if positions > 0 {
            self.seconds_per_position = average(self.seconds_per_position, took / positions as f64);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of positions is far below 2^52")]
    fn limit(&self, positions: u64, options: &SuperviseOptions) -> Duration {
        let Some(step) = self.seconds_per_step else { return options.hang_max };
        let predicted = step.max(self.seconds_per_position.unwrap_or(0.0) * positions as f64);
        Duration::try_from_secs_f64(predicted * options.hang_factor)
            .unwrap_or(options.hang_max)
            .max(options.hang_min)
            .min(options.hang_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn options() -> SuperviseOptions {
        SuperviseOptions { hang_factor: 10.0, hang_min: 50 * MS, hang_max: 10_000 * MS, ..SuperviseOptions::default() }
    }

    #[test]
    fn answers_must_come_in_order() {
        let now = Instant::now();
        let mut f = Flight::default();
        assert!(f.answered(1, now).unwrap_err().message().contains("nobody asked"));
        f.submitted(RecordKind::Step, 1, 1, now).unwrap();
        f.submitted(RecordKind::Step, 2, 1, now).unwrap();
        assert!(f.submitted(RecordKind::Step, 3, 1, now).unwrap_err().message().contains("2 were in flight"));
        assert!(f.answered(2, now).unwrap_err().message().contains("step 2 in place of step 1"));
        f.answered(1, now).unwrap();
        f.answered(2, now).unwrap();
        assert_eq!(f.len(), 0);
        assert!(f.deadline(&options()).is_none());
    }

    #[test]
    fn the_first_step_may_take_the_longest_and_later_ones_what_they_should() {
        let start = Instant::now();
        let mut f = Flight::default();
        f.submitted(RecordKind::Step, 1, 32, start).unwrap();
        assert_eq!(f.deadline(&options()).unwrap().2, 10_000 * MS);
        f.answered(1, start + 32 * MS).unwrap();
        // A millisecond a position.
        for (positions, limit) in [(32, 320), (1, 320), (64, 640), (1_000_000, 10_000)] {
            f.submitted(RecordKind::Step, 2, positions, start).unwrap();
            let (_, id, got) = f.deadline(&options()).unwrap();
            assert_eq!((id, got.as_millis()), (2, limit), "{positions}");
            f.withdraw();
        }
        for id in 3..100 {
            f.submitted(RecordKind::Step, id, 1, start).unwrap();
            f.answered(id, start).unwrap();
        }
        f.submitted(RecordKind::Step, 200, 1, start).unwrap();
        assert_eq!(f.deadline(&options()).unwrap().2, 50 * MS);
    }

    #[test]
    fn the_second_steps_time_runs_from_the_firsts_answer() {
        let start = Instant::now();
        let mut f = Flight::default();
        f.submitted(RecordKind::Step, 1, 1, start).unwrap();
        f.submitted(RecordKind::Step, 2, 1, start).unwrap();
        f.answered(1, start + 10 * MS).unwrap();
        let (at, id, limit) = f.deadline(&options()).unwrap();
        assert_eq!((id, at), (2, start + 10 * MS + limit));
    }
}
