//! Instructions that may fault. The handler goes on behind them and notes the exception.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use guest_sdk::protocol::shared::CpuidResult;
use guest_sdk::{Status, TrapContext, smp, trap};

/// Exception and error code that each vCPU saw last.
static SEEN: [AtomicU64; 16] = [const { AtomicU64::new(NONE) }; 16];
const NONE: u64 = u64::MAX;

/// What an instruction came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It went through, and left these values.
    Done(u64, u64),
    /// It raised this exception with this error code.
    Fault(u8, u64),
}

/// What an instruction raises that is not the guest's.
pub const PROTECTED: Outcome = Outcome::Fault(trap::GENERAL_PROTECTION, 0);
/// What an instruction raises that is not there.
pub const UNDEFINED: Outcome = Outcome::Fault(trap::INVALID_OPCODE, 0);

fn seen() -> &'static AtomicU64 {
    &SEEN[smp::current().0 as usize]
}

/// Goes on at the address in r12.
fn go_on(context: &mut TrapContext) {
    seen().store(context.frame.error_code << 8 | u64::from(context.vector()), Ordering::Relaxed);
    context.frame.rip = context.r12;
}

/// Has the exceptions of this vCPU end the instruction that raised them.
pub fn install() -> Result<(), Status> {
    trap::set_handler(trap::GENERAL_PROTECTION, go_on)?;
    trap::set_handler(trap::INVALID_OPCODE, go_on)
}

fn outcome(first: u64, second: u64) -> Outcome {
    match seen().swap(NONE, Ordering::Relaxed) {
        NONE => Outcome::Done(first, second),
        raised => Outcome::Fault(raised as u8, raised >> 8),
    }
}

/// Functions that execute one instruction; edx:eax is the first value, ecx the second.
macro_rules! instructions {
    ($($(#[$doc:meta])* $name:ident: $($line:literal),*;)*) => {$(
        $(#[$doc])*
        pub fn $name() -> Outcome {
            let (mut rax, mut rdx, mut rcx) = (0_u64, 0_u64, 0_u64);
            // SAFETY: the instruction reads registers, or faults and is skipped; what it may change is
            // named, or (vector registers) not used by compiled code.
            unsafe {
                asm!(
                    "lea r12, [rip + 77f]",
                    $($line,)*
                    "77:",
                    inout("rax") rax, inout("rdx") rdx, inout("rcx") rcx, out("r12") _,
                );
            }
            outcome(rdx << 32 | rax & 0xffff_ffff, rcx)
        }
    )*};
}

instructions! {
    /// The time-stamp counter.
    rdtsc: "rdtsc";
    /// The time-stamp counter and the vCPU's number.
    rdtscp: "rdtscp";
    /// The vCPU's number.
    rdpid: "rdpid rcx";
    /// XCR0.
    xgetbv: "xgetbv";
    /// A 256-bit register.
    avx: "vxorps ymm0, ymm0, ymm0";
    /// The FS base.
    rdfsbase: "rdfsbase rax";
    /// A performance counter.
    rdpmc: "rdpmc";
    /// EFER.
    rdmsr: "mov ecx, 0xc0000080", "rdmsr";
    /// EFER, as it is.
    wrmsr: "mov ecx, 0xc0000080", "mov eax, 0xd01", "wrmsr";
    /// DR7.
    read_debug: "mov rax, dr7";
    /// DR7, with nothing on.
    write_debug: "mov eax, 0x400", "mov dr7, rax";
    /// XCR0, as it is at most.
    xsetbv: "mov eax, 7", "xsetbv";
}

/// The instruction, not the call.
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let answer = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    CpuidResult { eax: answer.eax, ebx: answer.ebx, ecx: answer.ecx, edx: answer.edx }
}
