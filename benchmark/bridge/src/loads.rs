//! The measurements of steps and forwards. The bridges take turns within each round, and another begins each round.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bridge_bench::drive::{Bridge, Driver, ROWS, check, decode_step, resident_bytes, time_wake_ups};
use pillion_core::{
    Error,
    forward::{Dtype, ForwardBatch, ForwardItem, Tensor},
};
use serde_json::json;

use crate::{Failure, Options, summary, tell};

const MIB: usize = 1 << 20;

type Drivers = Vec<(Bridge, Driver)>;

fn open(options: &Options) -> Result<Drivers, Failure> {
    let open = |bridge| Ok((bridge, Driver::open(&options.setup, bridge)?));
    options.bridges()?.into_iter().map(open).collect()
}

fn close(drivers: Drivers) -> Result<(), Failure> {
    for (_, driver) in drivers {
        driver.close()?;
    }
    Ok(())
}

/// Which one's turn it is.
fn turn<T>(all: &mut [T], round: usize, at: usize) -> &mut T {
    let len = all.len();
    &mut all[(at + round) % len]
}

pub(crate) fn steps(options: &Options) -> Result<(), Failure> {
    let mut drivers = open(options)?;
    for (_, driver) in &mut drivers {
        driver.time_steps(options.warm_up)?;
    }
    let record = vec![7; 16 * ROWS as usize];
    for round in 0..options.rounds {
        tell(&json!({"what": "step", "who": "wake", "round": round, "us": summary(&mut time_wake_ups(options.calls))}));
        for at in 0..drivers.len() {
            let (bridge, driver) = turn(&mut drivers, round, at);
            let times = summary(&mut driver.time_steps(options.calls)?);
            tell(&json!({"what": "step", "who": bridge.name(), "round": round, "us": times}));
            if *bridge == Bridge::Embedded {
                let times = summary(&mut pillion_backend_embedded::time_calls(&record, options.calls)?);
                tell(&json!({"what": "step", "who": "echo", "round": round, "us": times}));
            }
        }
    }
    close(drivers)
}

pub(crate) fn tensors(options: &Options) -> Result<(), Failure> {
    let mut drivers = open(options)?;
    let data: Vec<u8> = (0..MIB).map(|i| (i % 251) as u8).collect();
    let tensor = Tensor::new(Dtype::Uint8, vec![MIB as u32], data.clone())?;
    let batch = |tensor: Option<Tensor>| ForwardBatch {
        forward_id: 1 << 40,
        items: vec![ForwardItem {
            json: "null".to_owned(),
            tensors: tensor.map(|tensor| (None, tensor)).into_iter().collect(),
        }],
        request_ids: Vec::new(),
    };
    let mut batches = Vec::new();
    for (bridge, driver) in &mut drivers {
        let mut loads = vec![("empty forward", batch(None)), ("1 MiB", batch(Some(tensor.clone())))];
        if let Some(store) = driver.backend.tensor_store() {
            let held = store.hold(&data).ok_or_else(|| Error::internal(format!("{}: no room", bridge.name())))?;
            loads.push(("1 MiB held", batch(Some(Tensor::lent(Dtype::Uint8, vec![MIB as u32], held)?))));
        }
        for (_, batch) in &mut loads[1..] {
            batch.forward_id += 1;
            let answer = driver.forward(batch)?;
            let is_equal =
                |item: &ForwardItem| item.tensors.iter().all(|(_, t)| t.to_vec() == data) && !item.tensors.is_empty();
            if !answer.results.iter().all(|result| result.as_ref().is_ok_and(is_equal)) {
                return Err(Error::internal(format!("{}: the tensor came back changed", bridge.name())).into());
            }
        }
        batches.push((*bridge, loads));
    }
    for round in 0..=options.rounds {
        let mut lines = Vec::new();
        for buffers in [2, 3] {
            let what = format!("memcpy, {buffers} buffers");
            lines.push(json!({"what": what, "who": "rust", "us": summary(&mut copies(&data, buffers, options.calls))}));
        }
        for at in 0..drivers.len() {
            let (bridge, driver) = turn(&mut drivers, round, at);
            let mut steps = driver.time_steps(options.calls)?;
            lines.push(json!({"what": "empty step", "who": bridge.name(), "us": summary(&mut steps)}));
            let loads = batches.iter_mut().filter(|(of, _)| of == bridge).flat_map(|(_, loads)| loads);
            for (what, batch) in loads {
                let mut times = Vec::with_capacity(options.calls);
                for _ in 0..options.calls {
                    batch.forward_id += 1;
                    let begin = Instant::now();
                    let answer = driver.forward(batch)?;
                    times.push(begin.elapsed());
                    drop(black_box(answer));
                }
                lines.push(json!({"what": what, "who": bridge.name(), "us": summary(&mut times)}));
            }
        }
        // The first round warms up.
        for mut line in lines.into_iter().filter(|_| round > 0) {
            line["round"] = json!(round);
            tell(&line);
        }
    }
    close(drivers)
}

/// From one buffer to the next, all in use already. A tensor that is held lies in two places, another in three, each time the same: more than some
/// caches have room for.
fn copies(data: &[u8], buffers: usize, calls: usize) -> Vec<Duration> {
    let mut buffers = vec![data.to_vec(); buffers];
    let last = buffers.len() - 1;
    let copy = |call: usize| {
        let (from, into) = buffers[call % last..].split_at_mut(1);
        let begin = Instant::now();
        black_box(&mut into[0]).copy_from_slice(black_box(&from[0]));
        begin.elapsed()
    };
    (0..calls).map(copy).collect()
}

pub(crate) fn busy(options: &Options) -> Result<(), Failure> {
    let mut drivers = open(options)?;
    for round in 0..options.rounds {
        for at in 0..drivers.len() {
            let (bridge, driver) = turn(&mut drivers, round, at);
            for in_flight in [1, 2] {
                driver.time_steps(options.warm_up)?;
                let took = pipelined(driver, options.calls, in_flight)?.as_secs_f64();
                tell(
                    &json!({"what": "busy", "who": bridge.name(), "inFlight": in_flight, "round": round, "seconds": took}),
                );
            }
        }
        // The bare loop takes its turn now: `bench.mts` waits for this line and answers it.
        tell(&json!({"what": "turn"}));
        std::io::stdin().read_line(&mut String::new())?;
    }
    close(drivers)
}

/// The time from the first submission to the last answer.
fn pipelined(driver: &mut Driver, calls: usize, in_flight: usize) -> Result<Duration, Failure> {
    let mut step = decode_step();
    let begin = Instant::now();
    let (mut submitted, mut answered) = (0, 0);
    while answered < calls {
        while submitted < calls && submitted - answered < in_flight {
            submitted += 1;
            step.step_id = submitted as u64;
            driver.backend.submit(&step)?;
        }
        answered += 1;
        let output = driver.answer()?;
        step.step_id = answered as u64;
        check(&step, &output)?;
    }
    Ok(begin.elapsed())
}

pub(crate) fn memory(options: &Options) -> Result<(), Failure> {
    let mut drivers = open(options)?;
    let data = vec![7; MIB];
    let tensor = Tensor::new(Dtype::Uint8, vec![MIB as u32], data)?;
    let item = ForwardItem { json: "null".to_owned(), tensors: vec![(None, tensor)] };
    let mut batch = ForwardBatch { forward_id: 1 << 40, items: vec![item], request_ids: Vec::new() };
    let own = std::process::id();
    for (bridge, driver) in &mut drivers {
        let mut steps = |calls: usize| -> Result<u64, Failure> {
            // One step in a hundred is a forward with a tensor.
            for _ in 0..calls.div_ceil(100) {
                driver.time_steps(99)?;
                batch.forward_id += 1;
                driver.forward(&batch)?;
            }
            let both = resident_bytes(own) + if driver.pid == own { 0 } else { resident_bytes(driver.pid) };
            Ok(both)
        };
        let before = steps(options.warm_up)?;
        let after = steps(options.calls)?;
        tell(
            &json!({"what": "memory", "who": bridge.name(), "steps": options.calls, "before": before, "after": after}),
        );
    }
    close(drivers)
}
