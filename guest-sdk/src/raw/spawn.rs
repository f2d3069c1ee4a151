//! Closures on vCPUs.

use alloc::boxed::Box;

use protocol::{Status, VcpuId};

use super::entry::start_vcpu;

type Body = Box<dyn FnOnce() + Send>;

fn run(argument: u64) {
    let pointer = core::ptr::with_exposed_provenance_mut::<Body>(argument as usize);
    // SAFETY: the argument is the box that `spawn_vcpu` took apart, given to one vCPU only.
    let body = unsafe { Box::from_raw(pointer) };
    body();
}

/// As [`start_vcpu`], for a closure.
pub(crate) fn spawn_vcpu(vcpu: VcpuId, stack: &'static mut [u8], body: Body) -> Result<(), Status> {
    let pointer = Box::into_raw(Box::new(body));
    let started = start_vcpu(vcpu, stack, run, pointer.expose_provenance() as u64);
    if started.is_err() {
        // SAFETY: no vCPU got the box.
        drop(unsafe { Box::from_raw(pointer) });
    }
    started
}
