//! What a VM learns of the processor, and what of it is switched on while the VM runs.
//!
//! The bare instruction still answers with the machine's own values where the CPU cannot make it
//! fault ([`Gate`]); `docs/caveats.md` says so.

use protocol::flags;
use protocol::processor::{FEATURES, Model, ProcessorFeatures, ProcessorPolicy, Register, TimeSource};
use protocol::shared::CpuidResult;

/// Leaf 1 EDX of each CPU that runs the hypervisor: FPU, CX8, CMOV, CLFLUSH, MMX, FXSR, SSE, SSE2.
const LEAF1_EDX: u32 = 1 | 1 << 8 | 1 << 15 | 1 << 19 | 1 << 23 | 1 << 24 | 1 << 25 | 1 << 26;
/// The time-stamp counter, in leaf 1 EDX.
const TSC: u32 = 1 << 4;
/// `xsave` is switched on, in leaf 1 ECX.
const OSXSAVE: u32 = 1 << 27;
/// A hypervisor is present, in leaf 1 ECX.
const HYPERVISOR_PRESENT: u32 = 1 << 31;
/// Extended leaf 1 EDX of each CPU that runs the hypervisor: SYSCALL, NX, long mode.
const EXTENDED_EDX: u32 = 1 << 11 | 1 << 20 | 1 << 29;
/// Last standard and extended leaf.
const LAST: u32 = 0xd;
const LAST_EXTENDED: u32 = 0x8000_0008;

/// First leaf of the hypervisor's own, and its signature in EBX, ECX, EDX.
const HYPERVISOR_LEAF: u32 = 0x4000_0000;
const SIGNATURE: [u32; 3] = words(*b"CloisterVMM ");

/// Bytes of the XSAVE area: legacy part and header; of AVX, which follows (SDM volume 1, 13.4).
const XSAVE_BYTES: u32 = 576;
const AVX_BYTES: u32 = 256;

/// Twelve letters as `cpuid` gives them.
const fn words(text: [u8; 12]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = text;
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]), u32::from_le_bytes([i, j, k, l])]
}

/// A processor's names and numbers: the leaves that say which one it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    /// Vendor in EBX, ECX, EDX.
    vendor: [u32; 3],
    /// Family, model and stepping.
    signature: u32,
    /// The brand string, in the order of its leaves.
    brand: [CpuidResult; 3],
    /// Bits of physical and virtual addresses.
    address_bits: u32,
}

/// The processor that all machines show alike: family 6, model and stepping 0, 40 and 48 bits.
const BASELINE: Identity = Identity {
    vendor: words(*b"CloisterCPU "),
    signature: 0x600,
    brand: {
        let [eax, ebx, ecx] = words(*b"Cloister vir");
        let [edx, next, last] = words(*b"tual CPU\0\0\0\0");
        let end = CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
        [CpuidResult { eax, ebx, ecx, edx }, CpuidResult { eax: next, ebx: last, ..end }, end]
    },
    address_bits: 40 | 48 << 8,
};

/// What the hypervisor knows of the machine's processors, which are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    features: ProcessorFeatures,
    identity: Identity,
}

impl Machine {
    /// Learns it from the instruction, which `ask` executes.
    #[must_use]
    pub fn learn(ask: impl Fn(u32, u32) -> CpuidResult) -> Machine {
        // A leaf beyond the last repeats another one's answer.
        let ask = |leaf: u32, subleaf: u32| {
            if leaf > ask(leaf & 0x8000_0000, 0).eax { CpuidResult::default() } else { ask(leaf, subleaf) }
        };
        let has = |(leaf, subleaf), register, bit: u32| part(ask(leaf, subleaf), register) >> bit & 1 != 0;
        let present = FEATURES.iter().filter(|info| has(info.leaf, info.register, info.bit));
        let first = ask(0, 0);
        Machine {
            features: present.fold(ProcessorFeatures::empty(), |all, info| all | info.feature).usable(),
            identity: Identity {
                vendor: [first.ebx, first.ecx, first.edx],
                signature: ask(1, 0).eax,
                brand: [0x8000_0002, 0x8000_0003, 0x8000_0004].map(|leaf| ask(leaf, 0)),
                address_bits: ask(LAST_EXTENDED, 0).eax & 0xffff,
            },
        }
    }
}

/// One register of an answer.
const fn part(answer: CpuidResult, register: Register) -> u32 {
    match register {
        Register::Eax => answer.eax,
        Register::Ebx => answer.ebx,
        Register::Ecx => answer.ecx,
        Register::Edx => answer.edx,
    }
}

bitflags::bitflags! {
    /// What is switched on in a CPU while it runs a VM, beyond what is the same for all.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Controls: u32 {
        /// XCR0 has AVX.
        const AVX = 1 << 0;
        /// CR4 has FSGSBASE.
        const FSGSBASE = 1 << 1;
        /// CR4 has TSD: ring 3 cannot read the time-stamp counter.
        const NO_TSC = 1 << 2;
        /// `TSC_AUX` exists, and holds the number of the vCPU.
        const TSC_AUX = 1 << 3;
    }
}

/// The processor that one VM sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processor {
    features: ProcessorFeatures,
    identity: Identity,
    time: TimeSource,
    has_tsc_aux: bool,
}

impl Processor {
    /// What a policy gives on this machine.
    ///
    /// # Errors
    /// The features that the policy asks for and the VM would not have: the machine cannot run it.
    pub fn new(policy: &ProcessorPolicy, machine: &Machine) -> Result<Processor, ProcessorFeatures> {
        let identity = match policy.model {
            Model::Baseline => BASELINE,
            Model::Host => machine.identity,
        };
        let has_tsc_aux = machine.features.intersects(ProcessorFeatures::RDTSCP | ProcessorFeatures::RDPID);
        Ok(Processor { features: policy.features(machine.features)?, identity, time: policy.time, has_tsc_aux })
    }

    /// What is switched on while the VM runs.
    #[must_use]
    pub fn controls(&self) -> Controls {
        let all = [
            (Controls::AVX, self.has(ProcessorFeatures::AVX)),
            (Controls::FSGSBASE, self.has(ProcessorFeatures::FSGSBASE)),
            (Controls::NO_TSC, self.time == TimeSource::Coarse),
            (Controls::TSC_AUX, self.has_tsc_aux),
        ];
        all.into_iter().filter(|(_, on)| *on).fold(Controls::empty(), |all, (bit, _)| all | bit)
    }

    /// What the VM is told of the hypervisor, where that offers `offered`.
    #[must_use]
    pub fn offered(&self, offered: flags::Features) -> flags::Features {
        let pairs = [
            (ProcessorFeatures::FSGSBASE, flags::Features::FSGSBASE),
            (ProcessorFeatures::AVX, flags::Features::AVX),
            (ProcessorFeatures::XSAVE, flags::Features::XSAVE),
        ];
        pairs.into_iter().filter(|(own, _)| !self.has(*own)).fold(offered, |all, (_, flag)| all.difference(flag))
    }

    const fn has(&self, feature: ProcessorFeatures) -> bool {
        self.features.contains(feature)
    }

    /// What `cpuid` answers. Each bit that is set is of something that the VM can use, and the answer
    /// is the same on all CPUs and at all times.
    #[must_use]
    pub fn answer(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let zero = CpuidResult::default();
        let [ebx, ecx, edx] = self.identity.vendor;
        let [first, second, third] = self.identity.brand;
        match (leaf, subleaf) {
            (0, _) => CpuidResult { eax: LAST, ebx, ecx, edx },
            (1, _) => CpuidResult {
                eax: self.identity.signature,
                // The cache line that `clflush` flushes: 64 bytes. Neither which CPU this is, nor how many there are.
                ebx: 8 << 8,
                ecx: self.bits((1, 0), Register::Ecx)
                    | HYPERVISOR_PRESENT
                    | if self.has(ProcessorFeatures::XSAVE) { OSXSAVE } else { 0 },
                edx: LEAF1_EDX | if self.time == TimeSource::Native { TSC } else { 0 },
            },
            (7, 0) => {
                CpuidResult { ebx: self.bits((7, 0), Register::Ebx), ecx: self.bits((7, 0), Register::Ecx), ..zero }
            }
            (0xd, _) if self.has(ProcessorFeatures::XSAVE) => self.extended_state(subleaf),
            (HYPERVISOR_LEAF, _) => {
                let [ebx, ecx, edx] = SIGNATURE;
                CpuidResult { eax: HYPERVISOR_LEAF, ebx, ecx, edx }
            }
            (0x8000_0000, _) => CpuidResult { eax: LAST_EXTENDED, ..zero },
            (0x8000_0001, _) => CpuidResult {
                ecx: self.bits((leaf, 0), Register::Ecx),
                edx: EXTENDED_EDX | self.bits((leaf, 0), Register::Edx),
                ..zero
            },
            (0x8000_0002, _) => first,
            (0x8000_0003, _) => second,
            (0x8000_0004, _) => third,
            (LAST_EXTENDED, _) => CpuidResult { eax: self.identity.address_bits, ..zero },
            _ => zero,
        }
    }

    /// The bits of one register of one leaf.
    fn bits(&self, leaf: (u32, u32), register: Register) -> u32 {
        let there = FEATURES.iter().filter(|info| info.leaf == leaf && info.register == register);
        there.filter(|info| self.has(info.feature)).fold(0, |all, info| all | 1 << info.bit)
    }

    /// Leaf 0xd: the components of XCR0 as it is while the VM runs, and the room for them.
    fn extended_state(&self, subleaf: u32) -> CpuidResult {
        let zero = CpuidResult::default();
        let avx = self.has(ProcessorFeatures::AVX);
        let bytes = if avx { XSAVE_BYTES.wrapping_add(AVX_BYTES) } else { XSAVE_BYTES };
        match subleaf {
            0 => CpuidResult { eax: if avx { 0b111 } else { 0b011 }, ebx: bytes, ecx: bytes, ..zero },
            1 => CpuidResult { eax: self.bits((0xd, 1), Register::Eax), ..zero },
            2 if avx => CpuidResult { eax: AVX_BYTES, ebx: XSAVE_BYTES, ..zero },
            _ => zero,
        }
    }
}

/// How the `cpuid` instruction is kept from ring 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Not at all: it shows the machine.
    Open,
    /// `MISC_FEATURES_ENABLES` bit 0 makes it fault (Intel, "CPUID faulting").
    Intel,
    /// `HWCR` bit 35 makes it fault (AMD, "CPUID user disable").
    Amd,
}

impl Gate {
    /// The gate of a machine. `platform` reads `MSR_PLATFORM_INFO`, if that exists; it is only called
    /// where it may.
    #[must_use]
    pub fn find(ask: impl Fn(u32, u32) -> CpuidResult, platform: impl FnOnce() -> Option<u64>) -> Gate {
        let first = ask(0, 0);
        match &[first.ebx, first.ecx, first.edx] {
            vendor if *vendor == words(*b"GenuntelineI") => match platform() {
                Some(info) if info >> 31 & 1 != 0 => Gate::Intel,
                _ => Gate::Open,
            },
            vendor
                if *vendor == words(*b"AuthcAMDenti")
                    && ask(0x8000_0000, 0).eax >= 0x8000_0021
                    && ask(0x8000_0021, 0).eax >> 17 & 1 != 0 =>
            {
                Gate::Amd
            }
            _ => Gate::Open,
        }
    }

    /// Whether a general protection fault with this error code at these bytes is `cpuid` that faulted.
    #[must_use]
    pub fn explains(self, error_code: u64, code: [u8; 2]) -> bool {
        self != Gate::Open && error_code == 0 && code == INSTRUCTION
    }
}

/// The instruction itself.
pub const INSTRUCTION: [u8; 2] = [0x0f, 0xa2];

#[cfg(test)]
mod tests;
