//! What the processor can do, as the VM's policy tells it. The instruction `cpuid` faults where the
//! machine can make it, and shows the machine's own answers elsewhere; the call always answers.
//!
//! ```no_run
//! use guest_sdk::cpuid;
//!
//! let has_avx2 = cpuid::leaf(7, 0).ebx & (1 << 5) != 0;
//! assert_eq!(&cpuid::hypervisor(), b"CloisterVMM ");
//! # let _ = has_avx2;
//! ```

use protocol::shared::CpuidResult;

use crate::raw::call;

/// The answer to EAX = `leaf` and ECX = `subleaf`. Leaves that the policy does not know are zero.
#[must_use]
pub fn leaf(leaf: u32, subleaf: u32) -> CpuidResult {
    call::cpuid(leaf, subleaf).unwrap_or_default()
}

/// The maker's name of leaf 0.
#[must_use]
pub fn vendor() -> [u8; 12] {
    let CpuidResult { ebx, ecx, edx, .. } = leaf(0, 0);
    text([ebx, edx, ecx])
}

/// The hypervisor's name of leaf `0x4000_0000`.
#[must_use]
pub fn hypervisor() -> [u8; 12] {
    let CpuidResult { ebx, ecx, edx, .. } = leaf(0x4000_0000, 0);
    text([ebx, ecx, edx])
}

/// The bytes of three registers.
fn text(registers: [u32; 3]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for (place, register) in bytes.chunks_exact_mut(4).zip(registers) {
        place.copy_from_slice(&register.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn names_stand_in_the_registers_byte_by_byte() {
        assert_eq!(&text([0x756e_6547, 0x4965_6e69, 0x6c65_746e]), b"GenuineIntel");
    }
}
