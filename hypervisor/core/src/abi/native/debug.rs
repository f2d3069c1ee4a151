//! Debug registers: what a guest may put there (Intel SDM volume 3, 17.2).

use protocol::{GuestVirt, Status};

/// Bits of DR7 that a guest can set: the enable bits of four breakpoints, exact matching, and their
/// kinds and lengths. Not general detect (13), transactional memory (11) or the reserved ones.
pub(crate) const DR7_ALLOWED: u64 = 0xffff_03ff;
/// Bit 10 of DR7 reads as one.
const DR7_FIXED: u64 = 1 << 10;
/// Bits of DR6 that a guest sees: four hits, debug access, single step, task switch; the others
/// read as one.
pub(crate) const DR6_ALLOWED: u64 = 0xe00f;
/// Bits of DR6 that read as one.
pub(crate) const DR6_FIXED: u64 = 0xffff_0ff0;

/// A vCPU's debug registers as they are loaded with it. Fields are private: no value exists that a
/// guest could use against ring 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebugRegisters {
    addresses: [u64; 4],
    status: u64,
    control: u64,
}

impl DebugRegisters {
    /// What the registers hold after a reset.
    pub const INITIAL: DebugRegisters = DebugRegisters { addresses: [0; 4], status: DR6_FIXED, control: DR7_FIXED };

    /// DR0 to DR3: zero or guest addresses.
    #[must_use]
    pub const fn addresses(&self) -> [u64; 4] {
        self.addresses
    }

    /// DR7.
    #[must_use]
    pub const fn control(&self) -> u64 {
        self.control
    }

    /// Whether any breakpoint is enabled, so that the registers must be loaded with the vCPU.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        self.control & 0xff != 0
    }

    /// Sets one register.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for a register that does not exist, an address outside the guest's
    /// ranges, or bits that it may not set.
    pub fn set(&mut self, index: u64, value: u64) -> Result<(), Status> {
        match index {
            0..=3 => {
                // The longest breakpoint covers 8 bytes, so it cannot reach the hypervisor's range.
                if value != 0 && !GuestVirt(value).is_guest_range(8) {
                    return Err(Status::InvalidArgument);
                }
                let slot = self.addresses.get_mut(crate::addr::convert::index(index));
                if let Some(slot) = slot {
                    *slot = value;
                }
            }
            6 => {
                if value & !(DR6_ALLOWED | DR6_FIXED) != 0 {
                    return Err(Status::InvalidArgument);
                }
                self.status = (value & DR6_ALLOWED) | DR6_FIXED;
            }
            7 => {
                if value & !(DR7_ALLOWED | DR7_FIXED) != 0 || has_io_breakpoint(value) {
                    return Err(Status::InvalidArgument);
                }
                self.control = value | DR7_FIXED;
            }
            _ => return Err(Status::InvalidArgument),
        }
        Ok(())
    }

    /// Notes what the processor reported with a debug exception.
    pub fn report(&mut self, status: u64) {
        self.status = (status & DR6_ALLOWED) | DR6_FIXED;
    }

    /// Reads one register.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for a register that does not exist.
    pub fn get(&self, index: u64) -> Result<u64, Status> {
        match index {
            0..=3 => self.addresses.get(crate::addr::convert::index(index)).copied().ok_or(Status::InvalidArgument),
            6 => Ok(self.status),
            7 => Ok(self.control),
            _ => Err(Status::InvalidArgument),
        }
    }
}

/// Whether any of the four kinds is "I/O access" (2).
fn has_io_breakpoint(control: u64) -> bool {
    [16, 20, 24, 28].iter().any(|shift| (control >> shift) & 3 == 2)
}

#[cfg(test)]
mod tests {
    use super::DebugRegisters;
    use protocol::Status;
    use protocol::layout::{HYPERVISOR_START, KERNEL_START, LOWER_END};

    #[test]
    fn breakpoints_never_reach_the_hypervisor() {
        let mut registers = DebugRegisters::INITIAL;
        assert_eq!(registers.set(0, 0x40_0000), Ok(()));
        assert_eq!(registers.set(3, KERNEL_START), Ok(()));
        for address in [HYPERVISOR_START, KERNEL_START - 1, KERNEL_START - 8, LOWER_END - 7, u64::MAX, 1 << 47] {
            assert_eq!(registers.set(0, address), Err(Status::InvalidArgument), "{address:#x}");
        }
        assert_eq!(registers.addresses[0], 0x40_0000);
    }

    #[test]
    fn each_control_bit_is_allowed_or_refused_as_the_manual_says() {
        for bit in 0..64 {
            let mut registers = DebugRegisters::INITIAL;
            let allowed = matches!(bit, 0..=9 | 10 | 16 | 18..=20 | 22..=24 | 26..=28 | 30..=31);
            assert_eq!(registers.set(7, 1 << bit).is_ok(), allowed, "bit {bit}");
        }
    }

    #[test]
    fn an_io_breakpoint_is_refused_in_each_slot() {
        for slot in 0..4 {
            let mut registers = DebugRegisters::INITIAL;
            assert_eq!(registers.set(7, 2 << (16 + 4 * slot)), Err(Status::InvalidArgument));
            assert_eq!(registers.set(7, 3 << (16 + 4 * slot)), Ok(()));
        }
    }

    #[test]
    fn registers_4_5_and_beyond_do_not_exist() {
        for index in [4, 5, 8, u64::MAX] {
            let mut registers = DebugRegisters::INITIAL;
            assert_eq!(registers.set(index, 0), Err(Status::InvalidArgument));
            assert_eq!(registers.get(index), Err(Status::InvalidArgument));
        }
    }
}
