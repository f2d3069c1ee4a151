//! The instructions and what is known of each; how to execute them in both modes. Compiled on hosts
//! too, where the tests compare the tables with the lists that they must cover and with the guide.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

#[expect(unsafe_code, reason = "code that may do anything to the registers is what this guest is about")]
pub mod bare;
mod code;
pub mod item;
mod modern;
pub mod report;
mod robin;
mod words;

pub use item::{ITEMS, Item, Verdict};

/// Compiles the guide's examples.
#[cfg(doctest)]
#[doc = include_str!("../../../../docs/porting.md")]
struct PortingGuide;
