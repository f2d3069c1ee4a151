//! Executing pieces of machine code in either mode, whatever they do.
//!
//! A piece finds the address of a buffer in rdi and leaves results in rax, rbx, rdx and rsi. It keeps
//! rbp and the stack pointer, and may change everything else that ring 3 can change.

use alloc::boxed::Box;

use functional_support::program::{CODE, DATA, Program, STACK_TOP};
use guest_sdk::protocol::flags::MapFlags;
use guest_sdk::user::{Exit, UserContext};
use guest_sdk::{Status, TrapContext, trap};

/// Where a piece of code starts and ends.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Snippet {
    start: *const u8,
    end: *const u8,
}

impl Snippet {
    /// No code.
    #[must_use]
    pub const fn empty() -> Snippet {
        Snippet { start: core::ptr::null(), end: core::ptr::null() }
    }

    /// Its bytes.
    fn bytes(self) -> &'static [u8] {
        if self.start.is_null() {
            return &[];
        }
        let length = self.end.addr() - self.start.addr();
        // SAFETY: `snippets!` makes the bounds of code in the text section, which is never written.
        unsafe { core::slice::from_raw_parts(self.start, length) }
    }
}

/// Declares functions that return pieces of code.
macro_rules! snippets {
    ($($(#[$doc:meta])* $name:ident: $($line:literal),* $(,)?;)*) => {$(
        $(#[$doc])*
        pub(crate) fn $name() -> $crate::bare::Snippet {
            #[cfg(target_os = "none")]
            {
                #[unsafe(naked)]
                extern "C" fn bounds() -> $crate::bare::Snippet {
                    ::core::arch::naked_asm!(
                        "lea rax, [rip + 77f]",
                        "lea rdx, [rip + 78f]",
                        "ret",
                        "77:",
                        $($line,)*
                        "78:",
                        "ret",
                    )
                }
                bounds()
            }
            #[cfg(not(target_os = "none"))]
            $crate::bare::Snippet::empty()
        }
    )*};
}
pub(crate) use snippets;

/// What a piece leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
#[expect(missing_docs, reason = "registers go by their names")]
pub struct Values {
    pub rax: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rsi: u64,
}

/// What a piece came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It ran to its end.
    Ran(Values),
    /// An exception ended it.
    Fault {
        /// Vector.
        vector: u8,
        /// Error code, or 0.
        error: u64,
    },
    /// User mode's system call came to its kernel.
    Call,
}

/// The buffer of kernel mode.
#[repr(align(4096))]
struct Buffer([u8; 4096]);

/// What one vCPU needs to execute pieces.
pub struct Runner {
    program: Program,
    buffer: Box<Buffer>,
}

/// `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

impl Runner {
    /// A space for user mode and a buffer. [`install`] must have been called.
    ///
    /// # Errors
    /// When memory or spaces are used up.
    pub fn new() -> Result<Runner, Status> {
        Ok(Runner { program: Program::new(&[])?, buffer: Box::new(Buffer([0; 4096])) })
    }

    /// Executes a piece in kernel mode and in user mode.
    ///
    /// # Errors
    /// None in practice.
    pub fn both(&mut self, snippet: Snippet) -> Result<(Outcome, Outcome), Status> {
        Ok((self.kernel(snippet), self.user(snippet)?))
    }

    /// Lays bytes at address 0 of user mode.
    ///
    /// # Errors
    /// Those of `map`.
    pub fn lay_at_zero(&mut self, bytes: &[u8]) -> Result<(), Status> {
        self.program.space.map_zeroed(0, 1, MapFlags::WRITE)?;
        self.program.space.write(0, bytes)
    }

    /// Executes a piece in user mode.
    ///
    /// # Errors
    /// None in practice.
    pub fn user(&mut self, snippet: Snippet) -> Result<Outcome, Status> {
        let code = snippet.bytes();
        self.program.space.write(CODE, code)?;
        self.program.space.write(CODE + code.len() as u64, &SYSCALL)?;
        self.program.space.write(DATA, &[0; 64])?;
        self.program.context = UserContext::new(CODE, STACK_TOP);
        self.program.context.registers_mut().rdi = DATA;
        let exit = self.program.run_on()?;
        let context = &self.program.context;
        let end = CODE + (code.len() + SYSCALL.len()) as u64;
        Ok(match exit {
            Exit::Syscall if context.frame().rip == end => {
                let registers = context.registers();
                Outcome::Ran(Values { rax: context.rax(), rbx: registers.rbx, rdx: registers.rdx, rsi: registers.rsi })
            }
            Exit::Fault(fault) => Outcome::Fault { vector: fault.vector, error: fault.error_code },
            Exit::Syscall | Exit::Event => Outcome::Call,
        })
    }

    /// Executes a piece in kernel mode.
    pub fn kernel(&mut self, snippet: Snippet) -> Outcome {
        self.buffer.0.fill(0);
        let mut result = Left { values: Values::default(), kind: 0 };
        let address = self.buffer.0.as_mut_ptr().addr();
        // SAFETY: the piece is code of this program that ends with `ret` and keeps what `enter` asks
        // for; a fault in it goes on behind the call.
        unsafe { enter(snippet.start, address, &raw mut result) };
        match u8::try_from(result.kind) {
            Ok(0) | Err(_) => Outcome::Ran(result.values),
            Ok(kind) => Outcome::Fault { vector: kind - 1, error: result.values.rax },
        }
    }
}

/// What [`enter`] writes: values, and 0 or the vector of a fault plus one, with its error code in rax.
#[repr(C)]
struct Left {
    values: Values,
    kind: u64,
}

/// Marks the frame of [`enter`], so that a handler knows the fault of a piece from any other.
const MARK: u64 = 0x5e45_1713_ba4e_c0de;

/// Calls a piece and puts everything back that it may have changed.
///
/// # Safety
/// `code` is a piece: it keeps rbp and the stack, and returns. `result` is valid.
#[cfg(target_os = "none")]
#[unsafe(naked)]
unsafe extern "C" fn enter(code: *const u8, buffer: usize, result: *mut Left) {
    use guest_sdk::protocol::Call;
    use guest_sdk::protocol::call::SegmentBaseSet;
    use guest_sdk::protocol::flags::SegmentBase;

    core::arch::naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        // The frame that rbp shows: where to go on, the mark, the kernel's GS base, the result.
        "push rdx",
        "push qword ptr gs:[0]",
        "movabs rax, {mark}",
        "push rax",
        "lea rax, [rip + 77f]",
        "push rax",
        "mov rbp, rsp",
        "sub rsp, 8",
        "mov rax, rdi",
        "mov rdi, rsi",
        "call rax",
        "xor r8d, r8d",
        "77:",
        "mov rsp, rbp",
        // Flags and selectors as compiled code wants them, and the GS base that they lose.
        "push 0x202",
        "popfq",
        "mov rcx, [rbp + 24]",
        "mov [rcx], rax",
        "mov [rcx + 8], rbx",
        "mov [rcx + 16], rdx",
        "mov [rcx + 24], rsi",
        "mov [rcx + 32], r8",
        "xor eax, eax",
        "mov ds, eax",
        "mov es, eax",
        "mov fs, eax",
        "mov gs, eax",
        "mov eax, {set_base}",
        "mov edi, {kernel_gs}",
        "mov rsi, [rbp + 16]",
        "syscall",
        "lea rsp, [rbp + 32]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        mark = const MARK,
        set_base = const SegmentBaseSet::NUMBER,
        kernel_gs = const SegmentBase::KernelGs.number(),
    )
}

/// As above, for hosts, where there is no code to call.
///
/// # Safety
/// None is needed.
#[cfg(not(target_os = "none"))]
unsafe extern "C" fn enter(_code: *const u8, _buffer: usize, _result: *mut Left) {}

/// Has faults of pieces in kernel mode end the piece, on this vCPU and on those that it starts.
///
/// # Errors
/// None in practice.
pub fn install() -> Result<(), Status> {
    for vector in (0..32).filter(|vector| !trap::RESERVED.contains(vector)) {
        trap::set_handler(vector, leave)?;
    }
    Ok(())
}

/// Goes on where the frame of [`enter`] says. Uses no GS, which a piece may have changed.
fn leave(context: &mut TrapContext) {
    let frame: *const u64 = core::ptr::with_exposed_provenance(context.rbp as usize);
    assert!(
        context.rbp >= guest_sdk::protocol::layout::KERNEL_START && frame.is_aligned(),
        "a fault of the kernel's own"
    );
    // SAFETY: rbp is an address of the kernel's; if it is not mapped, the VM dies of the fault that is
    // being handled, as it should.
    let mark = unsafe { frame.wrapping_add(1).read() };
    assert!(mark == MARK, "exception {} at {:#x}", context.vector(), context.frame.rip);
    // SAFETY: the mark says that this is the frame of `enter`.
    context.frame.rip = unsafe { frame.read() };
    context.frame.rsp = context.rbp;
    context.frame.rflags = 0;
    context.r8 = u64::from(context.vector()) + 1;
    context.frame.rax = context.frame.error_code;
}
