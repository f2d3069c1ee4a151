//! Golden bytes: what is on the wire today. A change here breaks guests or images that exist, and
//! needs a new wire version (or image format) and a decision record.

use protocol::image::ImageHeader;
use protocol::note::AbiNote;
use protocol::shared::{
    BatchEntry, CpuidResult, MemoryBatchEntry, RingHeader, STRUCTURES, TimePage, TrapEntry, TrapFrame,
};
use zerocopy::IntoBytes;

/// Bytes as hexadecimal text, a space between words of eight bytes.
fn hex(bytes: &[u8]) -> String {
    let words: Vec<String> =
        bytes.chunks(8).map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
    words.join(" ")
}

#[test]
fn a_trap_frame_keeps_its_order() {
    let frame = TrapFrame {
        rax: 1,
        rcx: 2,
        r11: 3,
        rip: 4,
        rflags: 5,
        rsp: 6,
        info: 0x30e,
        error_code: 7,
        address: 8,
        reserved: 0,
    };
    assert_eq!(
        hex(frame.as_bytes()),
        "0100000000000000 0200000000000000 0300000000000000 0400000000000000 0500000000000000 \
         0600000000000000 0e03000000000000 0700000000000000 0800000000000000 0000000000000000"
    );
}

#[test]
fn small_structures_keep_their_bytes() {
    let trap = TrapEntry { vector: 14, flags: 0, handler: 0x1122 };
    assert_eq!(hex(trap.as_bytes()), "0e00000000000000 2211000000000000");
    let cpuid = CpuidResult { eax: 1, ebx: 2, ecx: 3, edx: 4 };
    assert_eq!(hex(cpuid.as_bytes()), "0100000002000000 0300000004000000");
    let time = TimePage { version: 2, reserved: 0, tsc_base: 3, multiplier: 1 << 32, time_base_ns: 4, wall_base_ns: 5 };
    assert_eq!(
        hex(time.as_bytes()),
        "0200000000000000 0300000000000000 0000000001000000 0400000000000000 0500000000000000"
    );
    let memory = MemoryBatchEntry { operation: 1, space: 2, address: 3, frame: 4, count: 5, flags: 6 };
    assert_eq!(
        hex(memory.as_bytes()),
        "0100000002000000 0300000000000000 0400000000000000 0500000000000000 0600000000000000"
    );
    let batch = BatchEntry { number: 9, arguments: [1, 2, 3, 4, 5, 6], result: 7, second: 8 };
    assert_eq!(hex(batch.as_bytes()).split(' ').next_back(), Some("0800000000000000"));
    let ring = RingHeader {
        produced: 1,
        sender_waits: 4,
        padding: [0; 14],
        consumed: 2,
        receiver_waits: 3,
        padding_end: [0; 14],
    };
    assert_eq!(hex(&ring.as_bytes()[64..72]), "0200000003000000");
}

#[test]
fn every_structure_keeps_its_offsets() {
    let layout: Vec<String> = STRUCTURES
        .iter()
        .map(|structure| {
            let offsets: Vec<String> = structure.fields.iter().map(|field| field.offset.to_string()).collect();
            format!("{} {}: {}", structure.name, structure.size, offsets.join(" "))
        })
        .collect();
    assert_eq!(
        layout,
        [
            "TrapFrame 80: 0 8 16 24 32 40 48 56 64 72",
            "TrapEntry 16: 0 4 8",
            "VcpuPage 112: 0 32 64 68 72 80 84 88 96 104",
            "TimePage 40: 0 4 8 16 24 32",
            "StartInfo 1440: 0 8 16 20 24 32 40 48 80 344 348 352 992 1376",
            "ChannelInfo 80: 0 32 40 48 56 60 64",
            "ModuleInfo 48: 0 32 40",
            "MemoryBatchEntry 40: 0 4 8 16 24 32",
            "BatchEntry 72: 0 8 56 64",
            "CpuidResult 16: 0 4 8 12",
            "RingHeader 128: 0 4 8 64 68 72",
            "AuditRecord 128: 0 8 16 18 20 24 28 32 36 40 56 64 72 96",
        ]
    );
}

#[test]
fn the_note_and_the_image_header_keep_their_bytes() {
    assert_eq!(hex(AbiNote::CURRENT.as_bytes()), "0900000004000000 01000000436c6f69 7374657200000000 01000000");
    let header = ImageHeader {
        magic: protocol::image::MAGIC,
        format: 1.into(),
        reserved: 0.into(),
        header_checksum: 0x1122_3344.into(),
        image_bytes: 5.into(),
        manifest_bytes: 6.into(),
        policy_bytes: 8.into(),
        policy_hash: [9; 32],
        body_checksum: 7.into(),
    };
    assert_eq!(
        hex(header.as_bytes()),
        "434c4f4953544552 0100000044332211 0500000000000000 0600000000000000 0800000000000000 0909090909090909 0909090909090909 0909090909090909 0909090909090909 0700000000000000"
    );
}

#[cfg(feature = "manifest")]
mod messages {
    use protocol::VmId;
    use protocol::flags::MapFlags;
    use protocol::label::Label;
    use protocol::manifest::{ChannelManifest, Manifest, OnCrash, Segment, VmManifest};
    use protocol::policy::{Hardware, OnFull, Operation, Policy, Profile, Role, Schedule, Slot, Subject, Trust};
    use protocol::processor::{Model, PortRange, ProcessorFeatures, ProcessorPolicy, TimeSource};
    use protocol::record::{Ended, Record};

    #[test]
    fn a_manifest_keeps_its_bytes() {
        let manifest = Manifest {
            name: "s".into(),
            vms: vec![VmManifest {
                name: "a".into(),
                abi: protocol::version::CURRENT,
                entry: 1,
                memory_frames: 2,
                pool_frames: 3,
                vcpus: 4,
                weight: 5,
                cap_percent: 6,
                processor: ProcessorPolicy {
                    model: Model::Host,
                    added: ProcessorFeatures::AVX,
                    removed: ProcessorFeatures::SSE3,
                    time: TimeSource::Coarse,
                    debug_registers: true,
                },
                ports: vec![PortRange { first: 0x70, last: 0x171 }],
                on_crash: OnCrash::Restart(7),
                command_line: "c".into(),
                segments: vec![Segment {
                    address: 8,
                    image_offset: 9,
                    file_bytes: 10,
                    memory_bytes: 11,
                    flags: MapFlags::WRITE,
                }],
                modules: Vec::new(),
                personality: protocol::manifest::Personality::Native,
            }],
            channels: vec![ChannelManifest { name: "l".into(), ends: [0, 1], frames: 12 }],
        };
        let bytes = postcard::to_allocvec(&manifest).unwrap();
        assert_eq!(super::hex(&bytes), GOLDEN_MANIFEST);
        assert_eq!(postcard::from_bytes::<Manifest>(&bytes).unwrap(), manifest);
    }

    const GOLDEN_MANIFEST: &str =
        "0173010161010001 0203040506018010 0101010170f10201 0701630108090a0b 01000001016c0001 0c";

    #[test]
    fn a_policy_keeps_its_bytes() {
        let label = |secrecy_level| Label { secrecy_level, secrecy_categories: 5, ..Label::default() };
        let policy = Policy {
            profile: Profile::Strict(Schedule { slots: vec![Slot { duration_ns: 1_000_000, vms: vec![VmId(0)] }] }),
            hardware: Hardware::Degraded,
            on_full: OnFull::HaltOffender,
            subjects: vec![Subject {
                name: "a".into(),
                label: label(1),
                label_text: "t".into(),
                roles: vec![Role::Operator, Role::SecurityAdministrator],
                trust: Some(Trust { low: label(0), high: label(2), operations: vec![Operation::GrantCopyFrom] }),
                audit_share: 7,
            }],
            flows: vec![[VmId(0), VmId(1)]],
        };
        let bytes = postcard::to_allocvec(&policy).unwrap();
        assert_eq!(super::hex(&bytes), GOLDEN_POLICY);
        assert_eq!(postcard::from_bytes::<Policy>(&bytes).unwrap(), policy);
    }

    const GOLDEN_POLICY: &str = "0101c0843d010001 0101016101050000 0174020002010005 0000020500000106 07010001";

    #[test]
    fn a_record_keeps_its_bytes() {
        let record = Record::Ended(Ended { vm: VmId(3), code: 300, cpu_time_ns: 5 });
        assert_eq!(super::hex(&postcard::to_allocvec(&record).unwrap()), "0303ac0205");
    }
}
