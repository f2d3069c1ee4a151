//! Frames that come and go, and what the guest is told of its memory.

use hv_arch::guest::copy;
use hv_core::addr::Mfn;

use protocol::GuestVirt;
use protocol::xen::structure::{MachphysMapping, MemoryMap, MemoryReservation};
use protocol::xen::{DOMID_SELF, Errno, M2P_END, M2P_MAX_FRAME, M2P_START, memory};

use super::super::memory::tables;
use super::{Arguments, Caller, Refusal, Reply, element, read, write};

/// Frames that one call gives or takes before events are looked at.
const FRAMES: u64 = 64;
/// Type of memory in a memory map.
const RAM: u32 = 1;
/// The bits of a command that name the operation.
const OPERATION: u64 = (1 << memory::OPERATION_BITS) - 1;

#[inline(never)]
pub(super) fn memory_op(caller: &mut Caller<'_>, arguments: &mut Arguments) -> Reply {
    let [command, argument, ..] = *arguments;
    let operation = command & OPERATION;
    match operation {
        memory::DECREASE_RESERVATION | memory::POPULATE_PHYSMAP | memory::INCREASE_RESERVATION => {
            reservation(caller, arguments)
        }
        memory::CURRENT_RESERVATION | memory::MAXIMUM_RESERVATION => {
            let domain: u16 = read(argument)?;
            if domain != DOMID_SELF {
                return Err(Errno::NotPermitted.into());
            }
            let memory = caller.domain.memory()?;
            let released = if operation == memory::CURRENT_RESERVATION { memory.paging.released() } else { 0 };
            Ok(memory.frames.saturating_sub(released))
        }
        memory::MEMORY_MAP => memory_map(caller, argument),
        memory::MACHPHYS_MAPPING => {
            write(argument, &MachphysMapping { v_start: M2P_START, v_end: M2P_END, max_mfn: M2P_MAX_FRAME })?;
            Ok(0)
        }
        memory::MAXIMUM_GPFN => Ok(caller.domain.memory()?.frames.saturating_sub(1)),
        memory::MACHINE_MEMORY_MAP => Err(Errno::NotPermitted.into()),
        _ => caller.unknown(protocol::xen::call::MEMORY_OP),
    }
}

/// One region: all memory that the VM can have.
fn memory_map(caller: &Caller<'_>, argument: u64) -> Reply {
    let map: MemoryMap = read(argument)?;
    if map.nr_entries == 0 {
        return Err(Errno::Invalid.into());
    }
    let bytes = caller.domain.memory()?.frames.saturating_mul(protocol::layout::PAGE_SIZE);
    // 20 bytes: address, length, type.
    write(map.buffer, &[0, bytes])?;
    write(map.buffer.wrapping_add(16), &RAM)?;
    write(argument, &1_u32)?;
    Ok(0)
}

/// Gives frames back, or takes frames for guest frame numbers. How many were done is the result; the progress
/// of a restarted call stands in its command.
fn reservation(caller: &Caller<'_>, arguments: &mut Arguments) -> Reply {
    let [command, argument, ..] = *arguments;
    let operation = command & OPERATION;
    let before = command >> memory::OPERATION_BITS;
    let reservation: MemoryReservation = read(argument)?;
    if reservation.domid != DOMID_SELF {
        return Err(Errno::NotPermitted.into());
    }
    if reservation.extent_order != 0 || before > reservation.nr_extents {
        return Ok(before.min(reservation.nr_extents));
    }
    let end = reservation.nr_extents.min(before.saturating_add(FRAMES));
    let mut done = before;
    while done < end {
        let place = element::<u64>(reservation.extent_start, done)?;
        match extent(caller, operation, place) {
            Ok(()) => done = done.wrapping_add(1),
            Err(Refusal::Errno(Errno::Fault)) if done == 0 => return Err(Errno::Fault.into()),
            Err(Refusal::Restart) => break,
            Err(Refusal::Errno(_) | Refusal::Taken) => return Ok(done),
        }
    }
    if done < reservation.nr_extents {
        arguments[0] = operation | done << memory::OPERATION_BITS;
        return Err(Refusal::Restart);
    }
    Ok(done)
}

/// One frame.
///
/// # Errors
/// Its own.
fn extent(caller: &Caller<'_>, operation: u64, place: u64) -> Result<(), Refusal> {
    let number: u64 = read(place)?;
    let tables = tables(caller.vm());
    let mut memory = caller.domain.memory()?;
    if operation == memory::DECREASE_RESERVATION {
        return super::super::memory::finished(memory.paging.release(tables, Mfn(number)));
    }
    let guest_frame = if operation == memory::POPULATE_PHYSMAP { number } else { protocol::xen::M2P_INVALID };
    let frame = memory.paging.populate(tables, guest_frame)?;
    drop(memory);
    let written = copy::write(GuestVirt(place), &frame.0.to_le_bytes());
    if written.is_err() {
        // The guest cannot learn which frame it is: it has none more than before.
        let _returned = caller.domain.memory()?.paging.release(tables, frame);
    }
    Ok(written?)
}
