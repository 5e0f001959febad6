//! Counters and gauges, with names that Prometheus' conventions ask for.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Counts as they are at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Only ever rise.
    pub counters: BTreeMap<String, f64>,
    /// Rise and fall.
    pub gauges: BTreeMap<String, f64>,
}

impl Metrics {
    /// The text that a Prometheus server reads.
    pub fn to_prometheus(&self) -> String {
        let mut out = String::new();
        for (kind, values) in [("counter", &self.counters), ("gauge", &self.gauges)] {
            for (name, value) in values {
                let help = help(name);
                let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
            }
        }
        out
    }
}

macro_rules! counters {
    ($($field:ident = $name:literal, $help:literal;)+) => {
        /// The engine's own counters; written by its thread, read by anyone.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $field: AtomicU64,)+
            /// The one gauge that only the engine's thread knows.
            pub(crate) items_waiting: AtomicU64,
        }

        impl Counters {
            pub(crate) fn read(&self) -> BTreeMap<String, f64> {
                #[expect(clippy::cast_precision_loss, reason = "2^53 is more than any of these reaches")]
                BTreeMap::from([$(($name.to_owned(), self.$field.load(Relaxed) as f64),)+])
            }
        }

        fn help(name: &str) -> &'static str {
            match name {
                $($name => $help,)+
                "pillion_forward_items_waiting" => "Inputs of predict that are ready and wait for a forward.",
                "pillion_requests_running" => "Requests that have a slot.",
                "pillion_requests_waiting" => "Requests that wait for one or are being tokenized.",
                "pillion_prompt_tokens_waiting" => "Prompt tokens of the waiting requests.",
                _ => "",
            }
        }
    };
}

counters! {
    requests = "pillion_requests_total", "Requests received, refused ones included.";
    finished = "pillion_requests_finished_total", "Requests that ended with a finish reason other than abort.";
    aborted = "pillion_requests_aborted_total", "Requests that their caller ended.";
    failed = "pillion_requests_failed_total", "Requests that ended with an error, refused ones included.";
    refused = "pillion_requests_refused_total", "Requests refused because the queue was full.";
    prompt_tokens = "pillion_prompt_tokens_total", "Prompt tokens that entered the model.";
    completion_tokens = "pillion_completion_tokens_total", "Tokens that the model gave.";
    steps = "pillion_steps_total", "Steps that the worker answered.";
    steps_failed = "pillion_steps_failed_total", "Steps that failed as a whole.";
    forward_us = "pillion_forward_microseconds_total", "Time of the forward passes, as the worker says.";
    forwards = "pillion_forwards_total", "Forwards of predict that the worker answered.";
    forwards_failed = "pillion_forwards_failed_total", "Forwards of predict that failed as a whole.";
    forward_items = "pillion_forward_items_total", "Inputs of predict that were given to the worker.";
    logs_dropped = "pillion_log_records_dropped_total", "Log lines dropped because the queue was full.";
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_help_and_type() {
        let counters = Counters::default();
        Counters::add(&counters.steps, 3);
        let gauges = BTreeMap::from([("pillion_requests_running".to_owned(), 2.0)]);
        let text = Metrics { counters: counters.read(), gauges }.to_prometheus();
        assert!(text.contains("# TYPE pillion_steps_total counter\npillion_steps_total 3\n"), "{text}");
        assert!(text.contains("# TYPE pillion_requests_running gauge\npillion_requests_running 2\n"));
        assert!(text.lines().filter(|l| l.starts_with("# HELP")).all(|l| l.split(' ').count() > 4));
    }
}
