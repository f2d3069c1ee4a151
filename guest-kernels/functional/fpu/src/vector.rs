//! The vector registers.

use core::arch::asm;

/// xmm0 to xmm15.
pub type Xmm = [u128; 16];

/// Reads all xmm registers.
pub fn xmm() -> Xmm {
    let mut all: Xmm = [0; 16];
    // SAFETY: writes the array only.
    unsafe {
        asm!(
            "movups [{0}], xmm0", "movups [{0} + 16], xmm1", "movups [{0} + 32], xmm2",
            "movups [{0} + 48], xmm3", "movups [{0} + 64], xmm4", "movups [{0} + 80], xmm5",
            "movups [{0} + 96], xmm6", "movups [{0} + 112], xmm7", "movups [{0} + 128], xmm8",
            "movups [{0} + 144], xmm9", "movups [{0} + 160], xmm10", "movups [{0} + 176], xmm11",
            "movups [{0} + 192], xmm12", "movups [{0} + 208], xmm13", "movups [{0} + 224], xmm14",
            "movups [{0} + 240], xmm15",
            in(reg) all.as_mut_ptr(),
            options(nostack, preserves_flags),
        );
    }
    all
}

/// Writes all xmm registers.
pub fn set_xmm(all: &Xmm) {
    // SAFETY: compiled code of this target does not use these registers.
    unsafe {
        asm!(
            "movups xmm0, [{0}]", "movups xmm1, [{0} + 16]", "movups xmm2, [{0} + 32]",
            "movups xmm3, [{0} + 48]", "movups xmm4, [{0} + 64]", "movups xmm5, [{0} + 80]",
            "movups xmm6, [{0} + 96]", "movups xmm7, [{0} + 112]", "movups xmm8, [{0} + 128]",
            "movups xmm9, [{0} + 144]", "movups xmm10, [{0} + 160]", "movups xmm11, [{0} + 176]",
            "movups xmm12, [{0} + 192]", "movups xmm13, [{0} + 208]", "movups xmm14, [{0} + 224]",
            "movups xmm15, [{0} + 240]",
            in(reg) all.as_ptr(),
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// Reads the upper half of ymm0 and of ymm15. Only with AVX.
pub fn upper() -> [u128; 2] {
    let mut two = [0; 2];
    // SAFETY: writes the array only.
    unsafe {
        asm!(
            "vextractf128 [{0}], ymm0, 1", "vextractf128 [{0} + 16], ymm15, 1",
            in(reg) two.as_mut_ptr(),
            options(nostack, preserves_flags),
        );
    }
    two
}

/// Writes the upper half of ymm0 and of ymm15. Only with AVX.
pub fn set_upper(two: &[u128; 2]) {
    // SAFETY: compiled code of this target does not use these registers.
    unsafe {
        asm!(
            "vinsertf128 ymm0, ymm0, [{0}], 1", "vinsertf128 ymm15, ymm15, [{0} + 16], 1",
            in(reg) two.as_ptr(),
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// MXCSR and the x87 control word.
pub fn controls() -> (u32, u16) {
    let (mut mxcsr, mut control) = (0_u32, 0_u16);
    // SAFETY: writes the two words only.
    unsafe {
        asm!(
            "stmxcsr [{}]", "fnstcw [{}]",
            in(reg) &raw mut mxcsr, in(reg) &raw mut control,
            options(nostack, preserves_flags),
        );
    }
    (mxcsr, control)
}
