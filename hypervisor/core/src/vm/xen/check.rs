//! What only a Xen VM must keep.

use protocol::GuestVirt;
use protocol::layout::PAGE_SIZE;
use protocol::manifest::{VmManifest, XenKernel};
use protocol::processor::TimeSource;
use protocol::xen;

use super::super::check::{check_command_line, check_modules, check_segments, containing};
use super::super::error::{Problem, ensure};
use super::super::image::Payloads;
use super::plan::{MAPPING_FRAMES, Mapping, Plan, TOP_TABLES, number};
use crate::addr::convert::wide;

/// Checks a VM whose numbers are in their limits.
///
/// # Errors
/// The first thing that is wrong.
pub(in super::super) fn check(vm: &VmManifest, kernel: XenKernel, payloads: Payloads<'_>) -> Result<(), Problem> {
    ensure(vm.ports.is_empty(), "it speaks Xen's ABI, so it can have no I/O ports", &[])?;
    let is_exact = vm.processor.time == TimeSource::Native;
    ensure(is_exact, "it speaks Xen's ABI, whose clock is exact, so its time cannot be coarse", &[])?;
    check_command_line(vm, wide(xen::COMMAND_LINE))?;
    let base = kernel.virt_base;
    let is_base = base.is_multiple_of(MAPPING_FRAMES.wrapping_mul(PAGE_SIZE)) && GuestVirt(base).is_guest_range(1);
    ensure(is_base, "its first mapping begins at @: no multiple of 4 MiB, or not the guest's", &[base])?;
    let memory = vm.memory_frames.saturating_mul(PAGE_SIZE);
    let sentence = "the segment at @ lies outside the VM's memory as the first mapping shows it";
    check_segments(vm, payloads, sentence, |address, bytes| {
        let end = address.checked_sub(base).and_then(|offset| offset.checked_add(bytes));
        end.is_some_and(|end| end <= memory)
    })?;
    ensure(containing(vm, vm.entry).is_some(), "its entry @ is in no segment", &[vm.entry])?;
    check_modules(vm, payloads, 1)?;
    if let Some(page) = kernel.hypercall_page {
        let has_place = page.is_multiple_of(PAGE_SIZE) && containing(vm, page).is_some();
        ensure(has_place, "its hypercall page @ is not page-aligned or in no segment", &[page])?;
    }
    let plan = Plan::of(vm, kernel);
    let sentence = "it has # frames of memory, but its kernel, module and start need #";
    ensure(plan.end.0 <= vm.memory_frames, sentence, &[vm.memory_frames, plan.end.0])?;
    let sentence = "its first mapping of # pages at @ reaches where no guest may map anything";
    ensure(is_guests(plan.first), sentence, &[plan.first.pages, base])?;
    let Some(second) = plan.second else {
        return Ok(());
    };
    let has_place = second.start.is_multiple_of(PAGE_SIZE) && is_guests(second);
    let sentence = "its list of frames is to be mapped at @: not page-aligned, or not the guest's";
    ensure(has_place, sentence, &[second.start])?;
    let sentence = "its list of frames at @ is within 512 GiB of the first mapping, and would share a table with it";
    ensure(!share_table(plan.first, second), sentence, &[second.start])
}

/// Whether all its pages are a guest's.
const fn is_guests(mapping: Mapping) -> bool {
    GuestVirt(mapping.start).is_guest_range(mapping.pages.saturating_mul(PAGE_SIZE))
}

/// Whether a slot of the root leads to both.
const fn share_table(one: Mapping, other: Mapping) -> bool {
    let [first, second] = [number(one.start, TOP_TABLES), number(other.start, TOP_TABLES)];
    first < second.saturating_add(other.count(TOP_TABLES)) && second < first.saturating_add(one.count(TOP_TABLES))
}
