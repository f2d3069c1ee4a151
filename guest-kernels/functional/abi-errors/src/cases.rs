//! Calls with one thing wrong each.

use guest_sdk::Status::{self, *};
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::*;
use guest_sdk::protocol::layout::{
    CHANNEL_FRAMES, HYPERVISOR_START, KERNEL_END, KERNEL_START, LOWER_END, TIME_PAGE_FRAME,
};

/// A name, a number, arguments, and the status to come.
pub type Case = (&'static str, u64, [u64; 6], Status);

/// Words that stand for addresses which only the running kernel knows: replaced before the call.
pub mod place {
    /// A buffer of 4 KiB, page-aligned, with zeros.
    pub const BUFFER: u64 = 0x5afe_0000_0000_0000;
    /// Code of the kernel, read-only.
    pub const CODE: u64 = 0x5afe_0000_0001_0000;
    /// A free frame's number.
    pub const FRAME: u64 = 0x5afe_0000_0002_0000;
    /// The number of frames of the VM.
    pub const FRAMES: u64 = 0x5afe_0000_0003_0000;
}
use place::{BUFFER, CODE, FRAME, FRAMES};

/// An address where nothing is mapped, in the lower half.
const NOWHERE: u64 = 0x1000;
/// The last mappable bytes of the kernel half: nothing is mapped there.
const LAST: u64 = KERNEL_END - 8;
const BIG: u64 = u64::MAX;
const HALF: u64 = 1 << 32;

/// Buffers that are nobody's, for every call that takes one with `LENGTH` bytes.
const BAD_BUFFERS: [u64; 9] =
    [0, NOWHERE, LOWER_END - 1, LOWER_END, 1 << 47, HYPERVISOR_START, KERNEL_START - 1, LAST, BIG];

/// Calls with a bad buffer: number and the arguments, of which the first is the buffer.
pub const BUFFER_CALLS: &[(&str, u64, [u64; 6], usize)] = &[
    ("console_write", ConsoleWrite::NUMBER, [0, 16, 0, 0, 0, 0], 0),
    ("log_write", LogWrite::NUMBER, [0, 16, 0, 0, 0, 0], 0),
    ("trap_table_set", TrapTableSet::NUMBER, [0, 1, 0, 0, 0, 0], 0),
    ("memory_batch", MemoryBatch::NUMBER, [0, 1, 0, 0, 0, 0], 0),
    ("batch", Batch::NUMBER, [0, 1, 0, 0, 0, 0], 0),
    ("cpuid", Cpuid::NUMBER, [0, 0, 0, 0, 0, 0], 2),
];

/// Every bad buffer.
pub fn bad_buffers() -> impl Iterator<Item = u64> {
    BAD_BUFFERS.into_iter()
}

/// Everything else.
pub const CASES: &[Case] = &[
    ("info: topic 8", Info::NUMBER, [8, 0, 0, 0, 0, 0], InvalidArgument),
    ("info: topic -1", Info::NUMBER, [BIG, 0, 0, 0, 0, 0], InvalidArgument),
    ("info: topic 2^32", Info::NUMBER, [HALF, 0, 0, 0, 0, 0], InvalidArgument),
    ("console_write: 1025", ConsoleWrite::NUMBER, [BUFFER, 1025, 0, 0, 0, 0], TooLong),
    ("console_write: 2^31", ConsoleWrite::NUMBER, [BUFFER, 1 << 31, 0, 0, 0, 0], TooLong),
    ("console_write: 2^32", ConsoleWrite::NUMBER, [BUFFER, HALF, 0, 0, 0, 0], TooLong),
    ("console_write: -1", ConsoleWrite::NUMBER, [BUFFER, BIG, 0, 0, 0, 0], TooLong),
    ("console_read: 1025", ConsoleRead::NUMBER, [BUFFER, 1025, 0, 0, 0, 0], TooLong),
    ("console_read: -1", ConsoleRead::NUMBER, [BUFFER, BIG, 0, 0, 0, 0], TooLong),
    ("log_write: 1025", LogWrite::NUMBER, [BUFFER, 1025, 0, 0, 0, 0], TooLong),
    ("log_write: -1", LogWrite::NUMBER, [BUFFER, BIG, 0, 0, 0, 0], TooLong),
    ("vcpu_start: itself", VcpuStart::NUMBER, [0, CODE, BUFFER, 0, 0, 0], WrongState),
    ("vcpu_start: 2", VcpuStart::NUMBER, [2, CODE, BUFFER, 0, 0, 0], NotFound),
    ("vcpu_start: -1", VcpuStart::NUMBER, [u32::MAX as u64, CODE, BUFFER, 0, 0, 0], NotFound),
    ("vcpu_start: 2^32", VcpuStart::NUMBER, [HALF, CODE, BUFFER, 0, 0, 0], InvalidArgument),
    ("vcpu_start: entry low", VcpuStart::NUMBER, [1, NOWHERE, BUFFER, 0, 0, 0], BadAddress),
    ("vcpu_start: entry ours", VcpuStart::NUMBER, [1, HYPERVISOR_START, BUFFER, 0, 0, 0], BadAddress),
    ("vcpu_start: stack low", VcpuStart::NUMBER, [1, CODE, NOWHERE, 0, 0, 0], BadAddress),
    ("vcpu_start: stack ours", VcpuStart::NUMBER, [1, CODE, HYPERVISOR_START, 0, 0, 0], BadAddress),
    ("vcpu_stop: stopped", VcpuStop::NUMBER, [1, 0, 0, 0, 0, 0], WrongState),
    ("vcpu_stop: 2", VcpuStop::NUMBER, [2, 0, 0, 0, 0, 0], NotFound),
    ("vcpu_kick: stopped", VcpuKick::NUMBER, [1, 0, 0, 0, 0, 0], WrongState),
    ("vcpu_kick: 16", VcpuKick::NUMBER, [16, 0, 0, 0, 0, 0], NotFound),
    ("trap_table_set: 33", TrapTableSet::NUMBER, [BUFFER, 33, 0, 0, 0, 0], TooLong),
    ("trap_table_set: -1", TrapTableSet::NUMBER, [BUFFER, BIG, 0, 0, 0, 0], TooLong),
    ("entry_points_set: low", EntryPointsSet::NUMBER, [NOWHERE, 0, 0, 0, 0, 0], BadAddress),
    ("entry_points_set: ours", EntryPointsSet::NUMBER, [0, HYPERVISOR_START, 0, 0, 0, 0], BadAddress),
    ("segment_base_set: 3", SegmentBaseSet::NUMBER, [3, 0, 0, 0, 0, 0], InvalidArgument),
    ("segment_base_set: hole", SegmentBaseSet::NUMBER, [0, 1 << 47, 0, 0, 0, 0], InvalidArgument),
    ("segment_base_set: gs", SegmentBaseSet::NUMBER, [1, 1 << 63, 0, 0, 0, 0], InvalidArgument),
    ("segment_base_get: 3", SegmentBaseGet::NUMBER, [3, 0, 0, 0, 0, 0], InvalidArgument),
    ("debug: 4", DebugRegisterSet::NUMBER, [4, 0, 0, 0, 0, 0], InvalidArgument),
    ("debug: 8", DebugRegisterSet::NUMBER, [8, 0, 0, 0, 0, 0], InvalidArgument),
    ("debug: ours", DebugRegisterSet::NUMBER, [0, HYPERVISOR_START, 0, 0, 0, 0], InvalidArgument),
    ("debug: across", DebugRegisterSet::NUMBER, [1, LOWER_END - 4, 0, 0, 0, 0], InvalidArgument),
    ("debug: detect", DebugRegisterSet::NUMBER, [7, 1 << 13, 0, 0, 0, 0], InvalidArgument),
    ("debug: I/O", DebugRegisterSet::NUMBER, [7, 2 << 16, 0, 0, 0, 0], InvalidArgument),
    ("debug: reserved", DebugRegisterSet::NUMBER, [7, HALF, 0, 0, 0, 0], InvalidArgument),
    ("debug get: 5", DebugRegisterGet::NUMBER, [5, 0, 0, 0, 0, 0], InvalidArgument),
    ("cpuid: leaf 2^32", Cpuid::NUMBER, [HALF, 0, BUFFER, 0, 0, 0], InvalidArgument),
    ("cpuid: to code", Cpuid::NUMBER, [0, 0, CODE, 0, 0, 0], BadAddress),
    ("space_destroy: 0", SpaceDestroy::NUMBER, [0, 0, 0, 0, 0, 0], Busy),
    ("space_destroy: 1", SpaceDestroy::NUMBER, [1, 0, 0, 0, 0, 0], NotFound),
    ("space_destroy: 64", SpaceDestroy::NUMBER, [64, 0, 0, 0, 0, 0], NotFound),
    ("space_destroy: 2^32", SpaceDestroy::NUMBER, [HALF, 0, 0, 0, 0, 0], InvalidArgument),
    ("space_switch: 1", SpaceSwitch::NUMBER, [1, 0, 0, 0, 0, 0], NotFound),
    ("space_switch: -1", SpaceSwitch::NUMBER, [u32::MAX as u64, 0, 0, 0, 0, 0], NotFound),
    ("map: space 1", Map::NUMBER, [1, NOWHERE, FRAME, 1, 0, 0], NotFound),
    ("map: flags", Map::NUMBER, [0, NOWHERE, FRAME, 1, 8, 0], InvalidArgument),
    ("map: flags high", Map::NUMBER, [0, NOWHERE, FRAME, 1, 1 << 63, 0], InvalidArgument),
    ("map: frame", Map::NUMBER, [0, NOWHERE, FRAMES, 1, 0, 0], InvalidArgument),
    ("map: frame -1", Map::NUMBER, [0, NOWHERE, BIG, 1, 0, 0], InvalidArgument),
    ("map: hole of frames", Map::NUMBER, [0, NOWHERE, HALF - 1, 1, 0, 0], InvalidArgument),
    ("map: no channel", Map::NUMBER, [0, NOWHERE, CHANNEL_FRAMES.0, 1, 0, 0], InvalidArgument),
    ("map: time page", Map::NUMBER, [0, NOWHERE, TIME_PAGE_FRAME.0, 1, 1, 0], NotPermitted),
    ("map: off a page", Map::NUMBER, [0, NOWHERE + 1, FRAME, 1, 0, 0], Misaligned),
    ("map: 513", Map::NUMBER, [0, NOWHERE, FRAME, 513, 0, 0], TooLong),
    ("map: -1", Map::NUMBER, [0, NOWHERE, FRAME, BIG, 0, 0], TooLong),
    ("map: over the lower half", Map::NUMBER, [0, LOWER_END, FRAME, 1, 0, 0], BadAddress),
    ("map: ours", Map::NUMBER, [0, HYPERVISOR_START, FRAME, 1, 0, 0], BadAddress),
    ("map: ours at the end", Map::NUMBER, [0, KERNEL_START - 4096, FRAME, 1, 0, 0], BadAddress),
    ("map: the last page", Map::NUMBER, [0, KERNEL_END, FRAME, 1, 0, 0], BadAddress),
    ("map: hole", Map::NUMBER, [0, 1 << 47, FRAME, 1, 0, 0], BadAddress),
    ("map: in the way", Map::NUMBER, [0, BUFFER, FRAME, 1, 0, 0], AlreadyMapped),
    ("map: large and off", Map::NUMBER, [0, 4096, 512, 1, 4, 0], Misaligned),
    ("map: two large", Map::NUMBER, [0, 1 << 21, 512, 2, 4, 0], TooLong),
    ("unmap: space 9", Unmap::NUMBER, [9, NOWHERE, 1, 0, 0, 0], NotFound),
    ("unmap: nothing", Unmap::NUMBER, [0, NOWHERE, 1, 0, 0, 0], NotMapped),
    ("unmap: off", Unmap::NUMBER, [0, NOWHERE + 8, 1, 0, 0, 0], Misaligned),
    ("unmap: 513", Unmap::NUMBER, [0, NOWHERE, 513, 0, 0, 0], TooLong),
    ("unmap: ours", Unmap::NUMBER, [0, HYPERVISOR_START, 1, 0, 0, 0], BadAddress),
    ("unmap: hole", Unmap::NUMBER, [0, 1 << 62, 1, 0, 0, 0], BadAddress),
    ("protect: nothing", Protect::NUMBER, [0, NOWHERE, 1, 0, 0, 0], NotMapped),
    ("protect: flags", Protect::NUMBER, [0, BUFFER, 1, 8, 0, 0], InvalidArgument),
    ("protect: ours", Protect::NUMBER, [0, HYPERVISOR_START, 1, 1, 0, 0], BadAddress),
    ("protect: -1", Protect::NUMBER, [0, NOWHERE, BIG, 0, 0, 0], TooLong),
    ("memory_batch: 65", MemoryBatch::NUMBER, [BUFFER, 65, 0, 0, 0, 0], TooLong),
    ("memory_batch: -1", MemoryBatch::NUMBER, [BUFFER, BIG, 0, 0, 0, 0], TooLong),
    ("memory_batch: operation 0", MemoryBatch::NUMBER, [BUFFER, 1, 0, 0, 0, 0], InvalidArgument),
    ("translate: nothing", Translate::NUMBER, [0, NOWHERE, 0, 0, 0, 0], NotMapped),
    ("translate: ours", Translate::NUMBER, [0, HYPERVISOR_START, 0, 0, 0, 0], BadAddress),
    ("translate: hole", Translate::NUMBER, [0, 1 << 47, 0, 0, 0, 0], BadAddress),
    ("translate: space 7", Translate::NUMBER, [7, BUFFER, 0, 0, 0, 0], NotFound),
    ("frame_release: shown", FrameRelease::NUMBER, [FRAME, 1, 0, 0, 0, 0], Busy),
    ("frame_release: beyond", FrameRelease::NUMBER, [FRAMES, 1, 0, 0, 0, 0], InvalidArgument),
    ("frame_release: -1", FrameRelease::NUMBER, [BIG, 1, 0, 0, 0, 0], InvalidArgument),
    ("frame_release: 65", FrameRelease::NUMBER, [FRAME, 65, 0, 0, 0, 0], TooLong),
    ("frame_release: time page", FrameRelease::NUMBER, [TIME_PAGE_FRAME.0, 1, 0, 0, 0, 0], InvalidArgument),
    ("frame_reclaim: present", FrameReclaim::NUMBER, [FRAME, 1, 0, 0, 0, 0], AlreadyMapped),
    ("frame_reclaim: beyond", FrameReclaim::NUMBER, [FRAMES, 1, 0, 0, 0, 0], InvalidArgument),
    ("frame_reclaim: 65", FrameReclaim::NUMBER, [FRAME, 65, 0, 0, 0, 0], TooLong),
    ("event_alloc: vCPU 2", EventAlloc::NUMBER, [2, 0, 0, 0, 0, 0], NotFound),
    ("event_alloc: 2^32", EventAlloc::NUMBER, [HALF, 0, 0, 0, 0, 0], InvalidArgument),
    ("event_bind: no port", EventBind::NUMBER, [9, 1, 0, 0, 0, 0], NotFound),
    ("event_bind: source 0", EventBind::NUMBER, [9, 0, 0, 0, 0, 0], InvalidArgument),
    ("event_bind: source 4", EventBind::NUMBER, [9, 4, 0, 0, 0, 0], InvalidArgument),
    ("event_send: no port", EventSend::NUMBER, [9, 0, 0, 0, 0, 0], NotFound),
    ("event_send: 256", EventSend::NUMBER, [256, 0, 0, 0, 0, 0], NotFound),
    ("event_send: 2^32", EventSend::NUMBER, [HALF, 0, 0, 0, 0, 0], InvalidArgument),
    ("event_close: no port", EventClose::NUMBER, [9, 0, 0, 0, 0, 0], NotFound),
    ("grant_create: itself", GrantCreate::NUMBER, [0, FRAME, 0, 0, 0, 0], NotPermitted),
    ("grant_create: nobody", GrantCreate::NUMBER, [1, FRAME, 0, 0, 0, 0], NotPermitted),
    ("grant_create: VM 64", GrantCreate::NUMBER, [64, FRAME, 0, 0, 0, 0], NotPermitted),
    ("grant_create: flags", GrantCreate::NUMBER, [1, FRAME, 2, 0, 0, 0], InvalidArgument),
    ("grant_revoke: none", GrantRevoke::NUMBER, [0, 0, 0, 0, 0, 0], NotFound),
    ("grant_revoke: 256", GrantRevoke::NUMBER, [256, 0, 0, 0, 0, 0], NotFound),
    ("grant_map: nobody", GrantMap::NUMBER, [1, 0, 0, NOWHERE, 0, 0], NotPermitted),
    ("grant_map: itself", GrantMap::NUMBER, [0, 0, 0, NOWHERE, 0, 0], NotPermitted),
    ("grant_map: execute", GrantMap::NUMBER, [1, 0, 0, NOWHERE, 2, 0], InvalidArgument),
    ("grant_map: large", GrantMap::NUMBER, [1, 0, 0, NOWHERE, 4, 0], InvalidArgument),
    ("grant_unmap: nobody", GrantUnmap::NUMBER, [1, 0, 0, 0, 0, 0], NotPermitted),
    ("grant_unmap: itself", GrantUnmap::NUMBER, [0, 0, 0, 0, 0, 0], NotPermitted),
    ("grant_copy: nobody", GrantCopy::NUMBER, [1, 0, 0, BUFFER, 8, 0], NotPermitted),
    ("grant_copy: direction", GrantCopy::NUMBER, [1, 0, 0, BUFFER, 8, 2], InvalidArgument),
    ("batch: 65", Batch::NUMBER, [BUFFER, 65, 0, 0, 0, 0], TooLong),
    ("batch: 2^32", Batch::NUMBER, [BUFFER, HALF, 0, 0, 0, 0], TooLong),
    ("batch: in code", Batch::NUMBER, [CODE, 1, 0, 0, 0, 0], BadAddress),
];
