//! Page tables, roots, flushes and descriptors.

use hv_arch::mmu;
use hv_arch::mmu::direct;
use hv_core::abi::xen::Domain;
use hv_core::addr::Mfn;
use hv_core::frame::typed::Level;
use hv_core::paging::WORK;
use hv_core::space::TableMemory;
use protocol::GuestVirt;
use protocol::xen::structure::{MmuUpdate, MmuextOp};
use protocol::xen::{Errno, mmuext, uvm};

use super::super::State;
use super::super::local;
use super::super::memory::{finished, flush_all, tables};
use super::{Arguments, Caller, Refusal, Reply, element, read, write};
use crate::hypervisor::machine::DIRECT;

/// Units of work of an element beside what goes into whole tables. So no more than 128 are done before events are
/// looked at.
const ELEMENT: u32 = WORK / 128;
/// Bit of a count: the elements before were done by a call that was restarted.
const IS_RESTARTED: u64 = 1 << 31;

/// The domain that a call is about must be the caller; the upper half names the owner of the tables, or
/// nobody.
///
/// # Errors
/// `NoDomain`.
fn check_domain(caller: &Caller<'_>, word: u64) -> Result<(), Errno> {
    let own = Domain::of(caller.vm().id);
    let is_own = |domain: u64| u16::try_from(domain).is_ok_and(|domain| own.is(domain));
    let (pages, owner) = (word & 0xffff, word >> 16 & 0xffff);
    if is_own(pages) && (owner == 0 || is_own(owner.wrapping_sub(1))) { Ok(()) } else { Err(Errno::NoDomain) }
}

/// Does something for the elements of an array, and tells how many were done. A part of a long array is done
/// now, and the rest when the call is made again with what is then in the arguments.
fn each<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
    caller: &mut Caller<'_>,
    arguments: &mut Arguments,
    mut step: impl FnMut(&mut Caller<'_>, &T) -> Result<(), Refusal>,
) -> Reply {
    let [array, count, report, domain, _] = *arguments;
    check_domain(caller, domain)?;
    // What was done before is kept where the guest wants to read it: only it can be fooled by that.
    let is_restarted = count & IS_RESTARTED != 0;
    let before = if is_restarted && report != 0 { u64::from(read::<u32>(report)?) } else { 0 };
    let left = count & IS_RESTARTED.wrapping_sub(1);
    let (mut done, mut result) = (0, Ok(()));
    while done < left && result.is_ok() && !caller.has_spent_all() {
        caller.spend(ELEMENT);
        result = element::<T>(array, done).and_then(read::<T>).and_then(|element| step(caller, &element));
        if result.is_ok() {
            done = done.wrapping_add(1);
        }
    }
    if report != 0 {
        let total = u32::try_from(before.wrapping_add(done)).unwrap_or(u32::MAX);
        write(report, &total)?;
    }
    let is_unfinished = result.is_ok() && done < left;
    if is_unfinished || result == Err(Refusal::Restart) {
        arguments[0] = element::<T>(array, done)?;
        arguments[1] = left.wrapping_sub(done) | IS_RESTARTED;
        return Err(Refusal::Restart);
    }
    result.map(|()| 0)
}

#[inline(never)]
pub(super) fn mmu_update(caller: &mut Caller<'_>, arguments: &mut Arguments) -> Reply {
    let (tables, vcpu) = (tables(caller.vm()), caller.vcpu.id);
    let mut memory = caller.domain.memory()?;
    each(caller, arguments, |caller, update: &MmuUpdate| {
        let updated = memory.paging.update(tables, vcpu, update.ptr, update.val);
        caller.spend(memory.paging.take_spent());
        finished(updated)
    })
}

#[inline(never)]
pub(super) fn update_va_mapping(caller: &mut Caller<'_>, [address, value, flags]: [u64; 3]) -> Reply {
    let vm = caller.vm();
    let root = caller.state().own.kernel_root;
    let mut memory = caller.domain.memory()?;
    let place = memory.paging.find(tables(vm), root, GuestVirt(address)).ok_or(Errno::Invalid)?;
    finished(memory.paging.set(tables(vm), place, value))?;
    drop(memory);
    let is_local = flags & !uvm::KIND_MASK == uvm::LOCAL;
    match (flags & uvm::KIND_MASK, is_local) {
        (uvm::FLUSH, true) => mmu::load_root(mmu::root()),
        (uvm::INVLPG, true) => flush_page(address),
        // Which vCPUs is an offer: all may be flushed.
        (uvm::FLUSH | uvm::INVLPG, false) => flush_all(vm),
        _ => {}
    }
    Ok(0)
}

/// Forgets a page on this CPU.
fn flush_page(address: u64) {
    // An address that is not canonical has no translation.
    if GuestVirt(address).is_guest_range(1) {
        mmu::flush_page(GuestVirt(address));
    }
}

#[inline(never)]
pub(super) fn mmuext_op(caller: &mut Caller<'_>, arguments: &mut Arguments) -> Reply {
    each(caller, arguments, extended)
}

/// One operation.
///
/// # Errors
/// Its own.
fn extended(caller: &mut Caller<'_>, operation: &MmuextOp) -> Result<(), Refusal> {
    let (vm, frame) = (caller.vm(), Mfn(operation.arg1));
    match operation.cmd {
        mmuext::PIN_L1..=mmuext::PIN_L4 => {
            let level = usize::try_from(operation.cmd).ok().and_then(|level| Level::ALL.get(level).copied());
            let mut memory = caller.domain.memory()?;
            let pinned = memory.paging.pin(tables(vm), caller.vcpu.id, frame, level.ok_or(Errno::Invalid)?);
            caller.spend(memory.paging.take_spent());
            finished(pinned)
        }
        mmuext::UNPIN => {
            let mut memory = caller.domain.memory()?;
            let unpinned = memory.paging.unpin(tables(vm), frame);
            caller.spend(memory.paging.take_spent());
            finished(unpinned)
        }
        mmuext::NEW_BASEPTR => new_root(caller, frame),
        mmuext::NEW_USER_BASEPTR => new_user_root(caller, frame),
        mmuext::TLB_FLUSH_LOCAL => {
            mmu::load_root(mmu::root());
            Ok(())
        }
        mmuext::INVLPG_LOCAL => {
            flush_page(operation.arg1);
            Ok(())
        }
        mmuext::TLB_FLUSH_MULTI | mmuext::INVLPG_MULTI => {
            // Which vCPUs is an offer: all may be flushed. That the list can be read is checked.
            let _vcpus: u64 = read(operation.arg2).map_err(|_| Errno::Invalid)?;
            flush_all(vm);
            Ok(())
        }
        mmuext::TLB_FLUSH_ALL | mmuext::INVLPG_ALL => {
            flush_all(vm);
            Ok(())
        }
        mmuext::FLUSH_CACHE | mmuext::FLUSH_CACHE_GLOBAL => Err(Errno::Access.into()),
        mmuext::SET_LDT => local::set(caller, operation.arg1, operation.arg2),
        mmuext::CLEAR_PAGE => with_writable(caller, frame, |frame| DIRECT.clear(frame)),
        mmuext::COPY_PAGE => {
            let source = Mfn(operation.arg2);
            if !caller.domain.memory()?.paging.owns(tables(vm), source) {
                return Err(Errno::Invalid.into());
            }
            with_writable(caller, frame, |frame| direct::copy_frame((source, 0), (frame, 0), 4096))
        }
        mmuext::MARK_SUPER | mmuext::UNMARK_SUPER => Err(Errno::NotSupported.into()),
        _ => Err(Errno::NotImplemented.into()),
    }
}

/// Does something to a frame that is memory of the VM.
///
/// # Errors
/// `Invalid` when it is something else.
fn with_writable(caller: &Caller<'_>, frame: Mfn, action: impl FnOnce(Mfn)) -> Result<(), Refusal> {
    let mut memory = caller.domain.memory()?;
    finished(Ok(memory.paging.drain(tables(caller.vm()))))?;
    memory.paging.take_writable(tables(caller.vm()), frame)?;
    action(frame);
    memory.paging.drop_writable(tables(caller.vm()), frame);
    Ok(())
}

/// Makes a table the root of the vCPU's kernel mode, and loads it.
///
/// # Errors
/// `Invalid` when it is no root.
pub(in super::super) fn new_root(caller: &mut Caller<'_>, frame: Mfn) -> Result<(), Refusal> {
    let vm = caller.vm();
    let mut memory = caller.domain.memory()?;
    let State { local, own, .. } = &mut *caller.state();
    local.hide(&mut memory, caller.vcpu);
    let old = own.kernel_root;
    if old == frame {
        caller.vcpu.load_root();
        return Ok(());
    }
    finished(memory.paging.take_root(tables(vm), caller.vcpu.id, frame))?;
    own.kernel_root = frame;
    caller.vcpu.set_roots(frame, own.user_root);
    caller.vcpu.load_root();
    // The operation before has left no work, so this one is done.
    let _dropped = memory.paging.drop_root(tables(vm), old);
    caller.spend(memory.paging.take_spent());
    Ok(())
}

/// Makes a table the root of the vCPU's user mode; none for frame 0.
///
/// # Errors
/// `Invalid` when it is no root.
fn new_user_root(caller: &mut Caller<'_>, frame: Mfn) -> Result<(), Refusal> {
    let vm = caller.vm();
    let mut memory = caller.domain.memory()?;
    let mut state = caller.state();
    let own = &mut state.own;
    let (old, new) = (own.user_root, (frame != Mfn(0)).then_some(frame));
    if old == new {
        return Ok(());
    }
    match new {
        Some(root) => finished(memory.paging.take_root(tables(vm), caller.vcpu.id, root))?,
        None => finished(Ok(memory.paging.drain(tables(vm))))?,
    }
    own.user_root = new;
    caller.vcpu.set_roots(own.kernel_root, new);
    if let Some(old) = old {
        // Kernel mode runs, so the root is loaded nowhere; and there is no work left.
        let _dropped = memory.paging.drop_root(tables(vm), old);
    }
    caller.spend(memory.paging.take_spent());
    Ok(())
}

#[inline(never)]
pub(super) fn update_descriptor(caller: &mut Caller<'_>, address: u64, descriptor: u64) -> Reply {
    let mut memory = caller.domain.memory()?;
    finished(Ok(memory.paging.drain(tables(caller.vm()))))?;
    memory.paging.update_descriptor(tables(caller.vm()), address, descriptor)?;
    Ok(0)
}
