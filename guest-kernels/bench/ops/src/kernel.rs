//! All measurements, in the order of the report.

use core::sync::atomic::{AtomicBool, Ordering};

use guest_sdk::channel::ChannelError;
use guest_sdk::event::Event;
use guest_sdk::protocol::flags::InfoTopic;
use guest_sdk::{StartInfo, Status, VcpuId, call, console, event, println, smp, trap};

use crate::meter::{measure, report};
use crate::{bare, memory, peer, user};

pub fn main(start: &'static StartInfo) -> u64 {
    match run(start) {
        Ok(()) => {
            println!("bench: done");
            0
        }
        Err(error) => {
            println!("bench: {error}");
            1
        }
    }
}

fn run(start: &StartInfo) -> Result<(), ChannelError> {
    report("hypercall-null", measure(bare::null_call));
    report(
        "hypercall-info",
        measure(|| {
            let _ = call::info(InfoTopic::Version);
        }),
    );
    let one = measure(|| {
        let _ = call::console_write(b".");
    });
    // The line with the dots ends before the result has one of its own.
    console::write(b"\n");
    report("console-write-1", one);
    report(
        "console-write-64",
        measure(|| {
            let _ = call::console_write(&LINE);
        }),
    );
    events()?;
    exceptions()?;
    user::measure_all()?;
    memory::measure_all()?;
    vcpus()?;
    peer::measure_all(start)
}

/// 63 characters and a line end.
const LINE: [u8; 64] = {
    let mut line = [b'.'; 64];
    line[63] = b'\n';
    line
};

fn events() -> Result<(), Status> {
    let event = Event::new(smp::current())?;
    report(
        "event-self-masked",
        measure(|| {
            let _ = event.send();
        }),
    );
    event.on_event(|_| ());
    event::unmask();
    report(
        "event-self",
        measure(|| {
            let _ = event.send();
        }),
    );
    event::mask();
    Ok(())
}

fn exceptions() -> Result<(), Status> {
    bare::install()?;
    report("exception", measure(bare::undefined));
    bare::remove()?;
    guest_sdk::raw::trap::install_entry_points()?;
    trap::set_handler(trap::INVALID_OPCODE, |context| context.frame.rip += 2)?;
    report("exception-sdk", measure(bare::undefined));
    trap::clear_handler(trap::INVALID_OPCODE)
}

static STOP: AtomicBool = AtomicBool::new(false);

/// Two vCPUs that give way to each other; on more than one CPU there is nothing to give way to.
fn vcpus() -> Result<(), Status> {
    smp::spawn(VcpuId(1), || {
        while !STOP.load(Ordering::Relaxed) {
            let _ = call::yield_cpu();
        }
    })?;
    let round = measure(|| {
        let _ = call::yield_cpu();
    });
    report("vcpu-switch", round / 2);
    STOP.store(true, Ordering::Relaxed);
    let _ = call::yield_cpu();
    Ok(())
}
