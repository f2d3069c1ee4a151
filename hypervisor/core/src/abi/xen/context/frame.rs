//! Entering the guest's kernel, and its way back: the frames on its stacks.

use protocol::GuestVirt;
use protocol::xen::structure::IretFrame;
use protocol::xen::{Errno, IN_SYSCALL, selector};

use super::handlers::Handler;
use super::{harmless_flags, ring_3};
use crate::abi::native::entry::{BASE_FLAGS, Mode, Upcalls};
use crate::addr::convert::wide;

/// Bits of the flags register (Intel SDM volume 1, 3.4.3).
pub(super) mod flag {
    pub(in super::super) const TRAP: u64 = 1 << 8;
    pub(in super::super) const INTERRUPTS: u64 = 1 << 9;
    pub(in super::super) const DIRECTION: u64 = 1 << 10;
    pub(in super::super) const NESTED: u64 = 1 << 14;
    pub(in super::super) const RESUME: u64 = 1 << 16;
    pub(in super::super) const ALIGNMENT: u64 = 1 << 18;
}

/// Where the two bits of the I/O privilege level are.
pub(super) const IOPL_SHIFT: u32 = 12;
/// What a handler does not begin with.
const CLEARED: u64 = flag::TRAP | flag::NESTED | flag::RESUME | flag::ALIGNMENT;
/// The bit of a page fault's error code that tells user from kernel.
const FAULT_USER: u32 = 1 << 2;
/// Words of the longest frame.
const LONGEST: usize = 11;

/// A vCPU that is about to enter its kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "registers are known by their names")]
pub struct Interrupted {
    pub rcx: u64,
    pub r11: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
    /// Its kernel's stack, for entries from user mode.
    pub kernel_stack: u64,
    /// Its upcall mask as it is in guest memory: any byte.
    pub mask: u8,
    /// What the frame shows as I/O privilege level: the guest's own with its `architectural_iopl`, else 0.
    pub iopl: u8,
}

/// Why a kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// An exception without an error code, an instruction `int`, or an event.
    Plain,
    /// An exception with its error code.
    Code(u32),
    /// User mode executed `syscall`, which lost rcx, r11 and the selectors.
    Syscall,
    /// The same in 32-bit code.
    Syscall32,
    /// Segments could not be loaded: what was in ds, es, fs and gs.
    Failsafe([u16; 4]),
}

/// An entry: the words to write, then the registers to go on with. cs and ss become
/// `selector::CODE_64` and `selector::DATA`, events are masked if the handler says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounce {
    /// The frame, at the end of the array.
    words: [u64; LONGEST],
    first: usize,
    /// Where the words go, the first the lowest: the stack pointer. All lie in the guest's own range.
    pub rsp: u64,
    /// Instruction pointer, canonical.
    pub rip: u64,
    /// Flags, harmless.
    pub rflags: u64,
}

impl Bounce {
    /// The frame, lowest word first.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        self.words.get(self.first..).unwrap_or_default()
    }
}

/// Enters the kernel at `handler`, from `mode`. The caller goes over to kernel mode before it writes the
/// frame, and ends the VM when it cannot write it.
///
/// # Errors
/// `Fault` when the frame would leave the guest's own range.
#[inline(always)]
pub fn bounce(from: &Interrupted, mode: Mode, cause: Cause, handler: Handler) -> Result<Bounce, Errno> {
    let (rcx, r11) = match cause {
        Cause::Syscall | Cause::Syscall32 => (from.rip, from.rflags),
        Cause::Plain | Cause::Code(_) | Cause::Failsafe(_) => (from.rcx, from.r11),
    };
    let (cs, ss) = match cause {
        Cause::Plain | Cause::Code(_) | Cause::Failsafe(_) => (from.cs & 0xffff, from.ss & 0xffff),
        Cause::Syscall => (u64::from(selector::CODE_64), u64::from(selector::DATA)),
        Cause::Syscall32 => (u64::from(selector::CODE_32), u64::from(selector::DATA)),
    };
    let (top, cs) = match mode {
        Mode::Kernel => (from.rsp, cs & !3),
        Mode::User => (from.kernel_stack, cs),
    };
    let cs = cs | (u64::from(from.mask) << 32);
    let flags = shown_flags(from.rflags, from.mask, from.iopl);
    let (first, words) = match cause {
        Cause::Code(code) => (3, [0, 0, 0, rcx, r11, u64::from(code), from.rip, cs, flags, from.rsp, ss]),
        Cause::Failsafe(selectors) => {
            let [ds, es, fs, gs] = selectors.map(u64::from);
            (0, [rcx, r11, ds, es, fs, gs, from.rip, cs, flags, from.rsp, ss])
        }
        Cause::Plain | Cause::Syscall | Cause::Syscall32 => {
            (4, [0, 0, 0, 0, rcx, r11, from.rip, cs, flags, from.rsp, ss])
        }
    };
    let bytes = wide(LONGEST.saturating_sub(first)).wrapping_mul(8);
    let rsp = (top & !15).wrapping_sub(bytes);
    if !GuestVirt(rsp).is_guest_range(bytes) {
        return Err(Errno::Fault);
    }
    let direction = match cause {
        Cause::Syscall | Cause::Syscall32 => flag::DIRECTION,
        Cause::Plain | Cause::Code(_) | Cause::Failsafe(_) => 0,
    };
    let rflags = harmless_flags(from.rflags) & !(CLEARED | direction);
    Ok(Bounce { words, first, rsp, rip: handler.address(), rflags })
}

/// Flags as a guest's kernel sees them: interrupts are on when events are not masked.
fn shown_flags(rflags: u64, mask: u8, iopl: u8) -> u64 {
    let level = u64::from(iopl & 3);
    let interrupts = if mask == 0 { flag::INTERRUPTS } else { 0 };
    (harmless_flags(rflags) & !flag::INTERRUPTS) | interrupts | (level << IOPL_SHIFT)
}

/// The error code of a page fault as the guest's kernel sees it: both of its modes are user to the
/// processor.
#[must_use]
pub const fn fault_code(code: u32, mode: Mode) -> u32 {
    match mode {
        Mode::Kernel => code & !FAULT_USER,
        Mode::User => code | FAULT_USER,
    }
}

/// What an `iret` asks for, made harmless. Its selectors may still not load: the fault is the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Return {
    /// The mode to go on in. User mode needs a user root.
    pub mode: Mode,
    /// Whether it takes events from then on.
    pub upcalls: Upcalls,
    /// The level that it asks for, which counts only with `architectural_iopl`.
    pub iopl: u8,
    /// rcx and r11, unless the guest gives them up.
    pub lost: Option<[u64; 2]>,
    /// SYSRET does the same: rcx and r11 are given up, rip is the guest's and the selectors are right.
    pub fits_sysret: bool,
    /// Code selector, ring 3.
    pub cs: u16,
    /// Stack selector, ring 3.
    pub ss: u16,
    /// Flags, harmless.
    pub rflags: u64,
}

/// Decides an `iret`. rax, rip and rsp are taken as they stand in the frame.
#[must_use]
pub fn iret(frame: &IretFrame) -> Return {
    let (cs, ss) = (ring_3(frame.cs), ring_3(frame.ss));
    let gives_up = frame.flags & IN_SYSCALL != 0;
    let is_flat = cs == selector::CODE_64 && ss == selector::DATA;
    Return {
        mode: if frame.cs & 3 == 3 { Mode::User } else { Mode::Kernel },
        upcalls: if frame.rflags & flag::INTERRUPTS == 0 { Upcalls::Masked } else { Upcalls::Open },
        iopl: super::iopl(frame.rflags),
        lost: if gives_up { None } else { Some([frame.rcx, frame.r11]) },
        fits_sysret: gives_up && is_flat && GuestVirt(frame.rip).is_guest_range(1),
        cs,
        ss,
        rflags: harmless_flags(frame.rflags),
    }
}

const _: () = assert!(BASE_FLAGS == flag::INTERRUPTS | 2);

#[cfg(test)]
#[expect(
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "tests compute with small numbers of their own"
)]
mod tests {
    use super::super::handlers::Handler;
    use super::{Cause, Interrupted, Mode, Return, Upcalls, bounce, fault_code, iret};
    use proptest::prelude::*;
    use protocol::layout::{HYPERVISOR_START, KERNEL_START, LOWER_END};
    use protocol::xen::Errno;
    use protocol::xen::structure::IretFrame;

    const HANDLER: u64 = 0xffff_ffff_8100_0000;
    const STACK: u64 = KERNEL_START + 0x10_0008;

    fn handler() -> Handler {
        Handler::new(HANDLER, Upcalls::Masked).unwrap().unwrap()
    }

    fn interrupted() -> Interrupted {
        Interrupted {
            rcx: 1,
            r11: 2,
            rip: 3,
            cs: 0xe033,
            rflags: 0x0024_7fd7,
            rsp: STACK,
            ss: 0xe02b,
            kernel_stack: KERNEL_START + 0x20_0010,
            mask: 0,
            iopl: 0,
        }
    }

    const FLAGS: u64 = 0x0024_4fd7;

    #[test]
    fn plain_frames_have_seven_words_and_show_the_kernel_with_level_zero() {
        let mut from = interrupted();
        let entry = bounce(&from, Mode::Kernel, Cause::Plain, handler()).unwrap();
        assert_eq!(entry.words(), [1, 2, 3, 0xe030, FLAGS, STACK, 0xe02b]);
        assert_eq!(entry.rsp, (STACK & !15) - 56);
        assert_eq!(entry.rip, HANDLER);
        assert_eq!(entry.rflags, 0x0020_0ed7, "no AC, NT or TF");
        from.mask = 0xa5;
        from.iopl = 1;
        let entry = bounce(&from, Mode::Kernel, Cause::Plain, handler()).unwrap();
        assert_eq!(entry.words(), [1, 2, 3, 0xa5_0000_e030, (FLAGS & !0x200) | 0x1000, STACK, 0xe02b]);
        assert_eq!(entry.rflags, 0x0020_0ed7, "the mask and the level are not the processor's");
    }

    #[test]
    fn user_mode_enters_on_the_kernels_stack_and_keeps_its_level() {
        let from = Interrupted { cs: 0x33, ss: 0x2b, rsp: 0x7fff_0000, ..interrupted() };
        let entry = bounce(&from, Mode::User, Cause::Code(0xffff_fff5), handler()).unwrap();
        assert_eq!(entry.words(), [1, 2, 0xffff_fff5, 3, 0x33, FLAGS, 0x7fff_0000, 0x2b]);
        assert_eq!(entry.rsp, KERNEL_START + 0x20_0010 - 64);
    }

    #[test]
    fn system_calls_show_flat_selectors_and_begin_without_direction() {
        let from = Interrupted { cs: 0x33, ss: 0x2b, rsp: 0x7fff_0000, ..interrupted() };
        for (cause, cs) in [(Cause::Syscall, 0xe033), (Cause::Syscall32, 0xe023)] {
            let entry = bounce(&from, Mode::User, cause, handler()).unwrap();
            assert_eq!(entry.words(), [3, from.rflags, 3, cs, FLAGS, 0x7fff_0000, 0xe02b]);
            assert_eq!(entry.rflags, 0x0020_0ad7);
        }
    }

    #[test]
    fn the_failsafe_frame_has_the_four_selectors() {
        let cause = Cause::Failsafe([0x10, 0x20, 0x30, 0x43]);
        let entry = bounce(&interrupted(), Mode::Kernel, cause, handler()).unwrap();
        assert_eq!(entry.words(), [1, 2, 0x10, 0x20, 0x30, 0x43, 3, 0xe030, FLAGS, STACK, 0xe02b]);
        assert_eq!(entry.rsp, (STACK & !15) - 88);
    }

    #[test]
    fn no_frame_touches_what_is_not_the_guests() {
        let outside =
            [0, 8, 55, 63, LOWER_END + 16, 1 << 47, HYPERVISOR_START, KERNEL_START, KERNEL_START + 63, u64::MAX - 7];
        for top in outside {
            let from = Interrupted { rsp: top, kernel_stack: top, ..interrupted() };
            for mode in [Mode::Kernel, Mode::User] {
                assert_eq!(bounce(&from, mode, Cause::Code(0), handler()), Err(Errno::Fault), "{top:#x}");
            }
        }
        for top in [64, LOWER_END, KERNEL_START + 64] {
            let from = Interrupted { rsp: top, ..interrupted() };
            assert!(bounce(&from, Mode::Kernel, Cause::Code(0), handler()).is_ok(), "{top:#x}");
        }
        let from = Interrupted { rsp: 0, kernel_stack: 0, ..interrupted() };
        assert_eq!(bounce(&from, Mode::User, Cause::Plain, handler()), Err(Errno::Fault));
    }

    #[test]
    fn the_user_bit_of_a_page_fault_is_the_guests_mode() {
        for code in [0, 1, 2, 3, 7, 0x15, 0x8000_0004] {
            assert_eq!(fault_code(code, Mode::Kernel), code & !4);
            assert_eq!(fault_code(code, Mode::User), code | 4);
        }
    }

    #[test]
    fn an_iret_to_level_3_is_to_user_mode_and_any_other_to_the_kernel() {
        for cs in [0xe030, 0x10, 0xe031, 0x32] {
            assert_eq!(iret(&IretFrame { cs, ..IretFrame::default() }).mode, Mode::Kernel);
        }
        for cs in [0xe033, 0x33, 3] {
            assert_eq!(iret(&IretFrame { cs, ..IretFrame::default() }).mode, Mode::User);
        }
    }

    #[test]
    fn an_iret_restores_what_it_is_told_to() {
        let frame = IretFrame { rcx: 7, r11: 8, cs: 0xe030, ss: 0xe02b, rflags: 0x1246, ..IretFrame::default() };
        let expected = Return {
            mode: Mode::Kernel,
            upcalls: Upcalls::Open,
            iopl: 1,
            lost: Some([7, 8]),
            fits_sysret: false,
            cs: 0xe033,
            ss: 0xe02b,
            rflags: 0x246,
        };
        assert_eq!(iret(&frame), expected);
        let masked = IretFrame { rflags: 0x46, flags: 0x100, ..frame };
        assert_eq!(
            iret(&masked),
            Return { upcalls: Upcalls::Masked, iopl: 0, lost: None, fits_sysret: true, ..expected }
        );
    }

    #[test]
    fn sysret_takes_only_flat_selectors_and_a_rip_that_the_guest_can_have() {
        let fits = IretFrame { flags: 0x100, cs: 0xe033, ss: 0xe02b, rip: 0x40_0000, ..IretFrame::default() };
        assert!(iret(&fits).fits_sysret);
        for wrong in [
            IretFrame { flags: !0x100, ..fits },
            IretFrame { cs: 0x33, ..fits },
            IretFrame { ss: 0x2b, ..fits },
            IretFrame { rip: LOWER_END, ..fits },
            IretFrame { rip: 1 << 47, ..fits },
            IretFrame { rip: HYPERVISOR_START, ..fits },
            IretFrame { rip: u64::MAX, ..fits },
        ] {
            assert!(!iret(&wrong).fits_sysret, "{wrong:?}");
        }
    }

    /// Addresses of interest and any.
    fn address() -> impl Strategy<Value = u64> {
        let edges = [0, 64, LOWER_END, 1 << 47, HYPERVISOR_START, KERNEL_START, u64::MAX];
        let near = (proptest::sample::select(edges.to_vec()), 0..400_u64);
        prop_oneof![any::<u64>(), near.prop_map(|(edge, offset)| edge.wrapping_add(offset).wrapping_sub(200))]
    }

    fn is_harmless(rflags: u64) -> bool {
        // Interrupts on, level 0, no virtual-8086 mode or virtual interrupts, nothing reserved.
        rflags & 0x200 != 0 && rflags & 2 != 0 && rflags & !0x0025_4fd7 == 0
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
        fn whatever_was_interrupted_the_entry_is_harmless(
            words in proptest::array::uniform7(any::<u64>()), top in address(), mask: u8, iopl: u8,
            code: u32, which in 0..5_u8, selectors: [u16; 4],
        ) {
            let [rcx, r11, rip, cs, rflags, ss, _] = words;
            let from = Interrupted { rcx, r11, rip, cs, rflags, ss, rsp: top, kernel_stack: top, mask, iopl };
            let causes = [Cause::Plain, Cause::Code(code), Cause::Syscall, Cause::Syscall32,
                Cause::Failsafe(selectors)];
            let cause = causes[usize::from(which)];
            for mode in [Mode::Kernel, Mode::User] {
                let Ok(entry) = bounce(&from, mode, cause, handler()) else { continue };
                prop_assert!(is_harmless(entry.rflags) && entry.rflags & 0x0005_4100 == 0);
                let end = entry.rsp + 8 * entry.words().len() as u64;
                prop_assert!(end <= LOWER_END || entry.rsp >= KERNEL_START);
                prop_assert_eq!((end % 16, top & !15), (0, end));
                let tail = &entry.words()[entry.words().len() - 5..];
                prop_assert!(tail[1] >> 40 == 0 && (tail[1] >> 16) & 0xffff == 0 && tail[4] <= 0xffff);
                prop_assert_eq!((tail[1] >> 32) as u8, mask);
                prop_assert_eq!(tail[2] & 0x200 != 0, mask == 0);
                prop_assert_eq!((tail[2] >> 12) & 3, u64::from(iopl & 3));
            }
        }

        #[test]
        #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
        fn whatever_an_iret_frame_holds_the_result_is_ring_3(words in proptest::array::uniform9(any::<u64>())) {
            let [rax, r11, rcx, flags, rip, cs, rflags, rsp, ss] = words;
            let back = iret(&IretFrame { rax, r11, rcx, flags, rip, cs, rflags, rsp, ss });
            prop_assert!(is_harmless(back.rflags));
            prop_assert_eq!((back.cs & 3, back.ss & 3), (3, 3));
            prop_assert_eq!(back.rflags & 0x0025_4dd5, rflags & 0x0025_4dd5, "the guest's own flags stay");
        }
    }
}
