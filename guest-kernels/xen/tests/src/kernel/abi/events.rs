//! Event channels, waiting, timers.

use protocol::xen::structure::{AllocUnbound, BindInterdomain, BindVirq, EventStatus, SchedPoll, TwoNumbers};
use protocol::xen::{DOMID_SELF, Errno, call, event, sched};

use super::facts::HYPERVISOR;
use crate::kernel::raw;
use crate::kernel::trap;
use crate::kernel::world::{check, error, hypercall, info, shared};

const INVALID: i64 = error(Errno::Invalid);

pub fn run() {
    binding();
    connecting();
    delivery();
    waiting();
}

/// An operation on ports.
pub fn op<T>(command: u64, argument: &mut T) -> i64 {
    hypercall(call::EVENT_CHANNEL_OP, [command, core::ptr::from_mut(argument) as u64, 0])
}

/// An operation that takes the number of a port only.
pub fn number(command: u64, mut port: u32) -> i64 {
    op(command, &mut port)
}

/// Binds a virtual interrupt: the result, and the port.
pub fn virq(virq: u32, vcpu: u32) -> (i64, u32) {
    let mut bind = BindVirq { virq, vcpu, port: 0 };
    (op(event::BIND_VIRQ, &mut bind), bind.port)
}

/// Binds a port that can be sent to: the result, and the port.
pub fn ipi(vcpu: u32) -> (i64, u32) {
    let mut bind = TwoNumbers { first: vcpu, second: 0 };
    (op(event::BIND_IPI, &mut bind), bind.second)
}

/// What a port is: the result, its state, and its vCPU.
pub fn status(port: u32) -> (i64, u32, u32) {
    let mut asked = EventStatus { dom: DOMID_SELF, port, ..EventStatus::default() };
    (op(event::STATUS, &mut asked), asked.status, asked.vcpu)
}

fn binding() {
    check("no such interrupt", [virq(24, 0), virq(u32::MAX, 0)], [(INVALID, 0); 2]);
    check("one of the whole VM at vCPU 1", virq(2, 1), (INVALID, 0));
    check("no such vCPU", virq(0, 2), (error(Errno::NotFound), 0));
    let (result, timer) = virq(event::VIRQ_TIMER, 0);
    check("the timer's", (result, timer != 0), (0, true));
    check("twice", virq(event::VIRQ_TIMER, 0).0, error(Errno::Exists));
    check("its status", status(timer), (0, event::STATUS_VIRQ, 0));
    check("cannot be sent to", number(event::SEND, timer), INVALID);
    check("cannot move", op(event::BIND_VCPU, &mut TwoNumbers { first: timer, second: 1 }), INVALID);
    check("closed", [number(event::CLOSE, timer), number(event::CLOSE, timer)], [0, INVALID]);
    check("no such vCPU to interrupt", ipi(2), (error(Errno::NotFound), 0));
    let (result, port) = ipi(1);
    check("the other's", (result, status(port)), (0, (0, event::STATUS_IPI, 1)));
    check("closed too", number(event::CLOSE, port), 0);
    for port in [0, 1023, 1024, 4096, u32::MAX] {
        let all = [event::SEND, event::CLOSE, event::UNMASK].map(|command| number(command, port));
        check("no such port", (port, all), (port, [INVALID; 3]));
    }
    check("a device's interrupt", op(event::BIND_PIRQ, &mut [0_u32; 3]), INVALID);
    check("not readable", hypercall(call::EVENT_CHANNEL_OP, [event::SEND, HYPERVISOR, 0]), error(Errno::Fault));
    check(
        "another's status",
        op(event::STATUS, &mut EventStatus { dom: 7, port: 1, ..EventStatus::default() }),
        error(Errno::NotPermitted),
    );
    check("another's reset", op(event::RESET, &mut 7_u16), error(Errno::NotPermitted));
}

fn connecting() {
    let mut open = AllocUnbound { dom: DOMID_SELF, remote_dom: DOMID_SELF, port: 0 };
    check("waits", op(event::ALLOC_UNBOUND, &mut open), 0);
    check("its status", status(open.port).1, event::STATUS_UNBOUND);
    check("nobody hears", number(event::SEND, open.port), 0);
    check(
        "in another's name",
        op(event::ALLOC_UNBOUND, &mut AllocUnbound { dom: 9, ..open }),
        error(Errno::NotPermitted),
    );
    let mut bind = BindInterdomain { remote_dom: DOMID_SELF, remote_port: open.port, ..BindInterdomain::default() };
    check(
        "to another VM",
        op(event::BIND_INTERDOMAIN, &mut BindInterdomain { remote_dom: 9, ..bind }),
        error(Errno::NoDomain),
    );
    check("connected", op(event::BIND_INTERDOMAIN, &mut bind), 0);
    check("twice", op(event::BIND_INTERDOMAIN, &mut BindInterdomain { ..bind }), INVALID);
    check("both ends", [status(open.port).1, status(bind.local_port).1], [event::STATUS_INTERDOMAIN; 2]);
    check("moved", op(event::BIND_VCPU, &mut TwoNumbers { first: open.port, second: 1 }), 0);
    check("is there", status(open.port).2, 1);
    check("to nobody", op(event::BIND_VCPU, &mut TwoNumbers { first: open.port, second: 2 }), error(Errno::NotFound));
    check("one end closed", number(event::CLOSE, bind.local_port), 0);
    check("the other waits", status(open.port).1, event::STATUS_UNBOUND);
    check("closed", number(event::CLOSE, open.port), 0);
    let mut all = 0;
    while ipi(0).0 == 0 {
        all += 1;
    }
    check("ports are many, and end", (all > 1000, ipi(0).0), (true, error(Errno::NoSpace)));
    check("reset", op(event::RESET, &mut DOMID_SELF.clone()), 0);
    check("but for the console", status(2).1, event::STATUS_INTERDOMAIN);
}

fn delivery() {
    let (_, port) = ipi(0);
    let bit = 1 << (port % 64);
    let word = u64::from(port / 64) * 8;
    trap::forget_events();
    raw::store_byte(info(0) + 1, 1);
    check("sent while masked", number(event::SEND, port), 0);
    check("is pending", raw::load(shared() + 2048 + word) & bit, bit);
    check("says so", (raw::load_byte(info(0)), raw::load(info(0) + 8)), (1, 1 << (port / 64)));
    check("and nothing happens", trap::events().1, 0);
    raw::store_byte(info(0) + 1, 0);
    hypercall(call::XEN_VERSION, [0, 0, 0]);
    let (ports, upcalls) = trap::events();
    check("comes", (upcalls, ports[port as usize / 64] & bit), (1, bit));
    check("with events masked", trap::last().mask, 1);
    check("which are open again", raw::load_byte(info(0) + 1), 0);
    check("sent while open", (number(event::SEND, port), trap::events().1), (0, 2));
    raw::store(shared() + 2560 + word, bit);
    check("sent while its port is masked", (number(event::SEND, port), trap::events().1), (0, 2));
    check("unmasked", (number(event::UNMASK, port), trap::events().1), (0, 3));
    check("and its mask is clear", raw::load(shared() + 2560 + word) & bit, 0);
    raw::store_byte(info(0) + 1, 1);
}

fn waiting() {
    let (_, port) = ipi(0);
    trap::forget_events();
    check("sent", number(event::SEND, port), 0);
    check("waits for nothing", (hypercall(call::SCHED_OP, [sched::BLOCK, 0, 0]), trap::events().1), (0, 1));
    raw::store_byte(info(0) + 1, 1);
    check("yields", hypercall(call::SCHED_OP, [sched::YIELD, 0, 0]), 0);
    let poll = |ports: u64, nr_ports, timeout| {
        let poll = SchedPoll { ports, nr_ports, timeout, ..SchedPoll::default() };
        hypercall(call::SCHED_OP, [sched::POLL, (&raw const poll) as u64, 0])
    };
    let here = (&raw const port) as u64;
    check("too many ports", [poll(here, 129, 1), poll(here, u32::MAX, 1)], [INVALID; 2]);
    check("not readable", poll(HYPERVISOR, 1, 1), error(Errno::Fault));
    let none = [0_u32, 4096];
    check(
        "no such port",
        [poll((&raw const none) as u64, 1, 1), poll((&raw const none[1]) as u64, 1, 1)],
        [INVALID; 2],
    );
    check("until a time that is over", poll(here, 1, 1), 0);
    check("sent again", number(event::SEND, port), 0);
    check("it is pending", poll(here, 1, 0), 0);
    let (_, timer) = virq(event::VIRQ_TIMER, 0);
    check("a time that is over", hypercall(call::SET_TIMER_OP, [1, 0, 0]), 0);
    let timer_word = shared() + 2048 + u64::from(timer / 64) * 8;
    let mut tries = 0_u32;
    while raw::load(timer_word) >> (timer % 64) & 1 == 0 && tries < 100_000 {
        hypercall(call::SCHED_OP, [sched::YIELD, 0, 0]);
        tries += 1;
    }
    check("comes", raw::load(timer_word) >> (timer % 64) & 1, 1);
    check("no timer", hypercall(call::SET_TIMER_OP, [0, 0, 0]), 0);
}
