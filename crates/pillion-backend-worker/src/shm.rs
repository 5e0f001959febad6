//! Shared memory: records in two rings of sealed memory files, an eventfd for each as doorbell, and two pools for the large tensors of forwards.
//!
//! A ring has no shared indices. The doorbell's count says how many records have come, and since the two sides answer in turn (at most
//! [`crate::flight::MAX_IN_FLIGHT`] steps are under way), each knows which slots are its own. What the other side writes is copied out
//! before it is looked at, so it cannot change under our eyes.

mod doorbell;
mod life;
mod pool;
mod region;
mod ring;
mod rings;
mod shape;

pub(crate) use doorbell::Doorbell;
pub(crate) use life::{Life, Watch};
pub(crate) use rings::{ReaderPlace, Receiver, Rings, Sender};
pub(crate) use shape::{PoolShape, RingShape};

/// Whether there is shared memory on this system.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere there is none")]
pub(crate) fn check() -> pillion_core::Result<()> {
    Ok(())
}
