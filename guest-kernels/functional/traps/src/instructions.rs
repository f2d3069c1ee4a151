//! Instructions that raise exceptions, each followed by an address in rax where the handler goes on.

use core::arch::asm;

/// Executes code that faults; the handler continues at the label. rbx and r12 carry values that must
/// survive, rcx one that the handler changes.
macro_rules! faulting {
    ($($(#[$doc:meta])* $name:ident: $($line:literal),*;)*) => {$(
        $(#[$doc])*
        pub fn $name() -> [u64; 4] {
            let (mut rax, mut rcx, mut r11, mut r12): (u64, u64, u64, u64);
            // SAFETY: the handler goes on at the label in rax, past the faulting instruction; the
            // registers that it may change are named.
            unsafe {
                asm!(
                    "lea rax, [rip + 77f]",
                    $($line,)*
                    "77:",
                    out("rax") rax,
                    inout("rcx") 0x77_u64 => rcx,
                    inout("r11") 0x78_u64 => r11,
                    inout("r12") 0x79_u64 => r12,
                    out("rdx") _,
                    out("rsi") _,
                    out("rdi") _,
                );
            }
            [rax, rcx, r11, r12]
        }
    )*};
}

faulting! {
    /// #DE.
    divide: "xor edx, edx", "xor esi, esi", "div esi";
    /// #BP, reported behind the instruction.
    breakpoint: "int3";
    /// #UD.
    undefined: "ud2";
    /// #GP: a privileged instruction.
    privileged: "mov rsi, cr0";
    /// #GP: an address that is not canonical.
    non_canonical: "mov rsi, 0x8000000000000000", "mov rsi, [rsi]";
    /// #GP: `hlt`.
    halt: "hlt";
    /// #GP: interrupts are not the guest's.
    interrupts_off: "cli";
    /// #GP: a port.
    port: "mov edx, 0x3f8", "in al, dx";
    /// #PF: a read of nothing.
    read_nothing: "mov esi, 0x1000", "mov rsi, [rsi]";
    /// #PF: a write of nothing.
    write_nothing: "mov esi, 0x1008", "mov [rsi], rsi";
    /// #PF: a read of the hypervisor's memory.
    read_hypervisor: "mov rsi, 0xffff800000000000", "mov rsi, [rsi]";
    /// #PF: a jump to nothing.
    jump_nowhere: "mov esi, 0x2000", "jmp rsi";
    /// #PF: a jump into data.
    jump_into_data: "mov rsi, rsp", "jmp rsi";
    /// #DB: one step.
    step: "pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop";
    /// #XM: division by zero with the exception unmasked.
    simd: "sub rsp, 16", "mov dword ptr [rsp], 0x1d80", "ldmxcsr [rsp]", "add rsp, 16",
        "xorps xmm0, xmm0", "mov edx, 0x3f800000", "movd xmm1, edx", "divss xmm1, xmm0";
    /// #MF: the same for x87.
    x87: "fninit", "sub rsp, 16", "mov word ptr [rsp], 0x037b", "fldcw [rsp]", "add rsp, 16",
        "fld1", "fldz", "fdivp", "fwait";
}

/// Takes the floating-point units out of the state that `simd` and `x87` leave.
pub fn calm_fpu() {
    let mxcsr = 0x1f80_u32;
    // SAFETY: compiled code of this target uses neither unit.
    unsafe { asm!("fninit", "ldmxcsr [{}]", in(reg) &raw const mxcsr, options(nostack)) };
}

/// Raises #UD and returns the flags right behind it.
pub fn flags_after_undefined() -> u64 {
    let flags;
    // SAFETY: as `undefined`; the flags go back to what compiled code expects.
    unsafe {
        asm!(
            "lea rax, [rip + 77f]",
            "ud2",
            "77:",
            "pushfq",
            "pop {flags}",
            "cld",
            "push 0x202",
            "popfq",
            flags = out(reg) flags,
            out("rax") _,
            out("rcx") _,
            out("r11") _,
        );
    }
    flags
}
