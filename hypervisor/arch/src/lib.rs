//! Every effect of the hypervisor on an x86-64 machine: the only hypervisor crate with `unsafe` or
//! assembly.
//!
//! It decides nothing about guests: what it stores in page tables, whom it enters and what it copies
//! is decided in `hv-core` and asked for by `hv`. Exactly one function stores a page-table entry
//! ([`mmu`]), one loads CR3 ([`mmu::load_root`]), one enters a guest ([`guest::enter`]) and one
//! copies to or from a guest ([`guest::copy`]).
//!
//! Invariants that the SAFETY comments name by id stand in `docs/soundness.md`.
#![cfg_attr(not(test), no_std)]

pub mod boot;
pub mod cpu;
pub mod guest;
pub mod heap;
pub mod io;
pub mod irq;
pub mod local;
pub mod mmu;
pub mod time;
pub mod trap;
