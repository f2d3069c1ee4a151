//! Handlers, entry points and `resume`.

use core::sync::atomic::Ordering;

use guest_sdk::event::{self, Event};
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{Block, EntryPointsSet, Resume, TrapTableSet};
use guest_sdk::protocol::layout::{HYPERVISOR_START, LOWER_END};
use guest_sdk::protocol::shared::{RESUME_FLAGS, TrapEntry, TrapFrame, frame_info};
use guest_sdk::raw::vcpu::Vcpu;
use guest_sdk::{GuestVirt, Nanos, Status, raw, smp, time, trap};

use crate::assembly::{self, PATTERNS, at};
use crate::case::Outcome;
use crate::parts::phoenix;
use crate::scene;
use crate::{ensure, ensure_eq, record};

crate::cases! {
    TrapTableSet "others keep their handler" ["TRP-1"] [] keep_handlers;
    TrapTableSet "handler 0 removes" ["TRP-1"] [] remove_handler;
    TrapTableSet "all or none" ["TRP-2"] [InvalidArgument BadAddress] all_or_none;
    TrapTableSet "no handler is the end" ["TRP-3"] [] no_handler;
    EntryPointsSet "events wait without an entry" ["TRP-4"] [] no_event_entry;
    EntryPointsSet "no entry for system calls" ["TRP-5"] [] no_system_call_entry;
    Resume "registers of the frame" ["TRP-6"] [] resume_registers;
    Resume "a pending event comes first" ["TRP-7"] [] resume_into_event;
    Resume "frames that go nowhere" ["TRP-8"] [BadAddress] resume_nowhere;
}

const OPCODE: u32 = trap::INVALID_OPCODE as u32;

fn entry(vector: u32, handler: u64) -> TrapEntry {
    TrapEntry { vector, flags: 0, handler }
}

fn set(entries: &[TrapEntry]) -> Result<(), Status> {
    record::make(table_of(entries))
}

fn table_of(entries: &[TrapEntry]) -> TrapTableSet {
    TrapTableSet { table: GuestVirt(entries.as_ptr().addr() as u64), count: entries.len() as u64 }
}

/// Raises an exception with two handlers to choose from: how often each ran.
fn raise() -> [u64; 2] {
    let before = assembly::skips();
    assembly::undefined();
    let after = assembly::skips();
    [after[0] - before[0], after[1] - before[1]]
}

/// Lets the SDK have the exception again.
fn restore() -> Outcome {
    Ok(trap::set_handler(trap::INVALID_OPCODE, |context| context.frame.rip += 2)?)
}

fn keep_handlers() -> Outcome {
    let [first, second] = assembly::bare_handlers();
    set(&[entry(OPCODE, first)])?;
    ensure_eq!(raise(), [1, 0], "handlers that ran");
    set(&[entry(u32::from(trap::OVERFLOW), second)])?;
    set(&[])?;
    ensure_eq!(raise(), [1, 0], "handlers that ran after others were set");
    set(&[entry(OPCODE, second)])?;
    ensure_eq!(raise(), [0, 1], "handlers that ran after it was replaced");
    set(&[entry(u32::from(trap::OVERFLOW), 0)])?;
    ensure_eq!(raise(), [0, 1], "handlers that ran after another was removed");
    restore()
}

fn all_or_none() -> Outcome {
    let [first, second] = assembly::bare_handlers();
    set(&[entry(OPCODE, first)])?;
    let refused = [
        (entry(2, second), Status::InvalidArgument),
        (entry(8, second), Status::InvalidArgument),
        (entry(18, second), Status::InvalidArgument),
        (entry(32, second), Status::InvalidArgument),
        (entry(u32::MAX, second), Status::InvalidArgument),
        (TrapEntry { flags: 1, ..entry(OPCODE, second) }, Status::InvalidArgument),
        (entry(OPCODE, 1), Status::BadAddress),
        (entry(OPCODE, 0x1000), Status::BadAddress),
        (entry(OPCODE, HYPERVISOR_START), Status::BadAddress),
        (entry(OPCODE, u64::MAX), Status::BadAddress),
    ];
    for (bad, status) in refused {
        scene::refuse(table_of(&[entry(OPCODE, second), bad]), status)?;
        ensure_eq!(raise(), [1, 0], "handlers that ran after a table was refused for {bad:?}");
    }
    restore()
}

/// The phoenix dies of what it is asked for, and its next life answers.
fn die(way: u32) -> Outcome {
    let board = scene::helper("phoenix")?;
    let answer = board.ask(way, &[])?;
    ensure!(answer.is_ok(), "the VM lives on");
    Ok(())
}

fn remove_handler() -> Outcome {
    die(phoenix::REMOVED)?;
    // The call itself was made by the other VM.
    set(&[])?;
    Ok(())
}

fn no_handler() -> Outcome {
    die(phoenix::UNHANDLED)
}

fn no_system_call_entry() -> Outcome {
    die(phoenix::SYSTEM_CALL)
}

fn no_event_entry() -> Outcome {
    let page = Vcpu::current().page();
    let event = Event::new(smp::current())?;
    record::make(EntryPointsSet { syscall: GuestVirt(0), event: GuestVirt(0) })?;
    page.events_masked.store(0, Ordering::SeqCst);
    let sent = event.send();
    let end = Nanos(time::now().0 + 5_000_000_000);
    let blocked = record::make(Block { deadline: end });
    let is_pending = page.pending.iter().any(|word| word.load(Ordering::SeqCst) != 0);
    event::mask();
    raw::trap::install_entry_points()?;
    sent?;
    blocked?;
    ensure!(is_pending, "the event does not stay pending");
    ensure!(time::now() < end, "`block` does not see it");
    event::dispatch();
    ensure!(event.take(), "the event was lost");
    Ok(())
}

/// A frame with a value of its own everywhere, that keeps events masked.
fn frame() -> TrapFrame {
    TrapFrame {
        rax: 0x1111,
        rcx: 0x2222,
        r11: 0x3333,
        rflags: 0xc5 | 1 << 11 | 1 << 18 | 1 << 21,
        info: frame_info::MASKED,
        ..TrapFrame::default()
    }
}

/// Resumes through a frame, and compares what every register then holds.
fn resume(frame: &mut TrapFrame) -> Outcome {
    let mut registers = PATTERNS;
    assembly::resume_through(frame, &mut registers);
    record::note(Resume::NUMBER, if registers[at::RAX] == frame.rax { 0 } else { registers[at::RAX] });
    for (index, (found, pattern)) in registers.into_iter().zip(PATTERNS).enumerate() {
        match index {
            at::RAX => ensure_eq!(found, frame.rax, "rax"),
            at::RCX => ensure_eq!(found, frame.rcx, "rcx"),
            at::R11 => ensure_eq!(found, frame.r11, "r11"),
            at::FLAGS => {
                ensure_eq!(found & RESUME_FLAGS, frame.rflags & RESUME_FLAGS, "flags of the frame");
                ensure_eq!(found & !RESUME_FLAGS, 0x202, "flags that no frame gives");
            }
            _ => ensure_eq!(found, pattern, "register {index}"),
        }
    }
    Ok(())
}

fn resume_registers() -> Outcome {
    resume(&mut frame())?;
    // What the frame's other flags say is not taken: interrupts off, I/O privilege, nested task.
    resume(&mut TrapFrame { rflags: 0x7000, ..frame() })?;
    let page = Vcpu::current().page();
    ensure!(page.events_masked.load(Ordering::SeqCst) != 0, "the frame keeps events masked");
    resume(&mut TrapFrame { info: 0, ..frame() })?;
    let masked = page.events_masked.swap(1, Ordering::SeqCst);
    ensure_eq!(masked, 0, "the frame unmasks events");
    Ok(())
}

fn resume_into_event() -> Outcome {
    let event = Event::new(smp::current())?;
    event.send()?;
    let entry = GuestVirt(assembly::bare_event_entry(0));
    record::make(EntryPointsSet { syscall: GuestVirt(0), event: entry })?;
    let mut frame = TrapFrame { info: 0, ..frame() };
    let resumed = resume(&mut frame);
    event::mask();
    raw::trap::install_entry_points()?;
    resumed?;
    let seen = assembly::upcalls();
    ensure_eq!(seen.count, 1, "upcalls");
    let interrupted = (seen.rip, seen.rsp, seen.rax, seen.info & frame_info::MASKED);
    ensure_eq!(interrupted, (frame.rip, frame.rsp, frame.rax, 0), "the interrupted state");
    Ok(())
}

fn resume_nowhere() -> Outcome {
    let refused = |rax: u64| {
        record::note(Resume::NUMBER, rax);
        Status::check_register(rax)
    };
    for bad in [0, 0x1000, HYPERVISOR_START, 1 << 47, u64::MAX - 7] {
        ensure_eq!(refused(assembly::resume_at(bad)), Err(Status::BadAddress), "a frame at {bad:#x}");
    }
    let (code, buffer) = (scene::code(), scene::buffer());
    let frame = |rip, rsp, info| TrapFrame { rip, rsp, info, ..TrapFrame::default() };
    let frames = [
        ("user mode at kernel code", frame(code, 0x1000, frame_info::USER)),
        ("user mode on a kernel stack", frame(0x1000, buffer, frame_info::USER)),
        ("user mode in the last page", frame(LOWER_END, 0x1000, frame_info::USER)),
        ("kernel mode in the hypervisor", frame(HYPERVISOR_START, buffer, 0)),
        ("kernel mode in the hole", frame(1 << 47, buffer, 0)),
        ("kernel mode with a stack of the hypervisor's", frame(code, HYPERVISOR_START, 0)),
        ("kernel mode with a stack in the hole", frame(code, 1 << 63, 0)),
    ];
    for (what, frame) in frames {
        let rax = assembly::resume_at((&raw const frame).addr() as u64);
        ensure_eq!(refused(rax), Err(Status::BadAddress), "{what}");
    }
    Ok(())
}
