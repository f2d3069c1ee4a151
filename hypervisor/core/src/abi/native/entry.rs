//! Entering a handler and resuming from it: the frame on the guest's kernel stack.

use protocol::layout::RED_ZONE;
use protocol::shared::{RESUME_FLAGS, TrapFrame, frame_info};
use protocol::{GuestVirt, Status};

use crate::addr::convert::wide;

/// Flags of every guest in ring 3: interrupts on (bit 9), and the bit that is always one.
pub const BASE_FLAGS: u64 = 0x202;

/// Which half of a vCPU runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The guest's kernel.
    Kernel,
    /// The guest's user.
    User,
}

/// Whether a vCPU takes upcalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upcalls {
    /// It does.
    Open,
    /// Events wait.
    Masked,
}

/// Where the frame of an entry goes. An entry from kernel mode stays on the interrupted stack, below
/// its red zone; one from user mode starts at the vCPU's kernel stack.
///
/// # Errors
/// [`Status::BadAddress`] when the place is not the guest's.
#[inline(always)]
pub fn frame_address(from: Mode, interrupted: u64, kernel_stack: u64) -> Result<GuestVirt, Status> {
    let top = match from {
        Mode::Kernel => interrupted.wrapping_sub(RED_ZONE),
        Mode::User => kernel_stack,
    };
    let address = GuestVirt(top.wrapping_sub(wide(size_of::<TrapFrame>())) & !15);
    if address.is_kernel_half() && address.is_guest_range(wide(size_of::<TrapFrame>())) {
        Ok(address)
    } else {
        Err(Status::BadAddress)
    }
}

/// The word that tells a handler what happened.
#[must_use]
#[inline(always)]
pub fn info(vector: u64, from: Mode, before: Upcalls) -> u64 {
    let user = match from {
        Mode::Kernel => 0,
        Mode::User => frame_info::USER,
    };
    let masked = match before {
        Upcalls::Open => 0,
        Upcalls::Masked => frame_info::MASKED,
    };
    vector | user | masked
}

/// What a frame that a guest hands in asks for, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// The mode to go on in.
    pub mode: Mode,
    /// Whether it takes upcalls from then on.
    pub upcalls: Upcalls,
    /// Instruction pointer, canonical and the guest's.
    pub rip: u64,
    /// Stack pointer, canonical.
    pub rsp: u64,
    /// Flags, made harmless.
    pub rflags: u64,
}

/// Checks a frame that a guest hands in.
///
/// # Errors
/// [`Status::BadAddress`] when the instruction or stack pointer is not the mode's own. A user stack
/// pointer may be any lower-half address; a kernel's any address of the guest.
#[inline(always)]
pub fn check_resume(frame: &TrapFrame) -> Result<Resume, Status> {
    let mode = if frame.info & frame_info::USER == 0 { Mode::Kernel } else { Mode::User };
    let (rip, rsp) = (GuestVirt(frame.rip), GuestVirt(frame.rsp));
    let is_lower = !rip.is_kernel_half() && !rsp.is_kernel_half();
    if !rip.is_guest_range(1) || !rsp.is_guest_range(0) || (mode == Mode::User && !is_lower) {
        return Err(Status::BadAddress);
    }
    Ok(Resume {
        mode,
        upcalls: if frame.info & frame_info::MASKED == 0 { Upcalls::Open } else { Upcalls::Masked },
        rip: rip.0,
        rsp: rsp.0,
        rflags: (frame.rflags & RESUME_FLAGS) | BASE_FLAGS,
    })
}

#[cfg(test)]
mod tests {
    use super::{BASE_FLAGS, Mode, Upcalls, check_resume, frame_address, info};
    use proptest::prelude::*;
    use protocol::Status;
    use protocol::layout::{HYPERVISOR_START, KERNEL_START, LOWER_END};
    use protocol::shared::{RESUME_FLAGS, TrapFrame, frame_info};

    fn frame(rip: u64, rsp: u64, info: u64) -> TrapFrame {
        TrapFrame { rip, rsp, info, ..TrapFrame::default() }
    }

    #[test]
    fn frames_leave_the_red_zone_alone_and_are_aligned() {
        let address = frame_address(Mode::Kernel, KERNEL_START + 0x1_0007, 0).unwrap();
        assert_eq!(address.0 % 16, 0);
        assert!(address.0 + 80 <= KERNEL_START + 0x1_0007 - 128);
        assert_eq!(frame_address(Mode::User, 0, KERNEL_START + 0x1000).unwrap().0, KERNEL_START + 0x1000 - 80);
    }

    #[test]
    fn a_frame_never_lands_outside_the_kernel_half() {
        for stack in [0, 8, 79, 0x8000, LOWER_END, HYPERVISOR_START + 0x1000, KERNEL_START, KERNEL_START + 79] {
            assert_eq!(frame_address(Mode::User, 0, stack), Err(Status::BadAddress), "{stack:#x}");
            assert_eq!(frame_address(Mode::Kernel, stack, 0), Err(Status::BadAddress), "{stack:#x}");
        }
    }

    #[test]
    fn user_mode_cannot_be_resumed_in_the_kernel_half() {
        let user = frame_info::USER;
        assert!(check_resume(&frame(0x1000, 0x2000, user)).is_ok());
        assert_eq!(check_resume(&frame(KERNEL_START, 0x2000, user)), Err(Status::BadAddress));
        assert_eq!(check_resume(&frame(0x1000, KERNEL_START, user)), Err(Status::BadAddress));
        assert!(check_resume(&frame(KERNEL_START, KERNEL_START, 0)).is_ok());
    }

    #[test]
    fn info_tells_vector_mode_and_mask() {
        assert_eq!(info(14, Mode::User, Upcalls::Masked), 14 | frame_info::USER | frame_info::MASKED);
        assert_eq!(info(33, Mode::Kernel, Upcalls::Open), 33);
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
        fn whatever_a_frame_holds_the_result_is_harmless(words in proptest::array::uniform10(any::<u64>())) {
            let frame = TrapFrame {
                rax: words[0], rcx: words[1], r11: words[2], rip: words[3], rflags: words[4],
                rsp: words[5], info: words[6], error_code: words[7], address: words[8], reserved: words[9],
            };
            if let Ok(resume) = check_resume(&frame) {
                // Interrupts on, I/O privilege 0, no nested task, no virtual-8086, no resume flag.
                prop_assert_eq!(resume.rflags & !(RESUME_FLAGS), BASE_FLAGS);
                let sign = resume.rip >> 47;
                prop_assert!(sign == 0 || sign == 0x1_ffff);
                prop_assert!(resume.rip < LOWER_END || resume.rip >= KERNEL_START);
                prop_assert!(resume.rsp <= LOWER_END || resume.rsp >= KERNEL_START);
            }
        }
    }
}
