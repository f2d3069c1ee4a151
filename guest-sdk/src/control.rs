//! What a kernel reads control registers for. The registers themselves are the hypervisor's: reading
//! one is an exception, and `smsw`, where it runs, shows the machine's.
//!
//! CR2 is [`address`](protocol::shared::TrapFrame::address) of the frame of a page fault. CR3 is a
//! [`Space`](crate::space::Space). CR8 is the mask of [`event`](crate::event).
//!
//! ```no_run
//! use guest_sdk::control;
//!
//! assert_ne!(control::cr0() & control::CR0_WRITE_PROTECT, 0);
//! assert_eq!(control::cr0() & control::CR0_TASK_SWITCHED, 0); // the FPU never traps
//! ```

use protocol::SpaceId;
use protocol::flags::Features;

use crate::raw::vcpu::Vcpu;
use crate::start;

/// CR0.TS: the next floating-point instruction traps. Never set: registers are switched eagerly.
pub const CR0_TASK_SWITCHED: u64 = 1 << 3;
/// CR0.WP: ring 0 cannot write read-only pages.
pub const CR0_WRITE_PROTECT: u64 = 1 << 16;
/// CR4.UMIP: SGDT, SIDT, SLDT, SMSW and STR fault in ring 3.
pub const CR4_UMIP: u64 = 1 << 11;
/// CR4.FSGSBASE: RDFSBASE and its kin run.
pub const CR4_FSGSBASE: u64 = 1 << 16;
/// CR4.OSXSAVE: XGETBV and XSAVE run.
pub const CR4_OSXSAVE: u64 = 1 << 18;

/// CR0 as it is while a guest runs, always: protected mode, FPU present, its errors by exception,
/// write protection, paging.
#[must_use]
pub const fn cr0() -> u64 {
    (1 << 0) | (1 << 1) | (1 << 4) | (1 << 5) | CR0_WRITE_PROTECT | (1 << 31)
}

/// CR4 as far as it concerns a guest: 64-bit paging and SSE always, the rest as the start info says.
/// What guards the hypervisor only (SMEP, SMAP) is not shown.
#[must_use]
pub fn cr4() -> u64 {
    let bits = [(Features::UMIP, CR4_UMIP), (Features::FSGSBASE, CR4_FSGSBASE), (Features::XSAVE, CR4_OSXSAVE)];
    let always = (1 << 5) | (1 << 9) | (1 << 10);
    bits.iter().filter(|(feature, _)| start::features().contains(*feature)).fold(always, |all, (_, bit)| all | bit)
}

/// The register `IA32_EFER` as it is while a guest runs, always: `syscall`, long mode, no-execute.
#[must_use]
pub const fn efer() -> u64 {
    (1 << 0) | (1 << 8) | (1 << 10) | (1 << 11)
}

/// The space that this vCPU is in: what CR3 says on bare hardware.
#[must_use]
pub fn space() -> SpaceId {
    Vcpu::current().space()
}

#[cfg(test)]
mod tests {
    use super::{CR0_TASK_SWITCHED, cr0, cr4, efer};

    #[test]
    fn fixed_values_are_those_of_64_bit_mode() {
        assert_eq!(cr0(), 0x8001_0033);
        assert_eq!(cr0() & CR0_TASK_SWITCHED, 0);
        assert_eq!(efer(), 0xd01);
        // The start info of the host offers nothing.
        assert_eq!(cr4(), 0x620);
    }
}
