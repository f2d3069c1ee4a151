//! The handlers that the hypervisor enters, in assembly up to the first Rust function.
//!
//! Entry state of each (see `TrapFrame`): rsp is the frame; every register is the interrupted code's
//! but rax, rcx and r11, which stand in the frame; events are masked; GS is the kernel's.
//!
//! From kernel mode the handler saves what Rust code may change, calls it, and resumes. From user
//! mode the frame *is* the head of the [`UserContext`](crate::user::UserContext) that entered user mode last on this vCPU: its
//! other registers go behind the frame, and the handler returns to the caller of
//! `enter_user`. So a user-mode trap needs no copy and no search.

use core::arch::naked_asm;
use core::mem::offset_of;

use protocol::Call;
use protocol::call::Resume;
use protocol::layout::limit;
use protocol::shared::{TrapEntry, TrapFrame, frame_info};
use protocol::{GuestVirt, Status};

use super::call;
use super::user::leave_user;

/// Everything of interrupted kernel code that a handler can read and change.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
#[expect(missing_docs, reason = "registers go by their names")]
pub struct TrapContext {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    /// rax, rcx, r11, rip, flags, stack pointer, and why.
    pub frame: TrapFrame,
}

const _: () = assert!(offset_of!(TrapContext, frame) == 96);

impl TrapContext {
    /// The vector of the exception.
    #[must_use]
    pub const fn vector(&self) -> u8 {
        (self.frame.info & frame_info::VECTOR) as u8
    }
}

/// Enters on every exception.
#[unsafe(naked)]
pub(crate) extern "C" fn trap_entry() {
    naked_asm!(
        "test dword ptr [rsp + {info}], {user}",
        "jnz {leave_user}",
        "cld",
        "push rdx",
        "push rbx",
        "push rbp",
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "push r10",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov rdi, rsp",
        "call {dispatch}",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rdi",
        "pop rsi",
        "pop rbp",
        "pop rbx",
        "pop rdx",
        "mov eax, {resume}",
        "syscall",
        // Only a frame that a handler spoilt is refused: nothing sensible is left to do.
        "ud2",
        info = const offset_of!(TrapFrame, info),
        user = const frame_info::USER,
        resume = const Resume::NUMBER,
        leave_user = sym leave_user,
        dispatch = sym dispatch_trap,
    )
}

/// Enters when an event is pending. Rust code keeps rbx, rbp and r12 to r15 by itself, and no event
/// handler needs to see them.
#[unsafe(naked)]
pub(crate) extern "C" fn event_entry() {
    naked_asm!(
        "test dword ptr [rsp + {info}], {user}",
        "jnz {leave_user}",
        "cld",
        "push rdx",
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "push r10",
        "call {dispatch}",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rdi",
        "pop rsi",
        "pop rdx",
        "mov eax, {resume}",
        "syscall",
        "ud2",
        info = const offset_of!(TrapFrame, info),
        user = const frame_info::USER,
        resume = const Resume::NUMBER,
        leave_user = sym leave_user,
        dispatch = sym dispatch_events,
    )
}

extern "C" fn dispatch_trap(context: *mut TrapContext) {
    // SAFETY: the stub passes the context that it just built on the stack, which nothing else knows.
    let context = unsafe { &mut *context };
    crate::trap::dispatch(context);
}

extern "C" fn dispatch_events() {
    crate::event::dispatch();
}

/// Has system calls of user mode and events of this vCPU come to the SDK.
///
/// # Errors
/// None in practice: the addresses are code of the kernel.
pub fn install_entry_points() -> Result<(), Status> {
    let syscall = GuestVirt(leave_user as *const () as usize as u64);
    let event = GuestVirt(event_entry as *const () as usize as u64);
    // SAFETY: both keep the entry convention, as the module describes.
    unsafe { call::entry_points_set(syscall, event) }
}

/// Has exceptions of these vectors come to the SDK on this vCPU.
pub(crate) fn trap_table_of(vectors: &[u8]) -> Result<(), Status> {
    let handler = trap_entry as *const () as usize as u64;
    let mut entries = [TrapEntry::default(); limit::TRAPS as usize];
    for (entry, vector) in entries.iter_mut().zip(vectors) {
        *entry = TrapEntry { vector: u32::from(*vector), flags: 0, handler };
    }
    let entries = entries.get(..vectors.len()).ok_or(Status::TooLong)?;
    // SAFETY: the handler keeps the entry convention, as the module describes.
    unsafe { call::trap_table_set(entries) }
}

/// Has exceptions of a vector end the VM on this vCPU.
pub(crate) fn remove_handler(vector: u8) -> Result<(), Status> {
    let entry = TrapEntry { vector: u32::from(vector), flags: 0, handler: 0 };
    // SAFETY: handler 0 is no code.
    unsafe { call::trap_table_set(&[entry]) }
}
