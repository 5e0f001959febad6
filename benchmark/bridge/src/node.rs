//! The way from JS to a backend and back, as the addon of the package goes it: a call that copies the rows, one wake-up, and a call
//! that writes what came into memory that is kept.

use std::{
    cell::Cell,
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
};

use napi::{
    bindgen_prelude::{BufferSlice, Function},
    threadsafe_function::ThreadsafeFunctionCallMode,
};
use napi_derive::napi;
use pillion_core::{
    Backend, BackendEvent, BackendEvents, Error,
    step::{Row, Step, StepOutput},
};

use crate::drive::{Bridge, Setup};

/// The package's own.
#[path = "../../../crates/pillion-node/src/turns.rs"]
mod turns;

thread_local! {
    static HAS_SHORT_TURNS: Cell<bool> = const { Cell::new(false) };
}

/// One backend.
#[napi]
pub struct Probe {
    backend: Box<dyn Backend>,
    step: Step,
    answers: Arc<Mutex<VecDeque<StepOutput>>>,
}

#[napi]
impl Probe {
    /// Waits until it is ready. `wake` is called when there is something to `take`.
    #[napi(constructor)]
    pub fn new(bridge: String, setup: String, wake: Function<'_, (), ()>) -> napi::Result<Self> {
        let bridge = Bridge::named(&bridge).ok_or_else(|| napi::Error::from_reason(format!("no bridge {bridge}")))?;
        let setup = serde_json::from_str(&setup).map_err(|e| napi::Error::from_reason(e.to_string()))?;
        let setup = Setup::parse(&setup).map_err(failed)?;
        let wake = wake.build_threadsafe_function().weak::<true>().callee_handled::<false>().build()?;
        let answers = Arc::new(Mutex::new(VecDeque::new()));
        let (ready, is_ready) = mpsc::channel();
        let inbox = Arc::clone(&answers);
        let mut backend = setup.backend(bridge, setup.stub_model());
        // There is no engine here. Over shared memory the backend's thread waits for answers where the package's engine does, and so asks for
        // what the engine's thread asks for.
        let waits = bridge == Bridge::Shm;
        let events = BackendEvents::new(move |event| match event {
            BackendEvent::StepDone(output) => {
                if waits && HAS_SHORT_TURNS.with(|has| !has.replace(true)) {
                    turns::ask_for_short_turns();
                }
                lock(&inbox).push_back(output);
                wake.call((), ThreadsafeFunctionCallMode::NonBlocking);
            }
            BackendEvent::Ready(_) => drop(ready.send(Ok(()))),
            BackendEvent::LoadFailed(error) => drop(ready.send(Err(error))),
            _ => {}
        });
        backend.start(events).map_err(failed)?;
        is_ready.recv().unwrap_or_else(|e| Err(Error::internal(e.to_string()))).map_err(failed)?;
        Ok(Self { backend, step: Step::default(), answers })
    }

    /// Hands over a step: slot, first position, count and flags of each row.
    #[napi]
    pub fn submit(&mut self, rows: &[u32]) -> napi::Result<()> {
        let row = |r: &[u32]| Row { slot: r[0], start: r[1], count: r[2], flags: r[3] };
        self.step.step_id += 1;
        self.step.rows.clear();
        self.step.rows.extend(rows.chunks_exact(4).map(row));
        self.backend.submit(&self.step).map_err(failed)
    }

    /// Writes the tokens of the oldest answer into memory of the caller's, and gives how many.
    #[napi]
    pub fn take(&self, mut into: BufferSlice<'_>) -> napi::Result<u32> {
        let answer = lock(&self.answers).pop_front().unwrap_or_default();
        if let Some(error) = answer.error {
            return Err(failed(error));
        }
        for (place, token) in into.as_chunks_mut().0.iter_mut().zip(&answer.tokens) {
            *place = token.to_ne_bytes();
        }
        Ok(answer.tokens.len() as u32)
    }
}

fn failed(error: Error) -> napi::Error {
    napi::Error::from_reason(error.to_json())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
