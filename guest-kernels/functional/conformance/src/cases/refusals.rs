//! Calls with one thing wrong each, that need no scene: what they answer, and that they change nothing.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use guest_sdk::frame::Frame;
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call as table;
use guest_sdk::protocol::layout::{
    CHANNEL_FRAME_STRIDE, CHANNEL_FRAMES, HYPERVISOR_START, KERNEL_END, KERNEL_START, LOWER_END, TIME_PAGE_FRAME,
};
use guest_sdk::{StartInfo, Status};

use crate::case::{About, Case, Fault};
use crate::parts::OUTSIDER;
use crate::scene;

/// Words that stand for values which only the running suite knows: replaced before the call.
mod place {
    /// A buffer of 4 KiB, page-aligned.
    pub const BUFFER: u64 = 0x5afe_0000_0000_0000;
    /// Code of the kernel, read-only.
    pub const CODE: u64 = 0x5afe_0000_0001_0000;
    /// A free frame's number.
    pub const FRAME: u64 = 0x5afe_0000_0002_0000;
    /// The number of frames of the VM.
    pub const FRAMES: u64 = 0x5afe_0000_0003_0000;
    /// The suite's own number.
    pub const SELF: u64 = 0x5afe_0000_0004_0000;
}
use place::{BUFFER, CODE, FRAME, FRAMES, SELF};

/// An address where nothing is mapped, in the lower half.
const NOWHERE: u64 = 0x1000;
const BIG: u64 = u64::MAX;
const HALF: u64 = 1 << 32;
/// The first frame of a channel that the suite does not have.
const NO_CHANNEL: u64 = CHANNEL_FRAMES.0 + 7 * CHANNEL_FRAME_STRIDE;
/// A VM that no system has.
const NOBODY: u64 = 63;
const OTHER: u64 = OUTSIDER as u64;

/// Declares rows: call, what is wrong, arguments, status.
macro_rules! refusals {
    ($($Call:ident $what:literal [$($argument:expr),*] $status:ident;)*) => {
        &[$((<table::$Call as Call>::NUMBER, $what, &[$($argument),*], Status::$status),)*]
    };
}

type Row = (u64, &'static str, &'static [u64], Status);

const ROWS: &[Row] = refusals! {
    Info "topic 8" [8] InvalidArgument;
    Info "topic -1" [BIG] InvalidArgument;
    Info "topic 2^32" [HALF] InvalidArgument;
    ConsoleWrite "1025" [BUFFER, 1025] TooLong;
    ConsoleWrite "2^31" [BUFFER, 1 << 31] TooLong;
    ConsoleWrite "2^32" [BUFFER, HALF] TooLong;
    ConsoleWrite "-1" [BUFFER, BIG] TooLong;
    ConsoleRead "1025" [BUFFER, 1025] TooLong;
    ConsoleRead "-1" [BUFFER, BIG] TooLong;
    LogWrite "1025" [BUFFER, 1025] TooLong;
    LogWrite "-1" [BUFFER, BIG] TooLong;
    VcpuStart "itself" [0, CODE, BUFFER] WrongState;
    VcpuStart "2" [2, CODE, BUFFER] NotFound;
    VcpuStart "-1" [u32::MAX as u64, CODE, BUFFER] NotFound;
    VcpuStart "2^32" [HALF, CODE, BUFFER] InvalidArgument;
    VcpuStart "entry low" [1, NOWHERE, BUFFER] BadAddress;
    VcpuStart "entry ours" [1, HYPERVISOR_START, BUFFER] BadAddress;
    VcpuStart "stack low" [1, CODE, NOWHERE] BadAddress;
    VcpuStart "stack ours" [1, CODE, HYPERVISOR_START] BadAddress;
    VcpuStop "stopped" [1] WrongState;
    VcpuStop "2" [2] NotFound;
    VcpuKick "stopped" [1] WrongState;
    VcpuKick "16" [16] NotFound;
    TrapTableSet "33" [BUFFER, 33] TooLong;
    TrapTableSet "-1" [BUFFER, BIG] TooLong;
    EntryPointsSet "low" [NOWHERE] BadAddress;
    EntryPointsSet "ours" [0, HYPERVISOR_START] BadAddress;
    SegmentBaseSet "3" [3] InvalidArgument;
    SegmentBaseSet "hole" [0, 1 << 47] InvalidArgument;
    SegmentBaseSet "gs" [1, 1 << 63] InvalidArgument;
    SegmentBaseGet "3" [3] InvalidArgument;
    DebugRegisterSet "4" [4] InvalidArgument;
    DebugRegisterSet "8" [8] InvalidArgument;
    DebugRegisterSet "ours" [0, HYPERVISOR_START] InvalidArgument;
    DebugRegisterSet "across" [1, LOWER_END - 4] InvalidArgument;
    DebugRegisterSet "detect" [7, 1 << 13] InvalidArgument;
    DebugRegisterSet "I/O" [7, 2 << 16] InvalidArgument;
    DebugRegisterSet "reserved" [7, HALF] InvalidArgument;
    DebugRegisterGet "5" [5] InvalidArgument;
    Cpuid "leaf 2^32" [HALF, 0, BUFFER] InvalidArgument;
    Cpuid "to code" [0, 0, CODE] BadAddress;
    SpaceDestroy "0" [] Busy;
    SpaceDestroy "1" [1] NotFound;
    SpaceDestroy "64" [64] NotFound;
    SpaceDestroy "2^32" [HALF] InvalidArgument;
    SpaceSwitch "1" [1] NotFound;
    SpaceSwitch "-1" [u32::MAX as u64] NotFound;
    Map "space 1" [1, NOWHERE, FRAME, 1] NotFound;
    Map "flags" [0, NOWHERE, FRAME, 1, 8] InvalidArgument;
    Map "flags high" [0, NOWHERE, FRAME, 1, 1 << 63] InvalidArgument;
    Map "frame" [0, NOWHERE, FRAMES, 1] InvalidArgument;
    Map "frame -1" [0, NOWHERE, BIG, 1] InvalidArgument;
    Map "hole of frames" [0, NOWHERE, HALF - 1, 1] InvalidArgument;
    Map "no channel" [0, NOWHERE, NO_CHANNEL, 1] InvalidArgument;
    Map "time page" [0, NOWHERE, TIME_PAGE_FRAME.0, 1, 1] NotPermitted;
    Map "off a page" [0, NOWHERE + 1, FRAME, 1] Misaligned;
    Map "513" [0, NOWHERE, FRAME, 513] TooLong;
    Map "-1" [0, NOWHERE, FRAME, BIG] TooLong;
    Map "over the lower half" [0, LOWER_END, FRAME, 1] BadAddress;
    Map "ours" [0, HYPERVISOR_START, FRAME, 1] BadAddress;
    Map "ours at the end" [0, KERNEL_START - 4096, FRAME, 1] BadAddress;
    Map "the last page" [0, KERNEL_END, FRAME, 1] BadAddress;
    Map "hole" [0, 1 << 47, FRAME, 1] BadAddress;
    Map "in the way" [0, BUFFER, FRAME, 1] AlreadyMapped;
    Map "large and off" [0, 4096, 512, 1, 4] Misaligned;
    Map "two large" [0, 1 << 21, 512, 2, 4] TooLong;
    Unmap "space 9" [9, NOWHERE, 1] NotFound;
    Unmap "nothing" [0, NOWHERE, 1] NotMapped;
    Unmap "off" [0, NOWHERE + 8, 1] Misaligned;
    Unmap "513" [0, NOWHERE, 513] TooLong;
    Unmap "ours" [0, HYPERVISOR_START, 1] BadAddress;
    Unmap "hole" [0, 1 << 62, 1] BadAddress;
    Protect "nothing" [0, NOWHERE, 1] NotMapped;
    Protect "flags" [0, BUFFER, 1, 8] InvalidArgument;
    Protect "ours" [0, HYPERVISOR_START, 1, 1] BadAddress;
    Protect "-1" [0, NOWHERE, BIG] TooLong;
    MemoryBatch "65" [BUFFER, 65] TooLong;
    MemoryBatch "-1" [BUFFER, BIG] TooLong;
    MemoryBatch "operation 0" [BUFFER, 1] InvalidArgument;
    Translate "nothing" [0, NOWHERE] NotMapped;
    Translate "ours" [0, HYPERVISOR_START] BadAddress;
    Translate "hole" [0, 1 << 47] BadAddress;
    Translate "space 7" [7, BUFFER] NotFound;
    FrameRelease "shown" [FRAME, 1] Busy;
    FrameRelease "beyond" [FRAMES, 1] InvalidArgument;
    FrameRelease "-1" [BIG, 1] InvalidArgument;
    FrameRelease "65" [FRAME, 65] TooLong;
    FrameRelease "time page" [TIME_PAGE_FRAME.0, 1] InvalidArgument;
    FrameReclaim "present" [FRAME, 1] AlreadyMapped;
    FrameReclaim "beyond" [FRAMES, 1] InvalidArgument;
    FrameReclaim "65" [FRAME, 65] TooLong;
    EventAlloc "vCPU 2" [2] NotFound;
    EventAlloc "2^32" [HALF] InvalidArgument;
    EventBind "no port" [9, 1] NotFound;
    EventBind "source 0" [9] InvalidArgument;
    EventBind "source 4" [9, 4] InvalidArgument;
    EventSend "no port" [9] NotFound;
    EventSend "256" [256] NotFound;
    EventSend "2^32" [HALF] InvalidArgument;
    EventClose "no port" [9] NotFound;
    GrantCreate "itself" [SELF, FRAME] NotPermitted;
    GrantCreate "nobody" [NOBODY, FRAME] NotPermitted;
    GrantCreate "VM 64" [64, FRAME] NotPermitted;
    GrantCreate "flags" [NOBODY, FRAME, 2] InvalidArgument;
    GrantRevoke "none" [] NotFound;
    GrantRevoke "256" [256] NotFound;
    GrantMap "nobody" [NOBODY, 0, 0, NOWHERE] NotPermitted;
    GrantMap "itself" [SELF, 0, 0, NOWHERE] NotPermitted;
    GrantMap "execute" [NOBODY, 0, 0, NOWHERE, 2] InvalidArgument;
    GrantMap "large" [NOBODY, 0, 0, NOWHERE, 4] InvalidArgument;
    GrantUnmap "nobody" [NOBODY] NotPermitted;
    GrantUnmap "itself" [SELF] NotPermitted;
    GrantCopy "nobody" [NOBODY, 0, 0, BUFFER, 8] NotPermitted;
    GrantCopy "direction" [NOBODY, 0, 0, BUFFER, 8, 2] InvalidArgument;
    Batch "65" [BUFFER, 65] TooLong;
    Batch "2^32" [BUFFER, HALF] TooLong;
    Batch "in code" [CODE, 1] BadAddress;
    VcpuStop "2^32" [HALF] InvalidArgument;
    Protect "off a page" [0, NOWHERE + 8, 1] Misaligned;
    Protect "space 9" [9, NOWHERE, 1] NotFound;
    Protect "a large page that is small" [0, BUFFER, 1, 4] InvalidArgument;
    EventBind "vCPU 2" [9, 1, 0, 2] NotFound;
    GrantCreate "an outsider to write" [OTHER, FRAME, 1] NotPermitted;
    GrantCreate "an outsider to read" [OTHER, FRAME] NotPermitted;
    GrantMap "of an outsider" [OTHER, 0, 0, NOWHERE] NotPermitted;
    GrantCopy "of an outsider" [OTHER, 0, 0, BUFFER, 8] NotPermitted;
};

/// Buffers that are nobody's.
const BAD_BUFFERS: [u64; 9] =
    [0, NOWHERE, LOWER_END - 1, LOWER_END, 1 << 47, HYPERVISOR_START, KERNEL_START - 1, KERNEL_END - 8, BIG];

/// Calls with a buffer: number, arguments, and which of them it is.
const BUFFER_CALLS: [(u64, [u64; 6], usize); 6] = [
    (table::ConsoleWrite::NUMBER, [0, 16, 0, 0, 0, 0], 0),
    (table::LogWrite::NUMBER, [0, 16, 0, 0, 0, 0], 0),
    (table::TrapTableSet::NUMBER, [0, 1, 0, 0, 0, 0], 0),
    (table::MemoryBatch::NUMBER, [0, 1, 0, 0, 0, 0], 0),
    (table::Batch::NUMBER, [0, 1, 0, 0, 0, 0], 0),
    (table::Cpuid::NUMBER, [0, 0, 0, 0, 0, 0], 2),
];

/// A case for each row and each call with a buffer.
pub fn cases() -> Vec<Case> {
    let rows = ROWS.iter().map(|(number, what, arguments, status)| Case {
        about: About::Call(*number),
        what: alloc::format!("refused {what}").into(),
        clauses: &[],
        errors: vec![*status],
        run: Box::new(|| {
            let frame = Frame::new().ok_or_else(|| Fault("no frame is free".into()))?;
            let mut words = [0; 6];
            for (word, argument) in words.iter_mut().zip(*arguments) {
                *word = resolve(*argument, frame.number().0);
            }
            scene::refuse_raw(*number, words, *status)
        }),
    });
    let buffers = BUFFER_CALLS.iter().map(|(number, arguments, index)| Case {
        about: About::Call(*number),
        what: "buffers that are nobody's".into(),
        clauses: &[],
        errors: vec![Status::BadAddress],
        run: Box::new(|| {
            BAD_BUFFERS.into_iter().try_for_each(|bad| {
                let mut arguments = *arguments;
                arguments[*index] = bad;
                scene::refuse_raw(*number, arguments, Status::BadAddress)
            })
        }),
    });
    rows.chain(buffers).collect()
}

fn resolve(word: u64, frame: u64) -> u64 {
    let start = StartInfo::of_this_vm();
    match word {
        BUFFER => scene::buffer(),
        CODE => scene::code(),
        FRAME => frame,
        FRAMES => start.memory_frames,
        SELF => u64::from(start.vm),
        other => other,
    }
}
