//! From the first instruction to the kernel's own function, for each vCPU.

use core::arch::naked_asm;

use protocol::shared::START_MAGIC;
use protocol::version;
use protocol::{GuestVirt, SpaceId, Status, VcpuId};

use super::{call, page, trap, vcpu};
use crate::start::StartInfo;

/// Prepares vCPU 0 and the kernel's memory, runs the kernel's function and ends the VM with its
/// exit code. What [`entry!`](crate::entry) calls from `_start`.
///
/// # Safety
/// Called once, on vCPU 0, as the first Rust code of the VM.
pub unsafe fn start(main: fn(&'static StartInfo) -> u64) -> ! {
    let info = page::start_info();
    let served = version::WireVersion { major: (info.version >> 16) as u16, minor: info.version as u16 };
    if info.magic != START_MAGIC || !served.serves(version::CURRENT) {
        call::exit(crate::exit_code::WRONG_HYPERVISOR);
    }
    // SAFETY: this is vCPU 0 in the first space, and nothing has used GS.
    let attached = unsafe { vcpu::attach(VcpuId(0), SpaceId::FIRST) };
    if attached.and_then(|()| trap::install_entry_points()).is_err() {
        call::exit(crate::exit_code::WRONG_HYPERVISOR);
    }
    super::frame::start(info.first_free_frame, info.memory_frames);
    call::exit(main(StartInfo::of_this_vm()))
}

/// What a further vCPU needs to know, at the top of its stack.
#[repr(C, align(16))]
struct Boot {
    body: fn(u64),
    argument: u64,
    vcpu: VcpuId,
    space: SpaceId,
}

/// Starts a vCPU that runs `body` with `argument` on `stack`, and stops itself afterwards.
///
/// # Errors
/// [`Status::InvalidArgument`] for a stack that is too small to start on; else those of
/// `vcpu_start`.
pub fn start_vcpu(vcpu: VcpuId, stack: &'static mut [u8], body: fn(u64), argument: u64) -> Result<(), Status> {
    const LEAST: usize = 1024;
    if stack.len() < LEAST {
        return Err(Status::InvalidArgument);
    }
    let end = stack.as_mut_ptr_range().end;
    let boot = end.map_addr(|end| (end - size_of::<Boot>()) & !15).cast::<Boot>();
    let space = vcpu::Vcpu::current().space();
    // SAFETY: the place is aligned and lies within the stack, which is exclusively ours.
    unsafe { boot.write(Boot { body, argument, vcpu, space }) };
    let entry = GuestVirt(vcpu_entry as *const () as usize as u64);
    let top = boot.expose_provenance() as u64;
    // SAFETY: the entry expects an empty stack below the boot record; the stack is given away.
    unsafe { call::vcpu_start(vcpu, entry, GuestVirt(top), top) }
}

#[unsafe(naked)]
extern "C" fn vcpu_entry() {
    naked_asm!("xor ebp, ebp", "call {run}", "ud2", run = sym run_vcpu)
}

extern "C" fn run_vcpu(boot: *const Boot) -> ! {
    // SAFETY: `start_vcpu` wrote the record and passed its address; it is read once.
    let boot = unsafe { boot.read() };
    // SAFETY: this is the vCPU that the record names, in its starter's space, with GS unused.
    let attached = unsafe { vcpu::attach(boot.vcpu, boot.space) };
    if attached.is_ok() {
        (boot.body)(boot.argument);
    }
    loop {
        let _ = call::vcpu_stop(boot.vcpu);
    }
}
