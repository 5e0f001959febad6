//! Decides which sequences run in the next step.
//!
//! Pure: it is told what happened, returns a plan and starts nothing. It knows neither a clock nor a backend, neither text nor a
//! tokenizer; it sees token ids only to recognise the end of a text.

mod queue;
mod scheduler;
mod slots;

pub use queue::WaitingQueue;
pub use scheduler::{Ended, Scheduler, SchedulerConfig, TokenEvent};
pub use slots::SlotAllocator;
