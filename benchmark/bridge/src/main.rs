//! Measures from Rust. `bench.mts` runs it and makes the tables; alone: `bridge-bench COMMAND JSON`.
//!
//! | command | measures |
//! |---|---|
//! | `steps` | round trips of a step of 32 decode rows, the bridges in turn; an echo on the Python thread |
//! | `tensors` | forwards with a tensor of 1 MiB each way, beside empty ones and a copy of as much memory |
//! | `busy` | decode steps of a busy model, one and two in flight |
//! | `memory` | what many steps leave behind |
//! | `kill` | how soon the death of a worker is noticed, and whether every stream ends as it would have |
//! | `pinned` | nothing: runs the rest of the arguments on the processor of this number |
//!
//! Each result is a line of JSON on standard output.

mod kill;
mod loads;

use std::{env, os::unix::process::CommandExt, process::Command, time::Duration};

use bridge_bench::drive::{Bridge, Setup};
use pillion_core::Error;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

/// What every command is told.
struct Options {
    setup: Setup,
    rounds: usize,
    calls: usize,
    warm_up: usize,
    all: Value,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments[..] {
        [command, cpu, program, rest @ ..] if command == "pinned" => {
            let mut cpus = CpuSet::new();
            cpus.set(cpu.parse()?);
            sched_setaffinity(None, &cpus)?;
            Err(Command::new(program).args(rest).exec().into())
        }
        [command, json] => {
            let all: Value = serde_json::from_str(json)?;
            let number = |name: &str| all[name].as_u64().map_or(1, |n| n as usize);
            let (rounds, calls, warm_up) = (number("rounds"), number("calls"), number("warmUp"));
            let options = Options { setup: Setup::parse(&all)?, rounds, calls, warm_up, all };
            match command.as_str() {
                "steps" => loads::steps(&options),
                "tensors" => loads::tensors(&options),
                "busy" => loads::busy(&options),
                "memory" => loads::memory(&options),
                "kill" => kill::run(&options),
                other => Err(format!("no command {other}").into()),
            }
        }
        _ => Err("give a command and its options as JSON".into()),
    }
}

impl Options {
    /// Those that are asked for.
    fn bridges(&self) -> Result<Vec<Bridge>, Failure> {
        let Some(names) = self.all["bridges"].as_array() else { return Ok(Bridge::ALL.to_vec()) };
        let named = |name: &Value| {
            let bridge = name.as_str().and_then(Bridge::named);
            bridge.ok_or_else(|| Error::invalid("bridges", "embedded, shm, grpc", name).into())
        };
        names.iter().map(named).collect()
    }
}

fn tell(line: &Value) {
    println!("{line}");
}

/// Percentiles in microseconds.
fn summary(times: &mut [Duration]) -> Value {
    times.sort_unstable();
    let at = |part: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let index = ((times.len() - 1) as f64 * part).round() as usize;
        times.get(index).map_or(0.0, Duration::as_secs_f64) * 1e6
    };
    json!({"p50": at(0.5), "p99": at(0.99), "max": at(1.0)})
}
