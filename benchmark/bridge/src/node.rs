//! The way from JS to a backend and back: a call that copies the rows, one wake-up, and a call that fetches what came as flat arrays.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
};

use napi::{
    Env,
    bindgen_prelude::{Function, Uint32ArraySlice},
    threadsafe_function::ThreadsafeFunctionCallMode,
};
use napi_derive::napi;
use pillion_core::{
    Backend, BackendEvent, BackendEvents, Error, Result,
    step::{Row, Step, StepOutput},
};

use crate::{
    drive::{Bridge, Setup, new_bell},
    uv,
};

/// One backend.
#[napi]
pub struct Probe {
    backend: SharedBackend,
    step: Step,
    answers: Answers,
}

type SharedBackend = Rc<RefCell<Box<dyn Backend>>>;
type Answers = Arc<Mutex<VecDeque<StepOutput>>>;

#[napi]
impl Probe {
    /// Waits until it is ready. `wake` is called when there is something to `take`. With `at_bell` Node's loop waits where the engine's thread
    /// would, and a worker over shared memory wakes it; without, a thread brings that worker's answers.
    #[napi(constructor)]
    pub fn new(
        env: Env,
        bridge: String,
        setup: String,
        at_bell: bool,
        wake: Function<'_, (), ()>,
    ) -> napi::Result<Self> {
        let bridge = Bridge::named(&bridge).ok_or_else(|| napi::Error::from_reason(format!("no bridge {bridge}")))?;
        let setup = serde_json::from_str(&setup).map_err(|e| napi::Error::from_reason(e.to_string()))?;
        let setup = Setup::parse(&setup).map_err(failed)?;
        let tell = wake.build_threadsafe_function().weak::<true>().callee_handled::<false>().build()?;
        let answers = Answers::default();
        let (ready, is_ready) = mpsc::channel();
        let inbox = Arc::clone(&answers);
        let mut events = BackendEvents::new(move |event| match event {
            BackendEvent::StepDone(output) => {
                lock(&inbox).push_back(output);
                tell.call((), ThreadsafeFunctionCallMode::NonBlocking);
            }
            BackendEvent::Ready(_) => drop(ready.send(Ok(()))),
            BackendEvent::LoadFailed(error) => drop(ready.send(Err(error))),
            _ => {}
        });
        let backend = Rc::new(RefCell::new(setup.backend(bridge, setup.stub_model())));
        if at_bell {
            let bell = Arc::new(new_bell().map_err(failed)?);
            events = events.with_bell(Some(Arc::clone(&bell)));
            uv::wait_at(env, bell, &wake, take_rung(&backend, &answers))?;
        }
        backend.borrow_mut().start(events).map_err(failed)?;
        let is_ready: Result<()> = is_ready.recv().unwrap_or_else(|e| Err(Error::internal(e.to_string())));
        is_ready.map_err(failed)?;
        Ok(Self { backend, step: Step::default(), answers })
    }

    /// Hands over a step: slot, first position, count and flags of each row.
    #[napi]
    pub fn submit(&mut self, rows: &[u32]) -> napi::Result<()> {
        let row = |r: &[u32]| Row { slot: r[0], start: r[1], count: r[2], flags: r[3] };
        self.step.step_id += 1;
        self.step.rows.clear();
        self.step.rows.extend(rows.chunks_exact(4).map(row));
        self.backend.borrow_mut().submit(&self.step).map_err(failed)
    }

    /// The tokens of the oldest answer.
    #[napi]
    pub fn take<'env>(&self, env: &'env Env) -> napi::Result<Uint32ArraySlice<'env>> {
        let answer = lock(&self.answers).pop_front().unwrap_or_default();
        match answer.error {
            Some(error) => Err(failed(error)),
            None => Uint32ArraySlice::copy_from(env, answer.tokens),
        }
    }
}

/// Takes the answers that the worker has rung; whether there were any.
fn take_rung(backend: &SharedBackend, answers: &Answers) -> impl Fn(u64) -> bool + use<> {
    let (backend, answers) = (Rc::clone(backend), Arc::clone(answers));
    move |count| {
        let mut waiting = lock(&answers);
        backend.borrow_mut().rung(count as u32, &mut |event| {
            if let BackendEvent::StepDone(output) = event {
                waiting.push_back(output);
            }
        });
        !waiting.is_empty()
    }
}

fn failed(error: Error) -> napi::Error {
    napi::Error::from_reason(error.to_json())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
