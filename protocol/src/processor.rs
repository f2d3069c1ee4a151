//! What a VM learns of the processor and may use of it: its policy, and the features that a policy
//! can name.

use serde::{Deserialize, Serialize};

bitflags::bitflags! {
    /// Features that differ between CPUs and that a policy can show or hide. What each CPU that runs
    /// the hypervisor has (x87, SSE, SSE2 and the rest of x86-64-v1) is not among them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
    pub struct ProcessorFeatures: u64 {
        /// SSE3.
        const SSE3 = 1 << 0;
        /// Carry-less multiplication.
        const PCLMULQDQ = 1 << 1;
        /// SSSE3.
        const SSSE3 = 1 << 2;
        /// Fused multiply-add.
        const FMA = 1 << 3;
        /// `cmpxchg16b`.
        const CX16 = 1 << 4;
        /// SSE4.1.
        const SSE4_1 = 1 << 5;
        /// SSE4.2.
        const SSE4_2 = 1 << 6;
        /// `movbe`.
        const MOVBE = 1 << 7;
        /// `popcnt`.
        const POPCNT = 1 << 8;
        /// AES instructions.
        const AES = 1 << 9;
        /// `xsave` and `xgetbv`.
        const XSAVE = 1 << 10;
        /// 256-bit registers. A VM without it takes an exception when it uses one.
        const AVX = 1 << 11;
        /// Conversion of 16-bit floating point.
        const F16C = 1 << 12;
        /// `rdrand`.
        const RDRAND = 1 << 13;
        /// `rdfsbase` and its kin. A VM without it takes an exception when it uses one.
        const FSGSBASE = 1 << 14;
        /// First set of bit manipulation.
        const BMI1 = 1 << 15;
        /// 256-bit integer operations.
        const AVX2 = 1 << 16;
        /// Second set of bit manipulation.
        const BMI2 = 1 << 17;
        /// Fast `rep movsb`.
        const ERMS = 1 << 18;
        /// `rdseed`.
        const RDSEED = 1 << 19;
        /// `adcx` and `adox`.
        const ADX = 1 << 20;
        /// `clflushopt`.
        const CLFLUSHOPT = 1 << 21;
        /// `clwb`.
        const CLWB = 1 << 22;
        /// SHA instructions.
        const SHA = 1 << 23;
        /// `rdpid`.
        const RDPID = 1 << 24;
        /// `lahf` in 64-bit mode.
        const LAHF = 1 << 25;
        /// `lzcnt`.
        const LZCNT = 1 << 26;
        /// `prefetchw`.
        const PREFETCHW = 1 << 27;
        /// `rdtscp`. Never shown to a VM with coarse time.
        const RDTSCP = 1 << 28;
        /// `xsaveopt`.
        const XSAVEOPT = 1 << 29;
    }
}

/// A register of an answer of `cpuid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// One feature: its name in system files, where `cpuid` tells of it, and what it is of no use without.
#[derive(Debug, Clone, Copy)]
pub struct FeatureInfo {
    /// The feature.
    pub feature: ProcessorFeatures,
    /// Its name.
    pub name: &'static str,
    /// Leaf and subleaf.
    pub leaf: (u32, u32),
    /// Register.
    pub register: Register,
    /// Bit in the register.
    pub bit: u32,
    /// Features without which it is of no use; they stand before it in [`FEATURES`].
    pub needs: ProcessorFeatures,
}

/// Declares [`FEATURES`].
macro_rules! features {
    ($($leaf:literal:$subleaf:literal $register:ident $bit:literal $feature:ident $name:literal $($needs:ident)?;)*) => {
        /// Every feature (Intel SDM volume 2, CPUID; AMD manual volume 3, appendix E).
        pub const FEATURES: &[FeatureInfo] = &[$(FeatureInfo {
            feature: ProcessorFeatures::$feature,
            name: $name,
            leaf: ($leaf, $subleaf),
            register: Register::$register,
            bit: $bit,
            needs: ProcessorFeatures::empty()$(.union(ProcessorFeatures::$needs))?,
        },)*];
    };
}

features! {
    1:0 Ecx 0 SSE3 "sse3";
    1:0 Ecx 1 PCLMULQDQ "pclmulqdq";
    1:0 Ecx 9 SSSE3 "ssse3";
    1:0 Ecx 13 CX16 "cx16";
    1:0 Ecx 19 SSE4_1 "sse4.1";
    1:0 Ecx 20 SSE4_2 "sse4.2";
    1:0 Ecx 22 MOVBE "movbe";
    1:0 Ecx 23 POPCNT "popcnt";
    1:0 Ecx 25 AES "aes";
    1:0 Ecx 26 XSAVE "xsave";
    1:0 Ecx 28 AVX "avx" XSAVE;
    1:0 Ecx 12 FMA "fma" AVX;
    1:0 Ecx 29 F16C "f16c" AVX;
    1:0 Ecx 30 RDRAND "rdrand";
    7:0 Ebx 0 FSGSBASE "fsgsbase";
    7:0 Ebx 3 BMI1 "bmi1";
    7:0 Ebx 5 AVX2 "avx2" AVX;
    7:0 Ebx 8 BMI2 "bmi2";
    7:0 Ebx 9 ERMS "erms";
    7:0 Ebx 18 RDSEED "rdseed";
    7:0 Ebx 19 ADX "adx";
    7:0 Ebx 23 CLFLUSHOPT "clflushopt";
    7:0 Ebx 24 CLWB "clwb";
    7:0 Ebx 29 SHA "sha";
    7:0 Ecx 22 RDPID "rdpid";
    0xd:1 Eax 0 XSAVEOPT "xsaveopt" XSAVE;
    0x8000_0001:0 Ecx 0 LAHF "lahf";
    0x8000_0001:0 Ecx 5 LZCNT "lzcnt";
    0x8000_0001:0 Ecx 8 PREFETCHW "prefetchw";
    0x8000_0001:0 Edx 27 RDTSCP "rdtscp";
}

/// The features that x86-64-v2 adds to v1 (System V psABI for AMD64, 3.1.1).
pub const X86_64_V2: ProcessorFeatures = ProcessorFeatures::CX16
    .union(ProcessorFeatures::LAHF)
    .union(ProcessorFeatures::POPCNT)
    .union(ProcessorFeatures::SSE3)
    .union(ProcessorFeatures::SSSE3)
    .union(ProcessorFeatures::SSE4_1)
    .union(ProcessorFeatures::SSE4_2);
/// The features that x86-64-v3 adds to v1.
pub const X86_64_V3: ProcessorFeatures = X86_64_V2
    .union(ProcessorFeatures::XSAVE)
    .union(ProcessorFeatures::AVX)
    .union(ProcessorFeatures::AVX2)
    .union(ProcessorFeatures::BMI1)
    .union(ProcessorFeatures::BMI2)
    .union(ProcessorFeatures::F16C)
    .union(ProcessorFeatures::FMA)
    .union(ProcessorFeatures::LZCNT)
    .union(ProcessorFeatures::MOVBE);

impl ProcessorFeatures {
    /// The same without those that are of no use, because a feature that they need is not there.
    #[must_use]
    pub fn usable(self) -> ProcessorFeatures {
        let drop = |all: ProcessorFeatures, info: &FeatureInfo| {
            if all.contains(info.needs) { all } else { all.difference(info.feature) }
        };
        FEATURES.iter().fold(self, drop)
    }

    /// The same with all that they need.
    #[must_use]
    pub fn with_needs(self) -> ProcessorFeatures {
        let add = |all: ProcessorFeatures, info: &FeatureInfo| {
            if all.contains(info.feature) { all | info.needs } else { all }
        };
        FEATURES.iter().rev().fold(self, add)
    }

    /// The name of the first of them, as system files spell it.
    #[must_use]
    pub fn first_name(self) -> &'static str {
        FEATURES.iter().find(|info| self.intersects(info.feature)).map_or("", |info| info.name)
    }
}

/// Which processor a VM sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Model {
    /// One that is the same on each machine: x86-64-v1, names and numbers of the hypervisor's own.
    #[default]
    Baseline,
    /// The machine's, cut to what a guest can use.
    Host,
}

/// How a VM reads time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TimeSource {
    /// From the time-stamp counter.
    #[default]
    Native,
    /// In steps of [`crate::shared::COARSE_STEP_NS`]; the time-stamp counter cannot be read.
    Coarse,
}

/// What a VM learns of the processor and may use of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessorPolicy {
    /// The processor that `cpuid` shows.
    pub model: Model,
    /// Features that it has beyond the model's. A machine without one of them cannot run the system.
    pub added: ProcessorFeatures,
    /// Features that it has not, though the model has.
    pub removed: ProcessorFeatures,
    /// How it reads time.
    pub time: TimeSource,
    /// Whether it has debug registers.
    pub debug_registers: bool,
}

impl Default for ProcessorPolicy {
    fn default() -> Self {
        ProcessorPolicy {
            model: Model::default(),
            added: ProcessorFeatures::empty(),
            removed: ProcessorFeatures::empty(),
            time: TimeSource::default(),
            debug_registers: true,
        }
    }
}

impl ProcessorPolicy {
    /// The features that a VM sees on a machine with these.
    ///
    /// # Errors
    /// The features that the policy adds and the VM would not have: removed again, without one that
    /// they need, or not the machine's.
    pub fn features(&self, machine: ProcessorFeatures) -> Result<ProcessorFeatures, ProcessorFeatures> {
        let model = match self.model {
            Model::Baseline => ProcessorFeatures::empty(),
            Model::Host => machine,
        };
        let hidden = match self.time {
            TimeSource::Native => self.removed,
            TimeSource::Coarse => self.removed | ProcessorFeatures::RDTSCP,
        };
        let shown = ((model | self.added) & machine).difference(hidden).usable();
        if shown.contains(self.added) { Ok(shown) } else { Err(self.added.difference(shown)) }
    }
}

/// I/O ports, from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port, not below the first.
    pub last: u16,
}

impl PortRange {
    /// Whether the two have a port in common.
    #[must_use]
    pub const fn overlaps(self, other: PortRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Ports that no VM can have, and whose they are.
pub const RESERVED_PORTS: &[(PortRange, &str)] = &[
    (PortRange { first: 0x00, last: 0x1f }, "the DMA controller, which writes any memory"),
    (PortRange { first: 0x20, last: 0x3f }, "the interrupt controller"),
    (PortRange { first: 0x40, last: 0x43 }, "the interval timer"),
    (PortRange { first: 0x60, last: 0x64 }, "the keyboard controller, which resets the machine"),
    (PortRange { first: 0x80, last: 0x9f }, "the DMA pages and the reset port"),
    (PortRange { first: 0xa0, last: 0xbf }, "the interrupt controller and the firmware's SMI port"),
    (PortRange { first: 0xc0, last: 0xdf }, "the DMA controller, which writes any memory"),
    (PortRange { first: 0xf4, last: 0xf7 }, "the emulator's exit"),
    (PortRange { first: 0x3f8, last: 0x3ff }, "the console"),
    (PortRange { first: 0x4d0, last: 0x4d1 }, "the interrupt controller"),
    (PortRange { first: 0x510, last: 0x51b }, "the emulator's configuration, which writes any memory"),
    (PortRange { first: 0xcf8, last: 0xcff }, "PCI configuration and the reset port"),
    (PortRange { first: 0x8900, last: 0x8900 }, "the emulator's exit"),
];

/// What `ports` would hold that no VM may have: whose it is.
#[must_use]
pub fn reserved(ports: PortRange) -> Option<&'static str> {
    RESERVED_PORTS.iter().find(|(range, _)| range.overlaps(ports)).map(|(_, owner)| *owner)
}

#[cfg(test)]
mod tests {
    use super::{FEATURES, Model, PortRange, ProcessorFeatures as F, ProcessorPolicy, TimeSource, X86_64_V3, reserved};

    #[test]
    fn each_feature_stands_once_in_the_table_and_behind_what_it_needs() {
        let mut seen = F::empty();
        for info in FEATURES {
            assert_eq!(info.feature.bits().count_ones(), 1, "{}", info.name);
            assert!(!seen.intersects(info.feature), "{}", info.name);
            assert!(seen.contains(info.needs), "{} needs what stands behind it", info.name);
            let twice = FEATURES.iter().filter(|other| {
                (other.leaf, other.register, other.bit) == (info.leaf, info.register, info.bit)
                    || other.name == info.name
            });
            assert_eq!(twice.count(), 1, "{}", info.name);
            seen |= info.feature;
        }
        assert_eq!(seen, F::all());
    }

    #[test]
    fn without_xsave_everything_that_needs_it_goes() {
        let left = F::all().difference(F::XSAVE).usable();
        assert!(!left.intersects(F::AVX | F::AVX2 | F::FMA | F::F16C | F::XSAVEOPT));
        assert_eq!(left | F::AVX | F::AVX2 | F::FMA | F::F16C | F::XSAVEOPT | F::XSAVE, F::all());
        assert_eq!(F::AVX2.with_needs(), F::AVX2 | F::AVX | F::XSAVE);
        assert_eq!(X86_64_V3.usable(), X86_64_V3);
    }

    #[test]
    fn the_baseline_is_the_same_on_each_machine() {
        let policy = ProcessorPolicy::default();
        assert_eq!(policy.model, Model::Baseline);
        assert_eq!(policy.features(F::empty()), Ok(F::empty()));
        assert_eq!(policy.features(F::all()), Ok(F::empty()));
        let with = ProcessorPolicy { added: X86_64_V3, ..policy };
        assert_eq!(with.features(F::all()), with.features(X86_64_V3));
        assert_eq!(with.features(F::all()), Ok(X86_64_V3));
    }

    #[test]
    fn an_added_feature_that_the_machine_lacks_is_an_error_in_both_models() {
        for model in [Model::Baseline, Model::Host] {
            let policy = ProcessorPolicy { model, added: F::AES | F::SHA, ..ProcessorPolicy::default() };
            assert_eq!(policy.features(F::all().difference(F::SHA)), Err(F::SHA));
            assert!(policy.features(F::AES | F::SHA).is_ok());
            assert_eq!(F::SHA.first_name(), "sha");
        }
    }

    #[test]
    fn a_feature_cannot_be_added_and_hidden() {
        let policy = ProcessorPolicy { added: F::AVX2.with_needs(), removed: F::XSAVE, ..ProcessorPolicy::default() };
        assert_eq!(policy.features(F::all()), Err(F::AVX2 | F::AVX | F::XSAVE));
        let coarse = ProcessorPolicy { added: F::RDTSCP, time: TimeSource::Coarse, ..ProcessorPolicy::default() };
        assert_eq!(coarse.features(F::all()), Err(F::RDTSCP));
    }

    #[test]
    fn a_host_vm_sees_what_the_machine_has_but_for_what_is_removed() {
        let policy = ProcessorPolicy { model: Model::Host, removed: F::AVX, ..ProcessorPolicy::default() };
        let shown = policy.features(F::all()).unwrap();
        assert_eq!(F::all().difference(shown), F::AVX | F::AVX2 | F::FMA | F::F16C);
    }

    #[test]
    fn reserved_ports_are_refused_at_their_edges() {
        let range = |first, last| PortRange { first, last };
        for (first, last) in [(0, 0), (0x3f, 0x3f), (0x2f8, 0x3f8), (0x3ff, 0x400), (0, 0xffff), (0xcff, 0xcff)] {
            assert!(reserved(range(first, last)).is_some(), "{first:#x}-{last:#x}");
        }
        for (first, last) in [(0x70, 0x71), (0x2f8, 0x2ff), (0x400, 0x4cf), (0x8901, 0xffff)] {
            assert_eq!(reserved(range(first, last)), None, "{first:#x}-{last:#x}");
        }
    }
}
