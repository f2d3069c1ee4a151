//! The VM's further vCPUs.

use protocol::{Status, VcpuId};

use crate::raw::entry;
use crate::raw::vcpu::Vcpu;
use crate::start::StartInfo;

/// The vCPU that executes this.
#[must_use]
pub fn current() -> VcpuId {
    Vcpu::current().number()
}

/// How many vCPUs the VM has.
#[must_use]
pub fn count() -> u32 {
    StartInfo::of_this_vm().vcpus
}

/// Starts a vCPU that runs `body` with `argument` on `stack` and then stops itself. It starts with
/// events masked, in the starter's space, with the starter's exception handlers.
///
/// # Errors
/// [`Status::WrongState`] for a vCPU that runs; [`Status::NotFound`] for one that the VM has not;
/// [`Status::InvalidArgument`] for a stack below 1 KiB.
pub fn start(vcpu: VcpuId, stack: &'static mut [u8], body: fn(u64), argument: u64) -> Result<(), Status> {
    entry::start_vcpu(vcpu, stack, body, argument)
}

/// Bytes of the stack that [`spawn`] gives a vCPU.
#[cfg(feature = "alloc")]
pub const STACK_BYTES: usize = 64 * 1024;

/// Starts a vCPU that runs a closure, on a stack from the heap. The stack is not freed: the vCPU
/// stops itself while standing on it.
///
/// # Errors
/// As [`start`].
#[cfg(feature = "alloc")]
pub fn spawn(vcpu: VcpuId, body: impl FnOnce() + Send + 'static) -> Result<(), Status> {
    use alloc::boxed::Box;
    use alloc::vec;

    let stack: &'static mut [u8] = vec![0; STACK_BYTES].leak();
    crate::raw::spawn::spawn_vcpu(vcpu, stack, Box::new(body))
}
