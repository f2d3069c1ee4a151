//! Several calls in one.

use core::mem::offset_of;

use hv_core::paging::WORK;
use protocol::xen::structure::MulticallEntry;
use protocol::xen::{Errno, call};

use super::{Arguments, Caller, Refusal, Reply, element, read, write};

/// Units of work of a call, beside what it counts itself. So no more than 64 are made before events are looked at.
const CALL: u32 = WORK / 64;

/// The units of work of a call that may take long by itself: nothing else of a batch is done before events are looked
/// at.
const fn cost(number: u64) -> u32 {
    match number {
        call::SET_GDT
        | call::SET_TRAP_TABLE
        | call::MEMORY_OP
        | call::GRANT_TABLE_OP
        | call::CONSOLE_IO
        | call::VCPU_OP => WORK,
        _ => CALL,
    }
}

#[inline(never)]
pub(super) fn multicall(caller: &mut Caller<'_>, arguments: &mut Arguments) -> Reply {
    let [array, count, ..] = *arguments;
    if caller.in_batch {
        return Err(Errno::Invalid.into());
    }
    // Where the array ends is checked first, whatever of it is reached.
    element::<MulticallEntry>(array, count)?;
    caller.in_batch = true;
    for number in 0..count {
        let at = element::<MulticallEntry>(array, number)?;
        let entry: MulticallEntry = read(at)?;
        let [first, second, third, fourth, fifth, _] = entry.args;
        let mut inner = [first, second, third, fourth, fifth];
        let result = match caller.dispatch(entry.op, &mut inner) {
            Ok(value) => value,
            Err(Refusal::Errno(errno)) => errno.to_register(),
            Err(Refusal::Restart) => {
                write(at.wrapping_add(16), &inner)?;
                return again(arguments, at, count.wrapping_sub(number));
            }
            // The registers are those of a handler's return, or of a vCPU that does not go on.
            Err(Refusal::Taken) => return Err(Refusal::Taken),
        };
        let place = hv_core::addr::convert::wide(offset_of!(MulticallEntry, result));
        write(at.wrapping_add(place), &result)?;
        caller.spend(cost(entry.op));
        if caller.has_left(entry.op) || caller.has_spent_all() {
            return again(
                arguments,
                element::<MulticallEntry>(array, number.wrapping_add(1))?,
                count.wrapping_sub(number).wrapping_sub(1),
            );
        }
    }
    Ok(0)
}

/// Goes on with the rest when the call is made again, if there is any.
fn again(arguments: &mut Arguments, array: u64, count: u64) -> Reply {
    if count == 0 {
        return Ok(0);
    }
    arguments[0] = array;
    arguments[1] = count;
    Err(Refusal::Restart)
}

impl Caller<'_> {
    /// Whether a call asked for the CPU to be given up: what follows it must come after that.
    fn has_left(&self, number: u64) -> bool {
        number == call::SCHED_OP && self.cpu.has_work()
    }
}
