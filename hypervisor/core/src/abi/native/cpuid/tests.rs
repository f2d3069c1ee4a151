//! Every bit that a VM is shown is one that it can use; what it is shown depends on nothing else.

use super::{BASELINE, Controls, Gate, INSTRUCTION, Machine, Processor, part, words};
use proptest::prelude::*;
use protocol::flags;
use protocol::processor::{FEATURES, Model, ProcessorFeatures as F, ProcessorPolicy, Register, TimeSource};
use protocol::shared::CpuidResult;

const ONES: CpuidResult = CpuidResult { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX };

/// A machine whose every answer is all ones.
fn everything(_leaf: u32, _subleaf: u32) -> CpuidResult {
    ONES
}

fn machine(features: F) -> Machine {
    Machine { features: features.usable(), identity: Machine::learn(everything).identity }
}

fn processor(policy: ProcessorPolicy, features: F) -> Processor {
    Processor::new(&policy, &machine(features)).unwrap()
}

fn host(features: F) -> Processor {
    processor(ProcessorPolicy { model: Model::Host, ..ProcessorPolicy::default() }, features)
}

/// Leaves with their neighbours and some beyond.
fn leaves() -> impl Iterator<Item = (u32, u32)> {
    let leaf = (0..0x40).chain(0x4000_0000..0x4000_0010).chain(0x8000_0000..0x8000_0030).chain([u32::MAX]);
    leaf.flat_map(|leaf| (0..4).chain([63, u32::MAX]).map(move |subleaf| (leaf, subleaf)))
}

/// Everything that a VM can ask.
fn report(processor: &Processor) -> Vec<CpuidResult> {
    leaves().map(|(leaf, subleaf)| processor.answer(leaf, subleaf)).collect()
}

/// Bits of what ring 3 cannot use or the hypervisor does not manage, by leaf and register.
const NEVER: [(u32, Register, &[u32]); 7] = [
    // DTES64, MONITOR, CPL-qualified store, VMX, SMX, EST, TM2, context id, debug, PDCM, PCID, DCA, x2APIC,
    // TSC deadline.
    (1, Register::Ecx, &[2, 3, 4, 5, 6, 7, 8, 10, 11, 15, 17, 18, 21, 24]),
    // VME, DE, PSE, MSR, PAE, MCE, APIC, SEP, MTRR, PGE, MCA, PAT, PSE-36, serial number, debug store, ACPI,
    // self-snoop, threads, thermal monitor, PBE.
    (1, Register::Edx, &[1, 2, 3, 5, 6, 7, 9, 11, 12, 13, 14, 16, 17, 18, 21, 22, 27, 28, 29, 31]),
    // Count and id of CPUs.
    (1, Register::Ebx, &[16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31]),
    // TSC adjust, SGX, HLE, SMEP, INVPCID, RTM, PQM, MPX, PQE, SMAP, PT, and all of AVX-512.
    (7, Register::Ebx, &[1, 2, 4, 7, 10, 11, 12, 14, 15, 16, 17, 20, 21, 25, 26, 27, 28, 30, 31]),
    // PREFETCHWT1, AVX-512, UMIP, PKU, OSPKE, WAITPKG, CET, VAES and its kin, LA57, ENQCMD, SGX.
    (7, Register::Ecx, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 25, 27, 28, 29, 30, 31]),
    // MPX, AVX-512, PKRU, CET, AMX.
    (0xd, Register::Eax, &[3, 4, 5, 6, 7, 8, 9, 11, 12, 17, 18]),
    // SVM, extended APIC, CR8, IBS, SKINIT, watchdog, LWP, topology, counters, MWAITX.
    (0x8000_0001, Register::Ecx, &[1, 2, 3, 4, 9, 10, 12, 13, 15, 22, 23, 24, 28, 29]),
];

#[test]
fn nothing_that_a_guest_cannot_use_is_shown_on_a_machine_with_everything() {
    let processor = host(F::all());
    for (leaf, register, bits) in NEVER {
        let shown = part(processor.answer(leaf, 0), register);
        let wrong: Vec<&u32> = bits.iter().filter(|bit| shown >> **bit & 1 != 0).collect();
        assert!(wrong.is_empty(), "{leaf:#x} {register:?}: {wrong:?}");
    }
    assert_eq!(processor.answer(7, 0).edx, 0);
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn each_feature_is_shown_exactly_by_its_bit() {
    for info in FEATURES {
        let with = host(info.feature.with_needs());
        let without = host(info.feature.with_needs().difference(info.feature));
        let changed: Vec<(u32, u32)> =
            leaves().filter(|(leaf, sub)| with.answer(*leaf, *sub) != without.answer(*leaf, *sub)).collect();
        let of_state = [F::XSAVE, F::AVX].contains(&info.feature);
        assert!(changed.iter().all(|(leaf, _)| *leaf == info.leaf.0 || (of_state && *leaf == 0xd)), "{}", info.name);
        assert!(changed.contains(&info.leaf), "{}", info.name);
        assert!(Machine::learn(|leaf, sub| with.answer(leaf, sub)).features.contains(info.feature));
    }
}

#[test]
fn leaves_without_a_meaning_for_guests_are_zero() {
    let processor = host(F::all());
    for leaf in [2, 3, 4, 5, 6, 8, 0xa, 0xb, 0x14, 0x15, 0x16, 0x1f, 0x4000_0001, 0x8000_0005, 0x8000_000a, u32::MAX] {
        for subleaf in 0..4 {
            assert_eq!(processor.answer(leaf, subleaf), CpuidResult::default(), "{leaf:#x}.{subleaf}");
        }
    }
    assert_eq!(processor.answer(7, 1), CpuidResult::default());
}

#[test]
fn the_hypervisor_names_itself_and_the_baseline_its_processor() {
    let text = |parts: &[u32]| -> Vec<u8> { parts.iter().flat_map(|word| word.to_le_bytes()).collect() };
    let processor = processor(ProcessorPolicy::default(), F::all());
    let leaf = processor.answer(0x4000_0000, 0);
    assert_eq!(text(&[leaf.ebx, leaf.ecx, leaf.edx]), b"CloisterVMM ");
    let brand: Vec<u8> = (0x8000_0002..=0x8000_0004)
        .map(|leaf| processor.answer(leaf, 0))
        .flat_map(|part| text(&[part.eax, part.ebx, part.ecx, part.edx]))
        .collect();
    assert_eq!(brand.strip_suffix(&[0; 28][..]).unwrap(), b"Cloister virtual CPU");
    assert_eq!(BASELINE.vendor, words(*b"CloisterCPU "));
}

#[test]
fn the_baseline_shows_nothing_of_the_machine() {
    let policy = ProcessorPolicy { added: F::AVX2.with_needs(), ..ProcessorPolicy::default() };
    let poor = Machine::learn(|leaf, _| CpuidResult { eax: leaf | 0xff, ..CpuidResult::default() });
    let poor = Machine { features: policy.added, ..poor };
    let rich = Machine::learn(everything);
    assert_ne!(poor.identity, rich.identity);
    let [one, other] = [poor, rich].map(|machine| report(&Processor::new(&policy, &machine).unwrap()));
    assert_eq!(one, other);
}

#[test]
fn a_leaf_beyond_the_machines_last_is_not_believed() {
    let until = |last: u32| {
        move |leaf: u32, _| match leaf {
            0 => CpuidResult { eax: last, ..ONES },
            0x8000_0000 => CpuidResult { eax: 0, ..ONES },
            _ => ONES,
        }
    };
    let old = Machine::learn(until(1));
    assert!(old.features.contains(F::SSE3) && !old.features.intersects(F::AVX2 | F::LAHF | F::XSAVEOPT));
    assert_eq!(old.identity.brand, [CpuidResult::default(); 3]);
}

#[test]
fn coarse_time_hides_the_counter_and_switches_it_off() {
    for model in [Model::Baseline, Model::Host] {
        let native = ProcessorPolicy { model, ..ProcessorPolicy::default() };
        let coarse = ProcessorPolicy { time: TimeSource::Coarse, ..native };
        let [native, coarse] = [native, coarse].map(|policy| processor(policy, F::all()));
        assert_eq!(native.answer(1, 0).edx & 1 << 4, 1 << 4);
        assert_eq!(coarse.answer(1, 0).edx & 1 << 4, 0);
        assert_eq!(coarse.answer(0x8000_0001, 0).edx & 1 << 27, 0);
        assert!(coarse.controls().contains(Controls::NO_TSC) && !native.controls().contains(Controls::NO_TSC));
    }
}

#[test]
fn the_vcpus_number_is_kept_where_an_instruction_reads_it() {
    for feature in [F::RDTSCP, F::RDPID] {
        let hidden = ProcessorPolicy::default();
        assert!(processor(hidden, feature).controls().contains(Controls::TSC_AUX), "the bare instruction reads it");
    }
    assert!(!host(F::all().difference(F::RDTSCP | F::RDPID)).controls().contains(Controls::TSC_AUX));
}

#[test]
fn the_features_word_offers_what_the_vm_sees() {
    let all = flags::Features::all();
    assert_eq!(host(F::all()).offered(all), all);
    let own = flags::Features::FSGSBASE | flags::Features::AVX | flags::Features::XSAVE;
    assert_eq!(processor(ProcessorPolicy::default(), F::all()).offered(all), all.difference(own));
    assert_eq!(host(F::all().difference(F::AVX)).offered(all), all.difference(flags::Features::AVX));
    assert_eq!(host(F::all()).offered(flags::Features::UMIP), flags::Features::UMIP);
}

/// An answer of a machine of this vendor.
fn of(vendor: [u8; 12], last: u32, extended: u32) -> impl Fn(u32, u32) -> CpuidResult {
    let [ebx, ecx, edx] = words(vendor);
    move |leaf, _| match leaf {
        0 => CpuidResult { eax: 0x20, ebx, ecx, edx },
        0x8000_0000 => CpuidResult { eax: last, ..CpuidResult::default() },
        0x8000_0021 => CpuidResult { eax: extended, ..CpuidResult::default() },
        _ => CpuidResult::default(),
    }
}

#[test]
fn the_gate_is_the_vendors_own_and_only_where_it_is_stated() {
    let intel = *b"GenuntelineI";
    let amd = *b"AuthcAMDenti";
    for (info, gate) in [(Some(1 << 31), Gate::Intel), (Some(!(1 << 31)), Gate::Open), (None, Gate::Open)] {
        assert_eq!(Gate::find(of(intel, 0, 0), || info), gate);
    }
    let never = || unreachable!("the register may not exist");
    assert_eq!(Gate::find(of(amd, 0x8000_0021, 1 << 17), never), Gate::Amd);
    assert_eq!(Gate::find(of(amd, 0x8000_0021, !(1 << 17)), never), Gate::Open);
    assert_eq!(Gate::find(of(amd, 0x8000_0020, 1 << 17), never), Gate::Open);
    assert_eq!(Gate::find(of(*b"SomebodyElse", 0x8000_0021, 1 << 17), never), Gate::Open);
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn only_the_two_bytes_of_cpuid_are_answered_and_only_behind_a_gate() {
    for gate in [Gate::Intel, Gate::Amd] {
        assert!(gate.explains(0, INSTRUCTION));
        assert!(!gate.explains(8, INSTRUCTION), "a fault that names a selector");
        for first in 0..=255 {
            for second in 0..=255 {
                assert_eq!(gate.explains(0, [first, second]), first == 0x0f && second == 0xa2);
            }
        }
    }
    assert!(!Gate::Open.explains(0, INSTRUCTION));
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn whatever_policy_and_machine_are_each_bit_can_be_used(
        of_machine in any::<u64>(), added in any::<u64>(), removed in any::<u64>(),
        is_host in any::<bool>(), is_coarse in any::<bool>(),
    ) {
        let machine = machine(F::from_bits_truncate(of_machine));
        let policy = ProcessorPolicy {
            model: if is_host { Model::Host } else { Model::Baseline },
            added: F::from_bits_truncate(added & of_machine) & machine.features,
            removed: F::from_bits_truncate(removed & !added),
            time: if is_coarse { TimeSource::Coarse } else { TimeSource::Native },
            debug_registers: true,
        };
        let Ok(processor) = Processor::new(&policy, &machine) else {
            // Only what was hidden can be missing: all that was added is the machine's.
            prop_assert!(policy.features(F::all()).is_err());
            return Ok(());
        };
        prop_assert!(machine.features.contains(processor.features));
        prop_assert!(!processor.features.intersects(policy.removed));
        let (leaf1, state) = (processor.answer(1, 0), processor.answer(0xd, 0));
        let avx = processor.controls().contains(Controls::AVX);
        prop_assert_eq!(leaf1.ecx >> 28 & 1 != 0, avx, "AVX is shown exactly where XCR0 has it");
        prop_assert_eq!(leaf1.ecx >> 26 & 1, leaf1.ecx >> 27 & 1, "XSAVE and OSXSAVE");
        let has_xsave = leaf1.ecx >> 26 & 1 != 0;
        let wanted = match (has_xsave, avx) { (false, _) => (0, 0), (true, false) => (3, 576), (true, true) => (7, 832) };
        prop_assert_eq!((state.eax, state.ebx), wanted);
        prop_assert_eq!(state.ebx, state.ecx);
        if !avx {
            prop_assert_eq!(leaf1.ecx & (1 << 12 | 1 << 29), 0, "FMA and F16C need AVX");
            prop_assert_eq!(processor.answer(7, 0).ebx & 1 << 5, 0, "AVX2 needs AVX");
            prop_assert_eq!(processor.answer(0xd, 2), CpuidResult::default());
        }
        let fsgsbase = processor.answer(7, 0).ebx & 1 != 0;
        prop_assert_eq!(fsgsbase, processor.controls().contains(Controls::FSGSBASE));
    }
}
