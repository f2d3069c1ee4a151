//! What this CPU can do, read once from CPUID, and what it must be able to do.
//!
//! Settings are chosen by these flags only, never by trying: an emulator may hang, or accept
//! silently, what the CPU does not have.

use x86::cpuid::CpuIdResult;
use x86::cpuid::native_cpuid::cpuid_count;

bitflags::bitflags! {
    /// Abilities that the hypervisor knows.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Features: u32 {
        /// Pages can forbid execution.
        const NX = 1 << 0;
        /// Ring 0 can be kept from executing user pages.
        const SMEP = 1 << 1;
        /// Ring 0 can be kept from touching user pages.
        const SMAP = 1 << 2;
        /// Ring 3 can be kept from reading the descriptor-table registers.
        const UMIP = 1 << 3;
        /// Ring 3 can read and write the FS and GS bases.
        const FSGSBASE = 1 << 4;
        /// `xsave`.
        const XSAVE = 1 << 5;
        /// 256-bit registers.
        const AVX = 1 << 6;
        /// Global pages.
        const PGE = 1 << 7;
        /// The page-attribute table.
        const PAT = 1 << 8;
        /// The local APIC is reached by model-specific registers.
        const X2APIC = 1 << 9;
        /// The APIC timer fires at a time-stamp value.
        const TSC_DEADLINE = 1 << 10;
        /// `rdtscp` and its register.
        const RDTSCP = 1 << 11;
        /// `rdpid` and its register.
        const RDPID = 1 << 12;
        /// `syscall` in long mode.
        const SYSCALL = 1 << 13;
        /// A local APIC.
        const APIC = 1 << 14;
        /// `fxsave`, SSE and SSE2.
        const SSE = 1 << 15;
        /// A time-stamp counter.
        const TSC = 1 << 16;
        /// A command that forgets predictions of indirect branches.
        const IBPB = 1 << 17;
        /// `verw` clears internal buffers.
        const MD_CLEAR = 1 << 18;
        /// A command that empties the first data cache.
        const L1D_FLUSH = 1 << 19;
    }
}

/// One register of an answer of CPUID.
type Word = fn(&CpuIdResult) -> u32;
const EBX: Word = |answer| answer.ebx;
const ECX: Word = |answer| answer.ecx;
const EDX: Word = |answer| answer.edx;

/// Where CPUID tells of each flag: leaf, register, bits that must all be set.
const TABLE: [(Features, u32, Word, u32); 20] = [
    (Features::TSC, 1, EDX, 1 << 4),
    (Features::APIC, 1, EDX, 1 << 9),
    (Features::PGE, 1, EDX, 1 << 13),
    (Features::PAT, 1, EDX, 1 << 16),
    // FXSR, SSE, SSE2.
    (Features::SSE, 1, EDX, 0b111 << 24),
    (Features::X2APIC, 1, ECX, 1 << 21),
    (Features::TSC_DEADLINE, 1, ECX, 1 << 24),
    (Features::XSAVE, 1, ECX, 1 << 26),
    // AVX is of no use without XSAVE.
    (Features::AVX, 1, ECX, (1 << 26) | (1 << 28)),
    (Features::FSGSBASE, 7, EBX, 1 << 0),
    (Features::SMEP, 7, EBX, 1 << 7),
    (Features::SMAP, 7, EBX, 1 << 20),
    (Features::UMIP, 7, ECX, 1 << 2),
    (Features::RDPID, 7, ECX, 1 << 22),
    (Features::MD_CLEAR, 7, EDX, 1 << 10),
    (Features::IBPB, 7, EDX, 1 << 26),
    (Features::L1D_FLUSH, 7, EDX, 1 << 28),
    (Features::SYSCALL, 0x8000_0001, EDX, 1 << 11),
    (Features::NX, 0x8000_0001, EDX, 1 << 20),
    (Features::RDTSCP, 0x8000_0001, EDX, 1 << 27),
];

/// What the hypervisor cannot do without, with the words for it.
const REQUIRED: [(Features, &str); 7] = [
    (Features::NX, "no-execute pages (NX)"),
    (Features::SYSCALL, "the SYSCALL instruction"),
    (Features::APIC, "a local APIC"),
    (Features::PGE, "global pages (PGE)"),
    (Features::PAT, "the page-attribute table (PAT)"),
    (Features::SSE, "the FXSAVE, SSE and SSE2 instructions"),
    (Features::TSC, "a time-stamp counter (TSC)"),
];

/// What keeps ring 0 and VMs of different labels apart beyond that.
const LABELLED: [(Features, &str); 3] = [
    (Features::SMEP, "supervisor-mode execution prevention (SMEP)"),
    (Features::SMAP, "supervisor-mode access prevention (SMAP)"),
    (Features::UMIP, "user-mode instruction prevention (UMIP)"),
];

impl Features {
    /// What this CPU has.
    #[must_use]
    pub fn detect() -> Features {
        Features::decode(|leaf| cpuid_count(leaf, 0))
    }

    fn decode(ask: impl Fn(u32) -> CpuIdResult) -> Features {
        let has = |leaf: u32, word: Word, bits| {
            let last = ask(leaf & 0x8000_0000).eax;
            leaf <= last && word(&ask(leaf)) & bits == bits
        };
        let present = TABLE.into_iter().filter(|(_, leaf, word, bits)| has(*leaf, *word, *bits));
        present.map(|(feature, ..)| feature).collect()
    }

    /// Checks that everything needed is there.
    ///
    /// # Errors
    /// The name of the first missing feature; the machine cannot run the hypervisor.
    pub fn check_required(self) -> Result<Features, &'static str> {
        self.check(&REQUIRED)
    }

    /// Checks that everything is there that VMs of different labels need.
    ///
    /// # Errors
    /// The name of the first missing feature.
    pub fn check_labelled(self) -> Result<Features, &'static str> {
        self.check(&LABELLED)
    }

    /// Checks for all of a list.
    ///
    /// # Errors
    /// The name of the first that is missing.
    fn check(self, needed: &[(Features, &'static str)]) -> Result<Features, &'static str> {
        needed.iter().find(|(feature, _)| !self.contains(*feature)).map_or(Ok(self), |(_, name)| Err(name))
    }
}

#[cfg(test)]
mod tests {
    use super::{CpuIdResult, Features, REQUIRED};

    const NOTHING: CpuIdResult = CpuIdResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    const ALL: CpuIdResult = CpuIdResult { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX };

    #[test]
    fn a_cpu_without_flags_has_nothing_and_one_with_all_has_everything() {
        assert_eq!(Features::decode(|_| NOTHING), Features::empty());
        assert_eq!(Features::decode(|_| ALL), Features::all());
    }

    #[test]
    fn a_leaf_beyond_the_last_is_not_believed() {
        let until = |last: u32| {
            move |leaf| match leaf {
                0 => CpuIdResult { eax: last, ..NOTHING },
                0x8000_0000 => NOTHING,
                _ => ALL,
            }
        };
        assert_eq!(Features::decode(until(0)), Features::empty());
        let basic = Features::decode(until(1));
        assert!(basic.contains(Features::SSE) && !basic.intersects(Features::SMEP | Features::NX));
        assert!(Features::decode(until(7)).contains(Features::SMEP));
    }

    #[test]
    fn avx_without_xsave_is_not_counted() {
        let ask = |leaf| if leaf == 1 { CpuIdResult { ecx: 1 << 28, ..NOTHING } } else { ALL };
        assert!(!Features::decode(ask).intersects(Features::AVX | Features::XSAVE));
    }

    #[test]
    fn each_required_feature_is_named_when_it_is_missing() {
        assert_eq!(Features::all().check_required(), Ok(Features::all()));
        for (feature, name) in REQUIRED {
            assert_eq!(Features::all().difference(feature).check_required(), Err(name));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "the interpreter has no CPUID")]
    fn detection_on_the_host_finds_long_mode_basics() {
        assert!(Features::detect().contains(Features::SSE | Features::TSC));
    }
}
