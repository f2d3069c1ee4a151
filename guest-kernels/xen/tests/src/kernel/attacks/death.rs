//! Attacks after which the guest must be dead, and nobody else.

use protocol::xen::structure::{GrantMap, GrantSetupTable};
use protocol::xen::{DOMID_SELF, call, event, grant, memory, mmuext, sched, vcpu};

use super::events::own_number;
use crate::kernel::abi::events::{ipi, number, virq};
use crate::kernel::abi::{HOLE, HYPERVISOR, reserve};
use crate::kernel::raw::{self, Deadly};
use crate::kernel::smp;
use crate::kernel::world::{
    BASE, Own, RO, RW, TABLE, extended, first_root, frame_at, hypercall, info, list, map, pin, recount, say, shut_down,
    user_tree,
};

/// Does it. Announces first how it must end.
pub fn run(how: &str) {
    let (id, code) = match how {
        "no-handler" => ("EX-02", "HV-VM-001"),
        "no-page-fault-handler" => ("EX-18", "HV-VM-002"),
        "no-user-root" => ("EX-19", "HV-VM-007"),
        "loses-its-tables" => ("PT-07", "HV-VM-006"),
        "ports-pending" => ("EV-04", "HV-VM-006"),
        "holds-everything" => ("MM-05", "HV-VM-006"),
        "dies-allocating" => ("MM-02", "HV-VM-006"),
        _ => ("EX-05", "HV-VM-003"),
    };
    say(format_args!("attack {id} xen dies {code}"));
    recount();
    let page = Own::new();
    match how {
        "no-handler" => {
            hypercall(call::SET_TRAP_TABLE, [0, 0, 0]);
            raw::with_stack(page.at + 4096, Deadly::Undefined)
        }
        "no-page-fault-handler" => {
            hypercall(call::SET_TRAP_TABLE, [0, 0, 0]);
            raw::load(HYPERVISOR);
        }
        "no-user-root" => {
            raw::try_iret(0x40_0000, 0xe033, 2, page.at, 0xe02b);
        }
        "stack-of-the-hypervisor" => raw::with_stack(HYPERVISOR + 4096, Deadly::Undefined),
        "stack-at-the-edge" => raw::with_stack(0xffff_8800_0000_0010, Deadly::Undefined),
        "stack-nowhere" => raw::with_stack(0x10_0000, Deadly::Undefined),
        "stack-at-zero" => raw::with_stack(8, Deadly::Undefined),
        "stack-in-the-hole" => raw::with_stack(HOLE, Deadly::Undefined),
        "stack-in-a-table" => raw::with_stack(first_root() + 2048, Deadly::Undefined),
        "frame-of-the-hypervisor" => raw::with_stack(HYPERVISOR, Deadly::Iret),
        "frame-nowhere" => raw::with_stack(page.at - (page.at - BASE) - 72, Deadly::Iret),
        "kernel-stack-of-the-hypervisor" => from_user(HYPERVISOR + 4096),
        "kernel-stack-in-a-table" => from_user(first_root() + 4096),
        "loses-its-tables" => die_half_validated(),
        "ports-pending" => die_with_all_ports(),
        "holds-everything" => die_with_everything(),
        "dies-allocating" => die_allocating(),
        other => say(format_args!("FAIL no such way: {other}")),
    }
    say(format_args!("FAIL still alive"));
}

/// User mode traps with such a kernel stack.
fn from_user(kernel_stack: u64) {
    let code = raw::code_of_user();
    let [root, ..] = user_tree(&[(0, frame_at(code) << 12 | RO)]);
    let _ = extended(mmuext::NEW_USER_BASEPTR, root.frame, 0);
    hypercall(call::STACK_SWITCH, [0xe02b, kernel_stack, 0]);
    raw::enter_user(0x40_0000 + raw::user_undefined() - code, 0x40_1000, 0, 2);
}

/// One vCPU ends the VM while the other has tables validated and taken apart.
fn die_half_validated() {
    let tables: [Own; 120] = Own::several();
    let [root, third, second, ref first @ ..] = tables;
    for slot in (0..512).filter(|slot| !(256..272).contains(slot)) {
        raw::store(root.word(slot), third.entry(TABLE));
        raw::store(third.word(slot), second.entry(TABLE));
        raw::store(second.word(slot), first[slot as usize % first.len()].entry(TABLE));
        for table in first {
            raw::store(table.word(slot), root.entry(RO));
        }
    }
    for table in tables {
        let _ = map(table.at, table.entry(RO));
    }
    fn end() {
        for _ in 0..3 {
            hypercall(call::SCHED_OP, [sched::YIELD, 0, 0]);
        }
        recount();
        shut_down(sched::CRASH);
    }
    smp::start();
    smp::beside(end, || {
        loop {
            let _ = pin(4, root.frame);
            let _ = extended(mmuext::UNPIN, root.frame, 0);
        }
    })
}

/// All ports are taken and pending, and both vCPUs wait for some.
fn die_with_all_ports() {
    raw::store_byte(info(0) + 1, 1);
    let mut last = 0;
    while let (0, port) = ipi(last % 2) {
        let _ = number(event::SEND, port);
        last = port;
    }
    let _ = number(event::CLOSE, last);
    let (_, timer) = virq(event::VIRQ_TIMER, 0);
    say(format_args!("{timer} is the timer's"));
    let period = 1_000_000_u64;
    hypercall(call::VCPU_OP, [vcpu::SET_PERIODIC_TIMER, 0, (&raw const period) as u64]);
    recount();
    shut_down(sched::CRASH);
}

/// Uses of grants, descriptors, a user root, debug registers and a vCPU are held.
fn die_with_everything() {
    let [page, entries, descriptors] = Own::several();
    descriptors.read_only();
    entries.read_only();
    let pinned = pin(1, entries.frame);
    let [root, ..] = user_tree(&[(0, page.entry(RW))]);
    let user = extended(mmuext::NEW_USER_BASEPTR, root.frame, 0);
    let table = hypercall(call::SET_GDT, [(&raw const descriptors.frame) as u64, 512, 0]);
    let mut asked = GrantSetupTable { dom: DOMID_SELF, nr_frames: 1, ..GrantSetupTable::default() };
    let mut frame = 0_u64;
    asked.frame_list = (&raw mut frame) as u64;
    let _ = hypercall(call::GRANT_TABLE_OP, [grant::SETUP_TABLE, (&raw mut asked) as u64, 1]);
    let shown = Own::new();
    let _ = map(shown.at, core::hint::black_box(frame) << 12 | RW);
    raw::store(shown.word(8), page.frame << 32 | u64::from(own_number()) << 16 | 1);
    let mut uses = 0_u64;
    for slot in 0..256 {
        let mut asked = GrantMap {
            host_addr: entries.machine(slot),
            flags: grant::MAP_HOST | grant::MAP_CONTAINS_PTE,
            reference: 8,
            dom: DOMID_SELF,
            ..GrantMap::default()
        };
        let _ = hypercall(call::GRANT_TABLE_OP, [grant::MAP, (&raw mut asked) as u64, 1]);
        uses += u64::from(asked.status == grant::OKAY);
    }
    for register in 0..4 {
        hypercall(call::SET_DEBUGREG, [register, page.word(register), 0]);
    }
    let debug = hypercall(call::SET_DEBUGREG, [7, 0x55, 0]);
    let started = smp::start();
    if (pinned, user, table, debug, uses, started) != (0, 0, 0, 0, 256, [0, 0]) {
        return say(format_args!("FAIL not all could be had: {uses}"));
    }
    recount();
    shut_down(sched::CRASH);
}

/// One vCPU ends the VM while both release frames and take them.
fn die_allocating() {
    fn exchange(page: Own) {
        let mut taken = [(page.at - BASE) >> 12];
        let _ = reserve(memory::DECREASE_RESERVATION, &mut [page.frame], DOMID_SELF);
        let _ = reserve(memory::POPULATE_PHYSMAP, &mut taken, DOMID_SELF);
        raw::store(list() + ((page.at - BASE) >> 12) * 8, taken[0]);
    }
    fn end() {
        let page = Own::new();
        let _ = map(page.at, 0);
        for _ in 0..200 {
            exchange(Own { frame: frame_at(page.at), ..page });
        }
        recount();
        shut_down(sched::CRASH);
    }
    let page = Own::new();
    let _ = map(page.at, 0);
    smp::start();
    smp::beside(end, || {
        loop {
            exchange(Own { frame: frame_at(page.at), ..page });
        }
    })
}
