//! What values say, in words; nothing that differs from run to run.

use alloc::format;
use alloc::string::String;

use guest_sdk::event::{self, MaskState};
use guest_sdk::io_port::IoPort;
use guest_sdk::protocol::flags::{InfoTopic, MapFlags, SegmentBase};
use guest_sdk::protocol::layout::{CODE_SELECTOR, STACK_SELECTOR, START_INFO, limit};
use guest_sdk::{Nanos, SpaceId, call, control, cpuid, debug, segment, smp, time};

use crate::bare::Values;

/// Words that need no value.
macro_rules! fixed {
    ($($name:ident = $text:literal;)*) => {$(
        pub(crate) fn $name() -> String { String::from($text) }
    )*};
}

fixed! {
    none = "-";
    user_mode = "runs what the user column tells";
}

pub(crate) fn ran(_: &Values) -> String {
    "runs".into()
}

pub(crate) fn rax(values: &Values) -> String {
    format!("{:#x}", values.rax)
}

pub(crate) fn table(values: &Values) -> String {
    format!("limit {:#x}, base {:#x}", values.rax, values.rdx)
}

pub(crate) fn interrupt_flags(values: &Values) -> String {
    format!("IF={} IOPL={}", (values.rax >> 9) & 1, (values.rax >> 12) & 3)
}

pub(crate) fn interrupts_on(values: &Values) -> bool {
    values.rax & 0x3200 == 0x200
}

pub(crate) fn stay(values: &Values) -> String {
    format!("IF=0 IOPL=3 asked, stays {}", interrupt_flags(values))
}

pub(crate) fn sweep(values: &Values) -> String {
    format!("{} of 65536 selectors answer, hash {:016x}", values.rax, values.rdx)
}

pub(crate) fn selectors(values: &Values) -> String {
    format!("CS {:#x} SS {:#x} DS {:#x} ES {:#x}", values.rax, values.rdx, values.rbx, values.rsi)
}

pub(crate) fn vendor(values: &Values) -> String {
    let bytes = [values.rbx, values.rdx, values.rsi].map(|word| (word as u32).to_le_bytes()).concat();
    format!("{} of {:#x} leaves", String::from_utf8_lossy(&bytes), values.rax)
}

pub(crate) fn features(values: &Values) -> String {
    format!("signature {:#x}, features {:#x} {:#x}, the CPU's APIC id", values.rax, values.rdx, values.rsi)
}

pub(crate) fn advances(values: &Values) -> String {
    if values.rax.cast_signed() > 0 { "advances".into() } else { "stands".into() }
}

pub(crate) fn advances_and_aux(values: &Values) -> String {
    format!("{}, and {}", advances(values), aux(&Values { rax: values.rsi, ..*values }))
}

/// TSC_AUX, whose value differs between the vCPUs that are compared.
pub(crate) fn aux(values: &Values) -> String {
    if values.rax == u64::from(smp::current().0) { "the vCPU's number".into() } else { format!("{:#x}", values.rax) }
}

pub(crate) fn random(values: &Values) -> String {
    if values.rdx == 1 { "a number".into() } else { "no number".into() }
}

pub(crate) fn gs_after_null(values: &Values) -> String {
    if values.rdx == 1 { "base stays".into() } else { format!("base {:#x}", values.rax) }
}

pub(crate) fn alignment(values: &Values) -> String {
    format!("AC={}, odd address read", (values.rax >> 18) & 1)
}

pub(crate) fn own_flags(values: &Values) -> String {
    format!("DF={} NT={} AC={} ID={}", bit(values, 10), bit(values, 14), bit(values, 18), bit(values, 21))
}

fn bit(values: &Values, number: u32) -> u64 {
    (values.rax >> number) & 1
}

// What the ABI says.

pub(crate) fn flat_selectors() -> String {
    format!("code {CODE_SELECTOR:#x}, stack {STACK_SELECTOR:#x}")
}

pub(crate) fn cr0() -> String {
    format!("{:#x}", control::cr0())
}

pub(crate) fn cr4() -> String {
    format!("{:#x}", control::cr4())
}

pub(crate) fn efer() -> String {
    format!("{:#x}", control::efer())
}

pub(crate) fn space() -> String {
    // Which one differs between the vCPUs that are compared.
    if control::space().0 < limit::SPACES { "the space's number".into() } else { "no number".into() }
}

pub(crate) fn calls() -> String {
    let version = call::info(InfoTopic::Version).unwrap_or_default();
    format!("version {}.{}", version >> 16, version & 0xffff)
}

pub(crate) fn handler() -> String {
    // The same one again.
    if crate::bare::install().is_ok() { "a handler is set".into() } else { "refused".into() }
}

pub(crate) fn translation() -> String {
    match call::translate(SpaceId::FIRST, START_INFO) {
        Ok(page) => format!("{:?}", MapFlags::from_bits_truncate(page.1)),
        Err(status) => format!("{status}"),
    }
}

/// Asks for nothing, which is allowed.
pub(crate) fn protection() -> String {
    match functional_support::batch::memory(&[]) {
        Ok(0) => "0 of 0 changed".into(),
        _ => "refused".into(),
    }
}

pub(crate) fn wait() -> String {
    if event::wait_deadline(Nanos(0), || true) { "returns when told".into() } else { "times out".into() }
}

/// The first serial line's data register, as in the pieces; no system file of this guest gives it away.
const PORT: IoPort<u8> = IoPort::new(0x3f8);

pub(crate) fn port_read() -> String {
    PORT.read().map_or_else(|status| format!("{status}"), |_| "read".into())
}

pub(crate) fn port_write() -> String {
    PORT.write(0).map_or_else(|status| format!("{status}"), |()| "written".into())
}

pub(crate) fn kick() -> String {
    match call::vcpu_kick(smp::current()) {
        Ok(()) => "accepted".into(),
        Err(status) => format!("{status}"),
    }
}

fn mask_word(state: MaskState) -> &'static str {
    match state {
        MaskState::Masked => "masked",
        MaskState::Unmasked => "unmasked",
    }
}

pub(crate) fn mask_state() -> String {
    mask_word(event::state()).into()
}

/// Unmasks, masks and restores, and says what was seen.
pub(crate) fn mask_and_restore() -> String {
    let outside = event::state();
    event::unmask();
    let inside = event::without_events(event::state);
    let after = event::state();
    event::restore(outside);
    format!("{}, then {}, then {}", mask_word(inside), mask_word(after), mask_word(event::state()))
}

pub(crate) fn policy_vendor() -> String {
    format!("{} of {:#x} leaves", String::from_utf8_lossy(&cpuid::vendor()), cpuid::leaf(0, 0).eax)
}

pub(crate) fn policy_features() -> String {
    let leaf = cpuid::leaf(1, 0);
    format!("features {:#x} {:#x}, APIC id {}", leaf.edx, leaf.ecx, leaf.ebx >> 24)
}

pub(crate) fn policy_xcr0() -> String {
    format!("{:#x}", cpuid::leaf(0xd, 0).eax)
}

pub(crate) fn clock() -> String {
    let before = time::now();
    let mut after = time::now();
    // Coarse time steps by timer, and a busy host can keep an emulated timer back for long.
    for _ in 0..200_000_000 {
        if after > before {
            break;
        }
        after = time::now();
    }
    if after > before { "advances".into() } else { "stands".into() }
}

pub(crate) fn vcpu() -> String {
    // Each vCPU has its own number here; a table that is compared cannot show it.
    if smp::current().0 < smp::count() { "the vCPU's number".into() } else { "no number".into() }
}

pub(crate) fn fs_base() -> String {
    let set = segment::set(SegmentBase::Fs, 0x7654_3210_0000);
    let got = segment::get(SegmentBase::Fs);
    let back = segment::set(SegmentBase::Fs, 0);
    match (set, got, back) {
        (Ok(()), Ok(base), Ok(())) => format!("{base:#x} set and read"),
        _ => "refused".into(),
    }
}

pub(crate) fn debug_status() -> String {
    let set = debug::set(0, 0x40_0000, debug::Access::Execute, debug::Length::One);
    let cleared = debug::clear(0);
    if set.is_ok() && cleared.is_ok() { "set and cleared".into() } else { "refused".into() }
}
