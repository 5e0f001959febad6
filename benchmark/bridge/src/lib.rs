//! What a step costs on each bridge: the parts that the program (`main.rs`) and the addon (`node.rs`) share.

pub mod drive;
mod node;
