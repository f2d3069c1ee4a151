//! Windows: for each vCPU of the Xen personality 64 KiB in which the CPU finds the guest's descriptor
//! table, and 64 KiB for its local one. The frames of the first are the guest's, checked and mapped
//! nowhere else writable; the last page is the hypervisor's (invariant D1).
//!
//! The tables that show them are made at the start and belong to the hypervisor's slots, so every root has
//! them. They are not global: a CPU that loads a root forgets what it knew of them.

use hv_core::addr::Mfn;
use hv_core::addr::convert::{index, wide};
use protocol::GuestVirt;
use protocol::layout::PAGE_SIZE;
use protocol::xen::selector;

use super::direct::store_entry;
use super::flush::flush_page;
use super::own;
use crate::cpu::xen;

/// Where the windows begin: top-level slot 258.
const BASE: u64 = 0xffff_8100_0000_0000;
/// Bytes of one: 16 pages for each of the two tables.
const BYTES: u64 = 32 * PAGE_SIZE;
/// Where the local table lies in it.
const LOCAL: u64 = 16 * PAGE_SIZE;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const NO_EXECUTE: u64 = 1 << 63;

/// Where the window of a vCPU, by its number among all, lies.
#[must_use]
pub fn address(vcpu: usize) -> u64 {
    BASE.wrapping_add(wide(vcpu).wrapping_mul(BYTES))
}

/// How far behind the beginning of its local table an address is, if it is in there.
#[must_use]
pub fn local_offset(vcpu: usize, address: u64) -> Option<u64> {
    address.checked_sub(local_address(vcpu)).filter(|offset| *offset < BYTES.wrapping_sub(LOCAL))
}

/// Where its local table lies.
#[must_use]
pub fn local_address(vcpu: usize) -> u64 {
    address(vcpu).wrapping_add(LOCAL)
}

/// Makes the window of a vCPU, empty, in the hypervisor's own tables. At the start, before guests get the
/// hypervisor's slots; `frame` supplies frames.
pub fn make(root: Mfn, vcpu: usize, frame: &mut dyn FnMut() -> Mfn) {
    let [reserved, _] = xen::pages();
    let at = address(vcpu).wrapping_add(wide(usize::from(selector::GUEST_FRAMES)).wrapping_mul(PAGE_SIZE));
    own::map(root, at, reserved.start().0 | PRESENT | WRITABLE | NO_EXECUTE, 1, frame);
    show_table(root, vcpu, &[]);
}

/// Shows the frames of a guest's descriptor table, in their order, and nothing behind them. The vCPU must
/// be loaded on this CPU, or on none.
pub fn show_table(root: Mfn, vcpu: usize, frames: &[Mfn]) {
    let [_, nothing] = xen::pages();
    for page in 0..u64::from(selector::GUEST_FRAMES) {
        let own = frames.get(index(page));
        let entry = own.map_or(nothing.start().0 | PRESENT | NO_EXECUTE, |frame| entry(*frame));
        show(root, address(vcpu).wrapping_add(page.wrapping_mul(PAGE_SIZE)), entry);
    }
}

/// Shows a frame of a guest's local table, or nothing.
pub fn show_local(root: Mfn, vcpu: usize, page: u64, frame: Option<Mfn>) {
    let at = local_address(vcpu).wrapping_add((page % 16).wrapping_mul(PAGE_SIZE));
    show(root, at, frame.map_or(0, entry));
}

/// A frame of descriptors: they are accessed already, so the CPU never writes it.
fn entry(frame: Mfn) -> u64 {
    frame.start().0 | PRESENT | NO_EXECUTE
}

/// Stores the entry for an address in a window.
fn show(root: Mfn, at: u64, entry: u64) {
    if let Some(table) = own::table_of(root, at) {
        store_entry(table, own::slot(at, 1), entry);
        flush_page(GuestVirt(at));
    }
}
