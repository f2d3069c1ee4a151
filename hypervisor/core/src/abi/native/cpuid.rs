//! What a guest learns from `cpuid` by call: the machine's answer, cut to what a guest can use.
//!
//! The bare instruction still answers with the machine's own values where the CPU cannot make it
//! fault; `docs/caveats.md` says so.

use protocol::shared::CpuidResult;

/// Leaf 1 ECX bits that a guest can use: SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2,
/// MOVBE, POPCNT, AES, XSAVE, OSXSAVE, AVX, F16C, RDRAND.
const LEAF1_ECX: u32 = 1
    | 1 << 1
    | 1 << 9
    | 1 << 12
    | 1 << 13
    | 1 << 19
    | 1 << 20
    | 1 << 22
    | 1 << 23
    | 1 << 25
    | 1 << 26
    | 1 << 27
    | 1 << 28
    | 1 << 29
    | 1 << 30;
/// Leaf 1 EDX: FPU, TSC, CX8, CMOV, CLFSH, MMX, FXSR, SSE, SSE2.
const LEAF1_EDX: u32 = 1 | 1 << 4 | 1 << 8 | 1 << 15 | 1 << 19 | 1 << 23 | 1 << 24 | 1 << 25 | 1 << 26;
/// "A hypervisor is present" in leaf 1 ECX.
const HYPERVISOR_PRESENT: u32 = 1 << 31;
/// Leaf 7 EBX: FSGSBASE, BMI1, AVX2, BMI2, ERMS, RDSEED, ADX, CLFLUSHOPT, CLWB, SHA.
const LEAF7_EBX: u32 = 1 | 1 << 3 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 18 | 1 << 19 | 1 << 23 | 1 << 24 | 1 << 29;
/// Leaf 7 ECX: UMIP.
const LEAF7_ECX: u32 = 1 << 2;
/// Extended leaf 1 ECX: LAHF, LZCNT, prefetch.
const EXTENDED_ECX: u32 = 1 | 1 << 5 | 1 << 8;
/// Extended leaf 1 EDX: SYSCALL, NX, RDTSCP, long mode.
const EXTENDED_EDX: u32 = 1 << 11 | 1 << 20 | 1 << 27 | 1 << 29;

/// First leaf of the hypervisor's own.
const HYPERVISOR_LEAF: u32 = 0x4000_0000;
/// `CloisterVMM ` in EBX, ECX, EDX.
const SIGNATURE: [u32; 3] = [u32::from_le_bytes(*b"Cloi"), u32::from_le_bytes(*b"ster"), u32::from_le_bytes(*b"VMM ")];

/// The answer for a leaf. `ask` executes the instruction; it is called at most once, with the same
/// leaf and subleaf.
#[must_use]
pub fn answer(leaf: u32, subleaf: u32, ask: impl FnOnce(u32, u32) -> CpuidResult) -> CpuidResult {
    match leaf {
        0 => CpuidResult { eax: 0xd, ..ask(0, 0) },
        1 => {
            let machine = ask(1, 0);
            CpuidResult {
                eax: machine.eax,
                // Neither which CPU this is, nor how many there are.
                ebx: machine.ebx & 0x0000_ff00,
                ecx: (machine.ecx & LEAF1_ECX) | HYPERVISOR_PRESENT,
                edx: machine.edx & LEAF1_EDX,
            }
        }
        7 if subleaf == 0 => {
            let machine = ask(7, 0);
            CpuidResult { eax: 0, ebx: machine.ebx & LEAF7_EBX, ecx: machine.ecx & LEAF7_ECX, edx: 0 }
        }
        0xd if subleaf <= 2 => {
            let machine = ask(0xd, subleaf);
            if subleaf == 0 { CpuidResult { eax: machine.eax & 7, edx: 0, ..machine } } else { machine }
        }
        HYPERVISOR_LEAF => {
            let [ebx, ecx, edx] = SIGNATURE;
            CpuidResult { eax: HYPERVISOR_LEAF, ebx, ecx, edx }
        }
        0x8000_0000 => CpuidResult { eax: 0x8000_0008, ebx: 0, ecx: 0, edx: 0 },
        0x8000_0001 => {
            let machine = ask(leaf, 0);
            CpuidResult { eax: 0, ebx: 0, ecx: machine.ecx & EXTENDED_ECX, edx: machine.edx & EXTENDED_EDX }
        }
        0x8000_0002..=0x8000_0004 => ask(leaf, 0),
        0x8000_0008 => CpuidResult { eax: ask(leaf, 0).eax & 0xffff, ebx: 0, ecx: 0, edx: 0 },
        _ => CpuidResult::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::answer;
    use protocol::shared::CpuidResult;

    const ONES: CpuidResult = CpuidResult { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX };

    #[test]
    fn virtualization_topology_and_privileged_features_are_hidden() {
        let leaf1 = answer(1, 0, |_, _| ONES);
        assert_eq!(leaf1.ecx & (1 << 5 | 1 << 3 | 1 << 21 | 1 << 24), 0, "VMX, MONITOR, x2APIC, TSC deadline");
        assert_eq!(leaf1.ebx >> 16, 0, "APIC id and CPU count");
        let leaf7 = answer(7, 0, |_, _| ONES);
        assert_eq!(leaf7.ebx & (1 << 7 | 1 << 20 | 1 << 11 | 1 << 16), 0, "SMEP, SMAP, RTM, AVX-512");
        assert_eq!(leaf7.ecx & (1 << 3 | 1 << 22), 0, "PKU, RDPID");
    }

    #[test]
    fn unknown_leaves_answer_zero_without_asking_the_machine() {
        for leaf in [2, 4, 6, 0xa, 0xb, 0x15, 0x1f, 0x4000_0001, 0x8000_000a, u32::MAX] {
            assert_eq!(answer(leaf, 0, |_, _| unreachable!()), CpuidResult::default(), "{leaf:#x}");
        }
    }

    #[test]
    fn the_hypervisor_names_itself() {
        let leaf = answer(0x4000_0000, 0, |_, _| unreachable!());
        let name: Vec<u8> = [leaf.ebx, leaf.ecx, leaf.edx].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(name, b"CloisterVMM ");
    }
}
