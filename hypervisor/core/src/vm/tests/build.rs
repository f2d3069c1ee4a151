#![expect(clippy::missing_errors_doc, reason = "test code: helpers pass results on")]

use super::fixture::{demo_manifest, pack};
use crate::addr::Mfn;
use crate::fakes::{FakeMemory, free_table, records};
use crate::frame::tests::{KINDS, LOOKS};
use crate::frame::{Class, FrameTable, Kind};
use crate::space::{Machine, Memory, Region, Remains, TableMemory, Teardown};
use crate::vm::{Build, Builder, ChannelEnd, Origin, Problem, SystemImage, VmSource, claim_channel};
use protocol::flags::MapFlags;
use protocol::layout::{self, FIRST_STACK_TOP, KERNEL_IMAGE, PAGE_SIZE, PHYSMAP};
use protocol::manifest::Manifest;
use protocol::shared::{START_MAGIC, StartInfo, VcpuPage};
use protocol::{Gfn, GuestVirt, SpaceId, Status, VmId};
use zerocopy::FromBytes;

type TestMachine<'m> = Machine<'m, FakeMemory>;

const VM: VmId = VmId(0);

fn class(kind: Kind) -> Class {
    Class::new(Some(VM), kind)
}

fn with_image(manifest: &Manifest, frames: usize, test: impl FnOnce(TestMachine<'_>, &SystemImage<'_>, Region)) {
    let bytes = pack(manifest);
    let image = SystemImage::parse(&bytes).unwrap();
    let records = records(frames);
    let table = free_table(&records);
    let tables = FakeMemory::new(frames);
    let machine = Machine { frames: &table, tables: &tables };
    let region = claim_channel(machine, 3).unwrap();
    test(machine, &image, region);
}

fn build(machine: TestMachine<'_>, image: &SystemImage<'_>, region: Region, origin: Origin) -> Result<Memory, Problem> {
    let channels = [ChannelEnd { name: "link", region, peer: VmId(1), side: 0 }];
    let source = VmSource {
        vm: VM,
        manifest: &image.manifest().vms[0],
        image: image.bytes(),
        channels: &channels,
        slots: [None; 16],
        features: 5,
        origin,
    };
    let mut builder = Builder::new(source);
    loop {
        let before = LOOKS.get();
        let step = builder.step(machine)?;
        let looks = LOOKS.get().wrapping_sub(before);
        // However large the table is: 1024 frames and the rest of a run, each given back if in vain, and
        // the references of 512 pages that are mapped.
        assert!(looks <= 2 * (1024 + 512), "a step looked at {looks} frames");
        if step == Build::Done {
            return Ok(builder.finish());
        }
    }
}

fn frame_of(machine: TestMachine<'_>, memory: &Memory, number: u64) -> Option<Mfn> {
    memory.list().get(machine, Gfn(number)).ok().flatten()
}

/// The bytes at a page, read through the tables, and its flags.
fn read(machine: TestMachine<'_>, memory: &Memory, address: u64) -> (Vec<u8>, MapFlags) {
    let pair = memory.translate(machine, SpaceId::FIRST, GuestVirt(address)).unwrap();
    let frame = frame_of(machine, memory, pair.0).unwrap();
    let flags = MapFlags::from_bits(pair.1).unwrap();
    (machine.tables.bytes(frame).to_vec(), flags)
}

fn counts(frames: &FrameTable<'_>) -> Vec<u64> {
    KINDS.iter().map(|kind| frames.count(class(*kind))).collect()
}

fn take_down(machine: TestMachine<'_>, mut memory: Memory) -> Remains {
    loop {
        if let Teardown::Done(remains) = memory.teardown_step(machine).unwrap() {
            return remains;
        }
    }
}

#[test]
fn segments_and_modules_are_where_the_layout_says_and_the_rest_is_zero() {
    with_image(&demo_manifest(), 4096, |machine, image, region| {
        let memory = build(machine, image, region, Origin::Free).unwrap();
        let page = 4096;
        let (text, flags) = read(machine, &memory, KERNEL_IMAGE.0);
        assert_eq!((text.as_slice(), flags), (&image.bytes()[page..2 * page], MapFlags::EXECUTE));
        let (text, _) = read(machine, &memory, KERNEL_IMAGE.0 + PAGE_SIZE);
        assert_eq!(text[..10], image.bytes()[2 * page..2 * page + 10]);
        assert!(text[10..].iter().all(|byte| *byte == 0));
        let (data, flags) = read(machine, &memory, KERNEL_IMAGE.0 + 2 * PAGE_SIZE);
        assert_eq!((&data[..100], flags), (&image.bytes()[3 * page..3 * page + 100], MapFlags::WRITE));
        for zero in [3, 4] {
            let (bss, _) = read(machine, &memory, KERNEL_IMAGE.0 + zero * PAGE_SIZE);
            assert!(bss.iter().all(|byte| *byte == 0));
        }
        let behind = GuestVirt(KERNEL_IMAGE.0 + 5 * PAGE_SIZE);
        let found = memory.translate(machine, SpaceId::FIRST, behind);
        assert_eq!(found, Err(Status::NotMapped));
        // The module, through the physmap.
        let (module, _) = read(machine, &memory, PHYSMAP.0 + 5 * PAGE_SIZE);
        assert_eq!(module, image.bytes()[4 * page..5 * page]);
        let (module, _) = read(machine, &memory, PHYSMAP.0 + 6 * PAGE_SIZE);
        assert_eq!(module[..100], image.bytes()[5 * page..]);
        for number in 26..1100 {
            let frame = frame_of(machine, &memory, number).unwrap();
            assert!(machine.tables.is_clear(frame), "frame {number}");
        }
    });
}

#[test]
fn the_start_info_tells_everything() {
    with_image(&demo_manifest(), 4096, |machine, image, region| {
        let memory = build(machine, image, region, Origin::Free).unwrap();
        let (bytes, flags) = read(machine, &memory, layout::START_INFO.0);
        assert_eq!(flags, MapFlags::empty());
        let (info, _) = StartInfo::read_from_prefix(&bytes).unwrap();
        assert_eq!((info.magic, info.version), (START_MAGIC, 1 << 16));
        assert_eq!((info.vm, info.vcpus, info.memory_frames), (0, 2, 1100));
        assert_eq!((info.features, info.first_free_frame), (5, 26));
        assert_eq!(&info.name[..4], b"one\0");
        assert_eq!(&info.command_line[..7], b"fast=1\0");
        assert_eq!((info.channel_count, info.module_count), (1, 1));
        let channel = info.channels[0];
        assert_eq!(&channel.name[..5], b"link\0");
        assert_eq!((channel.address, channel.frame), (layout::CHANNELS.0, layout::CHANNEL_FRAMES.0));
        assert_eq!((channel.frames, channel.peer, channel.side), (3, 1, 0));
        let module = info.modules[0];
        assert_eq!(&module.name[..5], b"data\0");
        assert_eq!((module.frame, module.bytes), (5, PAGE_SIZE + 100));
    });
}

#[test]
fn stack_vcpu_pages_time_page_and_channel_are_mapped_with_guards_around() {
    with_image(&demo_manifest(), 4096, |machine, image, region| {
        let memory = build(machine, image, region, Origin::Free).unwrap();
        let found = |address| {
            let pair = memory.translate(machine, SpaceId::FIRST, GuestVirt(address));
            pair.map(|pair| (pair.0, MapFlags::from_bits(pair.1).unwrap()))
        };
        let (none, write) = (MapFlags::empty(), MapFlags::WRITE);
        assert_eq!(found(layout::START_INFO.0), Ok((7, none)));
        assert_eq!(found(layout::TIME_PAGE.0), Ok((layout::TIME_PAGE_FRAME.0, none)));
        let channel = layout::CHANNEL_FRAMES.0;
        assert_eq!(found(layout::CHANNELS.0 + 2 * PAGE_SIZE), Ok((channel + 2, write)));
        assert_eq!(found(layout::CHANNELS.0 + 3 * PAGE_SIZE), Err(Status::NotMapped));
        assert_eq!(found(FIRST_STACK_TOP.0), Err(Status::NotMapped));
        for page in 1..=16 {
            assert_eq!(found(FIRST_STACK_TOP.0 - page * PAGE_SIZE), Ok((26 - page, write)));
        }
        assert_eq!(found(FIRST_STACK_TOP.0 - 17 * PAGE_SIZE), Err(Status::NotMapped));
        for vcpu in 0..2_u32 {
            assert_eq!(found(layout::vcpu_page(vcpu).0), Ok((8 + u64::from(vcpu), write)));
            let frame = memory.vcpu_pages()[usize::try_from(vcpu).unwrap()].unwrap();
            let (page, _) = VcpuPage::read_from_prefix(&machine.tables.bytes(frame)).unwrap();
            assert_eq!((page.vcpu, page.events_masked), (vcpu, 1));
        }
        assert_eq!(found(layout::vcpu_page(2).0), Err(Status::NotMapped));
        assert_eq!(memory.vcpu_pages()[2], None);
    });
}

#[test]
fn the_physmap_is_large_where_it_can_be_and_covers_all_memory() {
    with_image(&demo_manifest(), 4096, |machine, image, region| {
        let memory = build(machine, image, region, Origin::Free).unwrap();
        for number in 0..1100 {
            let address = GuestVirt(PHYSMAP.0 + number * PAGE_SIZE);
            let pair = memory.translate(machine, SpaceId::FIRST, address).unwrap();
            let large = if number < 1024 { MapFlags::LARGE } else { MapFlags::empty() };
            assert_eq!(pair.0, number);
            assert_eq!(pair.1, (MapFlags::WRITE | large).bits());
        }
        let end = GuestVirt(PHYSMAP.0 + 1100 * PAGE_SIZE);
        let found = memory.translate(machine, SpaceId::FIRST, end);
        assert_eq!(found, Err(Status::NotMapped));
    });
}

#[test]
fn a_vcpu_page_cannot_be_released_even_when_it_is_mapped_nowhere() {
    with_image(&demo_manifest(), 4096, |machine, image, region| {
        let mut memory = build(machine, image, region, Origin::Free).unwrap();
        let space = SpaceId::FIRST;
        for (address, count) in [(layout::VCPU_PAGES, 2), (PHYSMAP, 512)] {
            let call = protocol::call::Unmap { space, address, count };
            let covered = memory.unmap(machine, call).unwrap();
            memory.settle(machine, covered.flush, |_| {});
        }
        assert_eq!(memory.release(machine, Gfn(8), 1), Err(Status::Busy));
        assert_eq!(memory.release(machine, Gfn(26), 1), Ok(1));
    });
}

#[test]
fn a_vm_is_built_again_from_its_own_frames_however_often_and_equal() {
    with_image(&demo_manifest(), 4096, |machine, image, region| {
        let free_before = machine.frames.free_frames();
        let mut memory = build(machine, image, region, Origin::Free).unwrap();
        let after = counts(machine.frames);
        let free = machine.frames.free_frames();
        assert_eq!(free_before - free, 1100 + 40 + 3 + 1);
        // Nothing is left beside its own, and the runs of 512 must be found again.
        let others = Class::new(None, Kind::Channel);
        while machine.frames.claim_run(Class::FREE, others, 0, (1, 1)).is_some() {}
        for round in 0..3 {
            // The guest mixes its frames up.
            assert_eq!(memory.release(machine, Gfn(1090), 0), Ok(0));
            let call = protocol::call::Unmap {
                space: SpaceId::FIRST,
                address: GuestVirt(PHYSMAP.0 + 512 * PAGE_SIZE),
                count: 512,
            };
            let covered = memory.unmap(machine, call).unwrap();
            memory.settle(machine, covered.flush, |_| {});
            assert_eq!(memory.release(machine, Gfn(600 + round), 64), Ok(64));
            assert_eq!(memory.reclaim(machine, Gfn(610), 20), Ok(20));
            memory.space_create(machine).unwrap();
            machine.tables.write(frame_of(machine, &memory, 30).unwrap(), 8, b"secret");
            let remains = take_down(machine, memory);
            assert_eq!(machine.frames.count(class(Kind::Kept)), 1100 + 40);
            assert_eq!(counts(machine.frames).iter().sum::<u64>(), 1100 + 40 + 3 + 1);
            memory = build(machine, image, region, Origin::Kept(remains)).unwrap();
            assert_eq!(counts(machine.frames), after);
            let frame = frame_of(machine, &memory, 30).unwrap();
            assert!(machine.tables.is_clear(frame));
        }
    });
}

#[test]
fn what_a_step_does_to_find_frames_does_not_grow_with_the_table() {
    with_image(&demo_manifest(), 40_000, |machine, image, region| {
        // The list, the runs of 512, the rest of the memory and the pool each lie behind many others' frames.
        let others = Class::new(None, Kind::Channel);
        for frame in (1..39_000).filter(|frame| frame % 512 == 500 || frame % 700 > 2) {
            let _ = machine.frames.change(Mfn(frame), Class::FREE, others, 0);
        }
        machine.frames.release_range(Mfn(0)..Mfn(5));
        for frame in 38_000..38_300 {
            let _ = machine.frames.change(Mfn(frame), others, Class::FREE, 0);
        }
        for frame in 5 * 512..7 * 512 {
            let _ = machine.frames.change(Mfn(frame), others, Class::FREE, 0);
        }
        let free = machine.frames.free_frames();
        let mut memory = build(machine, image, region, Origin::Free).unwrap();
        for _ in 0..2 {
            memory = build(machine, image, region, Origin::Kept(take_down(machine, memory))).unwrap();
        }
        assert_eq!(machine.frames.free_frames(), free - 1144);
    });
}

#[test]
fn a_vm_that_does_not_fit_is_said_so() {
    for frames in [5, 8, 600, 1000, 1535] {
        with_image(&demo_manifest(), frames, |machine, image, region| {
            let problem = build(machine, image, region, Origin::Free).unwrap_err();
            assert!(problem.to_string().ends_with("; give the machine more memory or the VM less"), "{problem}");
        });
    }
}

#[test]
fn what_the_teardown_left_can_become_free() {
    with_image(&demo_manifest(), 4096, |machine, image, region| {
        let free = machine.frames.free_frames();
        take_down(machine, build(machine, image, region, Origin::Free).unwrap());
        let mut next = Some(Mfn(0));
        while let Some(from) = next {
            next = machine.frames.free_remains(VM, from, 1000);
        }
        assert_eq!(machine.frames.free_frames(), free);
    });
}

#[test]
fn a_pool_that_is_too_small_for_the_first_tables_is_said_so() {
    for pool_frames in 1..14 {
        let mut manifest = demo_manifest();
        manifest.vms[0].pool_frames = pool_frames;
        with_image(&manifest, 4096, |machine, image, region| match build(machine, image, region, Origin::Free) {
            Ok(_) => assert!(pool_frames >= 13, "{pool_frames} were enough"),
            Err(problem) => {
                let expected = format!("a pool of {pool_frames} frames is too small");
                assert!(problem.to_string().starts_with(&expected), "{problem}");
            }
        });
    }
}

#[test]
fn frames_of_a_vm_are_its_own() {
    with_image(&demo_manifest(), 4096, |machine, image, region| {
        let memory = build(machine, image, region, Origin::Free).unwrap();
        let own = machine.frames.number(memory.time_page(), class(Kind::Shared));
        assert_eq!(own, Some(0));
        let first = frame_of(machine, &memory, 0).unwrap();
        assert_eq!(first.0 % 512, 0);
        assert_eq!(frame_of(machine, &memory, 511), Some(first.offset(511)));
        assert_ne!(first, Mfn(0));
        assert!(machine.tables.load(memory.time_page(), 0) == 0);
    });
}
