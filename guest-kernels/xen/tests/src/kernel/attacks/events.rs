//! Event channels: ports that are not there, all of them, moved, sent to without end, waited for.

use core::sync::atomic::{AtomicU64, Ordering};

use protocol::xen::structure::{AllocUnbound, BindInterdomain, RegisterVcpuInfo, SchedPoll, TwoNumbers};
use protocol::xen::{CONSOLE_PORT, DOMID_SELF, Errno, call, event, sched, vcpu};

use super::{Attack, Outcome, same};
use crate::kernel::abi::events::{ipi, number, op, status, virq};
use crate::kernel::raw;
use crate::kernel::smp::{beside, give_way, is_over};
use crate::kernel::trap;
use crate::kernel::world::{
    Own, RO, RW, error, extended, first_root, frame_at, hypercall, info, map, shared, shared_frame,
};

/// In the order in which they run.
pub const ALL: &[Attack] = &[
    ("EV-01", before_and_after),
    ("EV-02", every_number),
    ("EV-03", two_vcpus_allocate),
    ("EV-05", channels_to_others),
    ("EV-06", bound_already),
    ("EV-07", until_refused),
    ("EV-08", the_same_answer),
    ("EV-09", storm),
    ("EV-10", moved_while_pending),
    ("EV-11", to_a_vcpu_in_each_state),
    ("EV-12", against_sleeps),
    ("EX-13", handler_that_sends),
    ("HC-09", page_that_is_not_there),
    ("HC-16", edges_of_words),
    ("PR-09", yields_and_shortest_sleeps),
    ("RC-08", vcpu_that_is_down),
];

const INVALID: i64 = error(Errno::Invalid);
/// Numbers of ports, of which 0 is none.
const PORTS: u32 = 1024;

/// Does something while no vCPU takes events. Afterwards no port but the console's is there, none is pending, and both
/// take events as before.
fn quietly(action: impl FnOnce() -> Outcome) -> Outcome {
    let masks = [0, 1].map(|vcpu| raw::load_byte(info(vcpu) + 1));
    mask([1, 1]);
    let outcome = action();
    mask([1, 1]);
    let reset = op(event::RESET, &mut DOMID_SELF.clone());
    for word in 0..64 {
        raw::store(shared() + 2048 + word * 8, 0);
        raw::store(shared() + 2560 + word * 8, 0);
    }
    for vcpu in [0, 1] {
        raw::store(info(vcpu) + 8, 0);
        raw::store_byte(info(vcpu), 0);
    }
    mask(masks);
    outcome.and_then(|()| same("reset", reset, 0))
}

/// Whether each vCPU takes events.
fn mask(masks: [u8; 2]) {
    for (vcpu, mask) in masks.into_iter().enumerate() {
        raw::store_byte(info(vcpu) + 1, mask);
    }
}

/// A number that changes with what any port is and where its events go.
fn all_ports() -> u64 {
    (0..PORTS).fold(0, |all: u64, port| {
        let (result, kind, vcpu) = status(port);
        all.wrapping_mul(0x100_0000_01b3).wrapping_add(result as u64 ^ u64::from(kind) << 8 ^ u64::from(vcpu) << 16)
    })
}

/// A port for whom it may be, or the error.
fn unbound(remote_dom: u16) -> (i64, u32) {
    let mut open = AllocUnbound { dom: DOMID_SELF, remote_dom, port: 0 };
    (op(event::ALLOC_UNBOUND, &mut open), open.port)
}

/// A port that is connected to another one, or the error.
fn connected(remote_dom: u16, remote_port: u32) -> (i64, u32) {
    let mut bind = BindInterdomain { remote_dom, remote_port, ..BindInterdomain::default() };
    (op(event::BIND_INTERDOMAIN, &mut bind), bind.local_port)
}

/// Gives a port's events to a vCPU.
fn move_to(port: u32, vcpu: u32) -> i64 {
    op(event::BIND_VCPU, &mut TwoNumbers { first: port, second: vcpu })
}

/// What each operation answers for a port.
fn answers(port: u32) -> [i64; 5] {
    let [send, close, unmask] = [event::SEND, event::CLOSE, event::UNMASK].map(|command| number(command, port));
    [send, close, unmask, move_to(port, 1), connected(DOMID_SELF, port).0]
}

/// The word and the bit of a port.
fn place(port: u32) -> (u64, u64) {
    (u64::from(port / 64), 1 << (port % 64))
}

/// Whether a port is pending; not any more afterwards.
fn take_pending(port: u32) -> bool {
    let (word, bit) = place(port);
    let at = shared() + 2048 + word * 8;
    let pending = raw::load(at);
    raw::store(at, pending & !bit);
    pending & bit != 0
}

/// Ports before they are allocated and after they are closed; sources that there are not; a number that cannot be told.
fn before_and_after() -> Outcome {
    quietly(|| {
        let before = all_ports();
        for port in [1, 3, 63, 64, 1023] {
            same("before", i64::from(answers(port) == [INVALID; 5]), 1)?;
        }
        let (result, port) = ipi(1);
        same("bound", result, 0)?;
        same("closed", number(event::CLOSE, port), 0)?;
        same("after", i64::from(answers(port) == [INVALID; 5]), 1)?;
        for (interrupt, vcpu) in [(24, 0), (31, 0), (32, 0), (1 << 31, 0), (u32::MAX, 0), (2, 1), (23, 1)] {
            same("no such interrupt", virq(interrupt, vcpu).0, INVALID)?;
        }
        for vcpu in [2, 31, 32, 64, 1 << 31, u32::MAX] {
            same("a vCPU to interrupt", virq(event::VIRQ_TIMER, vcpu).0, error(Errno::NotFound))?;
            same("a vCPU to send to", ipi(vcpu).0, error(Errno::NotFound))?;
        }
        same("as before", all_ports(), before)?;
        let untold = Own::new().read_only();
        for command in [event::BIND_IPI, event::BIND_VIRQ] {
            let result = hypercall(call::EVENT_CHANNEL_OP, [command, untold.at, 0]);
            same("told nowhere", result, error(Errno::Fault))?;
            // Like any other it can be closed.
            same("the first that was free", number(event::CLOSE, 1), 0)?;
        }
        same("as before", all_ports(), before)
    })
}

/// Every number of a port, and some beyond: those that are in use answer, and nothing but them is pending.
fn every_number() -> Outcome {
    quietly(|| {
        let used: [u32; 3] = core::array::from_fn(|_| ipi(0).1);
        for port in (0..4200).chain([1 << 16, 1 << 31, u32::MAX]).filter(|port| *port != CONSOLE_PORT) {
            let wanted = if used.contains(&port) { 0 } else { INVALID };
            same("sent", number(event::SEND, port), wanted)?;
            same("unmasked", number(event::UNMASK, port), wanted)?;
            if wanted != 0 {
                same("moved", move_to(port, 1), INVALID)?;
                same("closed", number(event::CLOSE, port), INVALID)?;
            }
        }
        for port in used {
            same("is pending", take_pending(port), true)?;
        }
        same("nothing else is", (0..64).fold(0, |all, word| all | raw::load(shared() + 2048 + word * 8)), 0_u64)
    })
}

/// Both vCPUs allocate, connect, send and close.
fn two_vcpus_allocate() -> Outcome {
    fn disturb() {
        while !is_over() {
            let (_, port) = ipi(1);
            let _ = number(event::SEND, port);
            let (_, timer) = virq(event::VIRQ_TIMER, 1);
            let _ = move_to(port, 0);
            let _ = number(event::CLOSE, timer);
            let _ = number(event::CLOSE, port);
        }
    }
    quietly(|| {
        let before = all_ports();
        beside(disturb, || {
            for _ in 0..300 {
                let (waits, port) = unbound(DOMID_SELF);
                let (bound, other) = connected(DOMID_SELF, port);
                same("a pair", waits + bound, 0)?;
                same("sent", number(event::SEND, port) + number(event::SEND, other), 0)?;
                same("moved", move_to(port, 1), 0)?;
                same("closed", number(event::CLOSE, other), 0)?;
                same("waits", status(port).1, event::STATUS_UNBOUND)?;
                same("closed", number(event::CLOSE, port), 0)?;
            }
            Ok(())
        })?;
        same("no port is lost", all_ports(), before)
    })
}

/// Channels to VMs that are there and that are not; ports that wait for somebody else.
fn channels_to_others() -> Outcome {
    quietly(|| {
        let (result, port) = unbound(DOMID_SELF);
        same("waits for itself", result, 0)?;
        let before = all_ports();
        let own = own_number();
        for other in (0..16).chain([0x7ff1, 0x7ff2, 0x7ff4, 0x7fff, 0xffff]).filter(|other| *other != own) {
            same("to another", connected(other, port).0, error(Errno::NoDomain))?;
            let mut foreign = AllocUnbound { dom: other, remote_dom: DOMID_SELF, port: 0 };
            same("for another", op(event::ALLOC_UNBOUND, &mut foreign), error(Errno::NotPermitted))?;
            same("another's reset", op(event::RESET, &mut { other }), error(Errno::NotPermitted))?;
            let (result, waits) = unbound(other);
            same("waits for another", result, 0)?;
            same("connected by itself", connected(DOMID_SELF, waits).0, INVALID)?;
            same("sent to nobody", number(event::SEND, waits), 0)?;
            same("closed", number(event::CLOSE, waits), 0)?;
        }
        same("a device's interrupt", op(event::BIND_PIRQ, &mut [0_u32; 3]), INVALID)?;
        same("as before", all_ports(), before)
    })
}

/// The number by which the VM knows itself.
pub fn own_number() -> u16 {
    let (_, port) = unbound(DOMID_SELF);
    let mut asked = protocol::xen::structure::EventStatus {
        dom: DOMID_SELF,
        port,
        ..protocol::xen::structure::EventStatus::default()
    };
    let _ = op(event::STATUS, &mut asked);
    let _ = number(event::CLOSE, port);
    asked.detail[0] as u16
}

/// Sources that are bound already, with a full table: all other ports stay what they are.
fn bound_already() -> Outcome {
    quietly(|| {
        let (_, waits) = unbound(DOMID_SELF);
        same("its timer", virq(event::VIRQ_TIMER, 0).0, 0)?;
        same("the other's", virq(event::VIRQ_DEBUG, 1).0, 0)?;
        while ipi(0).0 == 0 {}
        let before = all_ports();
        same("twice", virq(event::VIRQ_TIMER, 0).0, error(Errno::Exists))?;
        same("twice", virq(event::VIRQ_DEBUG, 1).0, error(Errno::Exists))?;
        for result in [
            virq(event::VIRQ_DEBUG, 0).0,
            ipi(1).0,
            unbound(DOMID_SELF).0,
            unbound(9).0,
            connected(DOMID_SELF, waits).0,
        ] {
            same("one more", result, error(Errno::NoSpace))?;
        }
        same("as before", all_ports(), before)?;
        // What was refused for want of a port is bound to none.
        same("one is free", number(event::CLOSE, 1023), 0)?;
        same("bound now", virq(event::VIRQ_DEBUG, 0).0, 0)
    })
}

/// Ports until they are refused, several times: as many each time.
fn until_refused() -> Outcome {
    quietly(|| {
        for round in 0..4 {
            let mut count = 0_u32;
            let last = loop {
                let result = match (round + count) % 3 {
                    0 => ipi(count % 2).0,
                    _ => unbound(DOMID_SELF).0,
                };
                if result != 0 {
                    break result;
                }
                count += 1;
            };
            same("refused", last, error(Errno::NoSpace))?;
            same("all but that of the console", count, PORTS - 2)?;
            for port in (1..PORTS).filter(|port| *port != CONSOLE_PORT) {
                same("closed", number(event::CLOSE, port), 0)?;
            }
        }
        Ok(())
    })
}

/// Ports that were closed, never were, and cannot be.
fn the_same_answer() -> Outcome {
    quietly(|| {
        let (_, port) = ipi(0);
        same("closed", number(event::CLOSE, port), 0)?;
        for port in [port, 700, 0, PORTS, 4095, 4096, u32::MAX] {
            same("the same answer", i64::from(answers(port) == [INVALID; 5]), 1)?;
        }
        Ok(())
    })
}

/// Thousands of events: to the other vCPU, to itself while it takes none, and while it takes them.
fn storm() -> Outcome {
    quietly(|| {
        let [(_, theirs), (_, own)] = [ipi(1), ipi(0)];
        for _ in 0..8_000 {
            same("to the other", number(event::SEND, theirs), 0)?;
            same("to itself", number(event::SEND, own), 0)?;
        }
        same("pending once", take_pending(theirs), true)?;
        same("pending once", take_pending(own), true)?;
        raw::store(info(0) + 8, 0);
        raw::store_byte(info(0), 0);
        trap::forget_events();
        mask([0, 1]);
        for _ in 0..4_000 {
            same("to itself", number(event::SEND, own), 0)?;
        }
        mask([1, 1]);
        same("each was taken", trap::events().1, 4_000_u64)
    })
}

/// A pending port is moved to the other vCPU and back.
fn moved_while_pending() -> Outcome {
    quietly(|| {
        let (_, port) = unbound(DOMID_SELF);
        let (result, other) = connected(DOMID_SELF, port);
        same("connected", result, 0)?;
        raw::store_byte(info(0), 0);
        let (word, _) = place(port);
        for vcpu in [1, 0, 1, 0] {
            let (here, there) = (info(vcpu), info(1 - vcpu));
            same("moved", move_to(port, vcpu as u32), 0)?;
            for at in [here, there] {
                raw::store(at + 8, 0);
                raw::store_byte(at, 0);
            }
            same("sent", number(event::SEND, other), 0)?;
            same("moved while pending", move_to(port, 1 - vcpu as u32), 0)?;
            same("sent again", number(event::SEND, other), 0)?;
            same("told here", (raw::load(here + 8) >> word & 1) + u64::from(raw::load_byte(here)), 2_u64)?;
            same("not there", raw::load(there + 8) + u64::from(raw::load_byte(there)), 0_u64)?;
            same("pending", take_pending(port), true)?;
        }
        Ok(())
    })
}

/// What the second vCPU waits for, what it sends to, and how often it woke.
static WAITS_FOR: AtomicU64 = AtomicU64::new(0);
static ANSWERS: AtomicU64 = AtomicU64::new(0);
static WOKEN: AtomicU64 = AtomicU64::new(0);

/// Waits for a port.
fn poll(port: u32, timeout: u64) -> i64 {
    let poll = SchedPoll { ports: (&raw const port) as u64, nr_ports: 1, timeout, ..SchedPoll::default() };
    hypercall(call::SCHED_OP, [sched::POLL, (&raw const poll) as u64, 0])
}

/// Is woken, says so, and waits again, until the time is over.
fn answer() {
    while !is_over() {
        let port = WAITS_FOR.load(Ordering::SeqCst) as u32;
        let _ = poll(port, 0);
        if take_pending(port) {
            WOKEN.fetch_add(1, Ordering::SeqCst);
            let _ = number(event::SEND, ANSWERS.load(Ordering::SeqCst) as u32);
        }
    }
}

/// Two ports, one at each vCPU, that the second one uses.
fn prepare() -> [u32; 2] {
    let [(_, theirs), (_, own)] = [ipi(1), ipi(0)];
    WAITS_FOR.store(theirs.into(), Ordering::SeqCst);
    ANSWERS.store(own.into(), Ordering::SeqCst);
    WOKEN.store(0, Ordering::SeqCst);
    [theirs, own]
}

/// Has the second vCPU look whether it is to end.
fn let_go(theirs: u32) {
    crate::kernel::smp::STOP.store(true, Ordering::SeqCst);
    let _ = number(event::SEND, theirs);
}

/// Events to a vCPU that sleeps, that looks, that is down, and that starts again.
fn to_a_vcpu_in_each_state() -> Outcome {
    quietly(|| {
        let [theirs, own] = prepare();
        beside(answer, || {
            let result = (1..50).try_for_each(|round: u64| {
                same("sent", number(event::SEND, theirs), 0)?;
                while WOKEN.load(Ordering::SeqCst) < round {
                    give_way();
                }
                Ok(())
            });
            let_go(theirs);
            result
        })?;
        same("answered", take_pending(own), true)?;
        down()?;
        for _ in 0..100 {
            same("sent while it is down", number(event::SEND, theirs), 0)?;
        }
        same("pending", take_pending(theirs), true)?;
        up()
    })
}

/// Polls until a port is pending, and takes that.
fn sleep_until_pending(port: u32) -> Outcome {
    loop {
        same("sleeps", poll(port, 0), 0)?;
        if take_pending(port) {
            return Ok(());
        }
    }
}

/// Each of two vCPUs sleeps until the other wakes it. One wake-up that is lost, and this does not end.
fn against_sleeps() -> Outcome {
    quietly(|| {
        let [theirs, own] = prepare();
        beside(answer, || {
            let result = (0..600_u64).try_for_each(|round| {
                same("sent", number(event::SEND, theirs), 0)?;
                if round % 2 == 0 {
                    return sleep_until_pending(own);
                }
                trap::forget_events();
                while trap::events().1 == 0 {
                    // It takes events then, and none in between.
                    same("sleeps", hypercall(call::SCHED_OP, [sched::BLOCK, 0, 0]), 0)?;
                    mask([1, 1]);
                }
                Ok(())
            });
            let_go(theirs);
            result
        })
    })
}

/// Events whose handler sends the next one: the stack does not grow.
fn handler_that_sends() -> Outcome {
    quietly(|| {
        let (_, port) = ipi(0);
        trap::forget_events();
        mask([0, 1]);
        same("alone", number(event::SEND, port), 0)?;
        let frame = trap::last().frame;
        trap::send_from_handler(port, 3_000);
        same("sent", number(event::SEND, port), 0)?;
        mask([1, 1]);
        same("all were taken", trap::events().1, 3_002_u64)?;
        same("the last at the place of the first", trap::last().frame, frame)
    })
}

/// The shared page hidden, shown twice, to read only, full of ones; records that do not fit: calls go on, and only the
/// guest's own view suffers.
fn page_that_is_not_there() -> Outcome {
    let [page, copy] = Own::several();
    let frame = shared_frame() << 12;
    quietly(|| {
        let (_, port) = ipi(0);
        for entry in [0, frame | RO, frame | RW] {
            same("shown twice", map(page.at, frame | RW), 0)?;
            same("hidden, or to read", map(shared(), entry), 0)?;
            let answers = [
                number(event::SEND, port),
                poll(port, 1),
                number(event::UNMASK, port),
                hypercall(call::SCHED_OP, [sched::YIELD, 0, 0]),
                hypercall(call::SET_TIMER_OP, [0, 0, 0]),
            ];
            same("shown again", map(shared(), frame | RW), 0)?;
            same("calls go on", i64::from(answers == [0; 5]), 1)?;
            same("pending", take_pending(port), true)?;
            same("by the other address as well", raw::load(page.word(256)), raw::load(shared() + 2048))?;
        }
        same("as it was", map(page.at, page.entry(RW)), 0)?;
        for offset in [4, 7, 4033, 4040, 4088, 4096, 1 << 31, u32::MAX] {
            let place = RegisterVcpuInfo { mfn: page.frame, offset, ..RegisterVcpuInfo::default() };
            let at = (&raw const place) as u64;
            same("a record that does not fit", hypercall(call::VCPU_OP, [vcpu::REGISTER_VCPU_INFO, 1, at]), INVALID)?;
        }
        (0..392).for_each(|word| raw::store(copy.word(word), raw::load(shared() + word * 8)));
        (0..392).for_each(|word| raw::store(shared() + word * 8, u64::MAX));
        let (bound, other) = ipi(0);
        let cleared = raw::load(shared() + 2048);
        let answers =
            [number(event::SEND, port), poll(port, 0), number(event::UNMASK, port), number(event::CLOSE, other)];
        let unmasked = raw::load(shared() + 2560);
        (0..392).for_each(|word| raw::store(shared() + word * 8, raw::load(copy.word(word))));
        same("calls go on", i64::from(bound == 0 && answers == [0; 4]), 1)?;
        same("exactly the new port's bit", cleared, !place(other).1)?;
        same("exactly the mask of one", unmasked, !place(port).1)
    })
}

/// Ports at the edges of the words of pending bits.
fn edges_of_words() -> Outcome {
    quietly(|| {
        while ipi(0).0 == 0 {}
        for port in [1, 62, 63, 64, 65, 127, 128, 511, 512, 959, 960, 1022, 1023] {
            let (word, bit) = place(port);
            raw::store(info(0) + 8, 0);
            raw::store_byte(info(0), 0);
            same("sent", number(event::SEND, port), 0)?;
            same("its word is chosen", raw::load(info(0) + 8), 1_u64 << word)?;
            for other in 0..64 {
                let wanted = if other == word { bit } else { 0 };
                same("exactly its bit", raw::load(shared() + 2048 + other * 8), wanted)?;
            }
            // Masked ports choose no word.
            raw::store(info(0) + 8, 0);
            raw::store(shared() + 2560 + word * 8, bit);
            same("pending", take_pending(port), true)?;
            same("sent while masked", number(event::SEND, port), 0)?;
            same("no word is chosen", raw::load(info(0) + 8), 0_u64)?;
            raw::store(shared() + 2560 + word * 8, u64::MAX);
            same("unmasked", number(event::UNMASK, port), 0)?;
            same("only its mask is off", raw::load(shared() + 2560 + word * 8), !bit)?;
            same("now it is", raw::load(info(0) + 8), 1_u64 << word)?;
            raw::store(shared() + 2560 + word * 8, 0);
            same("pending", take_pending(port), true)?;
        }
        for port in [PORTS, PORTS + 1, 4095, 4096] {
            same("beyond", number(event::UNMASK, port), INVALID)?;
            same("waited for", poll(port, 1), INVALID)?;
        }
        Ok(())
    })
}

/// Yields and the shortest sleeps on both vCPUs.
fn yields_and_shortest_sleeps() -> Outcome {
    fn sleep() {
        let port = WAITS_FOR.load(Ordering::SeqCst) as u32;
        while !is_over() {
            let _ = poll(port, 1);
            give_way();
            let _ = number(event::SEND, port);
            WOKEN.fetch_add(1, Ordering::SeqCst);
        }
    }
    quietly(|| {
        let [_, own] = prepare();
        beside(sleep, || {
            for round in 0..2_000_u64 {
                same("yields", hypercall(call::SCHED_OP, [sched::YIELD, 0, 0]), 0)?;
                same("until a time that is over", poll(own, round + 1), 0)?;
                same("to itself", number(event::SEND, own), 0)?;
                same("what is pending", poll(own, 0), 0)?;
                same("pending", take_pending(own), true)?;
            }
            Ok(())
        })?;
        same("the other got on", WOKEN.load(Ordering::SeqCst) > 100, true)
    })
}

/// Stops the second vCPU.
fn down() -> Outcome {
    same("down", hypercall(call::VCPU_OP, [vcpu::DOWN, 1, 0]), 0)?;
    while hypercall(call::VCPU_OP, [vcpu::IS_UP, 1, 0]) != 0 {
        give_way();
    }
    Ok(())
}

/// Lets it go on.
fn up() -> Outcome {
    same("up", hypercall(call::VCPU_OP, [vcpu::UP, 1, 0]), 0)?;
    same("is up", hypercall(call::VCPU_OP, [vcpu::IS_UP, 1, 0]), 1)?;
    // It does what it is asked for.
    WOKEN.store(0, Ordering::SeqCst);
    beside(
        || {
            WOKEN.store(7, Ordering::SeqCst);
        },
        || {
            while WOKEN.load(Ordering::SeqCst) == 0 {
                give_way();
            }
        },
    );
    same("did what it was asked for", WOKEN.load(Ordering::SeqCst), 7_u64)
}

/// What a vCPU does that is down.
const OFFLINE: i32 = 3;

/// Whatever names a vCPU, while that is down: then it goes on where it was.
fn vcpu_that_is_down() -> Outcome {
    let mut state = protocol::xen::structure::RunstateInfo::default();
    let state_at = (&raw mut state) as u64;
    let period = 1_000_000_u64;
    quietly(|| {
        for _ in 0..20 {
            let (_, port) = ipi(1);
            down()?;
            same("down twice", hypercall(call::VCPU_OP, [vcpu::DOWN, 1, 0]), INVALID)?;
            same("sent", number(event::SEND, port), 0)?;
            same(
                "its timer",
                hypercall(call::VCPU_OP, [vcpu::SET_PERIODIC_TIMER, 1, (&raw const period) as u64]),
                INVALID,
            )?;
            same("no timer", hypercall(call::VCPU_OP, [vcpu::STOP_PERIODIC_TIMER, 1, 0]), 0)?;
            // The CPU that it left may be about to note that.
            let mut tries = 0;
            while core::hint::black_box(&state).state != OFFLINE && tries < 1_000 {
                same("what it does", hypercall(call::VCPU_OP, [vcpu::GET_RUNSTATE, 1, state_at]), 0)?;
                tries += 1;
            }
            same("nothing", state.state, OFFLINE)?;
            state.state = 0;
            let mut given = crate::kernel::smp::given();
            let again = hypercall(call::VCPU_OP, [vcpu::INITIALISE, 1, (&raw mut given) as u64]);
            same("started anew", again, error(Errno::Exists))?;
            // It has the root still, and all forget without it.
            same("the root", crate::kernel::world::unpin(frame_at(first_root())), 0)?;
            same("pinned again", crate::kernel::world::pin(4, frame_at(first_root())), 0)?;
            same("all forget", extended(protocol::xen::mmuext::TLB_FLUSH_ALL, 0, 0), 0)?;
            same(
                "moved to it",
                {
                    let (_, waits) = unbound(DOMID_SELF);
                    move_to(waits, 1)
                },
                0,
            )?;
            up()?;
            same("closed", number(event::CLOSE, port), 0)?;
        }
        Ok(())
    })
}
