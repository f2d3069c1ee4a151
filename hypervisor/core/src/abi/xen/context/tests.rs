//! What Linux hands in, each thing that is refused, and random contexts.

use proptest::prelude::*;
use zerocopy::FromBytes;

use super::handlers::{Handler, TrapTable};
use super::{
    Mfn, Mode, Upcalls, check, check_local_table, data_selector, harmless_flags, is_canonical, ring_3, table_frames,
};
use crate::addr::convert::wide;
use protocol::layout::{HYPERVISOR_START, KERNEL_START, LOWER_END};
use protocol::xen::Errno;
use protocol::xen::structure::VcpuGuestContext;

const CODE: u64 = 0xffff_ffff_8100_0000;

/// As Linux starts its second vCPU.
fn linux() -> Box<VcpuGuestContext> {
    let mut given = Box::new(VcpuGuestContext::default());
    given.flags = 4;
    given.user_regs.rip = CODE;
    given.user_regs.rsp = KERNEL_START + 0x8000;
    given.user_regs.cs = 0x10;
    given.user_regs.ss = 0x18;
    (given.user_regs.ds, given.user_regs.es) = (0x2b, 0x2b);
    given.user_regs.rflags = 0x1000;
    for (vector, entry) in (0..32).zip(&mut given.trap_ctxt) {
        entry.vector = vector;
        entry.flags = 4;
        entry.address = CODE + u64::from(vector);
    }
    given.gdt_frames[0] = 0x1234;
    given.gdt_ents = 16;
    given.kernel_ss = 0x18;
    given.kernel_sp = KERNEL_START + 0x9000;
    given.ctrlreg[3] = 0x5678 << 12;
    given.event_callback_eip = CODE + 0x100;
    given.failsafe_callback_eip = CODE + 0x200;
    given.gs_base_kernel = KERNEL_START;
    given
}

#[test]
fn the_second_vcpu_of_linux_starts_in_its_kernel_at_ring_3() {
    let mut traps = TrapTable::default();
    let start = check(&linux(), &mut traps).unwrap();
    let registers = start.registers;
    assert_eq!((registers.cs, registers.ss, registers.rflags), (0x13, 0x1b, 0x202));
    assert_eq!((registers.ds, registers.es, registers.fs, registers.gs), (0x2b, 0x2b, 0, 0));
    assert_eq!((registers.rip, registers.rsp), (CODE, KERNEL_START + 0x8000));
    assert_eq!((start.mode, start.iopl), (Mode::Kernel, 1));
    assert_eq!((start.root, start.user_root), (Mfn(0x5678), None));
    assert_eq!((start.table(), start.table_entries), ([Mfn(0x1234)].as_slice(), 16));
    assert_eq!((start.gs_kernel, start.kernel_stack), (KERNEL_START, KERNEL_START + 0x9000));
    assert!(!start.is_task_switched && !start.debug.is_active());
    assert_eq!(start.callbacks.event, Handler::new(CODE + 0x100, Upcalls::Masked).unwrap());
    assert_eq!(start.callbacks.failsafe, Handler::new(CODE + 0x200, Upcalls::Open).unwrap());
    assert_eq!(start.callbacks.syscall, None);
    assert_eq!(traps.handler(14), Handler::new(CODE + 14, Upcalls::Masked).unwrap());
    assert_eq!(traps.handler(32), None);
}

#[test]
fn the_rest_of_a_context_is_taken_too() {
    let mut given = linux();
    given.flags = 8 | 16;
    given.syscall_callback_eip = CODE;
    given.ctrlreg = [8, 0x77 << 12, 0, 0x66 << 12, 0x620, 0, 0, 0];
    given.gdt_ents = 7168;
    given.gdt_frames = std::array::from_fn(|place| wide(place).saturating_add(100));
    (given.ldt_base, given.ldt_ents) = (KERNEL_START, 8192);
    given.debugreg = [0x1000, 0, 0, 0, u64::MAX, u64::MAX, 0, 1];
    (given.fs_base, given.gs_base_user) = (1, 2);
    let start = check(&given, &mut TrapTable::default()).unwrap();
    assert_eq!((start.mode, start.user_root), (Mode::User, Some(Mfn(0x77))));
    assert_eq!((start.is_task_switched, start.cr4), (true, 0x620));
    assert_eq!(start.callbacks.failsafe, Handler::new(CODE + 0x200, Upcalls::Masked).unwrap());
    assert_eq!(start.callbacks.syscall, Handler::new(CODE, Upcalls::Masked).unwrap());
    assert_eq!(start.table(), (100..114).map(Mfn).collect::<Vec<_>>());
    assert_eq!(start.local_table, (KERNEL_START, 8192));
    assert_eq!((start.fs_base, start.gs_user), (1, 2));
    assert!(start.debug.is_active());
}

/// Makes a context wrong.
type Break = fn(&mut VcpuGuestContext);

#[test]
fn each_thing_that_is_wrong_is_refused_and_leaves_the_traps_alone() {
    const HOLE: u64 = 1 << 47;
    let wrong: [(&str, Break); 17] = [
        ("rip", |given| given.user_regs.rip = HOLE),
        ("trap", |given| given.trap_ctxt[255].address = HOLE),
        ("event", |given| given.event_callback_eip = HOLE),
        ("failsafe", |given| given.failsafe_callback_eip = HOLE),
        ("syscall", |given| given.syscall_callback_eip = HOLE),
        ("fs", |given| given.fs_base = HOLE),
        ("gs kernel", |given| given.gs_base_kernel = HOLE),
        ("gs user", |given| given.gs_base_user = HOLE),
        ("long table", |given| given.gdt_ents = 7169),
        ("endless table", |given| given.gdt_ents = u64::MAX),
        ("long local table", |given| given.ldt_ents = 8193),
        ("local table inside a page", |given| (given.ldt_base, given.ldt_ents) = (8, 1)),
        ("local table in the hypervisor", |given| (given.ldt_base, given.ldt_ents) = (HYPERVISOR_START, 1)),
        ("breakpoint in the hypervisor", |given| given.debugreg[3] = HYPERVISOR_START),
        ("general detect", |given| given.debugreg[7] = 1 << 13),
        ("no user root", |given| given.flags = 0),
        ("floating point", |given| given.flags |= 1),
    ];
    for (name, break_it) in wrong {
        let mut given = linux();
        break_it(&mut given);
        let mut traps = TrapTable::default();
        assert_eq!(check(&given, &mut traps), Err(Errno::Invalid), "{name}");
        assert!((0..=255).all(|vector| traps.handler(vector).is_none()), "{name}");
    }
}

#[test]
fn a_table_has_a_frame_for_each_512_entries_begun() {
    for (entries, frames) in [(0, 0), (1, 1), (512, 1), (513, 2), (7168, 14)] {
        assert_eq!(table_frames(entries), Ok(frames));
    }
    assert_eq!(table_frames(7169), Err(Errno::Invalid));
    assert_eq!(check_local_table(1 << 47, 0), Ok(()), "without entries it is nowhere");
    assert_eq!(check_local_table(LOWER_END - 0x1000, 512), Ok(()));
    assert_eq!(check_local_table(LOWER_END - 0x1000, 513), Err(Errno::Invalid));
}

#[test]
fn canonical_addresses_have_17_equal_bits_at_the_top() {
    for address in [0, 1, (1 << 47) - 1, u64::MAX << 47, u64::MAX] {
        assert!(is_canonical(address), "{address:#x}");
    }
    for address in [1 << 47, 1 << 63, u64::MAX >> 1, (u64::MAX << 47) - 1, 1 << 48] {
        assert!(!is_canonical(address), "{address:#x}");
    }
}

#[test]
fn every_selector_becomes_ring_3_or_names_nothing() {
    for selector in 0..=u16::MAX {
        let asked = u64::from(selector) | 0xabcd_0000;
        assert_eq!(ring_3(asked), selector | 3);
        let expected = if selector < 4 { selector } else { selector | 3 };
        assert_eq!(data_selector(asked), expected);
    }
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn flags_are_harmless_and_otherwise_kept(asked: u64) {
        let flags = harmless_flags(asked);
        prop_assert_eq!(flags & !0x0025_4dd5, 0x202);
        prop_assert_eq!(flags & 0x0025_4dd5, asked & 0x0025_4dd5);
    }

    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn whatever_a_context_holds_what_is_taken_is_harmless(
        noise in proptest::collection::vec(any::<u8>(), 712), canonical in proptest::array::uniform8(any::<u32>()),
        flags: u64, ctrlreg: [u64; 8],
    ) {
        let mut given = linux();
        given.user_regs = FromBytes::read_from_bytes(&noise[..200]).unwrap();
        given.user_regs.rip = u64::from(canonical[0]);
        given.flags = flags & !1;
        given.ctrlreg = ctrlreg;
        given.gdt_frames = FromBytes::read_from_bytes(&noise[200..328]).unwrap();
        given.gdt_ents = u64::from(canonical[1] % 7169);
        given.kernel_sp = u64::from_le_bytes(noise[328..336].try_into().unwrap());
        let start = check(&given, &mut TrapTable::default()).unwrap();
        let registers = start.registers;
        prop_assert_eq!(registers.rflags & !0x0025_4dd5, 0x202);
        prop_assert_eq!((registers.cs & 3, registers.ss & !0xffff, registers.ss & 3), (3, 0, 3));
        for selector in [registers.ds, registers.es, registers.fs, registers.gs] {
            prop_assert!(selector < 4 || (selector & 3 == 3 && selector <= 0xffff));
        }
        prop_assert_eq!(wide(start.table().len()), given.gdt_ents.div_ceil(512));
        prop_assert!(start.mode == Mode::Kernel || start.user_root.is_some());
    }
}
