//! Giving up the CPU, sleeping, ending; starting, stopping and kicking vCPUs.

use alloc::vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use guest_sdk::event::{self, Event};
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{
    Block, EntryPointsSet, EventAlloc, EventClose, EventSend, Exit, VcpuKick, VcpuStart, VcpuStop, YieldCpu,
};
use guest_sdk::raw::vcpu::Vcpu;
use guest_sdk::{GuestVirt, Nanos, Status, call, raw, smp, time, trap};

use crate::assembly::{self, at};
use crate::case::Outcome;
use crate::parts::leaver;
use crate::scene::{self, SECOND};
use crate::{board, ensure, ensure_eq, record};

crate::cases! {
    YieldCpu "lets others run and comes back" ["SCH-1"] [] yielding;
    Block "over a pending event" ["SCH-2"] [] block_over_event;
    Block "until a time that has passed" ["SCH-3"] [] block_until_past;
    Exit "ends the VM" ["SCH-4"] [] exit;
    VcpuStart "state of a fresh vCPU" ["SCH-5"] [] fresh_vcpu;
    VcpuStart "a vCPU that runs" ["SCH-6"] [WrongState] start_running;
    VcpuStop "nothing more is executed" ["SCH-7"] [] stop;
    VcpuStop "a stopped vCPU" ["SCH-8"] [WrongState] stop_stopped;
    VcpuKick "none is lost" ["SCH-9"] [] kicks;
    VcpuKick "a stopped vCPU" ["SCH-10"] [WrongState] kick_stopped;
}

/// Long enough that no sleep that should not be is taken for one that should.
const LONG: u64 = 5_000_000_000;

fn in_long() -> Nanos {
    Nanos(time::now().0 + LONG)
}

static FLAG: AtomicU32 = AtomicU32::new(0);

fn yielding() -> Outcome {
    FLAG.store(0, Ordering::SeqCst);
    scene::second(|| FLAG.store(1, Ordering::SeqCst))?;
    let end = in_long();
    while FLAG.load(Ordering::SeqCst) == 0 {
        record::make(YieldCpu {})?;
        ensure!(time::now() < end, "a ready vCPU never runs");
    }
    scene::wait_stopped()?;
    let begin = time::now();
    for _ in 0..10 {
        record::make(YieldCpu {})?;
    }
    ensure!(time::now().0 < begin.0 + LONG, "with no other vCPU ready it did not come back at once");
    Ok(())
}

fn block_over_event() -> Outcome {
    let event = Event::new(smp::current())?;
    event.send()?;
    let end = in_long();
    record::make(Block { deadline: end })?;
    ensure!(time::now() < end, "slept over a pending event with upcalls masked");
    // No entry, so that it stays pending although upcalls are not masked.
    record::make(EntryPointsSet { syscall: GuestVirt(0), event: GuestVirt(0) })?;
    Vcpu::current().page().events_masked.store(0, Ordering::SeqCst);
    let blocked = record::make(Block { deadline: end });
    event::mask();
    raw::trap::install_entry_points()?;
    blocked?;
    ensure!(time::now() < end, "slept over a pending event with upcalls unmasked");
    event::dispatch();
    ensure!(event.take(), "the event was lost");
    let short = Nanos(time::now().0 + 1_000_000);
    record::make(Block { deadline: short })?;
    ensure!(time::now() >= short, "with nothing pending it came back before the deadline");
    Ok(())
}

fn block_until_past() -> Outcome {
    for deadline in [Nanos(0), Nanos(1), Nanos(time::now().0 - 1)] {
        let begin = time::now().0;
        record::make(Block { deadline })?;
        ensure!(time::now().0 < begin + LONG, "slept until {deadline}, which has passed");
    }
    Ok(())
}

/// The leaver's last words, a line without its end, are looked for by who reads the console.
fn exit() -> Outcome {
    let board = scene::have_leaver_end()?;
    ensure_eq!(board.note(leaver::SURVIVED), 0, "`exit` came back");
    record::note(Exit::NUMBER, 0);
    Ok(())
}

/// Starts the second vCPU in code that uses nothing of the SDK.
fn start_bare() -> Outcome {
    let stack = vec![0_u64; 512].leak();
    let top = stack.as_mut_ptr_range().end.expose_provenance() as u64 & !15;
    let entry = GuestVirt(assembly::bare_agent());
    Ok(record::make(VcpuStart { vcpu: SECOND, entry, stack: GuestVirt(top), argument: 0x1234_5678 })?)
}

static SKIPPED: AtomicU32 = AtomicU32::new(0);

fn fresh_vcpu() -> Outcome {
    scene::wait_stopped()?;
    SKIPPED.store(0, Ordering::SeqCst);
    trap::set_handler(trap::INVALID_OPCODE, |context| {
        SKIPPED.fetch_add(1, Ordering::SeqCst);
        context.frame.rip += 2;
    })?;
    let port = record::make(EventAlloc { vcpu: SECOND })?;
    record::make(EventSend { port })?;
    let entry = GuestVirt(assembly::bare_event_entry(1));
    record::make(EntryPointsSet { syscall: GuestVirt(0), event: entry })?;
    let started = start_bare();
    raw::trap::install_entry_points()?;
    started?;
    scene::wait_stopped()?;
    record::make(EventClose { port })?;
    for (index, value) in assembly::agent_registers().into_iter().enumerate().take(at::FLAGS) {
        let wanted = if index == at::RDI { 0x1234_5678 } else { 0 };
        ensure_eq!(value, wanted, "register {index} of a fresh vCPU");
    }
    ensure_eq!(SKIPPED.load(Ordering::SeqCst), 1, "exceptions taken by the starter's table");
    ensure_eq!(assembly::upcalls().count, 1, "events taken by the starter's entry");
    Ok(())
}

fn start_running() -> Outcome {
    scene::refuse(start_call(smp::current()), Status::WrongState)?;
    FLAG.store(0, Ordering::SeqCst);
    scene::second(|| while FLAG.load(Ordering::SeqCst) == 0 {})?;
    let refused = scene::refuse(start_call(SECOND), Status::WrongState);
    FLAG.store(1, Ordering::SeqCst);
    refused
}

fn start_call(vcpu: guest_sdk::VcpuId) -> VcpuStart {
    VcpuStart { vcpu, entry: GuestVirt(scene::code()), stack: GuestVirt(scene::buffer()), argument: 0 }
}

static TURNS: AtomicU64 = AtomicU64::new(0);

fn stop() -> Outcome {
    for _ in 0..5 {
        let begin = TURNS.load(Ordering::SeqCst);
        scene::second(|| {
            loop {
                TURNS.fetch_add(1, Ordering::SeqCst);
            }
        })?;
        board::wait("the second vCPU does not run", || TURNS.load(Ordering::SeqCst) > begin + 1000)?;
        record::make(VcpuStop { vcpu: SECOND })?;
        let turns = TURNS.load(Ordering::SeqCst);
        for _ in 0..20 {
            board::pause();
        }
        ensure_eq!(TURNS.load(Ordering::SeqCst), turns, "turns of a stopped vCPU");
    }
    Ok(())
}

fn stop_stopped() -> Outcome {
    scene::wait_stopped()?;
    scene::refuse(VcpuStop { vcpu: SECOND }, Status::WrongState)
}

fn kick_stopped() -> Outcome {
    scene::wait_stopped()?;
    scene::refuse(VcpuKick { vcpu: SECOND }, Status::WrongState)
}

static ROUND: AtomicU32 = AtomicU32::new(0);

/// The sleeper looks at a word and then sleeps; the other changes the word and then kicks.
fn kicks() -> Outcome {
    const ROUNDS: u32 = 100;
    let own = smp::current();
    record::make(VcpuKick { vcpu: own })?;
    let end = in_long();
    record::make(Block { deadline: end })?;
    ensure!(time::now() < end, "slept over a kick");
    // Two are as one, and are kept while the vCPU does other things.
    record::make(VcpuKick { vcpu: own })?;
    record::make(VcpuKick { vcpu: own })?;
    let begin = time::now().0;
    while time::now().0 < begin + 2_000_000 {
        call::yield_cpu()?;
    }
    record::make(Block { deadline: end })?;
    ensure!(time::now() < end, "slept over two kicks");
    let short = Nanos(time::now().0 + 1_000_000);
    record::make(Block { deadline: short })?;
    ensure!(time::now() >= short, "the second of two kicks ended another block");
    ROUND.store(0, Ordering::SeqCst);
    FLAG.store(0, Ordering::SeqCst);
    scene::second(move || {
        for round in 1..=ROUNDS {
            ROUND.store(round, Ordering::SeqCst);
            if record::make(VcpuKick { vcpu: own }).is_err() {
                return;
            }
            while FLAG.load(Ordering::SeqCst) < round {
                let _ = call::yield_cpu();
            }
        }
    })?;
    for round in 1..=ROUNDS {
        let end = in_long();
        while ROUND.load(Ordering::SeqCst) < round {
            record::make(Block { deadline: end })?;
            ensure!(time::now() < end, "kick {round} was lost");
        }
        FLAG.store(round, Ordering::SeqCst);
    }
    scene::wait_stopped()
}
