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

pub(crate) use doorbell::Doorbell;
pub(crate) use life::{Life, Watch};
pub(crate) use pool::{Borrower, Lender, PoolShape};
pub(crate) use ring::{RingReader, RingShape, RingWriter, create};
