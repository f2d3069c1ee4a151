//! One function per hypercall, with plain arguments. A function is unsafe only where the call could
//! change memory that this program uses; the duty is then in its `# Safety` section.
//!
//! What each call does and promises stands once, in [`protocol::call`].

use protocol::call::{self, Pair};
use protocol::flags::{CopyDirection, EventSource, GrantFlags, InfoTopic, IoWidth, MapFlags, SegmentBase};
use protocol::shared::{AuditRecord, BatchEntry, CpuidResult, MemoryBatchEntry, TrapEntry};
use protocol::{Gfn, GrantRef, GuestVirt, Nanos, Port, SpaceId, Status, VcpuId, VmId};

use super::hypercall;

/// The guest address of a slice.
fn address<T>(slice: &[T]) -> GuestVirt {
    GuestVirt(slice.as_ptr().addr() as u64)
}

/// Calls that cannot disturb memory of this program: no duty is left to the caller.
macro_rules! harmless {
    ($($name:ident($($argument:ident: $Argument:ty),*) -> $Output:ty = $Call:ident;)*) => {$(
        #[doc = concat!("Makes the call [`", stringify!($Call), "`](call::", stringify!($Call), ").")]
        ///
        /// # Errors
        /// Those of the call's page.
        #[inline]
        pub fn $name($($argument: $Argument),*) -> Result<$Output, Status> {
            // SAFETY: the call touches no memory of this program: it takes no address of it and
            // changes no mapping in the kernel half.
            unsafe { hypercall::call(call::$Call { $($argument),* }) }
        }
    )*};
}

harmless! {
    info(topic: InfoTopic) -> u64 = Info;
    yield_cpu() -> () = YieldCpu;
    block(deadline: Nanos) -> () = Block;
    vcpu_stop(vcpu: VcpuId) -> () = VcpuStop;
    vcpu_kick(vcpu: VcpuId) -> () = VcpuKick;
    timer_set(deadline: Nanos) -> () = TimerSet;
    event_deliver() -> () = EventDeliver;
    segment_base_get(base: SegmentBase) -> Pair = SegmentBaseGet;
    debug_register_set(index: u64, value: u64) -> () = DebugRegisterSet;
    debug_register_get(index: u64) -> Pair = DebugRegisterGet;
    io_read(port: u32, width: IoWidth) -> u64 = IoRead;
    io_write(port: u32, width: IoWidth, value: u32) -> () = IoWrite;
    space_create() -> SpaceId = SpaceCreate;
    space_destroy(space: SpaceId) -> () = SpaceDestroy;
    space_switch(space: SpaceId) -> () = SpaceSwitch;
    translate(space: SpaceId, address: GuestVirt) -> Pair = Translate;
    frame_reclaim(frame: Gfn, count: u64) -> u64 = FrameReclaim;
    event_alloc(vcpu: VcpuId) -> Port = EventAlloc;
    event_bind(port: Port, source: EventSource, index: u64, vcpu: VcpuId) -> () = EventBind;
    event_send(port: Port) -> () = EventSend;
    event_close(port: Port) -> () = EventClose;
    grant_revoke(grant: GrantRef) -> () = GrantRevoke;
}

/// Calls that change mappings, entry points or sharing.
macro_rules! consequential {
    ($($name:ident($($argument:ident: $Argument:ty),*) -> $Output:ty = $Call:ident, $duty:literal;)*) => {$(
        #[doc = concat!("Makes the call [`", stringify!($Call), "`](call::", stringify!($Call), ").")]
        ///
        /// # Errors
        /// Those of the call's page.
        ///
        /// # Safety
        #[doc = $duty]
        #[inline]
        pub unsafe fn $name($($argument: $Argument),*) -> Result<$Output, Status> {
            // SAFETY: the effects on memory are the caller's duty, as documented.
            unsafe { hypercall::call(call::$Call { $($argument),* }) }
        }
    )*};
}

consequential! {
    vcpu_start(vcpu: VcpuId, entry: GuestVirt, stack: GuestVirt, argument: u64) -> () = VcpuStart,
        "`entry` is code that expects to start on an empty stack, and nothing else uses `stack`.";
    entry_points_set(syscall: GuestVirt, event: GuestVirt) -> () = EntryPointsSet,
        "Each address is 0 or code that keeps the entry convention of `TrapFrame`.";
    segment_base_set(base: SegmentBase, address: u64) -> () = SegmentBaseSet,
        "Nothing relies on the base that is replaced; for `KernelGs`, see [`super::vcpu`].";
    map(space: SpaceId, address: GuestVirt, frame: Gfn, count: u64, flags: MapFlags) -> u64 = Map,
        "Who reaches the frames through the new pages does not break Rust's rules for other uses of the same memory.";
    unmap(space: SpaceId, address: GuestVirt, count: u64) -> u64 = Unmap,
        "Nothing uses the pages any more.";
    protect(space: SpaceId, address: GuestVirt, count: u64, flags: MapFlags) -> u64 = Protect,
        "No use of the pages needs a right that is taken away, and a right that is given breaks no rule of Rust.";
    frame_release(frame: Gfn, count: u64) -> u64 = FrameRelease,
        "Nothing uses the frames any more.";
    grant_create(peer: VmId, frame: Gfn, flags: GrantFlags) -> GrantRef = GrantCreate,
        "No reference into the frame exists while the peer can write it.";
    grant_map(owner: VmId, grant: GrantRef, space: SpaceId, address: GuestVirt, flags: MapFlags) -> () = GrantMap,
        "The page is the caller's to fill.";
    grant_unmap(owner: VmId, grant: GrantRef) -> () = GrantUnmap,
        "Nothing uses the page any more.";
}

/// Ends the VM: 0 means that all is well.
pub fn exit(code: u64) -> ! {
    loop {
        // SAFETY: the call does not return, so nothing can see an effect.
        let _ = unsafe { hypercall::call(call::Exit { code }) };
        core::hint::spin_loop();
    }
}

/// Writes bytes to the console; returns how many were taken.
///
/// # Errors
/// [`Status::TooLong`] over 1024 bytes; [`Status::Retry`] when the console is full.
pub fn console_write(bytes: &[u8]) -> Result<u64, Status> {
    let call = call::ConsoleWrite { buffer: address(bytes), length: bytes.len() as u64 };
    // SAFETY: the call only reads the slice.
    unsafe { hypercall::call(call) }
}

/// Reads typed bytes; returns how many.
///
/// # Errors
/// [`Status::TooLong`] over 1024 bytes.
pub fn console_read(bytes: &mut [u8]) -> Result<u64, Status> {
    let call = call::ConsoleRead { buffer: address(bytes), length: bytes.len() as u64 };
    // SAFETY: the call writes only the slice, which is borrowed exclusively.
    unsafe { hypercall::call(call) }
}

/// Hands over one defmt frame.
///
/// # Errors
/// [`Status::TooLong`] over 1024 bytes.
pub fn log_write(bytes: &[u8]) -> Result<(), Status> {
    let call = call::LogWrite { buffer: address(bytes), length: bytes.len() as u64 };
    // SAFETY: the call only reads the slice.
    unsafe { hypercall::call(call) }
}

/// Reads new records of the audit log, oldest first; returns how many. For a VM with the role of an
/// auditor.
///
/// # Errors
/// [`Status::NotPermitted`] without the role; [`Status::TooLong`] over 32 records.
pub fn audit_read(records: &mut [AuditRecord]) -> Result<u64, Status> {
    let call = call::AuditRead { buffer: address(records), count: records.len() as u64 };
    // SAFETY: the call writes only the slice, which is borrowed exclusively, and any bytes are a record.
    unsafe { hypercall::call(call) }
}

/// Installs exception handlers of this vCPU.
///
/// # Errors
/// [`Status::InvalidArgument`] for a vector that guests cannot have.
///
/// # Safety
/// Each handler is 0 or code that keeps the entry convention of `TrapFrame`.
pub unsafe fn trap_table_set(entries: &[TrapEntry]) -> Result<(), Status> {
    let call = call::TrapTableSet { table: address(entries), count: entries.len() as u64 };
    // SAFETY: the call only reads the slice; the handlers are the caller's duty.
    unsafe { hypercall::call(call) }
}

/// Asks what `cpuid` says in this VM.
///
/// # Errors
/// None in practice: the result's address is always good.
pub fn cpuid(leaf: u32, subleaf: u32) -> Result<CpuidResult, Status> {
    let mut result = [CpuidResult::default()];
    let call = call::Cpuid { leaf, subleaf, result: GuestVirt(result.as_mut_ptr().addr() as u64) };
    // SAFETY: the call writes only `result`.
    unsafe { hypercall::call(call) }?;
    let [result] = result;
    Ok(result)
}

/// Does up to 64 memory operations; returns how many.
///
/// # Errors
/// The status of the first entry, when it was refused.
///
/// # Safety
/// As [`map`], [`unmap`] and [`protect`], for every entry.
pub unsafe fn memory_batch(entries: &[MemoryBatchEntry]) -> Result<u64, Status> {
    let call = call::MemoryBatch { entries: address(entries), count: entries.len() as u64 };
    // SAFETY: the call only reads the slice; the operations are the caller's duty.
    unsafe { hypercall::call(call) }
}

/// Copies from another VM's granted frame.
///
/// # Errors
/// [`Status::NotPermitted`] for a grant that is not for this VM.
pub fn grant_copy_from(owner: VmId, grant: GrantRef, offset: u64, buffer: &mut [u8]) -> Result<(), Status> {
    let call = call::GrantCopy {
        owner,
        grant,
        offset,
        buffer: address(buffer),
        length: buffer.len() as u64,
        direction: CopyDirection::FromGrant,
    };
    // SAFETY: the call writes only the slice, which is borrowed exclusively.
    unsafe { hypercall::call(call) }
}

/// Copies to another VM's granted frame.
///
/// # Errors
/// [`Status::NotPermitted`] for a grant that is not for this VM, or not for writing.
pub fn grant_copy_to(owner: VmId, grant: GrantRef, offset: u64, buffer: &[u8]) -> Result<(), Status> {
    let call = call::GrantCopy {
        owner,
        grant,
        offset,
        buffer: address(buffer),
        length: buffer.len() as u64,
        direction: CopyDirection::ToGrant,
    };
    // SAFETY: the call only reads the slice.
    unsafe { hypercall::call(call) }
}

/// Makes up to 64 calls; returns how many were made. Each entry holds its own result.
///
/// # Errors
/// [`Status::TooLong`] over 64 entries.
///
/// # Safety
/// As each call of the batch.
pub unsafe fn batch(entries: &mut [BatchEntry]) -> Result<u64, Status> {
    let call = call::Batch { entries: address(entries), count: entries.len() as u64 };
    // SAFETY: the call writes only the slice; the calls are the caller's duty.
    unsafe { hypercall::call(call) }
}
