//! Each function breaks one rule. None of them has a safety argument: there is none. The hypervisor
//! ends the VM before anything that follows could go wrong.

use core::arch::asm;
use core::hint::black_box;

use functional_support::program::Program;
use functional_support::user_code;
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::Resume;
use guest_sdk::raw::vcpu::Vcpu;
use guest_sdk::{GuestVirt, VcpuId, call, println, smp, trap};

use core::sync::atomic::Ordering;

/// Runs instructions that are not to be survived. Reports show the line that uses the macro.
#[collapse_debuginfo(yes)]
macro_rules! die {
    ($($line:literal),* $(; $($operand:tt)*)?) => {
        // SAFETY: none, see the module: the VM ends here.
        unsafe { asm!($($line,)* $($($operand)*)?) }
    };
}

pub fn null_read() {
    die!("mov rax, [rdi + 8]"; in("rdi") 0, out("rax") _);
}

pub fn null_call() {
    die!("call rax"; in("rax") 0);
}

pub fn wild_jump() {
    die!("jmp rax"; in("rax") 0x1234_5678_u64);
}

pub fn write_code() {
    die!("mov byte ptr [rax], 0x90"; in("rax") write_code as fn() as usize);
}

pub fn execute_data() {
    let code = [0xc3_u8; 16];
    die!("call rax"; in("rax") code.as_ptr());
}

/// Calls itself until the stack's guard page is hit.
pub fn stack_overflow() {
    #[expect(unconditional_recursion, reason = "the very point")]
    fn deeper(depth: u64) -> u64 {
        let block = black_box([depth; 32]);
        deeper(depth + 1) + block[7]
    }
    println!("{}", deeper(0));
}

pub fn divide() {
    die!("div ecx"; in("ecx") 0, inout("eax") 1 => _, inout("edx") 0 => _);
}

pub fn undefined() {
    die!("ud2");
}

pub fn privileged() {
    die!("mov cr3, rax"; in("rax") 0);
}

pub fn non_canonical() {
    die!("mov rax, [rax]"; inout("rax") 0x8000_0000_0000_0000_u64 => _);
}

pub fn hypervisor_read() {
    die!("mov rax, [rax]"; inout("rax") 0xffff_82d0_8000_0000_u64 => _);
}

pub fn breakpoint() {
    die!("int3");
}

/// A page fault whose handler faults, again and again, until the stack is used up.
pub fn fault_in_handler() {
    let installed = trap::set_handler(trap::PAGE_FAULT, |_| null_read());
    println!("handler: {installed:?}");
    null_read();
}

/// A fault while the stack pointer is nowhere: the frame cannot be written.
pub fn stack_lost() {
    let installed = trap::set_handler(trap::INVALID_OPCODE, |_| ());
    println!("handler: {installed:?}");
    die!("mov rsp, rax", "ud2"; in("rax") 0xffff_9000_0000_0000_u64);
}

/// A frame that `resume` refuses; the kernel then runs into what stands behind its call.
pub fn bad_resume() {
    die!(
        "sub rsp, 128",
        "mov qword ptr [rsp + 24], 0",
        "mov rcx, 0xffff800000000000",
        "mov [rsp + 24], rcx",
        "mov qword ptr [rsp + 48], 0",
        "syscall",
        "ud2";
        in("rax") Resume::NUMBER
    );
}

user_code! {
    /// Asks the kernel for something.
    ask:
        "mov eax, 1",
        "syscall",
        "ud2",
}

/// A system call of user mode that no entry point takes.
pub fn system_call() {
    // SAFETY: none, see the module.
    let removed = unsafe { call::entry_points_set(GuestVirt(0), GuestVirt(0)) };
    println!("no entry point: {removed:?}");
    run_user(ask());
}

user_code! {
    /// Destroys the kernel stack pointer's use by faulting.
    fault:
        "ud2",
}

/// A fault of user mode whose frame has nowhere to go.
pub fn user_kernel_stack() {
    use guest_sdk::protocol::call::Resume;
    use guest_sdk::protocol::shared::{TrapFrame, frame_info};

    let program = Program::new(fault());
    let Ok(program) = program else { return };
    let switched = program.space.make_current();
    println!("in user space: {switched:?}");
    // A handler, so that it is the stack that is missing.
    let installed = trap::set_handler(trap::INVALID_OPCODE, |_| ());
    println!("handler: {installed:?}");
    Vcpu::current().page().kernel_stack.store(0x1000, Ordering::Relaxed);
    let frame = TrapFrame {
        rip: functional_support::program::CODE,
        rsp: functional_support::program::STACK_TOP,
        info: frame_info::USER,
        ..TrapFrame::default()
    };
    die!("mov rsp, rdi", "syscall", "ud2"; in("rdi") &raw const frame, in("rax") Resume::NUMBER);
}

fn run_user(code: &[u8]) {
    match Program::new(code) {
        Ok(mut program) => println!("user mode ended: {:?}", program.run()),
        Err(status) => println!("no program: {status}"),
    }
}

/// Another vCPU than the first dies.
pub fn other_vcpu() {
    let started = smp::spawn(VcpuId(1), null_read);
    println!("vCPU 1: {started:?}");
    loop {
        let _ = call::block(guest_sdk::Nanos::NEVER);
    }
}

#[expect(clippy::panic, reason = "the very point")]
pub fn panic() {
    panic!("a panic of the guest's own");
}

pub fn exit_code() {
    call::exit(42);
}
