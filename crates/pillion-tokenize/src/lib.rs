//! Text to token ids and back, in parallel. Knows nothing of requests, Node or Python.
//!
//! [`Tokenizer`] is the handle; behind it one [`TokenizerEngine`] turns the text of a sequence into ids, and everything around that (special
//! tokens, truncation, columns, batches, decoding, chat templates) is shared by all engines. [`pool`] holds the threads.

mod batch;
mod batch_rows;
pub mod bpe;
pub mod byte_level;
mod chat_prompt;
mod chat_template;
mod decoder;
mod encoding;
pub mod engine;
mod error;
mod input;
mod load;
mod offsets;
mod options;
mod placement;
mod pool;
mod post_processor;
mod rows;
mod stop;
mod tokenizer;
mod truncation;
mod vocabulary;

pub use batch::{BatchControl, PartOf};
pub use batch_rows::BatchRows;
pub use chat_template::ChatTemplates;
pub use decoder::DecodeStream;
pub use encoding::{BatchEncoding, ColumnData, Encoding};
pub use engine::{EncodeCall, EngineInfo, SpecialTokens, TokenizerEngine, Tokens};
pub use error::TokenizeError;
pub use input::{BatchInput, Pairs, Text, TextArena, TextRoom, utf16_to_string};
pub use options::{
    Columns, DecodeOptions, EncodeOptions, OffsetUnit, ParseSpecialTokens, Side, TemplateOptions, Truncation,
    TruncationStrategy,
};
pub use pool::{Pool, default_threads, pool, set_num_threads};
pub use stop::StopStrings;
pub use tokenizer::{Tokenizer, TokenizerParts};
pub use vocabulary::TokenEntry;
