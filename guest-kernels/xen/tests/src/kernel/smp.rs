//! The second vCPU: it does what the first one asks for.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use protocol::xen::structure::VcpuGuestContext;
use protocol::xen::{call, context, sched, vcpu};
use zerocopy::FromZeros;

use super::raw::{self, Page, Shared};
use super::trap;
use super::world::{first_root, frame_at, hypercall};

/// What is to be done: a `fn()`, or nothing.
static TASK: AtomicU64 = AtomicU64::new(0);
/// The second vCPU runs.
static IS_UP: AtomicBool = AtomicBool::new(false);
/// What it does is to end.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// What the second vCPU starts with.
pub fn given() -> VcpuGuestContext {
    let mut given = VcpuGuestContext::new_zeroed();
    given.flags = context::IN_KERNEL;
    given.user_regs.rip = raw::start_of_second();
    given.user_regs.cs = 0xe033;
    given.user_regs.ss = 0xe02b;
    given.user_regs.rflags = 2;
    given.ctrlreg[3] = frame_at(first_root()) << 12;
    given.gs_base_kernel = trap::block(1);
    given
}

/// Starts it: what `vcpu_op` returned.
pub fn start() -> [i64; 2] {
    let mut given = given();
    let initialised = hypercall(call::VCPU_OP, [vcpu::INITIALISE, 1, (&raw mut given) as u64]);
    let up = hypercall(call::VCPU_OP, [vcpu::UP, 1, 0]);
    while up == 0 && !IS_UP.load(Ordering::SeqCst) {
        give_way();
    }
    [initialised, up]
}

/// The floating-point state with which the second vCPU starts.
pub static FIRST_STATE: Page = Page::zero();

/// What the second vCPU does.
pub fn second() -> ! {
    raw::save_state(FIRST_STATE.address());
    trap::install(1);
    hypercall(call::VCPU_OP, [vcpu::STOP_PERIODIC_TIMER, 1, 0]);
    IS_UP.store(true, Ordering::SeqCst);
    loop {
        let task = TASK.load(Ordering::SeqCst);
        if task == 0 {
            give_way();
            continue;
        }
        let known = TASKS.get()[task as usize - 1];
        if let Some(known) = known {
            known();
        }
        TASK.store(0, Ordering::SeqCst);
    }
}

/// What the second vCPU may be asked to do.
type Task = Option<fn()>;

/// What can be asked for.
static TASKS: Shared<[Task; 1]> = Shared::new([None]);

/// Has the second vCPU do something while this one does something else; both are through afterwards. The former
/// is to look at [`STOP`].
pub fn beside<T>(task: fn(), own: impl FnOnce() -> T) -> T {
    STOP.store(false, Ordering::SeqCst);
    TASKS.set([Some(task)]);
    TASK.store(1, Ordering::SeqCst);
    let result = own();
    STOP.store(true, Ordering::SeqCst);
    while TASK.load(Ordering::SeqCst) != 0 {
        give_way();
    }
    result
}

/// Lets the other vCPU run, if both share a CPU.
pub fn give_way() {
    hypercall(call::SCHED_OP, [sched::YIELD, 0, 0]);
}

/// Whether the task is to end.
pub fn is_over() -> bool {
    STOP.load(Ordering::SeqCst)
}
