//! Where a vCPU takes exceptions, system calls and events.

use protocol::shared::{TrapEntry, vector};
use protocol::{GuestVirt, Status};

/// Number of handlers: the architecture's exceptions, the system call, the event upcall.
pub const HANDLERS: usize = 34;

/// Index of the handler for system calls from user mode.
pub const SYSCALL: usize = 32;
/// Index of the handler for events.
pub const EVENT: usize = 33;

const _: () = assert!(vector::SYSCALL == 32 && vector::EVENT == 33);

/// Exceptions that never reach a guest: NMI, double fault and machine check are the machine's.
const KEPT: [u32; 3] = [2, 8, 18];

/// A checked entry: which handler, and where it starts (0 for none).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handler {
    /// Index below [`HANDLERS`].
    pub index: usize,
    /// Address in the kernel half, or 0.
    pub address: u64,
}

/// Checks one entry of a trap table.
///
/// # Errors
/// [`Status::InvalidArgument`] for a vector that a guest cannot have or reserved bits,
/// [`Status::BadAddress`] for a handler outside the kernel half.
pub fn check_entry(entry: &TrapEntry) -> Result<Handler, Status> {
    if entry.vector >= 32 || KEPT.contains(&entry.vector) || entry.flags != 0 {
        return Err(Status::InvalidArgument);
    }
    let index = usize::try_from(entry.vector).map_err(|_| Status::InvalidArgument)?;
    Ok(Handler { index, address: check_handler(GuestVirt(entry.handler))? })
}

/// Checks the address of a handler; 0 stands for none.
///
/// # Errors
/// [`Status::BadAddress`] for an address outside the kernel half.
pub fn check_handler(address: GuestVirt) -> Result<u64, Status> {
    if address.0 == 0 || (address.is_kernel_half() && address.is_guest_range(1)) {
        Ok(address.0)
    } else {
        Err(Status::BadAddress)
    }
}

#[cfg(test)]
mod tests {
    use super::{Handler, check_entry};
    use protocol::Status;
    use protocol::layout::KERNEL_START;
    use protocol::shared::TrapEntry;

    fn entry(vector: u32, flags: u32, handler: u64) -> TrapEntry {
        TrapEntry { vector, flags, handler }
    }

    #[test]
    fn only_exceptions_that_a_guest_can_take_have_handlers() {
        for vector in 0..64 {
            let result = check_entry(&entry(vector, 0, KERNEL_START));
            if vector < 32 && ![2, 8, 18].contains(&vector) {
                assert_eq!(result.map(|handler| u32::try_from(handler.index).unwrap()), Ok(vector));
            } else {
                assert_eq!(result, Err(Status::InvalidArgument));
            }
        }
    }

    #[test]
    fn handlers_lie_in_the_kernel_half_or_are_none() {
        assert_eq!(check_entry(&entry(3, 0, 0)), Ok(Handler { index: 3, address: 0 }));
        for address in [1, 0x1000, KERNEL_START - 1, 0xffff_8000_0000_0000, u64::MAX] {
            assert_eq!(check_entry(&entry(3, 0, address)), Err(Status::BadAddress), "{address:#x}");
        }
    }

    #[test]
    fn reserved_bits_are_refused() {
        assert_eq!(check_entry(&entry(3, 1, KERNEL_START)), Err(Status::InvalidArgument));
    }
}
