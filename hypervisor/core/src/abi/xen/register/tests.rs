//! Each row of what registers and ports answer, and that no value of a guest's does harm.

use super::super::cpuid::{Counter, XenProcessor};
use super::{
    ControlValue, ControlWrite, Controlled, Entry, IoPrivilege, Kept, MsrValue, MsrWrite, Ports, handler_flags,
    read_msr, write_msr,
};
use crate::abi::native::cpuid::{Controls, Machine};
use crate::abi::native::debug::DebugRegisters;
use crate::abi::native::entry::Mode;
use proptest::prelude::*;
use protocol::VcpuId;
use protocol::layout::{HYPERVISOR_START, KERNEL_START};
use protocol::processor::{Model, ProcessorFeatures as F, ProcessorPolicy, TimeSource};
use protocol::shared::CpuidResult;
use protocol::xen::Errno;

/// Where a guest takes general protection faults.
const HANDLER: u64 = 0xffff_ffff_8100_0000;
const BOOT: VcpuId = VcpuId(0);

/// A machine of this maker with everything, as a VM sees it with this policy.
fn processor(maker: [u8; 12], policy: ProcessorPolicy) -> XenProcessor {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = maker;
    let [ebx, edx, ecx] = [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_le_bytes);
    let machine = Machine::learn(move |leaf, _| match leaf {
        0 => CpuidResult { eax: 0x20, ebx, ecx, edx },
        _ => CpuidResult { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX },
    });
    XenProcessor::new(&policy, &machine, Counter { khz: 1_000_000, is_invariant: true }).unwrap()
}

const HOST: ProcessorPolicy = ProcessorPolicy {
    model: Model::Host,
    added: F::empty(),
    removed: F::empty(),
    time: TimeSource::Native,
    debug_registers: true,
};

fn intel() -> XenProcessor {
    processor(*b"GenuineIntel", HOST)
}

fn amd() -> XenProcessor {
    processor(*b"AuthenticAMD", HOST)
}

fn baseline() -> XenProcessor {
    processor(*b"GenuineIntel", ProcessorPolicy::default())
}

/// What a register reads as, where it is a constant.
fn read(processor: &XenProcessor, number: u32) -> Option<u64> {
    match read_msr(processor, BOOT, number, HANDLER) {
        Some(MsrValue::Constant(value)) => Some(value),
        Some(MsrValue::Kept(kept)) => panic!("{number:#x} is {kept:?}"),
        None => None,
    }
}

#[test]
fn registers_that_each_processor_has_read_as_they_do_in_a_machine() {
    for processor in [intel(), amd(), baseline()] {
        assert_eq!(read(&processor, 0xc000_0080), Some(0xd01));
        assert_eq!(read(&processor, 0x277), Some(0x0000_0501_0007_0406));
        assert_eq!(read(&processor, 0x1b), Some(0xfee0_0900));
        assert_eq!(
            read_msr(&processor, VcpuId(1), 0x1b, HANDLER),
            Some(MsrValue::Constant(0xfee0_0800)),
            "only one vCPU starts the machine"
        );
        assert_eq!(read(&processor, 0x8b), Some(0));
    }
}

#[test]
fn registers_of_one_maker_are_not_the_others() {
    let rows = [(0x3a, 1), (0xce, 0), (0x140, 0), (0x1a0, 0x1801)];
    for (number, value) in rows {
        assert_eq!(read(&intel(), number), Some(value), "{number:#x}");
        assert_eq!((read(&amd(), number), read(&baseline(), number)), (None, None), "{number:#x}");
    }
    for (number, value) in [(0xc001_0015, 0), (0xc001_1029, 2)] {
        assert_eq!(read(&amd(), number), Some(value), "{number:#x}");
        assert_eq!((read(&intel(), number), read(&baseline(), number)), (None, None), "{number:#x}");
    }
}

/// SMI count, speculation control, command buffers, architecture's capabilities, machine checks, K7 counters,
/// interrupt message, memory types, sampling, TSC, XSS, and Xen's page of calls.
const REFUSED: [u32; 18] = [
    0x34,
    0x48,
    0x49,
    0x10b,
    0x10a,
    0x179,
    0x17a,
    0x400,
    0x47f,
    0x280,
    0xc001_0000,
    0xc001_0004,
    0xc001_0055,
    0xfe,
    0x2ff,
    0x10,
    0xda0,
    0x4000_0000,
];

#[test]
fn registers_that_are_not_offered_raise_an_exception_once_there_is_a_handler() {
    for processor in [intel(), amd()] {
        for number in REFUSED {
            assert_eq!(read(&processor, number), None, "{number:#x}");
            assert_eq!(read_msr(&processor, BOOT, number, 0), Some(MsrValue::Constant(0)), "{number:#x}");
            assert_eq!(write_msr(&processor, BOOT, number, 0), None, "{number:#x}");
        }
    }
    // A handler that is missing changes no register that is there.
    assert_eq!(read_msr(&intel(), BOOT, 0x277, 0), read_msr(&intel(), BOOT, 0x277, HANDLER));
}

#[test]
fn bases_are_kept_if_they_are_canonical() {
    let rows = [(0xc000_0100, Kept::FsBase), (0xc000_0101, Kept::GsBase), (0xc000_0102, Kept::UserGsBase)];
    for (number, kept) in rows {
        assert_eq!(read_msr(&baseline(), BOOT, number, HANDLER), Some(MsrValue::Kept(kept)));
        for good in [0, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, u64::MAX] {
            assert_eq!(write_msr(&baseline(), BOOT, number, good), Some(MsrWrite::Keep(kept, good)));
        }
        for bad in [1 << 47, 0xffff_7fff_ffff_ffff, 1 << 63] {
            assert_eq!(write_msr(&baseline(), BOOT, number, bad), None, "{bad:#x}");
        }
    }
}

#[test]
fn the_number_has_32_bits_and_is_there_if_something_reads_it() {
    let write = |processor: &XenProcessor, value| write_msr(processor, BOOT, 0xc000_0103, value);
    assert_eq!(write(&intel(), 7), Some(MsrWrite::Keep(Kept::TscAux, 7)));
    assert_eq!(write(&intel(), 1 << 32), None);
    assert_eq!(read_msr(&intel(), BOOT, 0xc000_0103, HANDLER), Some(MsrValue::Kept(Kept::TscAux)));
    assert_eq!(write(&baseline(), 7), None);
    assert_eq!(read(&baseline(), 0xc000_0103), None);
}

#[test]
fn writes_are_ignored_where_they_change_nothing_and_refused_elsewhere() {
    for (processor, number, value) in [
        (intel(), 0xc000_0080, 0xd01),
        (intel(), 0x8b, 0),
        (intel(), 0x1a0, 0x1801),
        (intel(), 0x140, 0),
        (amd(), 0xc001_0015, 0x1000),
    ] {
        assert_eq!(write_msr(&processor, BOOT, number, value), Some(MsrWrite::Ignored), "{number:#x}");
    }
    for (processor, number, value) in [
        (intel(), 0xc000_0080, 0xd00),
        (intel(), 0x277, 0x0000_0501_0007_0406),
        (intel(), 0x1b, 0xfee0_0900),
        (intel(), 0x1a0, 0),
        (intel(), 0x140, 1),
        (intel(), 0x3a, 1),
        (intel(), 0xc001_0015, 0),
        (amd(), 0x140, 0),
        (amd(), 0xc001_1029, 2),
    ] {
        assert_eq!(write_msr(&processor, BOOT, number, value), None, "{number:#x}");
    }
}

#[test]
fn of_cr0_only_ts_changes() {
    let mut own = Controlled::INITIAL;
    assert_eq!(own.read(0), Some(ControlValue::Known(0x8001_0033)));
    assert_eq!(own.write(&intel(), 0, 0x8001_003b), Some(ControlWrite::TaskSwitched));
    assert!(own.task_switched);
    assert_eq!(own.read(0), Some(ControlValue::Known(0x8001_003b)));
    assert_eq!(own.write(&intel(), 0, 0x8001_0033), Some(ControlWrite::TaskSwitched));
    assert!(!own.task_switched);
    for bit in (0..64).filter(|bit| *bit != 3) {
        assert_eq!(own.write(&intel(), 0, 0x8001_0033 ^ 1 << bit), None, "bit {bit}");
    }
}

#[test]
fn the_others_are_the_callers_or_do_not_exist() {
    let mut own = Controlled::INITIAL;
    assert_eq!((own.read(2), own.read(3)), (Some(ControlValue::FaultAddress), Some(ControlValue::Root)));
    assert_eq!(own.write(&intel(), 2, u64::MAX), Some(ControlWrite::FaultAddress(u64::MAX)));
    assert_eq!(own.write(&intel(), 3, 0x1_2345_6018), Some(ControlWrite::Root(0x12_3456)));
    assert_eq!(own.write(&intel(), 3, 1 << 63 | 0x1000), None);
    for number in [1, 5, 6, 7, 8, 15] {
        assert_eq!((own.read(number), own.write(&intel(), number, 0)), (None, None), "{number}");
    }
}

#[test]
fn of_cr4_a_guest_gets_what_it_may_choose_and_no_error() {
    let always = 1 << 5 | 1 << 9 | 1 << 10;
    for (processor, chosen) in [(intel(), 1 << 2 | 1 << 3 | 1 << 16 | 1 << 18), (baseline(), 1 << 2 | 1 << 3)] {
        for bit in 0..64 {
            let mut own = Controlled::INITIAL;
            assert!(own.write(&processor, 4, 1 << bit).is_some());
            assert_eq!(own.read(4), Some(ControlValue::Known(always | 1 << bit & chosen)), "bit {bit}");
        }
    }
}

#[test]
fn only_choices_that_the_machine_must_follow_ask_for_it() {
    let mut own = Controlled::INITIAL;
    assert!(!own.controls(&intel()).intersects(Controls::FSGSBASE | Controls::NO_TSC));
    assert_eq!(own.write(&intel(), 4, 1 << 3 | 1 << 18), Some(ControlWrite::Done));
    assert_eq!(own.write(&intel(), 4, 1 << 16), Some(ControlWrite::Controls));
    assert!(own.controls(&intel()).contains(Controls::FSGSBASE));
    assert_eq!(own.write(&intel(), 4, 1 << 16), Some(ControlWrite::Done));
    assert!(!own.hides_time());
    assert_eq!(own.write(&intel(), 4, 1 << 16 | 1 << 2), Some(ControlWrite::Controls));
    assert!(own.hides_time());
    assert!(own.controls(&intel()).contains(Controls::FSGSBASE | Controls::NO_TSC));
    let mut own = Controlled::INITIAL;
    assert_eq!(own.write(&baseline(), 4, u64::MAX ^ 1 << 2), Some(ControlWrite::Done), "the VM has it not");
    assert!(!own.controls(&baseline()).contains(Controls::FSGSBASE));
    let coarse = processor(*b"GenuineIntel", ProcessorPolicy { time: TimeSource::Coarse, ..HOST });
    assert_eq!(own.write(&coarse, 4, 1 << 2), Some(ControlWrite::Done), "hidden from all of the VM");
    assert_eq!(own.write(&coarse, 4, 0), Some(ControlWrite::Done));
    assert!(own.controls(&coarse).contains(Controls::NO_TSC));
}

#[test]
fn xcr0_is_the_only_one_of_its_kind() {
    let mut own = Controlled::INITIAL;
    assert_eq!(own.xcr0(), 1);
    assert_eq!(own.set_extended(&intel(), 0, 7), Some(()));
    assert_eq!(own.xcr0(), 7);
    for (number, value) in [(1, 1), (u32::MAX, 1), (0, 0), (0, 5), (0, 0x207), (0, 1 << 63 | 1)] {
        assert_eq!(own.set_extended(&intel(), number, value), None, "{number} {value:#x}");
    }
    assert_eq!(own.set_extended(&baseline(), 0, 1), None);
    assert_eq!(own.controls(&intel()), Controlled::INITIAL.controls(&intel()), "the machine's stays");
    assert_eq!(own.xcr0(), 7, "a refused value changes nothing");
}

#[test]
fn debug_registers_are_set_or_refused_as_xen_does() {
    let own = Controlled::INITIAL;
    let mut registers = DebugRegisters::INITIAL;
    let mut set = |number, value| own.set_debug(&mut registers, number, value);
    assert_eq!(set(0, 0x40_0000), Ok(()));
    assert_eq!(set(3, KERNEL_START), Ok(()));
    assert_eq!(set(1, HYPERVISOR_START), Err(Errno::NotPermitted));
    assert_eq!(set(1, KERNEL_START - 1), Err(Errno::NotPermitted));
    for number in [4, 5, 6, 7] {
        assert_eq!(set(number, 1 << 32), Err(Errno::Invalid));
    }
    for number in [8, 31, u64::MAX] {
        assert_eq!(set(number, 0), Err(Errno::NoDevice));
    }
    assert_eq!(set(7, 1 << 13), Err(Errno::NotPermitted), "general detection");
    assert_eq!(set(7, 2 << 20), Err(Errno::NotPermitted), "a breakpoint on a port");
    // Reserved bits are put right without a word.
    assert_eq!(set(6, 0xffff_ffff), Ok(()));
    assert_eq!(set(7, 1 | 1 << 11 | 1 << 12 | 1 << 14 | 1 << 15), Ok(()));
    assert_eq!(own.get_debug(&registers, 0), Ok(0x40_0000));
    assert_eq!(own.get_debug(&registers, 6), Ok(0xffff_efff));
    assert_eq!(own.get_debug(&registers, 7), Ok(0x401));
    assert_eq!(own.get_debug(&registers, 8), Err(Errno::NoDevice));
}

#[test]
fn registers_4_and_5_are_6_and_7_until_debugging_extensions_are_on() {
    let (mut own, mut registers) = (Controlled::INITIAL, DebugRegisters::INITIAL);
    assert_eq!(own.set_debug(&mut registers, 5, 3), Ok(()));
    assert_eq!(own.get_debug(&registers, 7), Ok(0x403));
    assert_eq!(own.get_debug(&registers, 4), own.get_debug(&registers, 6));
    assert!(own.write(&intel(), 4, 1 << 3).is_some());
    for number in [4, 5] {
        assert_eq!(own.set_debug(&mut registers, number, 0), Err(Errno::NoDevice));
        assert_eq!(own.get_debug(&registers, number), Err(Errno::NoDevice));
    }
}

#[test]
fn the_level_that_is_needed_depends_on_mode_and_notion() {
    let lowest = |mode, is_architectural| {
        (0..4).find(|level| IoPrivilege { level: *level, is_architectural }.allows(mode)).unwrap()
    };
    assert_eq!((lowest(Mode::Kernel, false), lowest(Mode::Kernel, true)), (1, 0));
    assert_eq!((lowest(Mode::User, false), lowest(Mode::User, true)), (3, 3));
}

#[test]
fn each_byte_of_an_access_must_be_open() {
    let user = IoPrivilege::default();
    let open = |port| (0x60..0x64).contains(&port) || port == 0xffff;
    for (port, bytes, allowed) in
        [(0x60, 4, true), (0x61, 4, false), (0x63, 1, true), (0x5f, 2, false), (0xffff, 1, true), (0xffff, 2, false)]
    {
        assert_eq!(user.allows_ports(Mode::User, port, bytes, open), allowed, "{port:#x} {bytes}");
        assert!(IoPrivilege { level: 3, ..user }.allows_ports(Mode::User, port, bytes, |_| false));
    }
}

#[test]
fn ports_answer_ones_but_for_the_two() {
    let mut ports = Ports::default();
    assert_eq!((ports.read(0x42, 1), ports.read(0x61, 1), ports.read(0xcfc, 4)), (0, 0xff, u32::MAX));
    assert_eq!((ports.read(0xcfe, 2), ports.read(0xcf8, 1)), (0xffff, 0xff));
    assert_eq!(ports.read(0xcf8, 4), 0);
    ports.write(0xcf8, 4, 0x8000_0000);
    for (port, bytes) in [(0xcf8, 1), (0xcf8, 2), (0xcfb, 1), (0xcfc, 4), (0x42, 1)] {
        ports.write(port, bytes, 0x5555_5555);
    }
    assert_eq!(ports.read(0xcf8, 4), 0x8000_0000);
}

#[test]
fn flags_of_the_hypercalls_are_as_the_abi_says() {
    let plain = IoPrivilege { level: 1, is_architectural: false };
    let level = IoPrivilege { level: 2, is_architectural: true };
    assert_eq!(plain.bounce_flags(0x3246, 0), 0x246);
    assert_eq!(plain.bounce_flags(0x246, 1), 0x46);
    assert_eq!(plain.bounce_flags(0x246, 0xff), 0x46, "any byte but zero masks");
    assert_eq!(level.bounce_flags(0x246, 0), 0x2246);
    let dirty = 0x7_5746;
    assert_eq!(handler_flags(dirty, Entry::Other), 0x646);
    assert_eq!(handler_flags(dirty, Entry::SystemCall), 0x246);
    let mut own = level;
    let returned = own.iret_flags(0x3046);
    assert_eq!((returned.rflags, returned.mask, own.level), (0x246, 1, 3));
    let mut own = plain;
    let returned = own.iret_flags(0x3246);
    assert_eq!((returned.rflags, returned.mask, own.level), (0x246, 0, 1));
}

/// IF is set, and IOPL, virtual 8086 mode, and what is reserved are clear.
fn is_harmless(rflags: u64) -> bool {
    rflags & 0x202 == 0x202 && rflags & !0x25_4fd7 == 0
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn no_flags_of_a_guests_are_harmful(rflags in any::<u64>(), level in 0_u8..4, is_architectural in any::<bool>()) {
        let mut own = IoPrivilege { level, is_architectural };
        let returned = own.iret_flags(rflags);
        prop_assert!(is_harmless(returned.rflags));
        prop_assert_eq!(returned.rflags & 0x25_4dd5, rflags & 0x25_4dd5);
        prop_assert!(own.level < 4);
        // What a frame shows comes back as it was.
        let before = own;
        for mask in [0, 1] {
            let again = own.iret_flags(own.bounce_flags(returned.rflags, mask));
            prop_assert_eq!((again.rflags, again.mask, own), (returned.rflags, mask, before));
        }
        // A handler's flags, where the machine's were what it can have in ring 3.
        prop_assert!(is_harmless(handler_flags(returned.rflags, Entry::Other)));
        prop_assert_eq!(handler_flags(returned.rflags, Entry::Other) & 0x7_4100, 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn debug_registers_hold_nothing_that_native_ones_may_not(number in 0_u64..9, value in any::<u64>(), low in any::<u32>()) {
        for value in [value, u64::from(low)] {
            let mut registers = DebugRegisters::INITIAL;
            let before = registers;
            if Controlled::INITIAL.set_debug(&mut registers, number, value).is_err() {
                prop_assert_eq!(registers, before);
            }
            prop_assert_eq!(registers.control() & !0xffff_07ff, 0);
        }
    }
}
