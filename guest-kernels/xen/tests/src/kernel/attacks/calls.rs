//! Calls, traps and instructions.

use protocol::xen::structure::{MemoryReservation, MulticallEntry};
use protocol::xen::{DOMID_SELF, VERSION, call, memory, mmuext, physdev, sched, vcpu};

use super::{Attack, Outcome, refused, same};
use crate::kernel::abi::{HOLE, HYPERVISOR};
use crate::kernel::raw::{self, attempt};
use crate::kernel::trap::{self, SYSTEM_CALL};
use crate::kernel::world::{Own, RO, RW, TABLE, extended, first_root, flush, frame_at, hypercall, update, user_tree};

/// In the order in which they run.
pub const ALL: &[Attack] = &[
    ("PT-23", user_and_kernel),
    ("EX-01", edge_of_the_hole),
    ("EX-03", all_flags),
    ("EX-06", flags_of_a_return),
    ("EX-17", every_selector),
    ("EX-19", calls_of_user_mode),
    ("EX-21", every_register),
    ("EX-22", strange_instructions),
    ("HC-01", buffers_of_the_hypervisor),
    ("HC-03", numbers_at_borders),
    ("HC-04", huge_counts),
    ("IO-01", model_registers),
    ("IO-04", ports),
    ("IO-05", control_registers),
];

/// User mode reads and writes pages of its kernel and of the hypervisor.
fn user_and_kernel() -> Outcome {
    let [stack, secret, kernel_stack] = Own::several();
    raw::store(secret.at, 0x5ec2e7);
    let code = raw::code_of_user();
    let [root, ..] = user_tree(&[(0, frame_at(code) << 12 | RO), (1, stack.entry(RW))]);
    same("user root", extended(mmuext::NEW_USER_BASEPTR, root.frame, 0), 0)?;
    hypercall(call::STACK_SWITCH, [0xe02b, kernel_stack.at + 4096, 0]);
    for address in [secret.at, first_root(), HYPERVISOR, 0xffff_8000_4000_0000, 0xffff_87ff_ffff_f000, 0x40_0000] {
        for place in [raw::user_reads(), raw::user_writes()] {
            if (address, place) == (0x40_0000, raw::user_reads()) {
                continue;
            }
            raw::enter_user(0x40_0000 + place - code, 0x40_2000, address, 2);
            same("faults", trap::last().vector, 14_u64)?;
            same("as user mode", trap::last().code & 4, 4_u64)?;
        }
    }
    same("secret", raw::load(secret.at), 0x5ec2e7_u64)?;
    same("none", extended(mmuext::NEW_USER_BASEPTR, 0, 0), 0)
}

/// A `syscall` at the end of the last page below the hole: what follows it is no address.
fn edge_of_the_hole() -> Outcome {
    let [third, second, first, page] = Own::several();
    for (table, index, entry) in
        [(third, 511, second.entry(TABLE)), (second, 511, first.entry(TABLE)), (first, 511, page.entry(RW))]
    {
        raw::store(table.word(index), entry);
    }
    raw::store_byte(page.at + 4094, 0x0f);
    raw::store_byte(page.at + 4095, 0x05);
    let _ = [third, second, first].map(Own::read_only);
    let own = frame_at(first_root());
    same("mapped", update((own << 12) | (255 * 8), third.entry(TABLE)), 0)?;
    for number in [call::XEN_VERSION, 63, call::SCHED_OP] {
        let trap = attempt!(
            "xor edi, edi
             xor esi, esi
             jmp {to}",
            to = in(reg) 0x7fff_ffff_fffe_u64, inout("rax") number => _, out("rcx") _, out("r11") _, out("rdi") _, out("rsi") _
        );
        let Err(trap) = trap else { return same("went on", 1, 0) };
        same("protection fault", trap.vector, 13_u64)?;
        same("at the hole", trap.rip, 0x8000_0000_0000_u64)?;
    }
    for value in
        [0x7fff_ffff_ffff, 0x8000_0000_0000, 0xffff_7fff_ffff_ffff, 0xffff_8000_0000_0000, HYPERVISOR, HOLE, u64::MAX]
    {
        let stack = page.at + 2048;
        let trap = raw::try_iret(value, 0xe030, 2, stack, 0xe02b);
        same("traps", i64::from(trap.is_some()), 1)?;
        same("a fault", i64::from(matches!(trap::last().vector, 13 | 14 | 6)), 1)?;
    }
    same("away", update((own << 12) | (255 * 8), 0), 0)?;
    flush();
    Ok(())
}

/// All flags that ring 3 can set, before a call and before a trap.
fn all_flags() -> Outcome {
    for flags in
        [0x4000_u64, 0x400, 0x100, 0x4_0000, 0x20_0000, 0x3000, 0x1_0000, 0x2_0000, 0x25_4fd5, 0x25_4ed5, 0x18_0000]
    {
        let trap = attempt!(
            "push {flags}
             popfq
             ud2",
            flags = in(reg) flags
        );
        // The trap flag comes first.
        let Err(trap) = trap else { return same("no trap", flags, 0) };
        same("a trap", i64::from(matches!(trap.vector, 1 | 6 | 17)), 1)?;
        same("harmless", trap.rflags & 0x1a_3000, 0_u64)?;
        let result: i64;
        // Flags are put right behind it.
        let _ = attempt!(
            "push {flags}
             popfq
             syscall
             push 2
             popfq",
            flags = in(reg) flags & !0x100, inout("rax") call::XEN_VERSION => result, in("rdi") 0, in("rsi") 0,
            out("rcx") _, out("r11") _
        );
        same("the call", i64::from(result == VERSION as i64), 1)?;
        let _ = attempt!("push 2; popfq; cld");
    }
    Ok(())
}

/// Flags in the frame of a return.
fn flags_of_a_return() -> Outcome {
    for bit in (0..64).filter(|bit| ![8, 18].contains(bit)) {
        let (flags, rax, _) = raw::iret_to_next(1 << bit, 77);
        same("interrupts on, no privilege", flags & 0x1a_3200, 0x200_u64)?;
        same("rax", rax, 77_u64)?;
        let _ = attempt!("push 2; popfq; cld");
    }
    let (flags, ..) = raw::iret_to_next(!0x4_0100, 0);
    same("all at once", flags & 0x1a_3200, 0x200_u64)?;
    let _ = attempt!("push 2; popfq; cld");
    Ok(())
}

/// Every selector in the frame of a return.
fn every_selector() -> Outcome {
    let stack = Own::new();
    let top = stack.at + 4096;
    let went = |cs: u64, ss: u64| {
        let _ = raw::try_iret(raw::user_undefined(), cs, 2, top, ss);
        trap::last().vector == 6
    };
    // Level 3 means user mode, which has no root here; 32-bit code would need a stack below 4 GiB.
    for cs in (0..0x1_0000_u64).filter(|cs| cs & 3 != 3 && cs & !3 != 0xe020) {
        same("code", i64::from(went(cs, 0xe02b)), i64::from(cs & !3 == 0xe030))?;
    }
    for ss in 0..0x1_0000_u64 {
        same("stack", i64::from(went(0xe030, ss)), i64::from(ss & !3 == 0xe028))?;
    }
    Ok(())
}

/// Every call from user mode is a system call of its kernel; a return in a batch ends it.
fn calls_of_user_mode() -> Outcome {
    let [stack, kernel_stack] = Own::several();
    let code = raw::code_of_user();
    let [root, ..] = user_tree(&[(0, frame_at(code) << 12 | RO), (1, stack.entry(RW))]);
    same("user root", extended(mmuext::NEW_USER_BASEPTR, root.frame, 0), 0)?;
    hypercall(call::STACK_SWITCH, [0xe02b, kernel_stack.at + 4096, 0]);
    for number in (0..128).chain([u64::MAX, 1 << 31]) {
        raw::enter_user_calling(0x40_0000 + raw::user_call() - code, 0x40_2000, number);
        same("its kernel's", trap::last().vector, SYSTEM_CALL)?;
        same("the number", trap::last().registers[0], number)?;
    }
    same("none", extended(mmuext::NEW_USER_BASEPTR, 0, 0), 0)?;
    let mut batch = [
        MulticallEntry { op: call::IRET, ..MulticallEntry::default() },
        MulticallEntry { op: call::XEN_VERSION, result: 0x77, ..MulticallEntry::default() },
    ];
    let rax = raw::batch_with_return((&raw mut batch) as u64, 2, 0x1234);
    same("as the frame says", rax, 0x1234_u64)?;
    same("the rest of the batch is not done", batch[1].result, 0x77_u64)
}

/// Every call with the same value in every register.
fn every_register() -> Outcome {
    let numbers = (0..=64).filter(|number| ![call::IRET, call::SCHED_OP].contains(number));
    for number in numbers {
        for value in
            [u64::MAX, 0x8000_0000_0000_0000, 0xffff_ffff, 0x8000_0000, 0x5555_5555_5555_5555, HYPERVISOR, 1 << 47]
        {
            let _ = raw::call(number, [value; 5]);
            let _ = raw::call(number, [value, 0, value, 0x7ff0, value]);
            let _ = raw::call(number, [0, value, value, 0x7ff0, value]);
            let _ = raw::call(number, [1, value, value, 0x7ff0, value]);
            trap::install(0);
            let (_, changed) = raw::call_keeping(63, value);
            same("registers that an unknown call keeps", changed, 0_u64)?;
        }
    }
    hypercall(call::FPU_TASKSWITCH, [0, 0, 0]);
    hypercall(call::SET_TIMER_OP, [0, 0, 0]);
    hypercall(call::VCPU_OP, [vcpu::STOP_PERIODIC_TIMER, 0, 0]);
    for register in [0, 1, 2, 3, 7] {
        hypercall(call::SET_DEBUGREG, [register, 0, 0]);
    }
    hypercall(call::SET_GDT, [0, 0, 0]);
    same("goes on", hypercall(call::XEN_VERSION, [0, 0, 0]), VERSION as i64)
}

/// Instructions that nobody needs.
fn strange_instructions() -> Outcome {
    let page = Own::new();
    let run = |bytes: &[u8]| {
        for (offset, byte) in bytes.iter().chain(&[0x0f, 0x0b]).enumerate() {
            raw::store_byte(page.at + offset as u64, *byte);
        }
        raw::try_jump(page.at).map_or(u64::MAX, |trap| trap.vector)
    };
    for number in 0..=255 {
        let vector = run(&[0xcd, number]);
        let is_own = matches!(number, 3 | 4 | 33 | 34 | 128);
        same("int", vector, if is_own { u64::from(number) } else { 13 })?;
    }
    for bytes in [
        &[0xf1_u8][..],
        &[0x0f, 0xff, 0xc0],
        &[0x0f, 0xb9, 0xc0],
        &[0xce],
        &[0x62, 0x00],
        &[0xf0, 0x90],
        &[0x9a, 0, 0, 0, 0, 0, 0],
        &[0xea, 0, 0, 0, 0, 0, 0],
        &[0x0f, 0x34],
        &[0x0f, 0x35],
        &[0x48, 0x0f, 0x07],
        &[0x0f, 0x01, 0xc1],
        &[0x0f, 0x01, 0xd9],
        &[0x0f, 0x01, 0xca],
        &[0x0f, 0x01, 0xcb],
        &[0x0f, 0xaa],
        &[0x66; 16],
        &[0xcf],
        &[0x48, 0xcb],
    ] {
        let vector = run(bytes);
        same("a fault", i64::from(matches!(vector, 0..=14 | 17)), 1)?;
    }
    Ok(())
}

/// Buffers in the hypervisor's range, over its ends, and at no address.
fn buffers_of_the_hypervisor() -> Outcome {
    let places = [
        HYPERVISOR,
        0xffff_8000_0000_0000,
        0xffff_87ff_ffff_f000,
        0xffff_87ff_ffff_fff8,
        0xffff_8040_0000_0000,
        0x0000_7fff_ffff_fff8,
        0x0000_8000_0000_0000,
        0xffff_7fff_ffff_fff8,
        HOLE,
        u64::MAX,
        u64::MAX - 7,
    ];
    let own = u64::from(DOMID_SELF);
    for at in places {
        for (number, arguments) in [
            (call::MMU_UPDATE, [at, 1, 0, own, 0]),
            (call::MMU_UPDATE, [at, 0x4000_0000, 0, own, 0]),
            (call::MMUEXT_OP, [at, 1, 0, own, 0]),
            (call::MULTICALL, [at, 1, 0, 0, 0]),
            (call::MULTICALL, [at, u64::MAX, 0, 0, 0]),
            (call::MEMORY_OP, [memory::POPULATE_PHYSMAP, at, 0, 0, 0]),
            (call::MEMORY_OP, [memory::MEMORY_MAP, at, 0, 0, 0]),
            (call::MEMORY_OP, [memory::MACHPHYS_MAPPING, at, 0, 0, 0]),
            (call::MEMORY_OP, [memory::POPULATE_PHYSMAP | u64::MAX << 6, at, 0, 0, 0]),
            (call::XEN_VERSION, [6, at, 0, 0, 0]),
            (call::XEN_VERSION, [3, at, 0, 0, 0]),
            (call::CONSOLE_IO, [0, 8, at, 0, 0]),
            (call::SET_TRAP_TABLE, [at, 0, 0, 0, 0]),
            (call::SET_GDT, [at, 16, 0, 0, 0]),
            (call::CALLBACK_OP, [0, at, 0, 0, 0]),
            (call::VCPU_OP, [vcpu::INITIALISE, 1, at, 0, 0]),
            (call::VCPU_OP, [vcpu::GET_RUNSTATE, 0, at, 0, 0]),
            (call::VCPU_OP, [vcpu::SET_SINGLESHOT_TIMER, 0, at, 0, 0]),
            (call::SCHED_OP, [sched::POLL, at, 0, 0, 0]),
            (call::SCHED_OP, [sched::SHUTDOWN, at, 0, 0, 0]),
            (call::EVENT_CHANNEL_OP, [4, at, 0, 0, 0]),
            (call::PHYSDEV_OP, [physdev::SET_IOPL, at, 0, 0, 0]),
        ] {
            let result = raw::call(number, arguments);
            if result >= 0 {
                return same("not refused", (i128::from(number) << 64) | i128::from(arguments[0]), i128::from(at));
            }
        }
        let list = [0_u64; 2];
        refused("told nowhere", raw::call(call::MMU_UPDATE, [list.as_ptr() as u64, 0, at, own, 0]))?;
    }
    Ok(())
}

/// Numbers one below and above what there is.
fn numbers_at_borders() -> Outcome {
    for number in [2, 3, 15, 16, 31, 32, 63, 64, 0x7fff_ffff, 0xffff_ffff] {
        refused("a vCPU", hypercall(call::VCPU_OP, [vcpu::IS_UP, number, 0]))?;
        refused("a vCPU to start", hypercall(call::VCPU_OP, [vcpu::UP, number, 0]))?;
        refused("a vCPU to stop", hypercall(call::VCPU_OP, [vcpu::DOWN, number, 0]))?;
    }
    for register in [8, 9, 15, 16, 0x7fff_ffff, u64::MAX] {
        refused("a register", hypercall(call::SET_DEBUGREG, [register, 0, 0]))?;
        refused("a register", hypercall(call::GET_DEBUGREG, [register, 0, 0]))?;
    }
    for port in [0_u32, 1023, 1024, 4095, 4096, 0x7fff_ffff, u32::MAX] {
        for command in [3, 4, 9] {
            refused("a port", hypercall(call::EVENT_CHANNEL_OP, [command, (&raw const port) as u64, 0]))?;
        }
    }
    for which in [6, 31, 33, 63, 64, u64::MAX] {
        refused("a service", hypercall(call::VM_ASSIST, [0, which, 0]))?;
    }
    for operation in 21..64 {
        refused("an operation", extended(operation, 0, 0))?;
    }
    Ok(())
}

/// Counts that no list has.
fn huge_counts() -> Outcome {
    let page = Own::new();
    (0..512).for_each(|word| raw::store(page.word(word), u64::MAX));
    let own = u64::from(DOMID_SELF);
    for count in [1 << 20, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, 1 << 40, u64::MAX] {
        // The first element is wrong.
        let _ = raw::call(call::MMU_UPDATE, [page.at, count, 0, own, 0]);
        let _ = raw::call(call::MMUEXT_OP, [page.at, count, 0, own, 0]);
        let _ = raw::call(call::SET_GDT, [page.at, count, 0, 0, 0]);
        for command in [memory::DECREASE_RESERVATION, memory::POPULATE_PHYSMAP, memory::INCREASE_RESERVATION] {
            for order in [0, 1, 9, 63, u32::MAX] {
                let reservation = MemoryReservation {
                    extent_start: page.at,
                    nr_extents: count,
                    extent_order: order,
                    domid: DOMID_SELF,
                    ..MemoryReservation::default()
                };
                // With what follows such a list; only the release of nobody's frames can be tried.
                if command == memory::DECREASE_RESERVATION || order != 0 {
                    let done = hypercall(call::MEMORY_OP, [command, (&raw const reservation) as u64, 0]);
                    same("none", done.max(0), 0)?;
                    let _ = hypercall(call::MEMORY_OP, [command | 1 << 30, (&raw const reservation) as u64, 0]);
                }
            }
        }
        let _ = raw::call(call::CONSOLE_IO, [0, count & 0x7fff_ffff | 0x4000_0000, HYPERVISOR, 0, 0]);
    }
    Ok(())
}

/// Model-specific registers, a sample of all.
fn model_registers() -> Outcome {
    let numbers = (0..0x1000_u64)
        .chain((0..0x400).map(|number| 0xc000_0000 + number))
        .chain((0..0x100).map(|number| 0xc001_0000 + number));
    for number in numbers.chain([0x4000_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) {
        let read = attempt!("rdmsr", in("rcx") number, out("rax") _, out("rdx") _);
        same("a fault or none", read.err().map_or(13, |trap| trap.vector), 13_u64)?;
        for value in [0_u64, u64::MAX, HOLE] {
            if number == 0xc000_0101 {
                continue;
            }
            let written = attempt!("wrmsr", in("rcx") number, in("rax") value & 0xffff_ffff, in("rdx") value >> 32);
            let is_ok = written.is_ok();
            same("a fault or none", written.err().map_or(13, |trap| trap.vector), 13_u64)?;
            let is_base = matches!(number, 0xc000_0100 | 0xc000_0102);
            same("a base that is none", i64::from(is_ok && is_base && value == HOLE), 0)?;
        }
    }
    Ok(())
}

/// All ports.
fn ports() -> Outcome {
    let level = |level: u32| hypercall(call::PHYSDEV_OP, [physdev::SET_IOPL, (&raw const level) as u64, 0]);
    for wanted in [0, 1] {
        same("a level", level(wanted), 0)?;
        for port in (0..0x1_0000_u64)
            .step_by(7)
            .chain([0x3f8, 0x20, 0x21, 0xa0, 0x40, 0x61, 0xf4, 0x501, 0xcf8, 0xcfc, 0xcf9, 0x604, 0xffff])
        {
            let outcomes = [
                attempt!("in al, dx", in("rdx") port, out("rax") _),
                attempt!("in ax, dx", in("rdx") port, out("rax") _),
                attempt!("in eax, dx", in("rdx") port, out("rax") _),
                attempt!("out dx, al", in("rdx") port, in("rax") u64::MAX),
                attempt!("out dx, ax", in("rdx") port, in("rax") u64::MAX),
                attempt!("out dx, eax", in("rdx") port, in("rax") u64::MAX),
            ];
            for outcome in outcomes {
                same(
                    "as its level says",
                    outcome.err().map_or(0, |trap| trap.vector),
                    if wanted == 0 { 13_u64 } else { 0 },
                )?;
            }
        }
    }
    same("level 0", level(0), 0)
}

/// Bits of the control registers.
fn control_registers() -> Outcome {
    let mut zero = 0_u64;
    let mut four = 0_u64;
    let _ = attempt!("mov {value}, cr0", value = out(reg) zero);
    let _ = attempt!("mov {value}, cr4", value = out(reg) four);
    for bit in (0..64).map(|bit| 1_u64 << bit) {
        if bit != 8 {
            let outcome = attempt!("mov cr0, {value}", value = in(reg) zero ^ bit);
            same("CR0", outcome.err().map_or(0, |trap| trap.vector), 13_u64)?;
        }
        let _ = attempt!("mov cr4, {value}", value = in(reg) four ^ bit);
        let _ = attempt!("mov cr4, {value}", value = in(reg) four);
        let _ = attempt!("mov cr8, {value}", value = in(reg) bit);
        let _ = attempt!("mov cr2, {value}", value = in(reg) bit);
        // Frames of memory could be roots: its own, if they are clear.
        if !(1 << 12..1 << 36).contains(&bit) {
            let outcome = attempt!("mov cr3, {value}", value = in(reg) bit);
            same("CR3", i64::from(outcome.is_err()), 1)?;
        }
        let _ = attempt!("xsetbv", in("rcx") 0, in("rax") bit & 0xffff_ffff, in("rdx") bit >> 32);
    }
    let _ = attempt!("xsetbv", in("rcx") 0, in("rax") 1, in("rdx") 0);
    let mut now = 0_u64;
    let _ = attempt!("mov {value}, cr4", value = out(reg) now);
    same("CR4", now, four)
}
