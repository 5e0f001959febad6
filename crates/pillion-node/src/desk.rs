//! Where the JS thread encodes short texts: its room is kept from call to call, since to make it takes longer than to use it.

use std::cell::RefCell;

use napi::{Env, bindgen_prelude::Unknown};
use pillion_core::Error;
use pillion_tokenize::{BatchInput, EncodeOptions, Text, TextArena, TextRoom, Tokenizer};

use crate::{error::to_js, texts::read_pair_into};

#[derive(Default)]
struct Desk {
    arena: TextArena,
    room: TextRoom,
    ids: Vec<u32>,
}

thread_local! {
    static DESK: RefCell<Desk> = RefCell::default();
}

/// More room than this is not kept, in bytes.
const MAX_KEPT: usize = 1 << 20;

/// Encodes a text or pair and gives the ids to `take`.
pub(crate) fn encode<R>(
    tokenizer: &Tokenizer,
    (env, text, pair): (Env, &Unknown<'_>, Option<&Unknown<'_>>),
    options: &EncodeOptions,
    take: impl FnOnce(&[u32]) -> napi::Result<R>,
) -> napi::Result<R> {
    DESK.with(|desk| {
        let Ok(mut desk) = desk.try_borrow_mut() else {
            return Err(to_js(Error::internal("a call within a call on one thread")));
        };
        let Desk { arena, room, ids } = &mut *desk;
        arena.clear();
        room.shrink(MAX_KEPT);
        ids.shrink_to(MAX_KEPT / size_of::<u32>());
        read_pair_into(env, text, pair, arena)?;
        let (text, pair) = arena.get(0);
        let encoded = text.to_str_in(room).and_then(|text| {
            let pair = pair.map(Text::to_str).transpose()?;
            tokenizer.encode_ids_into(text, pair.as_deref(), options, ids)
        });
        encoded.map_err(to_js)?;
        take(ids)
    })
}
