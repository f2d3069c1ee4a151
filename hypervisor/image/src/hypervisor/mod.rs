//! Wiring: which decision of hv-core leads to which effect of hv-arch.

mod audit;
#[expect(clippy::missing_errors_doc, reason = "the entry of each call in `protocol` names its errors")]
mod calls;
mod cell;
mod clock;
mod cpu;
mod death;
mod deliver;
mod events;
mod line;
mod lock;
mod log;
mod machine;
mod memory;
mod panic;
#[cfg(feature = "recount")]
mod recount;
mod run;
mod slots;
mod start;
mod teardown;
mod vcpu;
#[cfg_attr(not(feature = "xen"), path = "without_xen.rs")]
mod xen;

hv_arch::entry_point!(start::main, start::processor);
hv_arch::handlers!(run::on_system_call, run::on_trap, run::on_interrupt);
