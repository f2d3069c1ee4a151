//! The code that the processor enters, and the way back out.
//!
//! Every entry leaves a whole [`Registers`] frame on this CPU's ring-0 stack and calls Rust with its
//! address; every exit loads the frame again. Entry from ring 3 swaps GS and clears AC; entry from
//! ring 0 happens only while waiting for an interrupt, in a guarded copy, or on an interrupt stack.
#![expect(unsafe_code, reason = "entry code is assembly; loading tables has no safe form")]

use hv_core::addr::convert::wide;
use x86::dtables::{DescriptorTablePointer, lidt};

use super::descriptors::{Gate, ring_of, stack_of};
use crate::cpu::gdt::RING0_CODE;

#[cfg(target_os = "none")]
core::arch::global_asm!(
    r#"
    .macro SAVE_GENERAL
        .irp register, rax, rcx, r11, rdi, rsi, rdx, r10, r8, r9, rbx, rbp, r12, r13, r14, r15
            push \register
        .endr
    .endm
    .macro LOAD_GENERAL
        .irp register, r15, r14, r13, r12, rbp, rbx, r9, r8, r10, rdx, rsi, rdi, r11, rcx, rax
            pop \register
        .endr
    .endm
    .macro ENTER_FROM_RING3
        swapgs
        cmp dword ptr gs:[{has_smap}], 0
        je 9f
        clac
    9:
    .endm

    .macro SYSTEM_CALL vector
        swapgs
        mov gs:[{guest_stack}], rsp
        mov rsp, gs:[{stack_top}]
        push {stack_selector}
        push qword ptr gs:[{guest_stack}]
        push r11
        push {code_selector}
        push rcx
        push 0
        push \vector
        SAVE_GENERAL
        mov rdi, rsp
        call hv_on_system_call
    .endm

    # `syscall` from 32-bit code of ring 3, which only guests of the Xen personality can have.
    .global syscall32_entry
    .balign 64
    syscall32_entry:
        SYSTEM_CALL {syscall32}
        jmp trap_exit

    # `syscall` from ring 3. The processor put rip in rcx and the flags in r11, and FMASK cleared
    # AC, DF, TF, NT and IF. The stack is still the guest's.
    .global syscall_entry
    .balign 64
    syscall_entry:
        SYSTEM_CALL {syscall}
    # The way out for every entry. rsp is at a `Registers` frame of a guest.
    .global trap_exit
    trap_exit:
        cmp qword ptr [rsp + {vector_offset}], {syscall}
        jne 1f
        # SYSRET: rip and rsp were checked, or came from the processor, so they are canonical (G2).
        LOAD_GENERAL
        add rsp, 16
        pop rcx
        add rsp, 8
        pop r11
        pop rsp
        swapgs
        sysretq
    1:
        swapgs
        LOAD_GENERAL
        add rsp, 16
    # It faults when a guest's selectors or addresses are bad: `trap_common` makes that the guest's fault.
    guest_return:
        iretq
    # The way back into ring 0.
    trap_return:
        LOAD_GENERAL
        add rsp, 16
        iretq

    # All vectors without a stack of their own. The stub pushed an error code (or 0) and the vector.
    .balign 64
    trap_common:
        SAVE_GENERAL
        cld
        mov rdi, rsp
        test byte ptr [rsp + {cs_offset}], 3
        jz 2f
        ENTER_FROM_RING3
        call hv_on_trap
        jmp trap_exit
    2:  # Ring 0 itself: GS is right already, unless it was on the last step out.
        lea rax, [rip + guest_return]
        cmp [rsp + {rip_offset}], rax
        je 3f
        call trap_in_ring0
        jmp trap_return
    3:  # The registers are the guest's, and where it was going stands where ring 0's stack was.
        swapgs
        mov rsi, [rsp + {rsp_offset}]
        lea rdi, [rsp + {rip_offset}]
        mov ecx, 5
        rep movsq
        mov rdi, rsp
        call hv_on_trap
        jmp trap_exit

    # Vectors on interrupt stacks: they can hit any instruction of ring 0, also before `swapgs`.
    .balign 64
    trap_special:
        SAVE_GENERAL
        cld
        test byte ptr [rsp + {cs_offset}], 3
        jz 4f
        # From ring 3 the ordinary stack is empty: move the frame there and go on as usual.
        ENTER_FROM_RING3
        mov rsi, rsp
        mov rsp, gs:[{stack_top}]
        sub rsp, {frame_bytes}
        mov rdi, rsp
        mov ecx, {frame_words}
        rep movsq
        mov rdi, rsp
        call hv_on_trap
        jmp trap_exit
    4:  # From ring 0 GS may still be the guest's. The top word of this stack holds ours.
        mov ecx, {gs_base_msr}
        rdmsr
        mov r12d, eax
        mov r13d, edx
        mov rax, rsp
        or rax, {interrupt_stack_mask}
        mov rax, [rax - 7]
        mov rdx, rax
        shr rdx, 32
        wrmsr
        mov rdi, rsp
        call trap_in_ring0
        mov ecx, {gs_base_msr}
        mov eax, r12d
        mov edx, r13d
        wrmsr
        jmp trap_return

    # One stub a vector, 16 bytes apart.
    .global trap_stubs
    .balign 16
    trap_stubs:
    .set trap_vector, 0
    .rept 256
        .balign 16
        .if !((trap_vector == 8) || ((trap_vector >= 10) && (trap_vector <= 14)) || (trap_vector == 17) || (trap_vector == 21) || (trap_vector == 29) || (trap_vector == 30))
            push 0
        .endif
        push trap_vector
        .if (trap_vector == 1) || (trap_vector == 2) || (trap_vector == 8) || (trap_vector == 18)
            jmp trap_special
        .else
            jmp trap_common
        .endif
        .set trap_vector, trap_vector + 1
    .endr
    "#,
    guest_stack = const crate::local::offset::GUEST_STACK,
    stack_top = const crate::local::offset::STACK_TOP,
    has_smap = const crate::local::offset::HAS_SMAP,
    stack_selector = const protocol::layout::STACK_SELECTOR,
    code_selector = const protocol::layout::CODE_SELECTOR,
    syscall = const crate::guest::Registers::SYSCALL,
    syscall32 = const crate::guest::Registers::SYSCALL_32,
    rip_offset = const core::mem::offset_of!(crate::guest::Registers, rip),
    rsp_offset = const core::mem::offset_of!(crate::guest::Registers, rsp),
    vector_offset = const core::mem::offset_of!(crate::guest::Registers, vector),
    cs_offset = const core::mem::offset_of!(crate::guest::Registers, cs),
    frame_bytes = const size_of::<crate::guest::Registers>(),
    frame_words = const size_of::<crate::guest::Registers>() / 8,
    gs_base_msr = const x86::msr::IA32_GS_BASE,
    interrupt_stack_mask = const crate::local::INTERRUPT_STACK_BYTES - 1,
);

/// Bytes between two stubs.
const STUB_BYTES: u64 = 16;

unsafe extern "C" {
    /// The first of 256 stubs.
    static trap_stubs: u8;
    /// Where `syscall` leads.
    static syscall_entry: u8;
    /// Where it leads from 32-bit code.
    static syscall32_entry: u8;
}

/// The table that all CPUs share. It is filled before the first CPU loads it.
static TABLE: spin::Once<[Gate; 256]> = spin::Once::new();

/// A table whose gates lead to ring 0's code by a selector; `ring` says who may raise a vector.
fn gates(code: u16, ring: impl Fn(u8) -> u64) -> [Gate; 256] {
    let first = wide((&raw const trap_stubs).addr());
    core::array::from_fn(|index| {
        let vector = u8::try_from(index).unwrap_or(0);
        let handler = first.wrapping_add(u64::from(vector).wrapping_mul(STUB_BYTES));
        Gate::new(handler, code, stack_of(vector), ring(vector))
    })
}

/// The gates that are in force while a vCPU of the Xen personality is loaded.
#[cfg(feature = "xen")]
pub(crate) fn xen_gates() -> &'static [Gate; 256] {
    static TABLE: spin::Once<[Gate; 256]> = spin::Once::new();
    TABLE.call_once(|| gates(crate::cpu::xen::RING0_CODE, crate::cpu::xen::ring_of))
}

/// Builds the table once and loads it on this CPU. Returns it for the start-up assertions.
pub(crate) fn load() -> &'static [Gate; 256] {
    let table = native_gates();
    // SAFETY: T1 (every gate leads to a stub of this file): the table is static and never changes
    // again.
    unsafe { lidt(&DescriptorTablePointer::new(table)) };
    table
}

/// The gates that are in force otherwise.
pub(crate) fn native_gates() -> &'static [Gate; 256] {
    TABLE.call_once(|| gates(RING0_CODE, ring_of))
}

/// The addresses for the system-call MSRs: from 64-bit code, and from 32-bit code.
pub(crate) fn system_call_entries() -> [u64; 2] {
    [wide((&raw const syscall_entry).addr()), wide((&raw const syscall32_entry).addr())]
}
