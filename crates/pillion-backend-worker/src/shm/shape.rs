//! What the other side is told of rings and pools.

use serde::{Deserialize, Serialize};

/// The sizes of a ring, told to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RingShape {
    /// How many slots.
    pub(crate) slots: u32,
    /// Bytes of each.
    pub(crate) slot_bytes: u64,
}

/// The size of a pool, told to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PoolShape {
    /// How many words there are in the first page.
    pub(super) places: u32,
    /// Bytes of the data.
    pub(super) bytes: u64,
}
