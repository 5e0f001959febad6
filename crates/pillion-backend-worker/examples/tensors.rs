//! What a tensor costs each way: put into a forward in Rust, seen by a Python class that gives it back, copied out in Rust.
//!
//! `cargo run --release -p pillion-backend-worker --example tensors [-- --bytes N] [--forwards N] [--no-pool]`. Pinned to one core. `PILLION_PYTHON` names
//! an interpreter that has numpy. Until Rust has the result (`given`, with the pool one copy a direction) and until it has copied it into a
//! buffer of its own (`taken`, one more). Beside it an empty forward, and a copy of so many bytes between buffers that take turns, as the
//! pools' and the callers' do. At the end: how much the two processes have grown while it ran.

#![cfg_attr(not(target_os = "linux"), allow(unused))]
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::{
    error::Error,
    hint::black_box,
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use pillion_backend_worker::{WorkerBackend, WorkerOptions};
use pillion_core::{
    Backend, BackendEvent, BackendEvents, LoadConfig, LoadLimits, ModelSource,
    forward::{Dtype, ForwardBatch, ForwardItem, Tensor},
};

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: usize| {
        let at = arguments.iter().position(|a| a == name);
        at.and_then(|at| arguments.get(at + 1)).and_then(|n| n.parse().ok()).unwrap_or(default)
    };
    let mut core = rustix::thread::CpuSet::new();
    core.set(0);
    rustix::thread::sched_setaffinity(None, &core)?;
    let (bytes, forwards) = (number("--bytes", 1 << 20), number("--forwards", 2000));
    let mut options = options();
    if arguments.iter().any(|a| a == "--no-pool") {
        options.max_pool_bytes = 0;
    }
    let mut worker = Worker::start(options)?;
    let data: Vec<u8> = (0..bytes).map(|i| i as u8).collect();
    let copy = copy_time(&data);
    println!("{bytes} bytes, microseconds, medians");
    println!(
        "{:>6} {:>9} {:>9} {:>9} {:>9} {:>24}",
        "round", "copy", "empty", "given", "taken", "copies in given, taken"
    );
    let mut before = None;
    for round in 1..=5 {
        let (empty, _) = worker.measure(forwards, None)?;
        let (given, taken) = worker.measure(forwards, Some(&data))?;
        let [c, e, g, t] = [copy, empty, given, taken].map(|t| t.as_secs_f64() * 1e6);
        println!("{round:>6} {c:>9.1} {e:>9.1} {g:>9.1} {t:>9.1} {:>15.2} {:>8.2}", (g - e) / c, (t - e) / c);
        before = before.or(Some(worker.resident()?));
    }
    if let (Some(before), after) = (before, worker.resident()?) {
        let grown = |i: usize| (after[i].cast_signed() - before[i].cast_signed()) / 1024;
        println!("grown since the first round, KiB: Rust {}, Python {}", grown(0), grown(1));
    }
    Ok(())
}

struct Worker {
    backend: WorkerBackend,
    events: mpsc::Receiver<BackendEvent>,
    next: u64,
}

#[cfg(target_os = "linux")]
impl Worker {
    fn start(options: WorkerOptions) -> Result<Self, Box<dyn Error>> {
        let (send, events) = mpsc::channel();
        let mut backend = WorkerBackend::new(options);
        backend.start(BackendEvents::new(move |event| drop(send.send(event))))?;
        let mut worker = Self { backend, events, next: 0 };
        match worker.event()? {
            BackendEvent::Ready(_) => Ok(worker),
            other => Err(format!("{other:?} in place of a worker").into()),
        }
    }

    fn event(&mut self) -> Result<BackendEvent, Box<dyn Error>> {
        loop {
            match self.events.recv_timeout(Duration::from_secs(60))? {
                BackendEvent::Log(_) | BackendEvent::Progress(_) => {}
                event => return Ok(event),
            }
        }
    }

    /// The time of a forward with this tensor, until its result is there and until it has been copied out. The tensor's own making is
    /// not counted.
    fn measure(&mut self, forwards: usize, data: Option<&Vec<u8>>) -> Result<(Duration, Duration), Box<dyn Error>> {
        let tensors = match data {
            Some(data) => vec![(None, Tensor::new(Dtype::Uint8, vec![data.len() as u32], data.clone())?)],
            None => Vec::new(),
        };
        let mut batch = ForwardBatch {
            forward_id: 0,
            items: vec![ForwardItem { json: "null".into(), tensors }],
            ..ForwardBatch::default()
        };
        let (mut given, mut taken) = (Vec::with_capacity(forwards), Vec::with_capacity(forwards));
        let mut result = Vec::with_capacity(data.map_or(0, Vec::len));
        for _ in 0..forwards {
            self.next += 1;
            batch.forward_id = self.next;
            let begin = Instant::now();
            self.backend.submit_forward(&batch)?;
            let BackendEvent::ForwardDone(output) = self.event()? else { return Err("no answer".into()) };
            given.push(begin.elapsed());
            result.clear();
            let item = output.results.first().ok_or("no result")?.as_ref().map_err(Clone::clone)?;
            item.tensors.iter().for_each(|(_, tensor)| tensor.append_to(&mut result));
            taken.push(begin.elapsed());
            if data.is_some_and(|data| *data != result) {
                return Err("the tensor came back changed".into());
            }
        }
        Ok((median(given), median(taken)))
    }

    /// Bytes of this process and of the worker.
    fn resident(&self) -> Result<[u64; 2], Box<dyn Error>> {
        let worker = self.backend.workers().first().ok_or("no worker")?.rss_bytes;
        let pages = std::fs::read_to_string("/proc/self/statm")?;
        let pages: u64 = pages.split_ascii_whitespace().nth(1).ok_or("no size")?.parse()?;
        Ok([pages * rustix::param::page_size() as u64, worker])
    }
}

/// Four buffers, each copied to the next, so that none is as warm as two would be.
fn copy_time(data: &[u8]) -> Duration {
    let mut buffers = vec![data.to_vec(); 4];
    median((0..401).map(|i| {
        let (mut target, source) = (std::mem::take(&mut buffers[(i + 1) % 4]), &buffers[i % 4]);
        let begin = Instant::now();
        target.clear();
        target.extend_from_slice(black_box(source));
        black_box(&mut target);
        let took = begin.elapsed();
        buffers[(i + 1) % 4] = target;
        took
    }))
}

fn median(times: impl IntoIterator<Item = Duration>) -> Duration {
    let mut times: Vec<_> = times.into_iter().collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn options() -> WorkerOptions {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = crate_dir.join("examples/echo_model.py");
    let load = LoadConfig {
        model: ModelSource::Class { spec: format!("{}:Echo", file.display()), options: serde_json::Value::Null },
        device: None,
        dtype: None,
        num_threads: 1,
        limits: LoadLimits { max_context: None, max_batch_tokens: 64, max_running: 32, kv_cache_bytes: None },
    };
    let python = std::env::var("PILLION_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    WorkerOptions::new(python, vec![crate_dir.join("../../python")], load)
}
