//! What prior systems' command lines, figures and answers look like, one folder a system: the arithmetic that their users
//! rely on, with its defects repaired by default and kept on request.
//!
//! Deliberately absent: I/O. What these speak about is measured in `observe`, what they print is printed in `cli`.

pub mod numad;
pub mod slab;
