//! The x87, SSE and AVX registers, which a kernel with several user contexts switches itself.
//!
//! Kernel code is compiled without these registers, and the hypervisor keeps them across vCPU
//! switches: between two runs of one and the same user context nothing needs to be done.

use core::arch::asm;

use protocol::flags::Features;

/// x87, SSE and AVX, as XSAVE's mask.
const COMPONENTS: u32 = 0b111;
/// XSAVE area of these three: 512 legacy, 64 header, 256 AVX.
const BYTES: usize = 832;

/// A saved register file.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct FpuState {
    bytes: [u8; BYTES],
}

impl core::fmt::Debug for FpuState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FpuState").finish_non_exhaustive()
    }
}

impl Default for FpuState {
    fn default() -> Self {
        Self::new()
    }
}

impl FpuState {
    /// The state that a program starts with: every register zero, every exception masked.
    #[must_use]
    pub const fn new() -> FpuState {
        let mut bytes = [0; BYTES];
        // FCW 0x037f and MXCSR 0x1f80, at their places of the FXSAVE area.
        bytes[0] = 0x7f;
        bytes[1] = 0x03;
        bytes[24] = 0x80;
        bytes[25] = 0x1f;
        // XSTATE_BV: x87 and SSE are as the area says, the rest initial.
        bytes[512] = 0b11;
        FpuState { bytes }
    }

    /// Keeps the registers of this vCPU.
    pub fn save(&mut self) {
        let area = self.bytes.as_mut_ptr();
        if crate::start::features().contains(Features::XSAVE) {
            // SAFETY: the area is aligned to 64 and as large as the three components.
            unsafe {
                asm!("xsave64 [{}]", in(reg) area, in("eax") COMPONENTS, in("edx") 0, options(nostack, preserves_flags));
            }
        } else {
            // SAFETY: the area is aligned to 16 and has 512 bytes.
            unsafe { asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags)) };
        }
    }

    /// Loads the registers of this vCPU.
    pub fn load(&self) {
        let area = self.bytes.as_ptr();
        if crate::start::features().contains(Features::XSAVE) {
            // SAFETY: the area was written by `save` or `new`, so its header is valid; compiled
            // kernel code keeps nothing in these registers.
            unsafe {
                asm!("xrstor64 [{}]", in(reg) area, in("eax") COMPONENTS, in("edx") 0, options(nostack, preserves_flags, readonly));
            }
        } else {
            // SAFETY: as above, for the legacy area.
            unsafe { asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags, readonly)) };
        }
    }
}
