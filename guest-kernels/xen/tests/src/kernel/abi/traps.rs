//! Handlers, frames, user mode, and stores to page tables.

use protocol::xen::structure::{CallbackRegister, TrapInfo};
use protocol::xen::{Errno, assist, call, callback, mmuext};

use super::facts::{HOLE, HYPERVISOR};
use super::paging::word_at;
use crate::kernel::raw::{self, attempt};
use crate::kernel::trap::{self, SYSTEM_CALL, Trap};
use crate::kernel::world::{
    self, Own, RO, RW, check, entry_of, error, extended, frame_at, hypercall, info, map, place_of, user_tree,
};

const INVALID: i64 = error(Errno::Invalid);

pub fn run() {
    tables();
    callbacks();
    frames();
    software();
    returns();
    stores();
    user();
}

fn tables() {
    let set = |list: &[TrapInfo]| hypercall(call::SET_TRAP_TABLE, [list.as_ptr() as u64, 0, 0]);
    let end = TrapInfo::default();
    for address in [HOLE, 0x0000_8000_0000_0000, 0xffff_7fff_ffff_ffff] {
        check("no code there", set(&[TrapInfo { vector: 3, address, ..end }, end]), INVALID);
    }
    check("not readable", hypercall(call::SET_TRAP_TABLE, [HYPERVISOR, 0, 0]), error(Errno::Fault));
    check("an empty list", set(&[end]), 0);
    check("still there", attempt!("ud2").err().map(|trap| trap.vector), Some(6));
}

fn callbacks() {
    let register = |kind, address| {
        let request = CallbackRegister { kind, address, ..CallbackRegister::default() };
        hypercall(call::CALLBACK_OP, [callback::REGISTER, (&raw const request) as u64, 0])
    };
    let unregister = |kind: u16| hypercall(call::CALLBACK_OP, [callback::UNREGISTER, (&raw const kind) as u64, 0]);
    check("no such kinds", [3, 5, 6, 8, 0xffff].map(|kind| register(kind, 0x1000)), [error(Errno::NotImplemented); 5]);
    check("no code there", [0, 1, 2, 4, 7].map(|kind| register(kind, HOLE)), [INVALID; 5]);
    check("kept", [0, 1, 2, 7].map(unregister), [INVALID; 4]);
    check("that of interrupts that cannot be masked", [register(4, 0x1000), unregister(4)], [0; 2]);
    check("not readable", hypercall(call::CALLBACK_OP, [callback::REGISTER, HYPERVISOR, 0]), error(Errno::Fault));
}

fn frames() {
    raw::store_byte(info(0) + 1, 1);
    let outcome = attempt!("int3").err();
    let Some(trap) = outcome else { return check("int3 traps", false, true) };
    check("its vector", trap.vector, 3);
    check("it is behind the instruction", raw::load_byte(trap.rip - 1), 0xcc);
    check("segments", (trap.cs & 0xffff, trap.ss), (0xe030, 0xe02b));
    check("the mask is in the frame", trap.cs >> 32 & 0xff, 1);
    check("events are masked in the handler", trap.mask, 1);
    check("flags", trap.rflags & 0x3_3200, 0);
    check("seven words from an aligned address", (trap.frame + 7 * 8) & 0xf, 0);
    check("and near", trap.rsp - trap.frame <= 7 * 8 + 15, true);
    raw::store_byte(info(0) + 1, 0);
    let outcome = attempt!("ud2").err().map(|trap| (trap.vector, trap.cs >> 32 & 0xff, trap.mask, trap.rflags & 0x200));
    check("with events open", outcome, Some((6, 0, 1, 0x200)));
    raw::store_byte(info(0) + 1, 1);
    let page = Own::new();
    let fault = |trap: Result<u64, Trap>| trap.err().map(|trap| (trap.vector, trap.code, trap.address));
    check("hidden", map(page.at, 0), 0);
    check("read of nothing", fault(raw::try_load(page.at + 8, 0)), Some((14, 0, page.at + 8)));
    check("write to nothing", fault(raw::try_store(page.at + 8, 0)), Some((14, 2, page.at + 8)));
    page.read_only();
    check("write to what is read only", fault(raw::try_store(page.at + 8, 0)), Some((14, 3, page.at + 8)));
    check("no code", map(page.at, page.entry(RO) | 1 << 63), 0);
    check(
        "jump",
        raw::try_jump(page.at).map(|trap| (trap.vector, trap.code & !1, trap.rip)),
        Some((14, 0x10, page.at)),
    );
    check(
        "read of the hypervisor's",
        raw::try_load(HYPERVISOR, 0).err().map(|trap| (trap.vector, trap.code & !1)),
        Some((14, 0)),
    );
    check("an address that is none", raw::try_load(HOLE, 0).err().map(|trap| (trap.vector, trap.code)), Some((13, 0)));
    check(
        "divide",
        attempt!("xor edx, edx; xor ecx, ecx; div ecx", out("rax") _, out("rcx") _, out("rdx") _)
            .err()
            .map(|trap| trap.vector),
        Some(0),
    );
    let step = attempt!("pushfq; or dword ptr [rsp], 0x100; popfq; nop; nop").err();
    check("single step", step.map(|trap| (trap.vector, trap.rflags & 0x100)), Some((1, 0x100)));
    check("its status", hypercall(call::GET_DEBUGREG, [6, 0, 0]) & 0x4000, 0x4000);
    check("cleared", hypercall(call::SET_DEBUGREG, [6, 0xffff_0ff0, 0]), 0);
}

fn software() {
    let refused = |number: u64| Some((13, number << 3 | 2));
    let trap = |outcome: Result<(), Trap>| outcome.err().map(|trap| (trap.vector, trap.code));
    check("not for instructions", trap(attempt!("int 32")), refused(32));
    check("for the kernel", trap(attempt!("int 33")), Some((33, 0)));
    check("for all", trap(attempt!("int 34")), Some((34, 0)));
    check("no handler", trap(attempt!("int 200")), refused(200));
    check("an exception", trap(attempt!("int 14")), refused(14));
    check("128", trap(attempt!("int 128")), Some((128, 0)));
    let last = trap::last();
    check("behind it", [raw::load_byte(last.rip - 2), raw::load_byte(last.rip - 1)], [0xcd, 128]);
    check("refused one is at it", attempt!("int 200").err().map(|trap| raw::load_byte(trap.rip)), Some(0xcd));
}

fn returns() {
    let stack = Own::new();
    let top = stack.at + 4096;
    let mask = |flags| {
        let (after, rax, kept) = raw::iret_to_next(flags, 0x1234_5678_9abc);
        (raw::load_byte(info(0) + 1), after & 0x3200, rax, kept)
    };
    check("with interrupts", mask(0x202), (0, 0x200, 0x1234_5678_9abc, true));
    check("without", mask(2), (1, 0x200, 0x1234_5678_9abc, true));
    check("with privilege", mask(0x3002), (1, 0x200, 0x1234_5678_9abc, true));
    let to = |rip, cs, ss| raw::try_iret(rip, cs, 2, top, ss).map(|trap| (trap.vector, trap.code & !7));
    for rip in [HOLE, 0x0000_8000_0000_0000, 0xffff_7fff_ffff_ffff] {
        check("no code there", to(rip, 0xe030, 0xe02b), Some((13, 0)));
    }
    check("the hypervisor's code", to(HYPERVISOR, 0xe030, 0xe02b).map(|(vector, _)| vector), Some(14));
    check("nothing there", to(0x10_0000, 0xe030, 0xe02b).map(|(vector, _)| vector), Some(14));
    for cs in [0xe008, 0xe040, 0xfff8, 0x10, 0xe028] {
        let trap = to(raw::user_undefined(), cs, 0xe02b);
        check("no code segment", (cs, trap.map(|(vector, _)| vector)), (cs, Some(13)));
    }
    for ss in [0xe010, 0xe050, 0xe030, 0x8] {
        let trap = to(raw::user_undefined(), 0xe030, ss);
        check("no stack segment", (ss, trap.map(|(vector, _)| vector)), (ss, Some(13)));
    }
    check("code that is", to(raw::user_undefined(), 0xe030, 0xe02b), Some((6, 0)));
}

/// Stores to a page table of one's own, which is mapped read-only.
fn stores() {
    let [page, other] = Own::several();
    let machine = entry_of(page.at);
    let at = place_of(machine >> 12) + (machine & 0xfff);
    let here = other.entry(RW);
    let fault = |outcome: Result<u64, Trap>| outcome.err().map(|trap| (trap.vector, trap.code, trap.address));
    let refused = Some((14, 3, at));
    check("off", hypercall(call::VM_ASSIST, [assist::DISABLE, assist::WRITABLE_PAGETABLES, 0]), 0);
    check("a fault", fault(raw::try_store(at, here)), refused);
    check("on", hypercall(call::VM_ASSIST, [assist::ENABLE, assist::WRITABLE_PAGETABLES, 0]), 0);
    check("mov", (fault(raw::try_store(at, here)), word_at(machine) & !0x60), (None, here & !0x60));
    check("xchg", raw::try_exchange(at, 0).map(|old| old & !0x60), Ok(here & !0x60));
    check("was it", word_at(machine), 0);
    check("cmpxchg that fails", raw::try_compare_exchange(at, 5, here), Ok(0));
    check("left it", word_at(machine), 0);
    check("cmpxchg", (raw::try_compare_exchange(at, 0, here), word_at(machine)), (Ok(0), here));
    check("and byte", (fault(raw::try_and_byte(at, 0xfd)), word_at(machine) & 3), (None, 1));
    check("or", (fault(raw::try_or(at, 2)), word_at(machine) & 3), (None, 3));
    check("btr", (fault(raw::try_clear_5(at, 0)), word_at(machine) & 0x20), (None, 0));
    check("and", (fault(raw::try_and(at, !0x40)), word_at(machine) & 0x40), (None, 0));
    check("xor", (fault(raw::try_xor(at, 0x20)), word_at(machine) & 0x20), (None, 0x20));
    check("half a word", (fault(raw::try_store_4(at + 4, 1 << 31)), word_at(machine) >> 63), (None, 1));
    check("a byte", (fault(raw::try_store_1(at, here & 0xff)), word_at(machine) & 0xff), (None, here & 0xff));
    for (bad, what) in
        [(here | 8, "not cached"), (here | 0x80, "large"), (RW, "nobody's"), (1 << 50 | RW, "behind memory")]
    {
        check(what, (fault(raw::try_store(at, bad)), fault(raw::try_exchange(at, bad))), (refused, refused));
        check("unchanged", word_at(machine) & world::FRAME, here & world::FRAME);
    }
    check("a table to write", fault(raw::try_store(at, machine & world::FRAME | RW)), refused);
    check("misaligned", fault(raw::try_store(at + 4, here)).map(|(vector, ..)| vector), Some(14));
    check("two bytes", fault(raw::try_store_2(at, here & 0xffff)), None);
    let (upper, index) = world::table_of(2, page.at);
    let upper = place_of(upper) + index * 8;
    check("a table above", fault(raw::try_store(upper, 0)), Some((14, 3, upper)));
    check("off again", hypercall(call::VM_ASSIST, [assist::DISABLE, assist::WRITABLE_PAGETABLES, 0]), 0);
    check("as it was", map(page.at, page.entry(RW)), 0);
}

fn user() {
    let stack = Own::new();
    let code = raw::code_of_user();
    let [root, ..] = user_tree(&[(0, frame_at(code) << 12 | RO), (1, stack.entry(RW))]);
    check("user root", extended(mmuext::NEW_USER_BASEPTR, root.frame, 0), 0);
    let kernel_stack = Own::new();
    check("stack", hypercall(call::STACK_SWITCH, [0xe02b, kernel_stack.at + 4096, 0]), 0);
    let run = |place: u64, argument: u64, flags: u64| {
        raw::enter_user(0x40_0000 + place - code, 0x40_2000, argument, flags);
        trap::last()
    };
    let call = run(raw::user_call(), 0, 0x202);
    check("a system call", (call.vector, call.cs & 0xffff, call.ss), (SYSTEM_CALL, 0xe033, 0xe02b));
    check("from behind it", (call.rip - 0x40_0000, call.rsp), (raw::user_call() + 2 - code, 0x40_2000));
    check("at the kernel's stack", call.frame, kernel_stack.at + 4096 - 7 * 8);
    check("flags", call.rflags & 0x3200, 0x200);
    let outcome = |trap: Trap| (trap.vector, trap.code, trap.address);
    check("its own page", run(raw::user_reads(), 0x40_1000, 2).vector, SYSTEM_CALL);
    check("nothing", outcome(run(raw::user_reads(), 0x40_5000, 2)), (14, 4, 0x40_5000));
    check("its code", outcome(run(raw::user_writes(), 0x40_0000, 2)), (14, 7, 0x40_0000));
    check("the kernel's page", outcome(run(raw::user_reads(), stack.at, 2)), (14, 4, stack.at));
    check("the hypervisor's", run(raw::user_reads(), HYPERVISOR, 2).vector, 14);
    check("not for it", run(raw::user_int_33(), 0, 2).code, 33 << 3 | 2);
    check("for it", run(raw::user_int_34(), 0, 2).vector, 34);
    check("for all", run(raw::user_int_128(), 0, 2).vector, 128);
    check("undefined", run(raw::user_undefined(), 0, 2).vector, 6);
    check("interrupts", (run(raw::user_disables(), 0, 2).vector, trap::last().code), (13, 0));
    check("no user root", extended(mmuext::NEW_USER_BASEPTR, 0, 0), 0);
}
