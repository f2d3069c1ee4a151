//! The state that a guest gives a vCPU: what of it may be taken.
//!
//! Whatever a guest hands in, its selectors are of ring 3 and its flags harmless: interrupts on, I/O
//! privilege 0. A selector may still name nothing; the processor's fault is then the guest's.

pub mod frame;
pub mod handlers;

use protocol::GuestVirt;
use protocol::xen::structure::{UserRegisters, VcpuGuestContext};
use protocol::xen::{Errno, context, selector};

use crate::abi::native::debug::DebugRegisters;
use crate::abi::native::entry::{BASE_FLAGS, Mode, Upcalls};
use crate::addr::Mfn;
use crate::addr::convert::{index, wide};
use frame::{IOPL_SHIFT, flag};
use handlers::{Callbacks, Handler, TrapTable};

/// Flags that a guest has for itself: CF PF AF ZF SF TF DF OF NT RF AC ID.
const OWN_FLAGS: u64 = 0x0020_08d5 | flag::TRAP | flag::DIRECTION | flag::NESTED | flag::RESUME | flag::ALIGNMENT;
/// Frames of a guest's descriptor table.
const TABLE_FRAMES: usize = 14;
/// Descriptors in a frame.
const DESCRIPTORS: u64 = 512;
/// The bit of CR0 that makes the next floating-point instruction trap.
const TASK_SWITCHED: u64 = 1 << 3;
/// Where the frame number begins in a base pointer.
const FRAME_SHIFT: u32 = 12;

const _: () = assert!(wide(TABLE_FRAMES).wrapping_mul(DESCRIPTORS) == 7168 && selector::GUEST_ENTRIES == 7168);

/// Whether the processor can have such an address.
#[must_use]
pub const fn is_canonical(address: u64) -> bool {
    address < 1 << 47 || address >= u64::MAX << 47
}

/// Flags that ring 3 may run with, as near as possible to `asked`.
#[must_use]
pub const fn harmless_flags(asked: u64) -> u64 {
    (asked & OWN_FLAGS) | BASE_FLAGS
}

/// The I/O privilege level in flags.
#[must_use]
pub fn iopl(rflags: u64) -> u8 {
    u8::try_from((rflags >> IOPL_SHIFT) & 3).unwrap_or(0)
}

/// A selector at ring 3. Loading it with ring 0's rights then gives nothing that ring 3 could not load.
#[must_use]
pub fn ring_3(asked: u64) -> u16 {
    u16::try_from(asked & 0xffff).unwrap_or(0) | 3
}

/// A data segment's selector at ring 3; one that names nothing stays as it is.
#[must_use]
pub fn data_selector(asked: u64) -> u16 {
    if asked & 0xfffc == 0 { u16::try_from(asked & 3).unwrap_or(0) } else { ring_3(asked) }
}

/// How many frames a descriptor table with so many entries has.
///
/// # Errors
/// `Invalid` for more entries than are a guest's own.
pub fn table_frames(entries: u64) -> Result<usize, Errno> {
    if entries > u64::from(selector::GUEST_ENTRIES) {
        return Err(Errno::Invalid);
    }
    Ok(index(entries.div_ceil(DESCRIPTORS)))
}

/// Checks where a local descriptor table is; one without entries is anywhere.
///
/// # Errors
/// `Invalid` for one that is too long, does not begin with a page, or leaves the guest's own range.
pub fn check_local_table(base: u64, entries: u64) -> Result<(), Errno> {
    let is_guest =
        base.is_multiple_of(protocol::layout::PAGE_SIZE) && GuestVirt(base).is_guest_range(entries.saturating_mul(8));
    if entries > context::LDT_ENTRIES || (entries != 0 && !is_guest) { Err(Errno::Invalid) } else { Ok(()) }
}

/// How a vCPU starts. What page-table and descriptor frames it names is checked when they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Its registers: rip is canonical, the selectors are ring 3, the flags harmless.
    pub registers: UserRegisters,
    /// The mode that it starts in. User mode has a user root.
    pub mode: Mode,
    /// The I/O privilege level that it believes to have.
    pub iopl: u8,
    /// The root of its kernel.
    pub root: Mfn,
    /// The root of its user mode.
    pub user_root: Option<Mfn>,
    table: [Mfn; TABLE_FRAMES],
    frames: usize,
    /// Entries of its descriptor table, the guest's own.
    pub table_entries: u64,
    /// Where its local descriptor table is, and entries of that.
    pub local_table: (u64, u64),
    /// The stack of entries from user mode. Any value: each frame is checked.
    pub kernel_stack: u64,
    /// Base of FS.
    pub fs_base: u64,
    /// Base of GS in kernel mode.
    pub gs_kernel: u64,
    /// Base of GS in user mode.
    pub gs_user: u64,
    /// The next floating-point instruction traps.
    pub is_task_switched: bool,
    /// CR4 as the guest asks for it, not checked.
    pub cr4: u64,
    /// Debug registers.
    pub debug: DebugRegisters,
    /// Its callbacks.
    pub callbacks: Callbacks,
}

impl Start {
    /// The frames of its descriptor table.
    #[must_use]
    pub fn table(&self) -> &[Mfn] {
        self.table.get(..self.frames).unwrap_or_default()
    }
}

/// Checks what a guest gives for a vCPU that has not started. Its trap table goes to `traps`, at once
/// when all else is right. `vm_assist` counts for vCPU 0 only, which has started.
///
/// # Errors
/// `Invalid` for an address that is not canonical, tables that are too long, debug registers that reach
/// the hypervisor, user mode without a root, or a floating-point state: vCPUs start with a fresh one.
/// Nothing has changed then.
pub fn check(given: &VcpuGuestContext, traps: &mut TrapTable) -> Result<Start, Errno> {
    let [task_switch, user_root, _, root, cr4, ..] = given.ctrlreg;
    let user_root = Some(Mfn(user_root >> FRAME_SHIFT)).filter(|_| user_root != 0);
    let mode = if given.flags & context::IN_KERNEL == 0 { Mode::User } else { Mode::Kernel };
    let addresses = [given.user_regs.rip, given.fs_base, given.gs_base_kernel, given.gs_base_user];
    let lacks_root = mode == Mode::User && user_root.is_none();
    if lacks_root || given.flags & context::FPU_VALID != 0 || !addresses.into_iter().all(is_canonical) {
        return Err(Errno::Invalid);
    }
    let frames = table_frames(given.gdt_ents)?;
    let mut table = [Mfn(0); TABLE_FRAMES];
    for (slot, frame) in table.iter_mut().zip(given.gdt_frames).take(frames) {
        *slot = Mfn(frame);
    }
    check_local_table(given.ldt_base, given.ldt_ents)?;
    let debug = debug(&given.debugreg)?;
    let callbacks = callbacks(given)?;
    traps.replace(&given.trap_ctxt)?;
    Ok(Start {
        registers: registers(&given.user_regs),
        mode,
        iopl: iopl(given.user_regs.rflags),
        root: Mfn(root >> FRAME_SHIFT),
        user_root,
        table,
        frames,
        table_entries: given.gdt_ents,
        local_table: (given.ldt_base, given.ldt_ents),
        kernel_stack: given.kernel_sp,
        fs_base: given.fs_base,
        gs_kernel: given.gs_base_kernel,
        gs_user: given.gs_base_user,
        is_task_switched: task_switch & TASK_SWITCHED != 0,
        cr4,
        debug,
        callbacks,
    })
}

fn registers(given: &UserRegisters) -> UserRegisters {
    UserRegisters {
        cs: ring_3(u64::from(given.cs)),
        rflags: harmless_flags(given.rflags),
        ss: u64::from(ring_3(given.ss)),
        es: u64::from(data_selector(given.es)),
        ds: u64::from(data_selector(given.ds)),
        fs: u64::from(data_selector(given.fs)),
        gs: u64::from(data_selector(given.gs)),
        ..*given
    }
}

/// # Errors
/// `Invalid` for a value that would reach the hypervisor.
fn debug(given: &[u64; 8]) -> Result<DebugRegisters, Errno> {
    let mut registers = DebugRegisters::INITIAL;
    for (number, value) in (0..).zip(given).filter(|(number, _)| ![4, 5].contains(number)) {
        registers.set(number, *value).map_err(|_| Errno::Invalid)?;
    }
    Ok(registers)
}

/// # Errors
/// `Invalid` for an address that is not canonical.
fn callbacks(given: &VcpuGuestContext) -> Result<Callbacks, Errno> {
    let events = |flag| if given.flags & flag == 0 { Upcalls::Open } else { Upcalls::Masked };
    Ok(Callbacks {
        event: Handler::new(given.event_callback_eip, Upcalls::Masked)?,
        failsafe: Handler::new(given.failsafe_callback_eip, events(context::FAILSAFE_MASKS_EVENTS))?,
        syscall: Handler::new(given.syscall_callback_eip, events(context::SYSCALL_MASKS_EVENTS))?,
        ..Callbacks::default()
    })
}

#[cfg(test)]
mod tests;
