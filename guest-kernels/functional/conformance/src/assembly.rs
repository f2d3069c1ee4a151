//! Code that needs registers of its own: calls and `resume` with all of them filled, handlers and a
//! vCPU without the SDK below them.
#![expect(unsafe_code, reason = "fills all registers, and moves the stack pointer")]

use core::arch::{asm, naked_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use functional_support::registers::All;
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{EventDeliver, Resume, VcpuStop};
use guest_sdk::protocol::layout;
use guest_sdk::protocol::shared::{TrapFrame, VcpuPage};

/// rax, rbx, rcx, rdx, rsi, rdi, rbp, r8 to r15, flags.
pub type Registers = [u64; 16];

/// Index of a register in [`Registers`].
pub mod at {
    pub use functional_support::registers::at::*;
    /// The flags.
    pub const FLAGS: usize = 15;
}

/// Registers with a pattern each, and carry, parity, zero and sign set in the flags.
pub const PATTERNS: Registers = {
    let mut registers = [0; 16];
    let mut index = 0;
    while index < registers.len() {
        registers[index] = 0x0101_0101_0101_0101 * (index as u64 + 0x50);
        index += 1;
    }
    registers[at::FLAGS] = 0xc5;
    registers
};

/// Executes `syscall` with all registers as in `registers` and the vector registers as in `vectors`,
/// and puts there what they are afterwards. The call is as wild as those of `record::raw`.
pub fn call(registers: &mut Registers, vectors: &mut [u128; 16]) {
    let [general @ .., flags] = *registers;
    let mut all = All::new(general, flags, *vectors);
    all.call();
    registers[..at::FLAGS].copy_from_slice(&all.general);
    registers[at::FLAGS] = all.flags;
    *vectors = all.vectors;
}

/// Calls `resume` with `stack` as the stack pointer, where no frame can be taken; returns rax.
///
/// Events must be masked: there is no stack to take one on. A frame that is taken goes on at its own
/// address, which is the suite's end.
pub fn resume_at(stack: u64) -> u64 {
    let mut rax = Resume::NUMBER;
    // SAFETY: the call is refused and comes back behind itself; the stack pointer is then put back.
    unsafe {
        asm!(
            "xchg rsp, rdi",
            "syscall",
            "mov rsp, rdi",
            inout("rax") rax,
            inout("rdi") stack => _,
            out("rcx") _,
            out("r11") _,
        );
    }
    rax
}

/// Resumes through a frame whose rip and rsp this sets: the code goes on inside here. Registers that
/// no frame holds are loaded from `registers` before; all are put there afterwards. rax then is the
/// frame's, or a status when it was refused.
pub fn resume_through(frame: &mut TrapFrame, registers: &mut Registers) {
    // SAFETY: the function keeps what the ABI wants kept.
    unsafe { resume_with(&raw mut *frame, registers.as_mut_ptr()) };
}

/// As above, in assembly.
///
/// # Safety
/// The pointers are to a frame and to sixteen words.
#[unsafe(naked)]
unsafe extern "C" fn resume_with(frame: *mut TrapFrame, registers: *mut u64) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rsi",
        "mov [rdi + {rsp}], rsp",
        "lea rax, [rip + 2f]",
        "mov [rdi + {rip}], rax",
        "mov rsp, rdi",
        "mov rbx, [rsi + 8]",
        "mov rdx, [rsi + 24]",
        "mov rdi, [rsi + 40]",
        "mov rbp, [rsi + 48]",
        "mov r8, [rsi + 56]",
        "mov r9, [rsi + 64]",
        "mov r10, [rsi + 72]",
        "mov r12, [rsi + 88]",
        "mov r13, [rsi + 96]",
        "mov r14, [rsi + 104]",
        "mov r15, [rsi + 112]",
        "mov rsi, [rsi + 32]",
        "mov eax, {resume}",
        "syscall",
        // Only a refused frame comes here.
        "mov rsp, [rsp + {rsp}]",
        "2:",
        "xchg rdi, [rsp]",
        "mov [rdi], rax",
        "mov [rdi + 8], rbx",
        "mov [rdi + 16], rcx",
        "mov [rdi + 24], rdx",
        "mov [rdi + 32], rsi",
        "mov [rdi + 48], rbp",
        "mov [rdi + 56], r8",
        "mov [rdi + 64], r9",
        "mov [rdi + 72], r10",
        "mov [rdi + 80], r11",
        "mov [rdi + 88], r12",
        "mov [rdi + 96], r13",
        "mov [rdi + 104], r14",
        "mov [rdi + 112], r15",
        "pop rax",
        "mov [rdi + 40], rax",
        "pushfq",
        "pop rax",
        "mov [rdi + 120], rax",
        // Compiled code expects none of the flags that a frame may set.
        "push 0x202",
        "popfq",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        rip = const offset_of!(TrapFrame, rip),
        rsp = const offset_of!(TrapFrame, rsp),
        resume = const Resume::NUMBER,
    )
}

/// What [`event_entry`] saw last: rip, rsp, rax and info of its frame; and how often it ran.
static SEEN: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];
/// Address of the vCPU page whose `events_pending` [`event_entry`] clears.
static PAGE: AtomicU64 = AtomicU64::new(0);

/// What the bare event entry saw.
#[derive(Debug, Clone, Copy)]
pub struct Upcalls {
    /// rip of the frame that came last.
    pub rip: u64,
    /// rsp of the frame that came last.
    pub rsp: u64,
    /// rax of the frame that came last.
    pub rax: u64,
    /// info of the frame that came last.
    pub info: u64,
    /// How many came.
    pub count: u64,
}

/// The address of an event entry that notes the frame and resumes, and uses nothing of the SDK; what
/// it notes starts at 0. For the vCPU of this number.
pub fn bare_event_entry(vcpu: u32) -> u64 {
    for word in &SEEN {
        word.store(0, Ordering::SeqCst);
    }
    PAGE.store(layout::vcpu_page(vcpu).0, Ordering::SeqCst);
    event_entry as *const () as usize as u64
}

/// What the bare event entry saw.
pub fn upcalls() -> Upcalls {
    let [rip, rsp, rax, info, count] = SEEN.each_ref().map(|word| word.load(Ordering::SeqCst));
    Upcalls { rip, rsp, rax, info, count }
}

#[unsafe(naked)]
extern "C" fn event_entry() {
    naked_asm!(
        "lea rax, [rip + {seen}]",
        "mov rcx, [rsp + {rip}]",
        "mov [rax], rcx",
        "mov rcx, [rsp + {rsp}]",
        "mov [rax + 8], rcx",
        "mov rcx, [rsp + {rax}]",
        "mov [rax + 16], rcx",
        "mov rcx, [rsp + {info}]",
        "mov [rax + 24], rcx",
        "lock inc qword ptr [rax + 32]",
        "mov rcx, [rip + {page}]",
        "mov dword ptr [rcx + {events_pending}], 0",
        "mov eax, {resume}",
        "syscall",
        "ud2",
        seen = sym SEEN,
        page = sym PAGE,
        rip = const offset_of!(TrapFrame, rip),
        rsp = const offset_of!(TrapFrame, rsp),
        rax = const offset_of!(TrapFrame, rax),
        info = const offset_of!(TrapFrame, info),
        events_pending = const offset_of!(VcpuPage, events_pending),
        resume = const Resume::NUMBER,
    )
}

/// How often each of the two [`bare_handlers`] ran.
static SKIPS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Addresses of two handlers that go on behind `ud2`, count, and use nothing of the SDK.
pub fn bare_handlers() -> [u64; 2] {
    [skip_first as *const () as usize as u64, skip_second as *const () as usize as u64]
}

/// How often each of them ran.
pub fn skips() -> [u64; 2] {
    SKIPS.each_ref().map(|count| count.load(Ordering::SeqCst))
}

#[unsafe(naked)]
extern "C" fn skip_first() {
    naked_asm!(
        "lock inc qword ptr [rip + {skips}]",
        "add qword ptr [rsp + {rip}], 2",
        "mov eax, {resume}",
        "syscall",
        "ud2",
        skips = sym SKIPS,
        rip = const offset_of!(TrapFrame, rip),
        resume = const Resume::NUMBER,
    )
}

#[unsafe(naked)]
extern "C" fn skip_second() {
    naked_asm!(
        "lock inc qword ptr [rip + {skips} + 8]",
        "add qword ptr [rsp + {rip}], 2",
        "mov eax, {resume}",
        "syscall",
        "ud2",
        skips = sym SKIPS,
        rip = const offset_of!(TrapFrame, rip),
        resume = const Resume::NUMBER,
    )
}

/// What [`agent`] found in its registers when it started, in the order of [`Registers`].
static AGENT: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];

/// Address of the first instruction of a vCPU 1 that uses nothing of the SDK: it notes its registers,
/// executes `ud2`, unmasks events and has them delivered, and stops itself.
pub fn bare_agent() -> u64 {
    for word in &AGENT {
        word.store(u64::MAX, Ordering::SeqCst);
    }
    agent as *const () as usize as u64
}

/// What the agent found in its registers.
pub fn agent_registers() -> Registers {
    AGENT.each_ref().map(|word| word.load(Ordering::SeqCst))
}

#[unsafe(naked)]
extern "C" fn agent() {
    naked_asm!(
        "push rax",
        "lea rax, [rip + {agent}]",
        "mov [rax + 8], rbx",
        "mov [rax + 16], rcx",
        "mov [rax + 24], rdx",
        "mov [rax + 32], rsi",
        "mov [rax + 48], rbp",
        "mov [rax + 56], r8",
        "mov [rax + 64], r9",
        "mov [rax + 72], r10",
        "mov [rax + 80], r11",
        "mov [rax + 88], r12",
        "mov [rax + 96], r13",
        "mov [rax + 104], r14",
        "mov [rax + 112], r15",
        "mov [rax + 40], rdi",
        "pop rcx",
        "mov [rax], rcx",
        "ud2",
        "mov rbx, {page}",
        "mov dword ptr [rbx + {events_masked}], 0",
        "mov eax, {deliver}",
        "syscall",
        "2:",
        "mov edi, 1",
        "mov eax, {stop}",
        "syscall",
        "jmp 2b",
        agent = sym AGENT,
        page = const layout::vcpu_page(1).0,
        events_masked = const offset_of!(VcpuPage, events_masked),
        deliver = const EventDeliver::NUMBER,
        stop = const VcpuStop::NUMBER,
    )
}

/// Spins until the byte at `stop` is not 0, with patterns in all other registers; returns how many
/// registers had changed.
pub fn spin(stop: &core::sync::atomic::AtomicU8) -> u64 {
    // SAFETY: the function reads the byte and keeps what the ABI wants kept.
    unsafe { spin_on(stop.as_ptr()) }
}

/// As [`spin`], in assembly.
///
/// # Safety
/// The byte can be read.
#[unsafe(naked)]
unsafe extern "C" fn spin_on(stop: *const u8) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov rbx, 0x1111111111111111",
        "lea rcx, [rbx + rbx]",
        "lea rdx, [rcx + rbx]",
        "lea rsi, [rdx + rbx]",
        "lea rbp, [rsi + rbx]",
        "lea r8, [rbp + rbx]",
        "lea r9, [r8 + rbx]",
        "lea r10, [r9 + rbx]",
        "lea r11, [r10 + rbx]",
        "lea r12, [r11 + rbx]",
        "lea r13, [r12 + rbx]",
        "lea r14, [r13 + rbx]",
        "lea r15, [r14 + rbx]",
        "mov eax, 0x12345678",
        // The red zone belongs to the interrupted code.
        "mov [rsp - 8], rbx",
        "mov [rsp - 128], r15",
        "2:",
        "cmp byte ptr [rdi], 0",
        "jz 2b",
        // Each difference counts 1.
        "sub rax, 0x12345678",
        "setnz al",
        "movzx eax, al",
        "cmp [rsp - 8], rbx",
        "setnz dil",
        "add al, dil",
        "cmp [rsp - 128], r15",
        "setnz dil",
        "add al, dil",
        "sub r15, r14",
        "cmp r15, rbx",
        "setnz dil",
        "add al, dil",
        "sub r14, r13",
        "cmp r14, rbx",
        "setnz dil",
        "add al, dil",
        "sub r13, r12",
        "cmp r13, rbx",
        "setnz dil",
        "add al, dil",
        "sub r12, r11",
        "cmp r12, rbx",
        "setnz dil",
        "add al, dil",
        "sub r11, r10",
        "cmp r11, rbx",
        "setnz dil",
        "add al, dil",
        "sub r10, r9",
        "cmp r10, rbx",
        "setnz dil",
        "add al, dil",
        "sub r9, r8",
        "cmp r9, rbx",
        "setnz dil",
        "add al, dil",
        "sub r8, rbp",
        "cmp r8, rbx",
        "setnz dil",
        "add al, dil",
        "sub rbp, rsi",
        "cmp rbp, rbx",
        "setnz dil",
        "add al, dil",
        "sub rsi, rdx",
        "cmp rsi, rbx",
        "setnz dil",
        "add al, dil",
        "sub rdx, rcx",
        "cmp rdx, rbx",
        "setnz dil",
        "add al, dil",
        "sub rcx, rbx",
        "cmp rcx, rbx",
        "setnz dil",
        "add al, dil",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// The first word behind a segment base: 0 for FS, else GS of this mode.
pub fn word_behind(base: u32) -> u64 {
    let word: u64;
    if base == 0 {
        // SAFETY: the case has just put a readable address into the base.
        unsafe { asm!("mov {}, fs:[0]", out(reg) word, options(nostack, preserves_flags, readonly)) };
    } else {
        // SAFETY: as above.
        unsafe { asm!("mov {}, gs:[0]", out(reg) word, options(nostack, preserves_flags, readonly)) };
    }
    word
}

/// Executes `ud2`, which a handler must skip.
pub fn undefined() {
    // SAFETY: the handler goes on behind the two bytes and keeps all registers.
    unsafe { asm!("ud2", options(nostack)) };
}

/// Sets the FS base by the instruction; only with FSGSBASE.
pub fn write_fs_base(base: u64) {
    // SAFETY: the caller has seen the feature; kernel code uses no FS.
    unsafe { guest_sdk::raw::cpu::wrfsbase(base) };
}
