//! The local descriptor table of a vCPU. Its guest says where it is; pages of it are shown in the vCPU's
//! window when the processor looks there, each with a reference to a frame of descriptors, until the guest
//! names another table or root.

use hv_arch::cpu as processor;
use hv_arch::mmu::window;
use hv_core::abi::xen::context::check_local_table;
use hv_core::abi::xen::context::frame::fault_code;
use hv_core::addr::Mfn;
use hv_core::addr::convert::index;
use hv_core::paging::Progress;
use hv_core::space::TableMemory;
use hv_core::space::entry::Leaf;
use hv_core::vm::xen::XenMemory;
use protocol::layout::PAGE_SIZE;
use protocol::xen::Errno;
use protocol::{GuestVirt, xen};

use super::XenVcpu;
use super::calls::{Caller, Refusal};
use super::deliver::{PAGE_FAULT, Taken};
use super::memory::{finished, tables};
use crate::hypervisor::machine::{DIRECT, machine};
use crate::hypervisor::vcpu::Vcpu;

/// Where the guest has it, and which frames the window shows.
#[derive(Debug)]
pub(super) struct LocalTable {
    base: u64,
    entries: u64,
    shown: [Option<Mfn>; PAGES],
}

/// Pages of the longest one.
const PAGES: usize = 16;
const _: () = assert!(xen::context::LDT_ENTRIES == 16 * 512);

impl LocalTable {
    /// Without entries.
    pub(super) const NONE: LocalTable = LocalTable::new((0, 0));

    /// The one at an address, with so many entries, both checked.
    pub(super) const fn new((base, entries): (u64, u64)) -> LocalTable {
        LocalTable { base, entries, shown: [None; PAGES] }
    }

    /// Puts it in force. The tables of the vCPU's window are.
    pub(super) fn load(&self, vcpu: &Vcpu) {
        processor::xen::load_local_table(window::local_address(vcpu.index), self.entries);
    }

    /// The frames that the window shows.
    #[cfg(feature = "recount")]
    pub(super) const fn shown(&self) -> [Option<Mfn>; PAGES] {
        self.shown
    }

    /// Takes all its pages out of the window of its vCPU, which is loaded on this CPU.
    pub(super) fn hide(&mut self, memory: &mut XenMemory, vcpu: &Vcpu) {
        if self.entries == 0 {
            return;
        }
        for (page, shown) in (0..).zip(&mut self.shown) {
            if let Some(frame) = shown.take() {
                window::show_local(machine().root, vcpu.index, page, None);
                memory.paging.drop_descriptors(tables(vcpu.vm()), frame);
            }
        }
    }
}

/// Shows nothing in the window of a vCPU whose VM is new.
pub(super) fn clear_window(vcpu: &Vcpu) {
    for page in (0..).take(PAGES) {
        window::show_local(machine().root, vcpu.index, page, None);
    }
}

/// The operation that names a local table.
///
/// # Errors
/// `Invalid` for one that cannot be.
pub(super) fn set(caller: &Caller<'_>, base: u64, entries: u64) -> Result<(), Refusal> {
    let entries = entries & u64::from(u32::MAX);
    check_local_table(base, entries)?;
    let mut memory = caller.domain.memory()?;
    let local = &mut caller.xen.state.lock().local;
    local.hide(&mut memory, caller.vcpu);
    *local = LocalTable::new((base, entries));
    local.load(caller.vcpu);
    Ok(())
}

/// Shows the page of the local table where a selector's descriptor is, before ring 0 loads it.
///
/// # Errors
/// That the call is to be made again.
pub(super) fn prepare(caller: &Caller<'_>, selector: u16) -> Result<(), Refusal> {
    if selector & IS_LOCAL == 0 {
        return Ok(());
    }
    // One that cannot be shown cannot be loaded either.
    let shown = show(caller.vcpu, caller.xen, u64::from(selector & !7));
    finished(Ok(shown.unwrap_or(Progress::Done(()))))
}

/// Bit of a selector: its descriptor is in the local table.
const IS_LOCAL: u16 = 4;

impl Taken<'_> {
    /// The processor found nothing where a descriptor of the local table is: shows it, or tells the guest that
    /// its table is not there.
    pub(super) fn local_fault(&mut self, offset: u64, error: u32) {
        if show(self.vcpu, self.xen, offset).is_ok() {
            return;
        }
        let address = self.xen.state.lock().local.base.wrapping_add(offset);
        self.xen.info().set_fault_address(address);
        self.exception(PAGE_FAULT, Some(fault_code(error, self.vcpu.mode())));
    }
}

/// Shows the page at an offset in the local table of the loaded vCPU.
///
/// # Errors
/// `Invalid` when there is none, it is shown already, or it cannot hold descriptors.
fn show(vcpu: &'static Vcpu, xen: &XenVcpu, offset: u64) -> Result<Progress<()>, Errno> {
    let vm = vcpu.vm();
    let mut memory = vm.xen.as_ref().ok_or(Errno::Invalid)?.memory()?;
    if memory.paging.drain(tables(vm)) == Progress::Again {
        return Ok(Progress::Again);
    }
    let mut state = xen.state.lock();
    let (root, local) = (state.own.kernel_root, &mut state.local);
    let page = offset / PAGE_SIZE;
    let shown = local.shown.get_mut(index(page)).filter(|shown| shown.is_none());
    let shown = shown.filter(|_| offset < local.entries.wrapping_mul(8)).ok_or(Errno::Invalid)?;
    let address = GuestVirt(local.base.wrapping_add(page.wrapping_mul(PAGE_SIZE)));
    let place = memory.paging.find(tables(vm), root, address).ok_or(Errno::Invalid)?;
    let frame = Leaf::of(DIRECT.load(place.table, place.index)).ok_or(Errno::Invalid)?.frame();
    memory.paging.take_descriptors(tables(vm), frame)?;
    *shown = Some(frame);
    window::show_local(machine().root, vcpu.index, page, Some(frame));
    Ok(Progress::Done(()))
}
