//! The sender. For the other bit it does something that takes as much of the CPU where it can, so that the resource in
//! question is what differs.

use functional_support::wild;
use guest_sdk::event::{self, Event};
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{GrantMap, GrantUnmap};
use guest_sdk::protocol::flags::{EventSource, InfoTopic};
use guest_sdk::space::Space;
use guest_sdk::{Status, VcpuId, call, smp};

use crate::kernel::{BELL, LOW, Plan, clock, die, sleep_until, spin_until};

/// Where the other VM's page is mapped.
const PLACE: u64 = 0x10_0000_0000;
/// Bits of a grant's reference that number its slot.
const SLOT_BITS: u32 = guest_sdk::protocol::layout::limit::GRANTS.trailing_zeros();

/// Sends all symbols that are still to come.
pub fn all(plan: &Plan) -> Result<(), Status> {
    let bell = if plan.channel == "event" { Some(Event::bound(EventSource::Channel, BELL)?) } else { None };
    if ["cpu", "wake", "steal"].contains(&plan.channel) {
        for vcpu in 1..smp::count() {
            let plan = *plan;
            smp::spawn(VcpuId(vcpu), move || {
                sleep_until(plan.start);
                (0..plan.symbols).for_each(|symbol| occupy(plan.bit(symbol), plan.begin(symbol + 1)));
            })?;
        }
    }
    sleep_until(plan.start);
    // A VM that was built again goes on with the next symbol.
    let first = if clock() > plan.begin(1) { plan.now() + 1 } else { 0 };
    sleep_until(plan.begin(first));
    for symbol in first..plan.symbols {
        one(plan, symbol, bell.as_ref())?;
        spin_until(plan.begin(symbol + 1));
    }
    Ok(())
}

/// Takes a CPU, or leaves it.
fn occupy(bit: bool, end: u64) {
    if bit { spin_until(end) } else { sleep_until(end) }
}

/// Sends one symbol.
fn one(plan: &Plan, symbol: u64, bell: Option<&Event>) -> Result<(), Status> {
    let bit = plan.bit(symbol);
    let end = plan.begin(symbol + 1);
    let again = |action: &dyn Fn()| {
        while clock() + plan.period / 16 < end {
            action();
        }
    };
    match plan.channel {
        "cpu" | "wake" | "steal" => occupy(bit, end),
        // Asleep, so that an event has to wake it, or awake.
        "event" if bit => {
            while clock() < end {
                if let Some(bell) = bell {
                    bell.take();
                }
                sleep_until_event(end);
            }
        }
        "event" => again(&|| {
            bell.map(Event::take);
        }),
        "console" if bit => again(&|| {
            let _ = call::console_write(&[b'.'; 900]);
        }),
        "audit" if bit => again(&|| {
            let _ = wild::call(GrantUnmap::NUMBER, [63, 0, 0, 0, 0, 0]);
        }),
        "memory" if bit => again(&|| drop(Space::new())),
        "grant" if bit => map_and_keep(symbol, end),
        "rebuild" if bit => die(),
        // In the middle of the symbol, between two lives of the receiver.
        "search" if bit => {
            spin_until(plan.begin(symbol) + plan.period / 2);
            die()
        }
        _ => again(&|| {
            let _ = call::info(InfoTopic::PoolFrames);
        }),
    }
    Ok(())
}

/// Sleeps until an event or then.
fn sleep_until_event(end: u64) {
    let now = clock();
    event::sleep_once(guest_sdk::Nanos(guest_sdk::time::now().0 + end.saturating_sub(now)));
}

/// Maps what the receiver grants in this symbol, until the receiver takes it back.
fn map_and_keep(symbol: u64, end: u64) {
    let reference = symbol << SLOT_BITS;
    let arguments = [LOW.0.into(), reference, 0, PLACE, 0, 0];
    while clock() < end && wild::call(GrantMap::NUMBER, arguments).is_err() {}
}
