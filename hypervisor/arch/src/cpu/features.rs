//! What this CPU can do, read once from CPUID, and what it must be able to do.
//!
//! Settings are chosen by these flags only, never by trying: an emulator may hang, or accept
//! silently, what the CPU does not have.

use core::fmt;

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
        /// `xsaveopt`.
        const XSAVEOPT = 1 << 6;
        /// 256-bit registers.
        const AVX = 1 << 7;
        /// Global pages.
        const PGE = 1 << 8;
        /// The page-attribute table.
        const PAT = 1 << 9;
        /// The local APIC is reached by model-specific registers.
        const X2APIC = 1 << 10;
        /// The APIC timer fires at a time-stamp value.
        const TSC_DEADLINE = 1 << 11;
        /// The time-stamp counter never changes its speed and never stops.
        const INVARIANT_TSC = 1 << 12;
        /// `rdtscp` and its register.
        const RDTSCP = 1 << 13;
        /// `rdpid` and its register.
        const RDPID = 1 << 14;
        /// Pages of 1 GiB.
        const HUGE_PAGES = 1 << 15;
        /// Translations tagged with a context.
        const PCID = 1 << 16;
        /// `syscall` in long mode.
        const SYSCALL = 1 << 17;
        /// A local APIC.
        const APIC = 1 << 18;
        /// `fxsave`, SSE and SSE2.
        const SSE = 1 << 19;
        /// A time-stamp counter.
        const TSC = 1 << 20;
    }
}

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

/// The CPU lacks what the hypervisor needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingFeature(pub &'static str);

impl fmt::Display for MissingFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this CPU does not have {}, which Cloister needs", self.0)
    }
}

/// The CPUID words that carry the flags.
#[derive(Debug, Clone, Copy, Default)]
struct Words {
    leaf1_ecx: u32,
    leaf1_edx: u32,
    leaf7_ebx: u32,
    leaf7_ecx: u32,
    leaf13_eax: u32,
    extended1_edx: u32,
    extended7_edx: u32,
}

impl Words {
    fn read() -> Words {
        let last = cpuid_count(0, 0).eax;
        let last_extended = cpuid_count(0x8000_0000, 0).eax;
        let basic = |leaf, subleaf| (leaf <= last).then(|| cpuid_count(leaf, subleaf));
        let extended = |leaf| (leaf <= last_extended).then(|| cpuid_count(leaf, 0));
        Words {
            leaf1_ecx: basic(1, 0).map_or(0, |result| result.ecx),
            leaf1_edx: basic(1, 0).map_or(0, |result| result.edx),
            leaf7_ebx: basic(7, 0).map_or(0, |result| result.ebx),
            leaf7_ecx: basic(7, 0).map_or(0, |result| result.ecx),
            leaf13_eax: basic(13, 1).map_or(0, |result| result.eax),
            extended1_edx: extended(0x8000_0001).map_or(0, |result| result.edx),
            extended7_edx: extended(0x8000_0007).map_or(0, |result| result.edx),
        }
    }
}

impl Features {
    /// What this CPU has.
    #[must_use]
    pub fn detect() -> Features {
        Features::decode(&Words::read())
    }

    fn decode(words: &Words) -> Features {
        // FXSR, SSE, SSE2: bits 24 to 26.
        const SSE_BITS: u32 = 0b111 << 24;
        let table = [
            (words.extended1_edx, 1 << 20, Features::NX),
            (words.leaf7_ebx, 1 << 7, Features::SMEP),
            (words.leaf7_ebx, 1 << 20, Features::SMAP),
            (words.leaf7_ecx, 1 << 2, Features::UMIP),
            (words.leaf7_ebx, 1 << 0, Features::FSGSBASE),
            (words.leaf1_ecx, 1 << 26, Features::XSAVE),
            (words.leaf13_eax, 1 << 0, Features::XSAVEOPT),
            (words.leaf1_ecx, 1 << 28, Features::AVX),
            (words.leaf1_edx, 1 << 13, Features::PGE),
            (words.leaf1_edx, 1 << 16, Features::PAT),
            (words.leaf1_ecx, 1 << 21, Features::X2APIC),
            (words.leaf1_ecx, 1 << 24, Features::TSC_DEADLINE),
            (words.extended7_edx, 1 << 8, Features::INVARIANT_TSC),
            (words.extended1_edx, 1 << 27, Features::RDTSCP),
            (words.leaf7_ecx, 1 << 22, Features::RDPID),
            (words.extended1_edx, 1 << 26, Features::HUGE_PAGES),
            (words.leaf1_ecx, 1 << 17, Features::PCID),
            (words.extended1_edx, 1 << 11, Features::SYSCALL),
            (words.leaf1_edx, 1 << 9, Features::APIC),
            (words.leaf1_edx, SSE_BITS, Features::SSE),
            (words.leaf1_edx, 1 << 4, Features::TSC),
        ];
        let mut features = Features::empty();
        for (word, bits, feature) in table {
            features.set(feature, word & bits == bits);
        }
        if !features.contains(Features::XSAVE) {
            features.remove(Features::XSAVEOPT | Features::AVX);
        }
        features
    }

    /// Checks that everything needed is there.
    ///
    /// # Errors
    /// The first missing feature; the machine cannot run the hypervisor.
    pub fn check_required(self) -> Result<(), MissingFeature> {
        match REQUIRED.iter().find(|(feature, _)| !self.contains(*feature)) {
            Some((_, words)) => Err(MissingFeature(words)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Features, REQUIRED, Words};

    #[test]
    fn a_cpu_without_flags_has_nothing_and_one_with_all_has_everything() {
        assert_eq!(Features::decode(&Words::default()), Features::empty());
        let all = u32::MAX;
        let words = Words {
            leaf1_ecx: all,
            leaf1_edx: all,
            leaf7_ebx: all,
            leaf7_ecx: all,
            leaf13_eax: all,
            extended1_edx: all,
            extended7_edx: all,
        };
        assert_eq!(Features::decode(&words), Features::all());
    }

    #[test]
    fn avx_without_xsave_is_not_counted() {
        let words = Words { leaf1_ecx: 1 << 28, leaf13_eax: 1, ..Words::default() };
        assert_eq!(Features::decode(&words), Features::empty());
    }

    #[test]
    fn each_required_feature_is_named_when_it_is_missing() {
        assert_eq!(Features::all().check_required(), Ok(()));
        for (feature, words) in REQUIRED {
            let error = Features::all().difference(feature).check_required().unwrap_err();
            assert_eq!(error.0, words);
            assert!(error.to_string().contains(words));
        }
    }

    #[test]
    fn detection_on_the_host_finds_long_mode_basics() {
        assert!(Features::detect().contains(Features::SSE | Features::TSC));
    }
}
