//! Attacks after which the guest must be dead, and nobody else.

use protocol::xen::{call, mmuext, sched};

use crate::kernel::abi::{HOLE, HYPERVISOR};
use crate::kernel::raw::{self, Deadly};
use crate::kernel::smp;
use crate::kernel::world::{
    BASE, Own, RO, TABLE, extended, first_root, frame_at, hypercall, map, pin, recount, say, shut_down, user_tree,
};

/// Does it. Announces first how it must end.
pub fn run(how: &str) {
    let (id, code) = match how {
        "no-handler" => ("EX-02", "HV-VM-001"),
        "no-page-fault-handler" => ("EX-18", "HV-VM-002"),
        "no-user-root" => ("EX-19", "HV-VM-007"),
        "loses-its-tables" => ("PT-07", "HV-VM-006"),
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
