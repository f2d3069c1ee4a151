//! The eighteen instructions of Robin and Irvine.

use alloc::string::String;

use guest_sdk::protocol::flags::Features;
use guest_sdk::protocol::layout::{CODE_SELECTOR, STACK_SELECTOR};
use guest_sdk::{control, start};

use crate::bare::{Outcome, Runner, Values};
use crate::item::{Item, Verdict};
use crate::{code, words};

const GP: &[u8] = &[13];
const UD: &[u8] = &[6];
/// QEMU 7.2 faults so on far calls and returns of ring 3 while SMAP is on: it touches their stack as
/// ring 0 would. No processor does.
const PF: &[u8] = &[14];
const GP_PF: &[u8] = &[13, 14];

/// An address, which helps nobody who has no way to use it.
const ADDRESS: Verdict = Verdict::Leaks("where the hypervisor lies; closed by UMIP");

/// UMIP makes it fault; without, it shows what is the same on all CPUs.
fn no_umip(_: &Values) -> bool {
    !start::features().contains(Features::UMIP)
}

/// So many selectors answer: those of the two flat segments, with each requested privilege.
fn eight(values: &Values) -> bool {
    values.rax == 8
}

/// Those of the stack segment, which alone can be written.
fn four(values: &Values) -> bool {
    values.rax == 4
}

fn user_code(values: &Values) -> bool {
    values.rax == u64::from(CODE_SELECTOR)
}

fn user_data(values: &Values) -> bool {
    values.rax == u64::from(STACK_SELECTOR)
}

/// A gate into ring 0, at address 0: where the local table would begin, had the reset's been left.
fn no_local_table() -> Result<String, &'static str> {
    /// Present, privilege 3, 64-bit call gate, to offset `0x1000` of selector 8.
    const GATE: u64 = 0x1000 | (8 << 16) | (0xec << 40);
    let mut runner = Runner::new().map_err(|_| "no space")?;
    let bytes = [GATE, 0].map(u64::to_le_bytes).concat();
    runner.lay_at_zero(&bytes).map_err(|_| "no page at address 0")?;
    match runner.user(code::call_local()) {
        Ok(Outcome::Fault { vector: 13, error: 4 }) => Ok("#GP(0x4): there is no local table".into()),
        _ => Err("the local table was used"),
    }
}

pub(crate) const ITEMS: &[Item] = &[
    Item::new("SGDT", "SGDT", "3B", code::sgdt)
        .runs(ADDRESS, words::table, no_umip)
        .instead("flat selectors of the ABI", words::flat_selectors),
    Item::new("SIDT", "SIDT", "3B", code::sidt)
        .runs(ADDRESS, words::table, no_umip)
        .instead("trap::set_handler", words::handler),
    Item::new("SLDT", "SLDT", "3B", code::sldt)
        .runs(Verdict::Constant, words::rax, |values| values.rax == 0 && no_umip(values))
        .instead("none: there is no LDT", words::none),
    Item::new("SMSW", "SMSW", "3B", code::smsw)
        .runs(Verdict::Constant, words::rax, |values| values.rax == control::cr0() && no_umip(values))
        .instead("control::cr0", words::cr0),
    Item::new("PUSHF", "PUSHFQ", "3B", code::pushf)
        .faults(&[])
        .runs(Verdict::Constant, words::interrupt_flags, words::interrupts_on)
        .instead("event::state", words::mask_state),
    Item::new("POPF", "POPFQ", "3B", code::popf)
        .faults(&[])
        .runs(Verdict::NoEffect, words::stay, words::interrupts_on)
        .instead("event::restore", words::mask_and_restore),
    Item::new("POPF", "POPFQ with DF NT AC ID", "3B", code::popf_own)
        .faults(&[])
        .runs(Verdict::Own, words::own_flags, |values| values.rax & 0x24_4400 == 0x24_4400)
        .instead("the same", words::none),
    Item::new("LAR", "LAR", "3C", code::lar)
        .faults(&[])
        .runs(Verdict::Constant, words::sweep, eight)
        .instead("flat selectors of the ABI", words::flat_selectors),
    Item::new("LSL", "LSL", "3C", code::lsl)
        .faults(&[])
        .runs(Verdict::Constant, words::sweep, eight)
        .instead("flat selectors of the ABI", words::flat_selectors),
    Item::new("VERR", "VERR", "3C", code::verr)
        .faults(&[])
        .runs(Verdict::Constant, words::sweep, eight)
        .instead("call::translate", words::translation),
    Item::new("VERW", "VERW", "3C", code::verw)
        .faults(&[])
        .runs(Verdict::Constant, words::sweep, four)
        .instead("call::translate", words::translation),
    Item::new("POP", "POP FS", "3C", code::pop_fs)
        .faults(&[])
        .runs(Verdict::Constant, words::rax, user_data)
        .instead("segment::set", words::fs_base),
    Item::new("POP", "POP FS of ring 0", "3C", code::pop_fs_ring0).faults(GP).instead("segment::set", words::fs_base),
    Item::new("POP", "POP DS", "3C", code::pop_ds).faults(UD),
    Item::new("PUSH", "PUSH FS", "3C", code::push_fs)
        .faults(&[])
        .runs(Verdict::Constant, words::rax, user_data)
        .instead("flat selectors of the ABI", words::flat_selectors),
    Item::new("PUSH", "PUSH CS", "3C", code::push_cs)
        .faults(UD)
        .instead("flat selectors of the ABI", words::flat_selectors),
    Item::new("CALL", "CALL FAR", "3C", code::call_far)
        .faults(PF)
        .runs(Verdict::Constant, words::rax, user_code)
        .instead("UserContext::run_in, resume", words::user_mode),
    Item::new("CALL", "CALL FAR to ring 0", "3C", code::call_far_ring0).instead("the calls of the ABI", words::calls),
    Item::shown("CALL", "CALL FAR through a forged gate", "3C", Verdict::Traps, no_local_table)
        .instead("the calls of the ABI", words::calls),
    Item::new("CALL", "CALL FAR direct", "3C", code::call_direct).faults(UD),
    Item::new("JMP", "JMP FAR", "3C", code::jmp_far)
        .runs(Verdict::Constant, words::rax, user_code)
        .instead("UserContext::run_in, resume", words::user_mode),
    Item::new("JMP", "JMP FAR to ring 0", "3C", code::jmp_far_ring0).instead("the calls of the ABI", words::calls),
    Item::new("JMP", "JMP FAR direct", "3C", code::jmp_direct).faults(UD),
    Item::new("INT", "INT 42h", "3C", code::int_42).instead("trap::set_handler for #GP", words::handler),
    Item::new("INT", "INT 80h", "3C", code::int_80).instead("SYSCALL in user mode", words::user_mode),
    Item::new("RET", "RETF", "3C", code::ret_far)
        .faults(PF)
        .runs(Verdict::Constant, words::rax, user_code)
        .instead("UserContext::run_in, resume", words::user_mode),
    Item::new("RET", "RETF to ring 0", "3C", code::ret_far_ring0)
        .faults(GP_PF)
        .instead("the calls of the ABI", words::calls),
    Item::new("STR", "STR", "3C", code::str)
        .runs(Verdict::Constant, words::rax, |values| values.rax == 0x30 && no_umip(values))
        .instead("none: there is no task state", words::none),
    Item::new("MOV", "MOV from CS SS DS ES", "3C", code::mov_from_seg)
        .faults(&[])
        .runs(Verdict::Constant, words::selectors, user_code)
        .instead("flat selectors of the ABI", words::flat_selectors),
    Item::new("MOV", "MOV to DS", "3C", code::mov_to_ds)
        .faults(&[])
        .runs(Verdict::Constant, words::rax, user_data)
        .instead("none: bases are 0", words::none),
    Item::new("MOV", "MOV to DS of ring 0", "3C", code::mov_to_ds_ring0).instead("none: bases are 0", words::none),
    Item::new("MOV", "MOV to CS", "3C", code::mov_to_cs).faults(UD),
];
