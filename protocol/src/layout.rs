//! Which virtual addresses belong to whom, and where a native guest finds its things.
//!
//! A guest's address space has a lower half (user and kernel mode), an upper half (kernel mode
//! only, the same in all spaces of the VM), and the hypervisor's sixteen top-level slots between.

use crate::handle::{Gfn, GuestVirt};

/// Bytes of a small page.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes of a large page.
pub const LARGE_PAGE_SIZE: u64 = 512 * PAGE_SIZE;
/// Small pages in a large page.
pub const LARGE_PAGE_FRAMES: u64 = 512;

/// Bytes that one top-level slot covers.
pub const SLOT_SIZE: u64 = 1 << 39;
/// The first of the hypervisor's top-level slots.
pub const HYPERVISOR_FIRST_SLOT: u64 = 256;
/// The first top-level slot of the guest kernel, behind the hypervisor's.
pub const KERNEL_FIRST_SLOT: u64 = 272;

/// End of the lower half. The last page below it cannot be mapped, so that no `syscall`
/// instruction lies where its return address would not be canonical (Intel SDM, SYSRET).
pub const LOWER_END: u64 = 0x0000_8000_0000_0000 - PAGE_SIZE;
/// Start of the hypervisor's range.
pub const HYPERVISOR_START: u64 = 0xffff_8000_0000_0000;
/// End of the hypervisor's range and start of the guest kernel's half.
pub const KERNEL_START: u64 = 0xffff_8800_0000_0000;
/// The last page of the address space cannot be mapped, so that no range wraps.
pub const KERNEL_END: u64 = u64::MAX - PAGE_SIZE + 1;

/// The [`crate::shared::StartInfo`] page.
pub const START_INFO: GuestVirt = GuestVirt(KERNEL_START);
/// The [`crate::shared::TimePage`], read only.
pub const TIME_PAGE: GuestVirt = GuestVirt(KERNEL_START + PAGE_SIZE);
/// The [`crate::shared::VcpuPage`] of vCPU 0; those of the others follow, a page each.
pub const VCPU_PAGES: GuestVirt = GuestVirt(KERNEL_START + 0x10_0000);
/// First address above the stack that vCPU 0 starts on. The page below the stack is not mapped.
pub const FIRST_STACK_TOP: GuestVirt = GuestVirt(KERNEL_START + 0x20_0000);
/// Pages of the stack that vCPU 0 starts on.
pub const FIRST_STACK_PAGES: u64 = 16;
/// The shared region of channel 0; those of the others follow every [`CHANNEL_STRIDE`] bytes.
pub const CHANNELS: GuestVirt = GuestVirt(KERNEL_START + 0x4000_0000);
/// Bytes between two channel regions, and the most that one region holds.
pub const CHANNEL_STRIDE: u64 = 0x100_0000;
/// All memory of the VM in order of its frame numbers, readable and writable.
pub const PHYSMAP: GuestVirt = GuestVirt(KERNEL_START + SLOT_SIZE);
/// Where the SDK links guest kernels.
pub const KERNEL_IMAGE: GuestVirt = GuestVirt(0xffff_ffff_8000_0000);

/// Frame number of the time page. It can be mapped read-only anywhere, also for user mode.
pub const TIME_PAGE_FRAME: Gfn = Gfn(1 << 32);
/// Frame number of the first frame of channel 0; see [`CHANNEL_FRAME_STRIDE`].
pub const CHANNEL_FRAMES: Gfn = Gfn(2 << 32);
/// Frame numbers between the first frames of two channels.
pub const CHANNEL_FRAME_STRIDE: u64 = 1 << 16;

/// The address of the shared page of vCPU `index`.
#[must_use]
#[expect(clippy::as_conversions, reason = "const code: u32 widens to u64")]
pub const fn vcpu_page(index: u32) -> GuestVirt {
    GuestVirt(VCPU_PAGES.0.wrapping_add((index as u64).wrapping_mul(PAGE_SIZE)))
}

/// The code selector that user and kernel mode run with, and the stack selector beside it.
/// A guest cannot choose others; they are published because `push cs` shows them.
pub const CODE_SELECTOR: u16 = 0x2b;
/// See [`CODE_SELECTOR`].
pub const STACK_SELECTOR: u16 = 0x23;

/// Bytes below the stack pointer that a frame in kernel mode leaves alone (SysV x86-64 ABI, 3.2.2).
pub const RED_ZONE: u64 = 128;

/// Limits that a system file cannot exceed.
pub mod limit {
    /// VMs in one system.
    pub const VMS: u32 = 64;
    /// vCPUs of one VM.
    pub const VCPUS: u32 = 16;
    /// Event ports of one VM.
    pub const PORTS: u32 = 256;
    /// Address spaces of one VM.
    pub const SPACES: u32 = 64;
    /// Grants that one VM can have given at a time.
    pub const GRANTS: u32 = 256;
    /// Channels of one VM.
    pub const CHANNELS: u32 = 8;
    /// Modules of one VM.
    pub const MODULES: u32 = 8;
    /// Bytes of a VM's command line.
    pub const COMMAND_LINE: u32 = 256;
    /// Bytes of a name.
    pub const NAME: u32 = 31;
    /// Bytes of one console or log write.
    pub const CONSOLE_BYTES: u64 = 1024;
    /// Pages of one map, unmap or protect.
    pub const RANGE_PAGES: u64 = 512;
    /// Entries of one memory batch or call batch.
    pub const BATCH: u64 = 64;
    /// Frames of one release or reclaim.
    pub const RELEASE_FRAMES: u64 = 64;
    /// Ranges of I/O ports of one VM.
    pub const PORT_RANGES: u32 = 16;
    /// Entries of a trap table: the exceptions of the architecture.
    pub const TRAPS: u64 = 32;
}

const _: () = assert!(HYPERVISOR_START == 0xffff_0000_0000_0000 | (HYPERVISOR_FIRST_SLOT * SLOT_SIZE));
const _: () = assert!(KERNEL_START == 0xffff_0000_0000_0000 | (KERNEL_FIRST_SLOT * SLOT_SIZE));

impl GuestVirt {
    /// Whether `length` bytes from here lie wholly in the lower half or wholly in the guest
    /// kernel's half. Says nothing about whether they are mapped.
    #[must_use]
    pub const fn is_guest_range(self, length: u64) -> bool {
        let Some(end) = self.0.checked_add(length) else {
            return false;
        };
        end <= LOWER_END || (self.0 >= KERNEL_START && end <= KERNEL_END)
    }

    /// Whether the address lies in the half that only kernel mode sees.
    #[must_use]
    pub const fn is_kernel_half(self) -> bool {
        self.0 >= KERNEL_START
    }
}

#[cfg(test)]
mod tests {
    use super::{GuestVirt, HYPERVISOR_START, KERNEL_END, KERNEL_START, LOWER_END};

    #[test]
    fn no_range_reaches_the_hypervisor_the_hole_or_the_end() {
        assert!(GuestVirt(0).is_guest_range(0));
        assert!(GuestVirt(LOWER_END - 1).is_guest_range(1));
        assert!(!GuestVirt(LOWER_END - 1).is_guest_range(2));
        assert!(!GuestVirt(HYPERVISOR_START).is_guest_range(0));
        assert!(!GuestVirt(KERNEL_START - 1).is_guest_range(1));
        assert!(!GuestVirt(KERNEL_START - 1).is_guest_range(2));
        assert!(GuestVirt(KERNEL_START).is_guest_range(KERNEL_END - KERNEL_START));
        assert!(!GuestVirt(KERNEL_END).is_guest_range(1));
        assert!(!GuestVirt(u64::MAX).is_guest_range(2));
        assert!(!GuestVirt(0).is_guest_range(u64::MAX));
    }
}
