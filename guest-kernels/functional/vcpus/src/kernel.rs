//! The checks.

use core::sync::atomic::{AtomicU32, Ordering};

use guest_sdk::protocol::GuestVirt;
use guest_sdk::raw::call;
use guest_sdk::{StartInfo, Status, VcpuId, check, smp, verdict};

/// vCPU 0 starts the last one whenever it does not run; vCPU 1 stops it whenever it does.
const STOPPER: VcpuId = VcpuId(1);
const VICTIM: VcpuId = VcpuId(2);
/// Stops that succeeded; a stop that never returns ends the test by its time-out.
static STOPS: AtomicU32 = AtomicU32::new(0);
const WANTED: u32 = 500;

pub fn main(_start: &'static StartInfo) {
    match run() {
        Ok(()) => verdict::pass(),
        Err(status) => verdict::fail(format_args!("{status}")),
    }
}

fn run() -> Result<(), Status> {
    smp::spawn(STOPPER, || {
        while STOPS.load(Ordering::SeqCst) < WANTED {
            match call::vcpu_stop(VICTIM) {
                Ok(()) => {
                    STOPS.fetch_add(1, Ordering::SeqCst);
                }
                refused => check!(refused == Err(Status::WrongState), "a stop"),
            }
        }
    })?;
    while STOPS.load(Ordering::SeqCst) < WANTED {
        let started = start(VICTIM);
        check!(started.is_ok() || started == Err(Status::WrongState), "a start");
    }
    Ok(())
}

/// Words of the victim's stack.
static STACK: [AtomicU32; 1024] = [const { AtomicU32::new(0) }; 1024];

/// Starts a vCPU that does nothing, for ever.
#[expect(unsafe_code, reason = "starts a vCPU on the same stack again and again")]
fn start(vcpu: VcpuId) -> Result<(), Status> {
    let entry = GuestVirt(spin as *const () as usize as u64);
    let top = STACK.as_ptr_range().end.addr() & !15;
    // SAFETY: the stack is nobody else's: the vCPU runs once at a time, and needs nothing of its last life.
    unsafe { call::vcpu_start(vcpu, entry, GuestVirt(top as u64 - 8), 0) }
}

extern "C" fn spin() -> ! {
    loop {
        core::hint::spin_loop();
    }
}
