//! What a VM of Xen's ABI learns of the processor.
//!
//! Which features it has, and whose processor it sees, is decided as for native VMs ([`Processor`]): what
//! is not named there is hidden. A kernel that takes itself to be alone in ring 0 looks for a few bits
//! more, and for Xen's own leaves. Hidden stay large and global pages, whose bits guests' tables cannot
//! have, and machine checks, memory types by register, and monitors, whose registers are not theirs.

use protocol::VcpuId;
use protocol::processor::{ProcessorFeatures, ProcessorPolicy, TimeSource};
use protocol::shared::CpuidResult;
use protocol::xen::{VERSION, cpuid as xen};

use crate::abi::native::cpuid::{Controls, Machine, Processor};

/// Leaf 1 EDX, beyond what native VMs see: debugging extensions, TSC, MSRs, PAE, APIC, PAT. The time-stamp
/// counter is among them also where ring 3 cannot read it: the instruction is answered then.
const KERNEL: u32 = 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 16;
/// The counter runs at one rate, in leaf `0x8000_0007` EDX.
const INVARIANT_TSC: u32 = 1 << 8;
/// Greatest width of machine addresses for which grants of version 1 are enough.
const GRANT_BITS: u32 = 44;
/// XCR0: x87, SSE, AVX.
const X87: u64 = 1;
const SSE: u64 = 2;
const AVX: u64 = 4;

/// Who made the processor that a VM sees, as far as its registers differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// Intel.
    Intel,
    /// AMD, and who builds the same.
    Amd,
    /// Anybody else, or nobody.
    Other,
}

/// The time-stamp counter, as it is told to a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// Steps in a millisecond.
    pub khz: u32,
    /// Whether the VM may rely on that for its whole life.
    pub is_invariant: bool,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// The vCPU.
    pub vcpu: VcpuId,
    /// Its XCR0.
    pub xcr0: u64,
}

/// The processor that one VM of Xen's ABI sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XenProcessor {
    native: Processor,
    vendor: Vendor,
    counter: Counter,
    time: TimeSource,
}

impl XenProcessor {
    /// What a policy gives on this machine.
    ///
    /// # Errors
    /// The features that the policy asks for and the VM would not have.
    pub fn new(
        policy: &ProcessorPolicy,
        machine: &Machine,
        counter: Counter,
    ) -> Result<XenProcessor, ProcessorFeatures> {
        let native = Processor::new(policy, machine)?;
        let CpuidResult { ebx, ecx, edx, .. } = native.answer(0, 0);
        let vendor = match [ebx, edx, ecx].map(u32::to_le_bytes).as_flattened() {
            b"GenuineIntel" => Vendor::Intel,
            b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
            _ => Vendor::Other,
        };
        Ok(XenProcessor { native, vendor, counter, time: policy.time })
    }

    /// Who made it.
    #[must_use]
    pub const fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// What is switched on while the VM runs, before a vCPU has chosen ([`super::register::Controlled`]).
    #[must_use]
    pub fn controls(&self) -> Controls {
        self.native.controls()
    }

    /// Whether the register for a number that `rdtscp` and `rdpid` read exists.
    #[must_use]
    pub fn has_tsc_aux(&self) -> bool {
        let rdtscp = self.native.answer(0x8000_0001, 0).edx >> 27 & 1;
        let rdpid = self.native.answer(7, 0).ecx >> 22 & 1;
        rdtscp | rdpid != 0
    }

    /// The bits that XCR0 can have; none without `xsave`.
    #[must_use]
    pub fn xcr0(&self) -> u64 {
        u64::from(self.native.answer(0xd, 0).eax)
    }

    /// Whether XCR0 can have this value.
    #[must_use]
    pub fn allows_xcr0(&self, value: u64) -> bool {
        let has_parts = value & AVX == 0 || value & SSE != 0;
        value & X87 != 0 && has_parts && value & !self.xcr0() == 0
    }

    /// What `cpuid` answers.
    #[must_use]
    pub fn answer(&self, asker: Asker, leaf: u32, subleaf: u32) -> CpuidResult {
        let native = self.native.answer(leaf, subleaf);
        match (leaf, subleaf) {
            (1, _) => {
                // Numbers of APICs go up in twos, so that no two vCPUs share a core.
                let apic = asker.vcpu.0.wrapping_mul(2) & 0xff;
                CpuidResult { ebx: native.ebx | apic << 24, edx: native.edx | KERNEL, ..native }
            }
            // The room for what XCR0 has now. That of AVX is the last, so it begins where the others end.
            (0xd, 0) if asker.xcr0 & AVX == 0 && self.xcr0() & AVX != 0 => {
                CpuidResult { ebx: self.native.answer(0xd, 2).ebx, ..native }
            }
            (xen::LEAF..=0x4fff_ffff, _) => self.own(leaf, subleaf),
            (0x8000_0007, _) if self.counter.is_invariant => CpuidResult { edx: INVARIANT_TSC, ..native },
            _ => native,
        }
    }

    /// Xen's leaves. It has no page of calls to offer: kernels name one in their notes or call without.
    fn own(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let zero = CpuidResult::default();
        match (leaf.wrapping_sub(xen::LEAF), subleaf) {
            (0, _) => {
                let [ebx, ecx, edx] = xen::SIGNATURE.map(u32::from_le_bytes);
                CpuidResult { eax: xen::LEAF.wrapping_add(xen::LAST), ebx, ecx, edx }
            }
            (1, _) => CpuidResult { eax: u32::try_from(VERSION).unwrap_or(0), ..zero },
            (2, _) => CpuidResult { ecx: xen::PRESERVES_AD, ..zero },
            (3, 0) => {
                let (eax, ebx) = match (self.time, self.counter.is_invariant) {
                    (TimeSource::Coarse, _) => (xen::TSC_EMULATED, xen::TSC_ALWAYS_EMULATED),
                    (TimeSource::Native, true) => (xen::TSC_RELIABLE, xen::TSC_NEVER_EMULATED),
                    (TimeSource::Native, false) => (0, xen::TSC_NEVER_EMULATED),
                };
                CpuidResult { eax, ebx, ecx: self.counter.khz, ..zero }
            }
            (3, 2) => CpuidResult { eax: self.counter.khz, ..zero },
            (5, 0) => {
                let bits = self.native.answer(0x8000_0008, 0).eax & 0xff;
                CpuidResult { ebx: bits.min(GRANT_BITS), ..zero }
            }
            _ => zero,
        }
    }
}

#[cfg(test)]
#[expect(clippy::as_conversions, clippy::arithmetic_side_effects, reason = "small numbers of tests")]
mod tests;
