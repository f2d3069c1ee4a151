//! Attacks on entry and exit: exceptions, flags, selectors, registers, instructions.

use alloc::format;
use alloc::vec;
use core::sync::atomic::{AtomicU64, Ordering};

use functional_support::program::{self, Program};
use functional_support::registers::{All, at};
use guest_sdk::event::{self, Event};
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{
    Batch, Block, CALLS, Cpuid, DebugRegisterGet, DebugRegisterSet, EntryPointsSet, Info, LogWrite, MemoryBatch,
    SegmentBaseGet, SegmentBaseSet, TimerSet, TrapTableSet,
};
use guest_sdk::protocol::flags::{Features, InfoTopic, MapFlags, SegmentBase};
use guest_sdk::protocol::layout::{HYPERVISOR_START, KERNEL_END, KERNEL_START, LOWER_END};
use guest_sdk::protocol::shared::{BatchEntry, RESUME_FLAGS, TrapEntry, TrapFrame, frame_info};
use guest_sdk::raw::vcpu::Vcpu;
use guest_sdk::user::{Exit, UserContext};
use guest_sdk::{GuestVirt, Nanos, Status, call, time, trap};
use hostile_support::touch::write as touch;
use hostile_support::wild::{self, go};

use crate::execute::{self, Ran, Resumed, resume, resume_at};
use crate::workers::race;
use crate::world::{
    Case, FIRST, ONES, Outcome, PLACE, VCPU, WRITE, World, buffer, buffer_address, case, code_address, death, map,
    set_buffer, unmap,
};
use crate::{hold, same};

/// The cases of this group.
pub const CASES: &[Case] = &[
    case("EX-01", edges_of_the_address_space),
    case("EX-03", every_flag),
    case("EX-04", frames_across_pages),
    case("EX-06", flags_that_are_not_the_guests),
    case("EX-07", every_software_interrupt),
    case("EX-08", breakpoint_on_a_stack_switch),
    case("EX-09", sticky_debug_status),
    case("EX-10", debug_registers),
    case("EX-11", endless_faults),
    case("EX-12", step_over_a_call),
    case("EX-13", events_and_resumes),
    case("EX-14", buffers_that_fault),
    case("EX-16", bad_selectors),
    case("EX-17", every_selector),
    case("EX-19", calls_that_cannot_be_in_a_batch),
    case("EX-20", reported_addresses),
    case("EX-21", all_ones),
    case("EX-22", odd_instructions),
    case("DS-01", beyond_the_limit),
    case("DS-02", descriptor_tables),
    case("DS-05", bases_that_are_not_canonical),
    case("DS-07", base_of_a_null_selector),
    case("DS-08", what_segments_tell),
    case("IO-01", model_specific_registers),
    case("IO-02", extended_control),
    case("IO-03", debug_control),
    case("IO-04", ports),
    case("IO-05", control_registers),
    case("IO-06", deadlines),
    case("FP-01", initial_state),
    case("FP-02", own_state_only),
    case("FP-03", bad_images),
    case("FP-04", protection_keys),
    case("FP-05", pending_exception),
    case("FP-06", tags_of_one_vm),
    case("EM-02", privileged_in_user_mode),
    case("EM-03", instructions_at_the_edge),
    case("EM-05", prefixes),
    case("SP-01", hypervisor_memory),
    death("EX-02", no_handler, "HV-VM-001"),
    death("EX-02", no_handler_for_a_page_fault, "HV-VM-002"),
    death("EX-02", no_entry_for_system_calls, "HV-VM-004"),
    death("EX-04", stack_at_zero, "HV-VM-003"),
    death("EX-04", stack_at_the_border, "HV-VM-003"),
    death("EX-05", stack_read_only, "HV-VM-003"),
    death("EX-05", stack_of_the_hypervisor, "HV-VM-003"),
    death("EX-05", kernel_stack_in_the_lower_half, "HV-VM-003"),
    death("EX-18", handler_absent, "HV-VM-003"),
    death("EX-18", fault_in_each_handler, "HV-VM-003"),
];

const GP: u8 = 13;
const PF: u8 = 14;
const UD: u8 = 6;
const DB: u8 = 1;
const BP: u8 = 3;
const NONE: u8 = 255;

fn run(w: &World, bytes: &[u8]) -> Ran {
    w.code.run(bytes, [0; 6])
}

fn edges_of_the_address_space(w: &mut World) -> Outcome {
    let _masked = event::masked();
    let good = code_address();
    let stack = buffer_address() + 2048;
    let bad = [LOWER_END, LOWER_END + 0xfff, 1 << 47, HYPERVISOR_START, KERNEL_START - 1, KERNEL_END, 1 << 63, ONES];
    for address in bad {
        for info in [0, frame_info::MASKED, frame_info::USER, frame_info::USER | frame_info::MASKED] {
            let mut frame = TrapFrame { rip: address, rsp: stack, info, ..TrapFrame::default() };
            same!(resume(&mut frame, false), refused(Status::BadAddress), "rip {address:#x}, info {info:#x}");
            // A stack pointer may stand right behind a half.
            if ![LOWER_END, KERNEL_END].contains(&address) {
                let mut frame = TrapFrame { rip: good, rsp: address, info, ..TrapFrame::default() };
                same!(resume(&mut frame, false), refused(Status::BadAddress), "rsp {address:#x}, info {info:#x}");
            }
        }
        same!(resume_at(address), Status::BadAddress.to_register(), "a frame at {address:#x}");
    }
    // User mode at kernel addresses.
    for (rip, rsp) in [(good, 0x1000), (0x1000, stack), (good, stack)] {
        let info = frame_info::USER | frame_info::MASKED;
        let mut frame = TrapFrame { rip, rsp, info, ..TrapFrame::default() };
        same!(resume(&mut frame, false), refused(Status::BadAddress), "user mode at {rip:#x}, {rsp:#x}");
    }
    // `syscall` in the last two bytes that can be mapped: SYSRET goes to the page behind.
    same!(map(FIRST, LOWER_END - 4096, w.code.number(), 1, MapFlags::EXECUTE), Ok(1), "the last page");
    w.code.put(4094, &[0x0f, 0x05]);
    let ran = w.code.run_at(LOWER_END - 2, [Info::NUMBER, 0, 0, 0, 0, 0]);
    same!(unmap(FIRST, LOWER_END - 4096, 1), Ok(1), "undo");
    let fault = ran.fault.map(|fault| (fault.vector, fault.address));
    same!(fault, Some((PF, LOWER_END)), "behind the last call");
    Ok(())
}

fn refused(status: Status) -> Resumed {
    Resumed::Refused(status.to_register())
}

const TRAP_FLAG: u64 = 1 << 8;

fn every_flag(w: &mut World) -> Outcome {
    let _masked = event::masked();
    for high in 0..64 {
        for low in 0..=high {
            let wanted = (1_u64 << high | 1 << low) & !TRAP_FLAG;
            let mut frame = TrapFrame { rflags: wanted, info: frame_info::MASKED, ..TrapFrame::default() };
            let expected = (wanted & RESUME_FLAGS) | 0x202;
            match resume(&mut frame, true) {
                Resumed::Flags(found) => same!(found, expected, "flags for {wanted:#x}"),
                other => return Err(format!("flags {wanted:#x}: {other:?}")),
            }
        }
    }
    // popfq of everything, then each way into the hypervisor: one exception, and flags that are clean.
    for (bytes, vector) in [(&[0x0f, 0x05][..], NONE), (&[0xcc], BP), (&[0x0f, 0x0b], UD)] {
        // push rbx; popfq; <enter>
        let code = [&[0x53, 0x9d][..], bytes].concat();
        for flags in [0x0004_7ed5_u64, 0x0024_4cd5, 0xffff_ffff_ffff_feff & !(1 << 18)] {
            let ran = w.code.run(&code, [Info::NUMBER, flags, 0, 0, 0, 0]);
            same!(ran.vector(), vector, "exception with flags {flags:#x}");
            hold!(ran.faults <= 1, "{} exceptions with flags {flags:#x}", ran.faults);
            if let Some(fault) = ran.fault {
                same!(fault.rflags & 0x201_b000 & !(1 << 9), 0, "forbidden flags in the frame for {flags:#x}");
                hold!(fault.rflags & 1 << 9 != 0, "interrupts are off in the frame for {flags:#x}");
            }
        }
    }
    Ok(())
}

fn frames_across_pages(w: &mut World) -> Outcome {
    let _masked = event::masked();
    let stack = vec![0_u8; 5 * 4096];
    let base = (stack.as_ptr().expose_provenance() as u64).next_multiple_of(4096) + 3 * 4096;
    for offset in 0..300 {
        // mov rsp, rdi; ud2
        let ran = w.code.run(&[0x48, 0x89, 0xfc, 0x0f, 0x0b], [0, 0, 0, 0, 0, base + offset]);
        same!(ran.vector(), UD, "stack + {offset}");
        same!(ran.faults, 1, "exceptions, stack + {offset}");
    }
    Ok(())
}

fn flags_that_are_not_the_guests(_w: &mut World) -> Outcome {
    let _masked = event::masked();
    // No interrupts, I/O privilege 3, nested task, resume, virtual-8086, virtual interrupts.
    for forbidden in [0, 3 << 12, 1 << 14, 1 << 16, 1 << 17, 1 << 19, 1 << 20, 0x1f_7000] {
        let mut frame = TrapFrame { rflags: forbidden, info: frame_info::MASKED, ..TrapFrame::default() };
        match resume(&mut frame, true) {
            Resumed::Flags(found) => {
                same!(found & (0x1b_7000), 0, "forbidden flags");
                hold!(found & 1 << 9 != 0, "interrupts are off");
            }
            other => return Err(format!("flags {forbidden:#x}: {other:?}")),
        }
    }
    Ok(())
}

fn every_software_interrupt(w: &mut World) -> Outcome {
    for vector in 0..=255_u8 {
        let ran = run(w, &[0xcd, vector]);
        let found = ran.fault.map(|fault| (fault.vector, fault.error_code));
        // QEMU counts 16 for each gate where the manual says 8.
        let codes = [u64::from(vector) << 3 | 2, u64::from(vector) << 4 | 2];
        let is_good = match found {
            Some((BP, 0)) => vector == 3,
            Some((GP, code)) => vector != 3 && codes.contains(&code),
            _ => false,
        };
        hold!(is_good, "int {vector}: {found:?}");
    }
    same!(run(w, &[0xcc]).vector(), BP, "int3");
    // QEMU takes this for a breakpoint of its own debugger.
    hold!([DB, UD, NONE].contains(&run(w, &[0xf1]).vector()), "icebp");
    Ok(())
}

/// A data breakpoint on the operand of `mov ss`, then each way into ring 0 before it is reported.
fn breakpoint_on_a_stack_switch(w: &mut World) -> Outcome {
    let _masked = event::masked();
    // mov eax, ss
    let selector = run(w, &[0x8c, 0xd0]).registers[0];
    set_buffer(&[selector]);
    same!(call::debug_register_set(0, buffer_address()), Ok(()), "address");
    // Local enable, read and write, two bytes.
    same!(call::debug_register_set(7, 1 | 0b0111 << 16), Ok(()), "control");
    for (name, enter) in
        [("syscall", &[0x0f, 0x05][..]), ("int3", &[0xcc]), ("int 0x80", &[0xcd, 0x80]), ("ud2", &[0x0f, 0x0b])]
    {
        // mov ss, [rdi]
        let code = [&[0x8e, 0x17][..], enter].concat();
        for _ in 0..20 {
            let ran = w.code.run(&code, [Info::NUMBER, 0, 0, 0, 0, buffer_address()]);
            hold!(ran.faults <= 2, "{name}: {} exceptions", ran.faults);
        }
    }
    let off = call::debug_register_set(7, 0);
    set_buffer(&[0]);
    same!(off, Ok(()), "breakpoint off");
    same!(call::debug_register_set(0, 0), Ok(()), "address off");
    same!(call::debug_register_set(6, 0), Ok(()), "status off");
    Ok(())
}

fn sticky_debug_status(w: &mut World) -> Outcome {
    same!(call::debug_register_set(6, 0xe00f), Ok(()), "all status bits");
    breakpoint_on_a_stack_switch(w)?;
    for value in [0xe00f, 0xffff_0ff0, 0xffff_efff] {
        same!(call::debug_register_set(6, value), Ok(()), "status {value:#x}");
        hold!([DB, UD, NONE].contains(&run(w, &[0xf1]).vector()), "icebp with status {value:#x}");
    }
    same!(call::debug_register_set(6, 0), Ok(()), "status off");
    Ok(())
}

fn debug_registers(_w: &mut World) -> Outcome {
    for index in 0..4 {
        for address in [
            HYPERVISOR_START,
            HYPERVISOR_START - 1,
            KERNEL_START - 1,
            KERNEL_START - 8,
            LOWER_END - 7,
            1 << 47,
            1 << 63,
            ONES,
            ONES - 7,
        ] {
            same!(call::debug_register_set(index, address), Err(Status::InvalidArgument), "dr{index} = {address:#x}");
        }
    }
    for bit in 0..64 {
        let is_good = matches!(bit, 0..=10 | 16 | 18..=20 | 22..=24 | 26..=28 | 30..=31);
        let set = call::debug_register_set(7, 1 << bit);
        same!(set.is_ok(), is_good, "bit {bit} of dr7");
    }
    for index in [4, 5, 8, 15, 16, 1 << 32, ONES] {
        same!(call::debug_register_set(index, 0), Err(Status::InvalidArgument), "dr{index}");
        same!(call::debug_register_get(index), Err(Status::InvalidArgument), "dr{index}");
    }
    same!(call::debug_register_set(7, ONES), Err(Status::InvalidArgument), "all of dr7");
    same!(call::debug_register_set(7, 0), Ok(()), "off");
    Ok(())
}

fn endless_faults(w: &mut World) -> Outcome {
    let racing = race(&[|_| {
        for page in 0..64 {
            let _ = touch(PLACE + page * 4096, 0);
        }
    }]);
    while racing.rounds(0) < 50 {
        w.ask_neighbour()?;
    }
    drop(racing);
    // Alignment checks on, and an access that is off.
    for _ in 0..200 {
        let _masked = event::masked();
        // push rbx; popfq; mov rax, [rdi + 1]
        let ran = w.code.run(&[0x53, 0x9d, 0x48, 0x8b, 0x47, 0x01], [0, 0x0004_0202, 0, 0, 0, buffer_address()]);
        hold!([17, NONE].contains(&ran.vector()), "vector {}", ran.vector());
    }
    Ok(())
}

fn step_over_a_call(w: &mut World) -> Outcome {
    let _masked = event::masked();
    // push rbx; popfq; syscall; nop; nop
    let code = [0x53, 0x9d, 0x0f, 0x05, 0x90, 0x90];
    for number in [Info::NUMBER, 4096, SegmentBaseGet::NUMBER] {
        let ran = w.code.run(&code, [number, 0x302, 0, 0, 0, 0]);
        same!(ran.vector(), DB, "call {number}");
        let start = 0x7000_0000 + 4095 - code.len() as u64;
        let rip = ran.fault.map_or(0, |fault| fault.rip);
        hold!((start + 3..start + 7).contains(&rip), "the step was reported at offset {}", rip.wrapping_sub(start));
    }
    same!(call::debug_register_set(6, 0), Ok(()), "status off");
    Ok(())
}

fn events_and_resumes(_w: &mut World) -> Outcome {
    static TAKEN: AtomicU64 = AtomicU64::new(0);
    TAKEN.store(0, Ordering::Relaxed);
    let event = Event::new(VCPU).map_err(|status| format!("{status}"))?;
    event.on_event(|port| {
        // Each event sends the next, from within the handler.
        if TAKEN.fetch_add(1, Ordering::Relaxed) % 16 != 15 {
            let _ = call::event_send(*port);
        }
    });
    let before = event::mask();
    event::unmask();
    for _ in 0..2_000 {
        same!(event.send(), Ok(()), "send");
    }
    event::mask();
    event::restore(before);
    hold!(TAKEN.load(Ordering::Relaxed) >= 2_000, "{} events", TAKEN.load(Ordering::Relaxed));
    Ok(())
}

fn buffers_that_fault(w: &mut World) -> Outcome {
    same!(map(FIRST, PLACE, w.loose, 1, WRITE), Ok(1), "one page");
    // Calls that read their buffer, and one that writes.
    let calls = [
        ("log_write", LogWrite::NUMBER, [0, 16, 0, 0, 0, 0], 0),
        ("trap_table_set", TrapTableSet::NUMBER, [0, 1, 0, 0, 0, 0], 0),
        ("memory_batch", MemoryBatch::NUMBER, [0, 1, 0, 0, 0, 0], 0),
        ("batch", Batch::NUMBER, [0, 1, 0, 0, 0, 0], 0),
        ("cpuid", Cpuid::NUMBER, [0, 0, 0, 0, 0, 0], 2),
    ];
    let bad = [0, 0x1000, PLACE + 4096 - 8, PLACE - 8, LOWER_END - 8, LOWER_END, 1 << 47, HYPERVISOR_START];
    let worse = [HYPERVISOR_START + (2 << 39), KERNEL_START - 8, KERNEL_END - 8, ONES - 15, ONES - 7, ONES, 1 << 63];
    for (name, number, arguments, index) in calls {
        for address in bad.into_iter().chain(worse) {
            let mut arguments: [u64; 6] = arguments;
            arguments[index] = address;
            same!(wild::call(number, arguments), Err(Status::BadAddress), "{name} at {address:#x}");
        }
    }
    same!(wild::call(Cpuid::NUMBER, [0, 0, code_address(), 0, 0, 0]), Err(Status::BadAddress), "cpuid to code");
    // The frame of `resume` too.
    let _masked = event::masked();
    for address in [0x1000, PLACE + 4096 - 40, HYPERVISOR_START, 1 << 47] {
        same!(resume_at(address), Status::BadAddress.to_register(), "resume at {address:#x}");
    }
    same!(unmap(FIRST, PLACE, 1), Ok(1), "undo");
    Ok(())
}

/// mov ds, ax and so on.
const LOADS: [(&str, u8); 4] = [("es", 0xc0), ("ds", 0xd8), ("fs", 0xe0), ("ss", 0xd0)];

fn bad_selectors(w: &mut World) -> Outcome {
    for (name, operand) in LOADS {
        for selector in [0x8_u64, 0x10, 0x1b ^ 3, 0xfff8, 0xffff, 0x4, 0x7, 0x0c] {
            let ran = w.code.run(&[0x8e, operand], [selector, 0, 0, 0, 0, 0]);
            if let Some(fault) = ran.fault {
                same!((fault.vector, fault.error_code), (GP, selector & 0xfffc), "{name} = {selector:#x}");
            }
            same!(call::yield_cpu(), Ok(()), "a switch afterwards");
        }
        // Back to nothing, but for the stack.
        if name != "ss" {
            same!(w.code.run(&[0x8e, operand], [0; 6]).vector(), NONE, "{name} = 0");
        }
    }
    Ok(())
}

fn every_selector(w: &mut World) -> Outcome {
    let mut loaded = 0;
    for index in 0..8192_u64 {
        for low in if index < 32 { 0..8 } else { 3..4 } {
            let selector = index << 3 | low;
            let ran = w.code.run(&[0x8e, 0xe0], [selector, 0, 0, 0, 0, 0]);
            hold!([GP, 11, NONE].contains(&ran.vector()), "fs = {selector:#x}: {}", ran.vector());
            loaded += u64::from(ran.fault.is_none() && selector > 3);
        }
    }
    same!(w.code.run(&[0x8e, 0xe0], [0; 6]).vector(), NONE, "fs = 0");
    hold!(loaded < 32, "{loaded} selectors could be loaded");
    let _masked = event::masked();
    // mov eax, cs
    let own = run(w, &[0x8c, 0xc8]).registers[0];
    for index in 0..1024_u64 {
        for low in if index < 32 { 0..8 } else { 3..4 } {
            let selector = index << 3 | low;
            // lea rcx, [rip + 5]; push rdi; push rcx; retfq; then what is gone on with.
            let code = [0x48, 0x8d, 0x0d, 0x04, 0, 0, 0, 0x57, 0x51, 0x48, 0xcb];
            let ran = w.code.run(&code, [0, 0, 0, 0, 0, selector]);
            hold!(ran.fault.is_some() || selector == own, "cs = {selector:#x} was taken");
        }
    }
    Ok(())
}

fn calls_that_cannot_be_in_a_batch(_w: &mut World) -> Outcome {
    let alone = [
        "yield_cpu",
        "block",
        "exit",
        "vcpu_stop",
        "resume",
        "event_deliver",
        "space_destroy",
        "memory_batch",
        "batch",
    ];
    for name in alone {
        let Some(call) = CALLS.iter().find(|call| call.name == name) else {
            return Err(format!("no call {name}"));
        };
        let entry = |number| BatchEntry { number, arguments: [1, 1, 1, 1, 1, 1], ..BatchEntry::default() };
        let mut entries = [entry(call.number), entry(Info::NUMBER), entry(call.number)];
        entries[1].arguments = [InfoTopic::OwnVcpu.number(), 0, 0, 0, 0, 0];
        let first = entries.as_mut_ptr().expose_provenance() as u64;
        let mut done = 0;
        // It may stop early, and is called again for the rest then.
        while done < 3 {
            let entries = GuestVirt(first + done * size_of::<BatchEntry>() as u64);
            let more = go(Batch { entries, count: 3 - done });
            hold!(matches!(more, Ok(1..=3)), "a batch with {name}: {more:?}");
            done += more.unwrap_or(3);
        }
        let entries = core::hint::black_box(&entries).map(|entry| entry.result);
        let no = Status::NotInBatch.to_register();
        same!(entries, [no, 0, no], "results with {name}");
    }
    Ok(())
}

fn reported_addresses(w: &mut World) -> Outcome {
    let mut seed = 0x1234_5678_9abc_def1_u64;
    for _ in 0..2_000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let address = PLACE + (seed & 0xf_ffff_ffff);
        let read = w.code.read(address).err().map(|fault| (fault.vector, fault.error_code, fault.address));
        same!(read, Some((PF, 4, address)), "read");
        let write = w.code.write(address, seed).err().map(|fault| (fault.vector, fault.error_code, fault.address));
        // A word that crosses a page is reported at its first byte or at the border.
        hold!(matches!(write, Some((PF, 6, at)) if at.wrapping_sub(address) < 8), "write at {address:#x}: {write:x?}");
    }
    for vector in [UD, GP] {
        let bytes = if vector == UD { &[0x0f, 0x0b][..] } else { &[0xf4] };
        let fault = run(w, bytes).fault.map(|fault| (fault.vector, fault.error_code, fault.address));
        same!(fault, Some((vector, 0, 0)), "no address");
    }
    Ok(())
}

fn all_ones(w: &mut World) -> Outcome {
    let patterns = [ONES, 0xaaaa_aaaa_aaaa_aaaa, 0x5555_5555_5555_5555, 0xffff_8000_ffff_8000, 0x8000_0000_8000_0000];
    for call in CALLS {
        if ["exit", "block", "yield_cpu", "vcpu_stop", "resume", "event_deliver", "space_create"].contains(&call.name) {
            continue;
        }
        for pattern in patterns {
            let mut all = All::pattern(pattern);
            all.general = [pattern; 15];
            all.general[at::RAX] = call.number;
            let expected = all.clone();
            all.call();
            for (index, (now, then)) in all.general.iter().zip(expected.general).enumerate() {
                let free = [at::RAX, at::RCX, at::R11].contains(&index);
                hold!(free || *now == then, "{}: register {index} is {now:#x}, was {then:#x}", call.name);
            }
            same!(all.vectors, expected.vectors, "{}: vector registers", call.name);
            let rax = all.general[at::RAX];
            let is_status = Status::check_register(rax).is_err();
            hold!(is_status || call.name == "timer_set", "{} of {pattern:#x} returned {rax:#x}", call.name);
        }
    }
    if w.is_interrupted {
        let _ = call::timer_set(Nanos(time::now().0 + 100_000));
    }
    Ok(())
}

fn odd_instructions(w: &mut World) -> Outcome {
    let cases: [(&str, &[u8], &[u8]); 14] = [
        ("ud0", &[0x0f, 0xff, 0xc0], &[UD]),
        ("ud1", &[0x0f, 0xb9, 0xc0], &[UD]),
        ("ud2", &[0x0f, 0x0b], &[UD]),
        ("into", &[0xce], &[UD]),
        ("lock nop", &[0xf0, 0x90], &[UD]),
        // QEMU lets this one pass.
        ("lock mov", &[0xf0, 0x89, 0x07], &[UD, NONE]),
        ("sysenter", &[0x0f, 0x34], &[UD, GP]),
        ("sysexit", &[0x0f, 0x35], &[UD, GP]),
        ("sysret", &[0x48, 0x0f, 0x07], &[UD, GP]),
        ("vmcall", &[0x0f, 0x01, 0xc1], &[UD]),
        ("vmmcall", &[0x0f, 0x01, 0xd9], &[UD]),
        ("rsm", &[0x0f, 0xaa], &[UD]),
        ("swapgs", &[0x0f, 0x01, 0xf8], &[GP]),
        ("monitor", &[0x0f, 0x01, 0xc8], &[UD, GP]),
    ];
    for (name, bytes, vectors) in cases {
        let vector = w.code.run(bytes, [0, 0, 0, 0, 0, buffer_address()]).vector();
        hold!(vectors.contains(&vector), "{name}: {vector}");
    }
    let mut long = [0x66_u8; 16];
    long[15] = 0x90;
    same!(run(w, &long[1..]).vector(), NONE, "15 bytes");
    hold!([GP, UD].contains(&run(w, &long).vector()), "16 bytes");
    Ok(())
}

fn beyond_the_limit(w: &mut World) -> Outcome {
    for index in [16_u64, 32, 64, 512, 4096, 8191] {
        for table in [0, 4] {
            let selector = index << 3 | table | 3;
            let fault = w.code.run(&[0x8e, 0xd8], [selector, 0, 0, 0, 0, 0]).fault;
            let found = fault.map(|fault| (fault.vector, fault.error_code));
            same!(found, Some((GP, selector & 0xfffc)), "ds = {selector:#x}");
        }
    }
    Ok(())
}

fn descriptor_tables(w: &mut World) -> Outcome {
    let loads: [(&str, &[u8]); 4] = [
        ("lgdt", &[0x0f, 0x01, 0x17]),
        ("lidt", &[0x0f, 0x01, 0x1f]),
        ("lldt", &[0x0f, 0x00, 0xd0]),
        ("ltr", &[0x0f, 0x00, 0xd8]),
    ];
    for (name, bytes) in loads {
        same!(w.code.run(bytes, [0, 0, 0, 0, 0, buffer_address()]).vector(), GP, "{name}");
    }
    if w.start.features().contains(Features::UMIP) {
        let stores: [(&str, &[u8]); 5] = [
            ("sgdt", &[0x0f, 0x01, 0x07]),
            ("sidt", &[0x0f, 0x01, 0x0f]),
            ("sldt", &[0x0f, 0x00, 0xc0]),
            ("str", &[0x0f, 0x00, 0xc8]),
            ("smsw", &[0x0f, 0x01, 0xe0]),
        ];
        for (name, bytes) in stores {
            same!(w.code.run(bytes, [0, 0, 0, 0, 0, buffer_address()]).vector(), GP, "{name}");
        }
        same!(buffer(0).load(Ordering::Relaxed), 0, "what a store left");
    }
    Ok(())
}

fn bases_that_are_not_canonical(w: &mut World) -> Outcome {
    for base in [SegmentBase::Fs, SegmentBase::KernelGs, SegmentBase::UserGs] {
        for bit in 47..64 {
            for address in [1_u64 << bit, !(1_u64 << bit), (1 << bit) - 1 + (1 << 46)] {
                let sign = address >> 47;
                if sign != 0 && sign != 0x1_ffff {
                    let set = go(SegmentBaseSet { base, address });
                    same!(set, Err(Status::InvalidArgument), "{base:?} = {address:#x}");
                }
            }
        }
    }
    if w.start.features().contains(Features::FSGSBASE) {
        for address in [1_u64 << 47, 1 << 63, 0xffff_0000_0000_0000] {
            // wrfsbase rax; wrgsbase rax
            for bytes in [[0xf3, 0x48, 0x0f, 0xae, 0xd0], [0xf3, 0x48, 0x0f, 0xae, 0xd8]] {
                same!(w.code.run(&bytes, [address, 0, 0, 0, 0, 0]).vector(), GP, "base {address:#x}");
            }
        }
    }
    same!(go(SegmentBaseGet { base: SegmentBase::KernelGs }).map(|pair| pair.1), Ok(w.gs), "GS");
    Ok(())
}

fn base_of_a_null_selector(w: &mut World) -> Outcome {
    let tag = 0x1234_5678_9000;
    same!(go(SegmentBaseSet { base: SegmentBase::Fs, address: tag }), Ok(()), "tag");
    for _ in 0..20 {
        let other = w.accomplice.second(SegmentBaseGet::NUMBER, [SegmentBase::Fs.number(), 0, 0, 0, 0, 0]);
        same!(other, 0, "the other VM's base");
        same!(w.code.run(&[0x8e, 0xe0], [0; 6]).vector(), NONE, "a null selector");
        let own = go(SegmentBaseGet { base: SegmentBase::Fs }).map(|pair| pair.1);
        hold!(matches!(own, Ok(0)) || own == Ok(tag), "own base {own:x?}");
    }
    same!(go(SegmentBaseSet { base: SegmentBase::Fs, address: 0 }), Ok(()), "undo");
    Ok(())
}

/// What `lar`, `lsl`, `verr` and `verw` say of the selectors: those for which they say anything.
fn segment_answers(w: &World) -> Result<alloc::vec::Vec<(u64, usize, u64)>, alloc::string::String> {
    let instructions = [&[0x0f, 0x02, 0xc1][..], &[0x0f, 0x03, 0xc1], &[0x0f, 0x00, 0xe1], &[0x0f, 0x00, 0xe9]];
    let mut answers = alloc::vec::Vec::new();
    for selector in (0..512_u64).flat_map(|index| [index << 3 | 3, index << 3 | 7]) {
        for (number, bytes) in instructions.iter().enumerate() {
            // The instruction on cx, then setz bl.
            let code = [bytes, &[0x0f, 0x94, 0xc3][..]].concat();
            let ran = w.code.run(&code, [0, 0, selector, 0, 0, 0]);
            same!(ran.vector(), NONE, "{selector:#x}");
            answers.extend((ran.registers[1] & 1 != 0).then_some((selector, number, ran.registers[0])));
        }
    }
    Ok(answers)
}

fn what_segments_tell(w: &mut World) -> Outcome {
    let first = segment_answers(w)?;
    hold!(first.len() <= 16, "{} answers", first.len());
    for _ in 0..3 {
        let _ = call::block(Nanos(time::now().0 + 300_000));
        same!(segment_answers(w)?, first, "answers after a switch");
    }
    Ok(())
}

fn model_specific_registers(w: &mut World) -> Outcome {
    let known =
        [0x10_u64, 0x1b, 0x3a, 0x8b, 0x174, 0x175, 0x176, 0x179, 0x1a0, 0x277, 0x2ff, 0x6e0, 0x800, 0x830, 0xda0];
    let more = [
        0xc000_0080_u64,
        0xc000_0081,
        0xc000_0082,
        0xc000_0083,
        0xc000_0084,
        0xc000_0100,
        0xc000_0101,
        0xc000_0102,
        0xc000_0103,
        0x4000_0000,
    ];
    let sampled = (0..256).map(|index| index * 0x0101_0101_u64);
    for index in known.into_iter().chain(more).chain(sampled) {
        same!(w.code.run(&[0x0f, 0x32], [0, 0, index, 0, 0, 0]).vector(), GP, "rdmsr {index:#x}");
        for value in [0, 0xffff_ffff] {
            same!(w.code.run(&[0x0f, 0x30], [value, 0, index, value, 0, 0]).vector(), GP, "wrmsr {index:#x}");
        }
    }
    Ok(())
}

fn extended_control(w: &mut World) -> Outcome {
    for value in (0..1024_u64).chain([0xffff_ffff]) {
        let ran = w.code.run(&[0x0f, 0x01, 0xd1], [value, 0, 0, 0, 0, 0]);
        hold!([GP, UD].contains(&ran.vector()), "xsetbv {value:#x}: {}", ran.vector());
    }
    Ok(())
}

fn debug_control(w: &mut World) -> Outcome {
    for bit in 0..32 {
        same!(w.code.run(&[0x0f, 0x30], [1 << bit, 0, 0x1d9, 0, 0, 0]).vector(), GP, "bit {bit}");
    }
    Ok(())
}

fn ports(w: &mut World) -> Outcome {
    // in al, dx and so on; ins and outs.
    let instructions: [(&str, &[u8]); 10] = [
        ("in al", &[0xec]),
        ("in ax", &[0x66, 0xed]),
        ("in eax", &[0xed]),
        ("out al", &[0xee]),
        ("out ax", &[0x66, 0xef]),
        ("out eax", &[0xef]),
        ("insb", &[0x6c]),
        ("rep insd", &[0xf3, 0x6d]),
        ("outsb", &[0x6e]),
        ("rep outsd", &[0xf3, 0x6f]),
    ];
    let devices = [
        0x20_u64, 0x21, 0x40, 0x43, 0x60, 0x64, 0x70, 0x71, 0x80, 0x92, 0xa0, 0xa1, 0xf4, 0x3f8, 0x3fd, 0xcf8, 0xcf9,
        0xcfc, 0x604, 0xffff,
    ];
    for port in devices {
        for (name, bytes) in instructions {
            let ran = w.code.run(bytes, [0, 0, 1, port, buffer_address(), buffer_address()]);
            same!(ran.fault.map(|fault| (fault.vector, fault.error_code)), Some((GP, 0)), "{name}, port {port:#x}");
        }
    }
    for port in (0..0x1_0000).step_by(37) {
        for (name, bytes) in &instructions[..6] {
            same!(w.code.run(bytes, [0, 0, 0, port, 0, 0]).vector(), GP, "{name}, port {port:#x}");
        }
    }
    Ok(())
}

fn control_registers(w: &mut World) -> Outcome {
    let mut cases = vec![
        ("hlt", vec![0xf4_u8]),
        ("cli", vec![0xfa]),
        ("sti", vec![0xfb]),
        ("clts", vec![0x0f, 0x06]),
        ("wbinvd", vec![0x0f, 0x09]),
        ("invd", vec![0x0f, 0x08]),
        ("invlpg", vec![0x0f, 0x01, 0x3f]),
        ("lmsw", vec![0x0f, 0x01, 0xf0]),
        ("wrmsr", vec![0x0f, 0x30]),
    ];
    for register in [0_u8, 2, 3, 4] {
        cases.push(("mov from cr", vec![0x0f, 0x20, 0xc0 | register << 3]));
        cases.push(("mov to cr", vec![0x0f, 0x22, 0xc0 | register << 3]));
    }
    cases.push(("mov from cr8", vec![0x44, 0x0f, 0x20, 0xc0]));
    for register in [0_u8, 1, 2, 3, 6, 7] {
        cases.push(("mov from dr", vec![0x0f, 0x21, 0xc0 | register << 3]));
        cases.push(("mov to dr", vec![0x0f, 0x23, 0xc0 | register << 3]));
    }
    for (name, bytes) in cases {
        for value in [0, ONES] {
            let ran = w.code.run(&bytes, [value, 0, 0, 0, 0, buffer_address()]);
            same!(ran.vector(), GP, "{name}, rax {value:#x}");
        }
    }
    Ok(())
}

fn deadlines(w: &mut World) -> Outcome {
    let now = time::now().0;
    for deadline in [0, 1, now.wrapping_sub(1), now + 1, 1 << 62, 1 << 63, (1 << 63) - 1, ONES - 1, ONES] {
        for _ in 0..10 {
            same!(go(TimerSet { deadline: Nanos(deadline) }), Ok(()), "deadline {deadline:#x}");
        }
    }
    for deadline in [0, 1, now, now + 1_000] {
        same!(go(Block { deadline: Nanos(deadline) }), Ok(()), "block until {deadline:#x}");
    }
    w.ask_neighbour()?;
    same!(go(TimerSet { deadline: Nanos(if w.is_interrupted { now } else { ONES }) }), Ok(()), "undo");
    Ok(())
}

fn initial_state(w: &mut World) -> Outcome {
    // fxsave: control word, status word, tags; MXCSR at byte 24; registers from byte 32 to 416.
    same!(w.fpu[0] & 0xffff_ffff, 0x037f, "control and status word at the start");
    same!(w.fpu[1], 0, "instruction pointer at the start");
    same!(w.fpu[2], 0, "data pointer at the start");
    same!(w.fpu[3] & 0xffff_ffff, 0x1f80, "MXCSR at the start");
    hold!(w.fpu[4..52].iter().all(|word| *word == 0), "registers at the start: {:x?}", &w.fpu[4..52]);
    // What this life leaves must not be what the next one finds.
    let mut all = All::pattern(0xdead);
    all.spin(1);
    // fninit; fld1; fldpi
    same!(run(w, &[0xdb, 0xe3, 0xd9, 0xe8, 0xd9, 0xeb]).vector(), NONE, "x87");
    Ok(())
}

fn own_state_only(w: &mut World) -> Outcome {
    // fninit; fldpi; fld1; fldz; fstp [rsi]
    same!(w.code.run(&[0xdb, 0xe3, 0xd9, 0xeb, 0xd9, 0xe8], [0; 6]).vector(), NONE, "load");
    let image = |w: &World| {
        set_buffer(&[0; 64]);
        let ran = w.code.run(&[0x48, 0x0f, 0xae, 0x07], [0, 0, 0, 0, 0, buffer_address()]);
        let words: [u64; 52] = core::array::from_fn(|word| buffer(word).swap(0, Ordering::Relaxed));
        (ran.vector(), words)
    };
    let before = image(w);
    for _ in 0..20 {
        let _ = call::block(Nanos(time::now().0 + 100_000));
        same!(w.accomplice.call(Info::NUMBER, [0; 6]).is_ok(), true, "the other VM runs");
        same!(image(w), before, "state");
    }
    same!(run(w, &[0xdb, 0xe3]).vector(), NONE, "fninit");
    Ok(())
}

fn bad_images(w: &mut World) -> Outcome {
    for bit in 16..32 {
        set_buffer(&[0x037f, 0, 0, 0x1f80 | 1 << bit]);
        // fxrstor [rdi]; ldmxcsr [rdi + 24]
        for bytes in [&[0x0f, 0xae, 0x0f][..], &[0x0f, 0xae, 0x57, 0x18]] {
            let vector = w.code.run(bytes, [0, 0, 0, 0, 0, buffer_address()]).vector();
            // Emulators may not check reserved bits; then it is the guest's own value.
            hold!([GP, NONE].contains(&vector), "MXCSR bit {bit}: {vector}");
            let _ = call::yield_cpu();
        }
    }
    // xrstor of a header with every bit set.
    set_buffer(&[ONES; 80]);
    let ran = w.code.run(&[0x0f, 0xae, 0x2f], [ONES, 0, 0, ONES, 0, buffer_address()]);
    hold!([GP, UD, NONE].contains(&ran.vector()), "xrstor: {}", ran.vector());
    set_buffer(&[0x1f80, 0]);
    same!(w.code.run(&[0xdb, 0xe3, 0x0f, 0xae, 0x17], [0, 0, 0, 0, 0, buffer_address()]).vector(), NONE, "undo");
    set_buffer(&[0; 80]);
    Ok(())
}

fn protection_keys(w: &mut World) -> Outcome {
    hold!([UD, GP].contains(&run(w, &[0x0f, 0x01, 0xee]).vector()), "rdpkru");
    hold!([UD, GP].contains(&run(w, &[0x0f, 0x01, 0xef]).vector()), "wrpkru");
    Ok(())
}

fn pending_exception(w: &mut World) -> Outcome {
    // fninit; fldcw [rdi]; fld1; fldz; fdivp; syscall; fwait
    set_buffer(&[0x037b]);
    let code = [0xdb, 0xe3, 0xd9, 0x2f, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x0f, 0x05, 0x9b];
    for number in [guest_sdk::protocol::call::YieldCpu::NUMBER, Info::NUMBER] {
        for _ in 0..20 {
            let ran = w.code.run(&code, [number, 0, 0, 0, 0, buffer_address()]);
            same!(ran.vector(), 16, "a pending exception after call {number}");
            // fnclex; fninit
            same!(run(w, &[0xdb, 0xe2, 0xdb, 0xe3]).vector(), NONE, "clear");
        }
    }
    set_buffer(&[0]);
    Ok(())
}

fn tags_of_one_vm(w: &mut World) -> Outcome {
    same!(go(SegmentBaseSet { base: SegmentBase::Fs, address: 0x7a67_0000 }), Ok(()), "fs");
    same!(go(SegmentBaseSet { base: SegmentBase::UserGs, address: 0x7a67_1000 }), Ok(()), "user gs");
    for index in 0..4 {
        same!(call::debug_register_set(index, 0x7a67_2000 + index * 8), Ok(()), "dr{index}");
    }
    same!(call::debug_register_set(7, 0x55), Ok(()), "dr7");
    for _ in 0..10 {
        let mut all = All::pattern(0x7a67);
        all.spin(10);
        for base in [SegmentBase::Fs, SegmentBase::UserGs] {
            let other = w.accomplice.second(SegmentBaseGet::NUMBER, [base.number(), 0, 0, 0, 0, 0]);
            same!(other, 0, "{base:?} of the other VM");
        }
        for (index, initial) in [(0, 0), (1, 0), (2, 0), (3, 0), (6, 0xffff_0ff0), (7, 0x400)] {
            let other = w.accomplice.second(DebugRegisterGet::NUMBER, [index, 0, 0, 0, 0, 0]);
            same!(other, initial, "dr{index} of the other VM");
        }
    }
    for index in [7, 0, 1, 2, 3] {
        same!(wild::call(DebugRegisterSet::NUMBER, [index, 0, 0, 0, 0, 0]), Ok(0), "undo");
    }
    same!(go(SegmentBaseSet { base: SegmentBase::Fs, address: 0 }), Ok(()), "undo");
    same!(go(SegmentBaseSet { base: SegmentBase::UserGs, address: 0 }), Ok(()), "undo");
    Ok(())
}

fn privileged_in_user_mode(_w: &mut World) -> Outcome {
    let instructions: [(&str, &[u8]); 12] = [
        ("hlt", &[0xf4]),
        ("cli", &[0xfa]),
        ("mov cr3", &[0x0f, 0x22, 0xd8]),
        ("mov from cr0", &[0x0f, 0x20, 0xc0]),
        ("mov dr7", &[0x0f, 0x23, 0xf8]),
        ("in", &[0xe4, 0x70]),
        ("out", &[0xe6, 0x70]),
        ("lgdt", &[0x0f, 0x01, 0x14, 0x24]),
        ("wrmsr", &[0x0f, 0x30]),
        ("invlpg", &[0x0f, 0x01, 0x3f]),
        ("swapgs", &[0x0f, 0x01, 0xf8]),
        ("far jump", &[0x48, 0xff, 0x2c, 0x24]),
    ];
    for (name, bytes) in instructions {
        let mut program = Program::new(bytes).map_err(|status| format!("{status}"))?;
        program.context = UserContext::new(program::CODE, program::STACK_TOP - 64);
        let exit = program.run_on();
        hold!(matches!(exit, Ok(Exit::Fault(fault)) if fault.vector == GP), "{name}: {exit:?}");
        same!(call::space_switch(FIRST), Ok(()), "go back");
    }
    Ok(())
}

fn instructions_at_the_edge(w: &mut World) -> Outcome {
    // An instruction that begins on the last byte of a page behind which there is nothing.
    for (offset, bytes) in [(4095, &[0x48][..]), (4094, &[0x66, 0x66]), (4095, &[0x0f]), (4093, &[0x48, 0xb8, 0x00])] {
        w.code.put(offset, bytes);
        let ran = w.code.run_at(0x7000_0000 + offset as u64, [0; 6]);
        let fault = ran.fault.map(|fault| (fault.vector, fault.address, fault.rip));
        same!(fault, Some((PF, 0x7000_1000, 0x7000_0000 + offset as u64)), "at offset {offset}");
    }
    // Jumps to where no code can be.
    for target in [0, LOWER_END, HYPERVISOR_START, KERNEL_START, ONES & !0xfff] {
        let ran = w.code.run(&[0xff, 0xe7], [0, 0, 0, 0, 0, target]);
        same!(ran.fault.map(|fault| (fault.vector, fault.address)), Some((PF, target)), "jump to {target:#x}");
    }
    for target in [1 << 47, 1 << 63] {
        same!(w.code.run(&[0xff, 0xe7], [0, 0, 0, 0, 0, target]).vector(), GP, "jump to {target:#x}");
    }
    Ok(())
}

fn prefixes(w: &mut World) -> Outcome {
    // Prefixes before `syscall` mean nothing; it is one call.
    for prefix in [0x66, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x67, 0x48, 0x4f] {
        let topic = InfoTopic::OwnVm.number();
        let ran = w.code.run(&[prefix, 0x0f, 0x05], [Info::NUMBER, 0, 0, 0, 0, topic]);
        hold!([NONE, UD].contains(&ran.vector()), "prefix {prefix:#x}: {}", ran.vector());
        if ran.fault.is_none() {
            same!(ran.registers[0], u64::from(w.start.vm), "the call with prefix {prefix:#x}");
        }
    }
    Ok(())
}

/// No address of the hypervisor's can be read, written or executed, whatever lies there.
fn hypervisor_memory(w: &mut World) -> Outcome {
    let mut at = HYPERVISOR_START;
    let mut step = 1_u64 << 12;
    while at < KERNEL_START {
        hold!(w.code.read(at).err().is_some_and(|fault| fault.vector == PF), "{at:#x} was read");
        hold!(w.code.write(at, 0).err().is_some_and(|fault| fault.vector == PF), "{at:#x} was written");
        let ran = w.code.run(&[0xff, 0xe7], [0, 0, 0, 0, 0, at]);
        same!(ran.vector(), PF, "{at:#x} was executed");
        at += step;
        // Ever wider steps, and the whole sixteen slots in the end.
        step += step / 64;
        step &= !0xfff;
        step = step.clamp(0x1000, 1 << 36);
        if at & 0x1f_f000 == 0 {
            step += 0x1000;
        }
    }
    Ok(())
}

fn no_handler(w: &mut World) -> Outcome {
    same!(trap::clear_handler(UD), Ok(()), "no handler");
    same!(remove(UD), Ok(()), "no entry");
    run(w, &[0x0f, 0x0b]);
    Ok(())
}

fn remove(vector: u8) -> Result<(), Status> {
    set_handler(vector, 0)
}

fn set_handler(vector: u8, handler: u64) -> Result<(), Status> {
    let entry = [TrapEntry { vector: u32::from(vector), flags: 0, handler }];
    go(TrapTableSet { table: GuestVirt(entry.as_ptr().expose_provenance() as u64), count: 1 })
}

fn no_handler_for_a_page_fault(w: &mut World) -> Outcome {
    same!(remove(PF), Ok(()), "no entry");
    let _ = w.code.read(0x10);
    Ok(())
}

fn no_entry_for_system_calls(_w: &mut World) -> Outcome {
    same!(go(EntryPointsSet { syscall: GuestVirt(0), event: GuestVirt(0) }), Ok(()), "no entry");
    let _ = Program::new(&[0x0f, 0x05]).and_then(|mut program| program.run());
    Ok(())
}

/// ud2 with rsp anywhere.
fn fault_at(w: &World, stack: u64) -> Outcome {
    let _masked = event::masked();
    w.code.run(&[0x48, 0x89, 0xfc, 0x0f, 0x0b], [0, 0, 0, 0, 0, stack]);
    Ok(())
}

fn stack_at_zero(w: &mut World) -> Outcome {
    fault_at(w, 0)
}

fn stack_at_the_border(w: &mut World) -> Outcome {
    fault_at(w, KERNEL_START + 100)
}

fn stack_read_only(w: &mut World) -> Outcome {
    fault_at(w, code_address() & !15)
}

fn stack_of_the_hypervisor(w: &mut World) -> Outcome {
    fault_at(w, HYPERVISOR_START + (2 << 39))
}

fn kernel_stack_in_the_lower_half(w: &mut World) -> Outcome {
    let program = Program::new(&[0x0f, 0x0b]).map_err(|status| format!("{status}"))?;
    same!(map(program.space.id(), PLACE, w.loose, 1, WRITE), Ok(1), "a stack");
    same!(program.space.make_current(), Ok(()), "go there");
    event::mask();
    Vcpu::current().page().kernel_stack.store(PLACE + 4096, Ordering::Relaxed);
    let info = frame_info::USER | frame_info::MASKED;
    let mut frame = TrapFrame { rip: program::CODE, rsp: program::STACK_TOP, info, ..TrapFrame::default() };
    resume(&mut frame, false);
    Ok(())
}

fn handler_absent(w: &mut World) -> Outcome {
    let nowhere = KERNEL_START + (1 << 40);
    same!(set_handler(UD, nowhere), Ok(()), "a handler that is not there");
    same!(set_handler(PF, nowhere), Ok(()), "nor the other");
    run(w, &[0x0f, 0x0b]);
    Ok(())
}

fn fault_in_each_handler(w: &mut World) -> Outcome {
    // The handler of page faults reads what is not mapped.
    static MISSING: AtomicU64 = AtomicU64::new(0x10);
    trap::set_handler(PF, |_| {
        let _ = touch(MISSING.load(Ordering::Relaxed), 1);
        execute::lose_stack();
    })
    .map_err(|status| format!("{status}"))?;
    let _ = w.code.read(0x10);
    Ok(())
}
