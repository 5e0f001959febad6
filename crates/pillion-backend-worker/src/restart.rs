//! When a lost worker is started anew. Pure: the time is an argument.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::options::RestartOptions;

/// Remembers past restarts.
#[derive(Debug)]
pub(crate) struct Restarts {
    options: RestartOptions,
    /// Within the window, oldest first.
    recent: VecDeque<Instant>,
    total: u32,
}

impl Restarts {
    pub(crate) fn new(options: RestartOptions) -> Self {
        Self { options, recent: VecDeque::new(), total: 0 }
    }

    /// How long to wait before the next start; `None` when there is none any more.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Duration> {
        while self.recent.front().is_some_and(|at| now.saturating_duration_since(*at) > self.options.window) {
            self.recent.pop_front();
        }
        let used = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
        if used >= self.options.max_restarts {
            return None;
        }
        self.recent.push_back(now);
        self.total = self.total.saturating_add(1);
        let wait = self.options.backoff_min.saturating_mul(2u32.saturating_pow(used.min(31)));
        Some(wait.min(self.options.backoff_max))
    }

    /// How often the worker was started anew, ever.
    pub(crate) fn total(&self) -> u32 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn restarts(max_restarts: u32) -> Restarts {
        Restarts::new(RestartOptions {
            max_restarts,
            window: 100 * SECOND,
            backoff_min: SECOND,
            backoff_max: 5 * SECOND,
        })
    }

    #[test]
    fn waits_double_up_to_the_bound_and_then_end() {
        let mut r = restarts(5);
        let now = Instant::now();
        let waits: Vec<_> = (0..6).map(|_| r.next(now).map(|w| w.as_secs())).collect();
        assert_eq!(waits, [Some(1), Some(2), Some(4), Some(5), Some(5), None]);
        assert_eq!(r.total(), 5);
    }

    #[test]
    fn what_lies_outside_the_window_is_forgiven() {
        let mut r = restarts(2);
        let start = Instant::now();
        assert_eq!(r.next(start), Some(SECOND));
        assert_eq!(r.next(start + 60 * SECOND), Some(2 * SECOND));
        assert_eq!(r.next(start + 90 * SECOND), None);
        assert_eq!(r.next(start + 101 * SECOND), Some(2 * SECOND));
        assert_eq!(r.next(start + 300 * SECOND), Some(SECOND));
        assert_eq!(r.total(), 4);
    }

    #[test]
    fn none_means_none() {
        assert_eq!(restarts(0).next(Instant::now()), None);
    }
}
