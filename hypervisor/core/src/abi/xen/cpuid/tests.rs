//! Nothing that a guest cannot use is shown, whatever the machine answers.

use super::{Asker, Counter, Vendor, XenProcessor};
use crate::abi::native::cpuid::Machine;
use proptest::prelude::*;
use protocol::VcpuId;
use protocol::processor::{Model, ProcessorFeatures as F, ProcessorPolicy, Register, TimeSource};
use protocol::shared::CpuidResult;

const COUNTER: Counter = Counter { khz: 2_400_000, is_invariant: true };
const BOOT: Asker = Asker { vcpu: VcpuId(0), xcr0: 1 };

fn everything(_leaf: u32, _subleaf: u32) -> CpuidResult {
    CpuidResult { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX }
}

/// A machine of this maker that has everything.
fn of(maker: [u8; 12]) -> Machine {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = maker;
    let [ebx, edx, ecx] = [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_le_bytes);
    Machine::learn(move |leaf, subleaf| match leaf {
        0 => CpuidResult { eax: 0x20, ebx, ecx, edx },
        _ => everything(leaf, subleaf),
    })
}

fn host(machine: &Machine) -> XenProcessor {
    let policy = ProcessorPolicy { model: Model::Host, ..ProcessorPolicy::default() };
    XenProcessor::new(&policy, machine, COUNTER).unwrap()
}

fn baseline(added: F) -> XenProcessor {
    let policy = ProcessorPolicy { added: added.with_needs(), ..ProcessorPolicy::default() };
    XenProcessor::new(&policy, &Machine::learn(everything), COUNTER).unwrap()
}

fn part(answer: CpuidResult, register: Register) -> u32 {
    match register {
        Register::Eax => answer.eax,
        Register::Ebx => answer.ebx,
        Register::Ecx => answer.ecx,
        Register::Edx => answer.edx,
    }
}

/// Bits of what a guest cannot use, by leaf and register.
const HIDDEN: [(u32, u32, Register, &[u32]); 11] = [
    // DTES64 MONITOR DS-CPL VMX SMX EST TM2 context-id debug PDCM PCID DCA x2APIC TSC-deadline.
    (1, 0, Register::Ecx, &[2, 3, 4, 5, 6, 7, 8, 10, 11, 15, 17, 18, 21, 24]),
    // VME PSE MCE SEP MTRR PGE MCA PSE36 serial-number debug-store ACPI self-snoop HTT thermal PBE.
    (1, 0, Register::Edx, &[1, 3, 7, 11, 12, 13, 14, 17, 18, 21, 22, 27, 28, 29, 31]),
    // Count of CPUs.
    (1, 0, Register::Ebx, &[16, 17, 18, 19, 20, 21, 22, 23]),
    // TSC-adjust SGX HLE SMEP INVPCID RTM RDT-M MPX RDT-A SMAP PT.
    (7, 0, Register::Ebx, &[1, 2, 4, 7, 10, 11, 12, 14, 15, 20, 25]),
    // UMIP PKU OSPKE WAITPKG shadow-stacks LA57 ENQCMD SGX-LC PKS.
    (7, 0, Register::Ecx, &[2, 3, 4, 5, 7, 16, 29, 30, 31]),
    // MD_CLEAR IBT IBRS STIBP L1D-flush ARCH_CAP SSBD, and all others.
    (7, 0, Register::Edx, &[10, 20, 26, 27, 28, 29, 31]),
    // LAM FRED LKGS.
    (7, 1, Register::Eax, &[17, 18, 26]),
    // MPX AVX-512 PKRU and beyond.
    (0xd, 0, Register::Eax, &[3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 17, 18]),
    // XSAVES.
    (0xd, 1, Register::Eax, &[3]),
    // CmpLegacy SVM extended-APIC CR8 OSVW IBS SKINIT WDT LWP NODEID TOPOEXT counters MWAITX.
    (0x8000_0001, 0, Register::Ecx, &[1, 2, 3, 4, 9, 10, 12, 13, 15, 19, 22, 23, 24, 28, 29]),
    // PSE MTRR PGE PSE36 Page1GB.
    (0x8000_0001, 0, Register::Edx, &[3, 12, 13, 17, 26]),
];

/// Bits that a kernel for 64-bit mode relies on.
const SHOWN: [(u32, Register, &[u32]); 3] = [
    // FPU TSC MSR PAE CX8 APIC CMOV PAT CLFSH MMX FXSR SSE SSE2.
    (1, Register::Edx, &[0, 4, 5, 6, 8, 9, 15, 16, 19, 23, 24, 25, 26]),
    // A hypervisor.
    (1, Register::Ecx, &[31]),
    // SYSCALL NX LM.
    (0x8000_0001, Register::Edx, &[11, 20, 29]),
];

fn policy() -> impl Strategy<Value = ProcessorPolicy> {
    (any::<bool>(), any::<u64>(), any::<bool>()).prop_map(|(is_host, removed, is_coarse)| ProcessorPolicy {
        model: if is_host { Model::Host } else { Model::Baseline },
        added: F::empty(),
        removed: F::from_bits_truncate(removed),
        time: if is_coarse { TimeSource::Coarse } else { TimeSource::Native },
        debug_registers: true,
    })
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn whatever_the_machine_answers_what_is_hidden_is_and_what_is_needed_is_there(
        words in prop::collection::vec(prop_oneof![any::<u32>(), Just(u32::MAX), Just(0)], 1..40),
        policy in policy(), vcpu in 0_u32..16, xcr0 in prop::sample::select(&[1_u64, 3, 7][..]), khz in any::<u32>(),
    ) {
        // A table of any numbers; only the last leaves are believable, so that others are looked at.
        let machine = Machine::learn(|leaf, subleaf| {
            let at = |register: u32| {
                let mixed = leaf.wrapping_mul(0x9e37_79b1) ^ subleaf.wrapping_mul(0x85eb_ca77) ^ register;
                words[mixed as usize % words.len()]
            };
            let eax = if leaf & !0x8000_0000 == 0 { leaf | 0x30 } else { at(0) };
            CpuidResult { eax, ebx: at(1), ecx: at(2), edx: at(3) }
        });
        let counter = Counter { khz, is_invariant: words[0] & 1 != 0 };
        let processor = XenProcessor::new(&policy, &machine, counter).unwrap();
        let asker = Asker { vcpu: VcpuId(vcpu), xcr0 };
        for (leaf, subleaf, register, bits) in HIDDEN {
            let shown = part(processor.answer(asker, leaf, subleaf), register);
            prop_assert!(bits.iter().all(|bit| shown >> bit & 1 == 0), "{leaf:#x}.{subleaf} {register:?} {shown:#x}");
        }
        for (leaf, register, bits) in SHOWN {
            let shown = part(processor.answer(asker, leaf, 0), register);
            prop_assert!(bits.iter().all(|bit| shown >> bit & 1 != 0), "{leaf:#x} {register:?} {shown:#x}");
        }
        let leaf1 = processor.answer(asker, 1, 0);
        prop_assert_eq!(leaf1.ebx >> 24, 2 * vcpu);
        prop_assert_eq!(leaf1.ecx >> 26 & 1, leaf1.ecx >> 27 & 1, "OSXSAVE goes with XSAVE");
        prop_assert_eq!(processor.xcr0() == 0, leaf1.ecx >> 26 & 1 == 0);
        prop_assert_eq!(processor.xcr0() & 4 != 0, leaf1.ecx >> 28 & 1 != 0);
        prop_assert!(processor.answer(asker, 0, 0).eax >= 0xd);
        prop_assert_eq!(processor.answer(asker, 0x8000_0007, 0).edx, u32::from(counter.is_invariant) << 8);
        prop_assert!(processor.answer(asker, 0x4000_0005, 0).ebx <= 44);
        for leaf in [2, 3, 4, 5, 6, 0xa, 0xb, 0x14, 0x1f, 0x8000_000a, 0x8000_001f, 0x8000_0021, 0x4000_0100] {
            prop_assert_eq!(processor.answer(asker, leaf, 0), CpuidResult::default(), "{:#x}", leaf);
        }
    }
}

#[test]
fn a_host_vm_sees_what_its_machine_has() {
    let processor = host(&of(*b"GenuineIntel"));
    let seen = |leaf, register| part(processor.answer(BOOT, leaf, 0), register);
    // SSE3 CX16 XSAVE OSXSAVE AVX; FSGSBASE AVX2; LAHF; RDTSCP.
    for (leaf, register, bits) in [
        (1, Register::Ecx, &[0, 13, 26, 27, 28][..]),
        (7, Register::Ebx, &[0, 5]),
        (0x8000_0001, Register::Ecx, &[0]),
        (0x8000_0001, Register::Edx, &[27]),
    ] {
        assert!(bits.iter().all(|bit| seen(leaf, register) >> bit & 1 != 0), "{leaf:#x}");
    }
    assert_eq!(baseline(F::empty()).answer(BOOT, 1, 0).ecx, 1 << 31, "the baseline has none of it");
}

#[test]
fn who_made_it_is_read_from_its_name() {
    for (maker, vendor) in [
        (*b"GenuineIntel", Vendor::Intel),
        (*b"AuthenticAMD", Vendor::Amd),
        (*b"HygonGenuine", Vendor::Amd),
        (*b"SomebodyElse", Vendor::Other),
    ] {
        assert_eq!(host(&of(maker)).vendor(), vendor);
    }
    let policy = ProcessorPolicy::default();
    let processor = XenProcessor::new(&policy, &of(*b"GenuineIntel"), COUNTER).unwrap();
    assert_eq!(processor.vendor(), Vendor::Other, "the baseline's is nobody's");
}

#[test]
fn xens_leaves_say_what_linux_looks_for() {
    let processor = host(&Machine::learn(everything));
    let first = processor.answer(BOOT, 0x4000_0000, 0);
    let text: Vec<u8> = [first.ebx, first.ecx, first.edx].iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!((first.eax, text.as_slice()), (0x4000_0005, b"XenVMMXenVMM".as_slice()));
    assert_eq!((first.ebx, first.ecx, first.edx), (0x566e_6558, 0x6558_4d4d, 0x4d4d_566e));
    assert_eq!(processor.answer(BOOT, 0x4000_0001, 0).eax, 0x4_0011);
    assert_eq!(processor.answer(BOOT, 0x4000_0002, 0), CpuidResult { ecx: 1, ..CpuidResult::default() });
    assert_eq!(processor.answer(BOOT, 0x4000_0003, 0), CpuidResult { eax: 2, ebx: 2, ecx: 2_400_000, edx: 0 });
    assert_eq!(processor.answer(BOOT, 0x4000_0003, 2).eax, 2_400_000);
    assert_eq!(processor.answer(BOOT, 0x4000_0004, 0), CpuidResult::default());
    assert_eq!(processor.answer(BOOT, 0x4000_0005, 0).ebx, 44);
    assert_eq!(baseline(F::empty()).answer(BOOT, 0x4000_0005, 0).ebx, 40);
    for leaf in (6..0x100).chain((0x100..0x1_0000).step_by(0x100)) {
        assert_eq!(processor.answer(BOOT, 0x4000_0000 + leaf, 0), CpuidResult::default(), "{leaf:#x}");
    }
}

#[test]
fn a_counter_that_is_not_the_machines_says_so() {
    let policy = ProcessorPolicy { time: TimeSource::Coarse, ..ProcessorPolicy::default() };
    let processor = XenProcessor::new(&policy, &Machine::learn(everything), COUNTER).unwrap();
    let answer = processor.answer(BOOT, 0x4000_0003, 0);
    assert_eq!((answer.eax, answer.ebx), (1, 1));
    let unsteady = Counter { is_invariant: false, ..COUNTER };
    let processor = XenProcessor::new(&ProcessorPolicy::default(), &Machine::learn(everything), unsteady).unwrap();
    let answer = processor.answer(BOOT, 0x4000_0003, 0);
    assert_eq!((answer.eax, answer.ebx), (0, 2));
}

#[test]
fn the_room_for_extended_state_follows_xcr0() {
    let processor = host(&Machine::learn(everything));
    for (xcr0, bytes) in [(1, 576), (3, 576), (7, 832)] {
        let answer = processor.answer(Asker { xcr0, ..BOOT }, 0xd, 0);
        assert_eq!((answer.eax, answer.ebx, answer.ecx), (7, bytes, 832), "{xcr0}");
    }
    let answer = baseline(F::XSAVE).answer(BOOT, 0xd, 0);
    assert_eq!((answer.eax, answer.ebx, answer.ecx), (3, 576, 576));
    assert_eq!(baseline(F::empty()).answer(BOOT, 0xd, 0), CpuidResult::default());
}

#[test]
fn each_value_of_xcr0_is_allowed_or_refused_as_the_manual_says() {
    let allowed =
        |processor: XenProcessor| (0..=0xff).filter(|value| processor.allows_xcr0(*value)).collect::<Vec<u64>>();
    assert_eq!(allowed(host(&Machine::learn(everything))), [1, 3, 7]);
    assert_eq!(allowed(baseline(F::XSAVE)), [1, 3]);
    assert!(allowed(baseline(F::empty())).is_empty());
}

#[test]
fn the_register_for_a_number_is_there_with_what_reads_it() {
    assert!(!baseline(F::empty()).has_tsc_aux());
    assert!(baseline(F::RDTSCP).has_tsc_aux());
    assert!(baseline(F::RDPID).has_tsc_aux());
}
