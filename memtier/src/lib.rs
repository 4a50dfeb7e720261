//! memtier puts a Linux host's memory and threads where they belong.
//!
//! The folders are the pipeline: `observe` -> `model` -> `policy` -> `plan` -> `act`, around one recorded stream of
//! events (`trace`). Everything above `sys` compiles without a kernel: see ARCHITECTURE.md.

pub mod compat;
pub mod config;
pub mod model;
pub mod plan;
pub mod policy;
pub mod sim;
pub mod trace;
pub mod vocab;

#[cfg(feature = "host")]
pub mod act;
#[cfg(feature = "host")]
pub mod cli;
#[cfg(feature = "host")]
pub mod daemon;
#[cfg(feature = "host")]
pub mod observe;
#[cfg(feature = "host")]
pub mod sys;
#[cfg(feature = "host")]
pub mod ui;
