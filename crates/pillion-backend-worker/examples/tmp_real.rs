use std::{sync::mpsc, time::{Duration, Instant}};
use pillion_backend_worker::{WorkerBackend, WorkerOptions};
use pillion_core::{*, step::*};
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let load = LoadConfig { model: ModelSource::Pretrained { path, trust_remote_code: false }, device: None, dtype: Some("float32".into()), num_threads: 1,
        limits: LoadLimits { max_context: Some(256), max_batch_tokens: 64, max_running: 4, kv_cache_bytes: None } };
    let mut o = WorkerOptions::new("/work/main/.venv/bin/python", vec!["/work/main/python".into()], load);
    o.supervise.start_timeout = Duration::from_secs(300);
    let (tx, rx) = mpsc::channel();
    let mut b = WorkerBackend::new(o);
    let t = Instant::now();
    b.start(BackendEvents::new(move |e| drop(tx.send((Instant::now(), e))))).unwrap();
    let mut id = 0; let mut lost_at = None; let mut killed = None::<Instant>;
    loop {
        let (at, e) = rx.recv().unwrap();
        match e {
            BackendEvent::Ready(info) => {
                println!("{:?} ready {} {:?}", t.elapsed(), info.model.name, b.workers());
                id += 1;
                let new = NewSequence { slot: 0, prompt_len: 3, temperature: 0.0, top_p: 1.0, max_len: 50, repetition_penalty: 1.0, ..Default::default() };
                b.submit(&Step { step_id: id, new: vec![new], prompts: vec![1, 2, 3], rows: vec![Row { slot: 0, start: 0, count: 3, flags: ROW_SAMPLE }], ..Default::default() }).unwrap();
            }
            BackendEvent::StepDone(o) => { println!("{o:?}");
                if lost_at.is_none() { killed = Some(Instant::now());
                    let pid = rustix::process::Pid::from_raw(b.workers()[0].pid as i32).unwrap();
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap(); }
                else { b.close(Duration::from_secs(20)); } }
            BackendEvent::WorkerLost(e) => { println!("lost after {:?}: {e}", at - killed.unwrap()); lost_at = Some(at); }
            BackendEvent::Closed => { println!("closed {:?}", t.elapsed()); break; }
            BackendEvent::Progress(p) => println!("{p:?}"),
            e => println!("{e:?}"),
        }
    }
}
