use core::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use protocol::layout::PAGE_SIZE;
use protocol::manifest::{Manifest, Personality, XenKernel};
use protocol::xen::structure::{SharedInfo, StartInfo};
use protocol::xen::{CONSOLE_PORT, Errno, M2P_INVALID, M2P_START};
use protocol::{VcpuId, VmId};
use zerocopy::FromBytes;

use super::{LINUX, LINUX_BASE, LINUX_P2M, SMALL, xen_manifest};
use crate::addr::Mfn;
use crate::fakes::{FakeMemory, free_table, records};
use crate::frame::tests::KINDS;
use crate::frame::typed::{Level, Type};
use crate::frame::{Class, FrameTable, Kind};
use crate::paging::{GuestTables, Progress};
use crate::space::entry::{ACCESSED, NO_EXECUTE, PRESENT, USER, WRITABLE};
use crate::space::{Machine, Remains, TableMemory, Teardown, ValidEntry};
use crate::vm::tests::fixture::pack;
use crate::vm::xen::{XenBuilder, XenMemory};
use crate::vm::{Build, Origin, Problem, SystemImage, VmSource};

const VM: VmId = VmId(0);
/// A frame to which the hypervisor's slots lead; never looked into.
const OWN: Mfn = Mfn(77);

/// The fake machine, with a count of what was done to frames.
#[derive(Debug)]
struct Watched {
    memory: FakeMemory,
    work: Cell<u64>,
}

impl Watched {
    /// Counts 64-byte pieces of a frame.
    fn count(&self, pieces: u64) {
        self.work.set(self.work.get() + pieces);
    }

    fn words(&self, frame: Mfn) -> Vec<u64> {
        (0..512).map(|word| self.memory.load(frame, word)).collect()
    }
}

impl TableMemory for Watched {
    fn load(&self, frame: Mfn, index: usize) -> u64 {
        self.count(1);
        self.memory.load(frame, index)
    }

    fn store(&self, table: Mfn, index: usize, entry: ValidEntry) {
        self.count(1);
        self.memory.store(table, index, entry);
    }

    fn clear(&self, frame: Mfn) {
        self.count(64);
        self.memory.clear(frame);
    }

    fn write(&self, frame: Mfn, offset: usize, bytes: &[u8]) {
        self.count(u64::try_from(bytes.len().div_ceil(64)).unwrap());
        self.memory.write(frame, offset, bytes);
    }
}

impl GuestTables for Watched {
    fn compare_exchange(&self, table: Mfn, index: usize, old: u64, entry: ValidEntry) -> Result<(), u64> {
        self.count(1);
        self.memory.compare_exchange(table, index, old, entry)
    }

    fn store_word(&self, frame: Mfn, index: usize, value: u64) {
        self.count(1);
        self.memory.store_word(frame, index, value);
    }

    fn flush(&self) {}
}

type TestMachine<'m> = Machine<'m, Watched>;

fn class(kind: Kind) -> Class {
    Class::new(Some(VM), kind)
}

/// The demo system with a Xen VM, on a machine of so many frames of which `taken` are not free.
fn with_machine(
    manifest: &Manifest,
    frames: usize,
    taken: impl IntoIterator<Item = u64>,
    test: impl FnOnce(TestMachine<'_>, &SystemImage<'_>),
) {
    let bytes = pack(manifest);
    let image = SystemImage::parse(&bytes).unwrap();
    let records = records(frames);
    let table = free_table(&records);
    taken.into_iter().for_each(|frame| table.reserve(Mfn(frame)..Mfn(frame + 1)));
    let tables = Watched { memory: FakeMemory::new(frames), work: Cell::new(0) };
    test(Machine { frames: &table, tables: &tables }, &image);
}

fn build(machine: TestMachine<'_>, image: &SystemImage<'_>, origin: Origin) -> Result<XenMemory, Problem> {
    let manifest = &image.manifest().vms[0];
    let Personality::Xen(kernel) = manifest.personality else { panic!("a Xen VM") };
    let mut slots = [Some(OWN); 16];
    slots[1] = None;
    let source = VmSource { vm: VM, manifest, image: image.bytes(), channels: &[], slots, features: 0, origin };
    let mut builder = XenBuilder::new(source, kernel);
    loop {
        machine.tables.work.set(0);
        let build = builder.step(machine)?;
        // 64 frames cleared, twice; the frame list is claimed in one go, and is short here.
        assert!(machine.tables.work.get() <= 2 * 64 * 64 + 64, "a step did {}", machine.tables.work.get());
        if build == Build::Done {
            return Ok(builder.finish());
        }
    }
}

fn take_down(machine: TestMachine<'_>, mut memory: XenMemory) -> Remains {
    loop {
        machine.tables.work.set(0);
        let step = memory.teardown_step(machine);
        assert!(machine.tables.work.get() <= 64 * 64);
        if let Teardown::Done(remains) = step {
            return remains;
        }
    }
}

/// The words by which the processor comes to an address in ring 3, from the root to the page.
fn words(machine: TestMachine<'_>, root: Mfn, address: u64) -> Option<[u64; 4]> {
    let mut table = root;
    let mut words = [0; 4];
    for (place, shift) in words.iter_mut().zip([39, 30, 21, 12]) {
        let word = machine.tables.memory.load(table, usize::try_from((address >> shift) & 511).unwrap());
        if word & PRESENT == 0 || word & USER == 0 {
            return None;
        }
        assert_eq!(word & 0x198, 0, "{word:#x}: cached otherwise, large or global");
        *place = word;
        table = frame_of(word);
    }
    Some(words)
}

fn frame_of(word: u64) -> Mfn {
    Mfn((word & 0xf_ffff_ffff_f000) >> 12)
}

/// What is there: the frame, and whether it can be written and executed.
fn walk(machine: TestMachine<'_>, root: Mfn, address: u64) -> Option<(Mfn, bool, bool)> {
    let words = words(machine, root, address)?;
    let writable = words.iter().all(|word| word & WRITABLE != 0);
    let executable = words.iter().all(|word| word & NO_EXECUTE == 0);
    Some((frame_of(words[3]), writable, executable))
}

/// The bytes of the page at an address.
fn page(machine: TestMachine<'_>, memory: &XenMemory, address: u64) -> Vec<u8> {
    let (frame, _, _) = walk(machine, memory.root, address).unwrap();
    machine.tables.memory.bytes(frame).to_vec()
}

fn start_info(machine: TestMachine<'_>, memory: &XenMemory) -> StartInfo {
    StartInfo::read_from_prefix(&page(machine, memory, memory.start_info)).unwrap().0
}

/// The guest's own list of frames, read through its tables.
fn p2m(machine: TestMachine<'_>, memory: &XenMemory) -> Vec<Mfn> {
    let list = start_info(machine, memory).mfn_list;
    let word = |number: u64| {
        let bytes = page(machine, memory, list + number / 512 * PAGE_SIZE);
        let at = usize::try_from(number % 512 * 8).unwrap();
        Mfn(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()))
    };
    (0..memory.frames).map(word).collect()
}

/// The list "machine frame to guest frame" is the inverse of the guest's own, and shows nothing else.
fn check_lists(machine: TestMachine<'_>, memory: &XenMemory) {
    let own = p2m(machine, memory);
    assert_eq!(own.iter().collect::<BTreeSet<_>>().len(), own.len());
    for block in 0..machine.frames.frames().div_ceil(512) {
        let found = words(machine, memory.root, M2P_START + block * PAGE_SIZE).map(|words| words[3]);
        let is_own = |frame: u64| KINDS.iter().any(|kind| machine.frames.number(Mfn(frame), class(*kind)).is_some());
        assert_eq!(found.is_some(), (block * 512..block * 512 + 512).any(is_own), "block {block}");
        let Some(word) = found else {
            continue;
        };
        let frame = frame_of(word);
        assert_eq!(word & (WRITABLE | NO_EXECUTE), NO_EXECUTE);
        assert!(machine.frames.number(frame, class(Kind::Shared)).is_some());
        for (number, word) in (block * 512..).zip(machine.tables.words(frame)) {
            let guest = own.iter().position(|own| own.0 == number);
            assert_eq!(word, guest.map_or(M2P_INVALID, |guest| u64::try_from(guest).unwrap()), "frame {number:#x}");
        }
    }
    let end = M2P_START + machine.frames.frames().div_ceil(512) * PAGE_SIZE;
    assert_eq!(walk(machine, memory.root, end), None);
}

/// The first mapping shows frame after frame, tables read only, up to its end; each frame is the VM's memory.
fn check_mapping(machine: TestMachine<'_>, memory: &XenMemory, base: u64) {
    let (info, own) = (start_info(machine, memory), p2m(machine, memory));
    let tables = info.pt_base..info.pt_base + info.nr_pt_frames * PAGE_SIZE;
    let mut pages = 0;
    while let Some((frame, writable, executable)) = walk(machine, memory.root, base + pages * PAGE_SIZE) {
        let address = base + pages * PAGE_SIZE;
        assert_eq!(frame, own[usize::try_from(pages).unwrap()]);
        assert_eq!((writable, executable), (!tables.contains(&address), true), "{address:#x}");
        pages += 1;
    }
    assert!(pages.is_multiple_of(1024) && base + pages * PAGE_SIZE >= memory.stack + 128 * PAGE_SIZE);
    assert!(own.iter().all(|frame| memory.paging.owns(machine, *frame)));
    assert_eq!(walk(machine, memory.root, info.pt_base).unwrap().0, memory.root);
}

/// Every reference that a frame has comes from an entry of a validated table, or is one of those that the builder takes.
fn check_counts(machine: TestMachine<'_>, memory: &XenMemory) {
    let used = |frame| machine.frames.typed(frame, class(Kind::Paged));
    let frames = || (0..machine.frames.frames()).map(Mfn).filter(|frame| used(*frame).is_some());
    let mut found: BTreeMap<Mfn, (u64, Vec<Type>)> = frames().map(|frame| (frame, (0, Vec::new()))).collect();
    let mut count = |frame, by: Option<Type>| {
        let entry = found.get_mut(&frame).unwrap();
        entry.0 += 1;
        entry.1.extend(by);
    };
    let shared = [memory.shared_info, memory.console].into_iter().chain(memory.grants);
    shared.for_each(|frame| count(frame, Some(Type::Writable)));
    // The pin, and the first vCPU.
    (0..2).for_each(|_| count(memory.root, Some(Type::Table(Level::L4))));
    for table in frames().filter(|frame| used(*frame).unwrap().is_validated()) {
        let Type::Table(level) = used(table).unwrap().current() else { panic!("only tables are validated") };
        for (slot, word) in machine.tables.words(table).into_iter().enumerate() {
            let is_own = level == Level::L4 && (256..272).contains(&slot);
            if word & PRESENT != 0 && !is_own {
                let page = (word & WRITABLE != 0).then_some(Type::Writable);
                count(frame_of(word), level.below().map_or(page, |below| Some(Type::Table(below))));
            }
        }
    }
    for (frame, (references, types)) in found {
        let used = used(frame).unwrap();
        assert!(types.iter().all(|by| *by == used.current()), "{frame:?} is {used:?}, wanted {types:?}");
        let counts = (used.references(), used.count());
        assert_eq!(counts, (references, u64::try_from(types.len()).unwrap()), "{frame:?}");
    }
}

/// Everything that holds of a VM that was just built.
fn check(machine: TestMachine<'_>, memory: &XenMemory, image: &SystemImage<'_>) {
    let manifest = &image.manifest().vms[0];
    let Personality::Xen(kernel) = manifest.personality else { panic!("a Xen VM") };
    check_lists(machine, memory);
    check_counts(machine, memory);
    check_mapping(machine, memory, kernel.virt_base);
    for segment in &manifest.segments {
        let mut bytes = Vec::new();
        for number in 0..segment.memory_bytes.div_ceil(PAGE_SIZE) {
            let address = segment.address + number * PAGE_SIZE;
            if kernel.hypercall_page == Some(address) {
                bytes.resize(bytes.len() + 4096, 0);
            } else {
                bytes.extend(page(machine, memory, address));
            }
        }
        let from = usize::try_from(segment.image_offset).unwrap();
        let length = usize::try_from(segment.file_bytes).unwrap();
        let is_stubs = kernel.hypercall_page == Some(segment.address);
        assert!(is_stubs || bytes[..length] == image.bytes()[from..from + length]);
        assert!(bytes[length..].iter().all(|byte| *byte == 0));
    }
    let root = machine.frames.typed(memory.root, class(Kind::Paged)).unwrap();
    assert!(root.is_table(Level::L4) && root.is_pinned());
    assert_eq!(root.count(), 2);
    for slot in 0..16 {
        let word = machine.tables.memory.load(memory.root, 256 + slot);
        let own = (OWN.0 << 12) | PRESENT | WRITABLE | ACCESSED;
        let expected = if slot == 1 { 0 } else { own };
        assert!(slot == 0 || word == expected, "slot {slot}: {word:#x}");
    }
}

#[test]
fn what_linux_asks_for_is_built_and_its_start_info_tells_it() {
    let manifest = xen_manifest(LINUX);
    with_machine(&manifest, 4096, [], |machine, image| {
        let memory = build(machine, image, Origin::Free).unwrap();
        check(machine, &memory, image);
        let own = p2m(machine, &memory);
        let info = start_info(machine, &memory);
        // Frames: kernel from 0x100 to 0x105, three pages, root, four tables, stack; module behind 4 MiB.
        assert_eq!(&info.magic[..15], b"xen-3.0-x86_64\0");
        assert_eq!((info.nr_pages, info.flags), (2048, 0x18));
        assert_eq!((memory.start_info, memory.stack), (LINUX_BASE + 0x10_5000, LINUX_BASE + 0x10_e000));
        assert_eq!((memory.entry, memory.frames), (LINUX_BASE + 0x10_0010, 2048));
        assert_eq!((info.store_mfn, info.store_evtchn), (own[0x106].0, 0));
        assert_eq!((info.console_mfn, info.console_evtchn), (own[0x107].0, CONSOLE_PORT));
        assert_eq!((memory.console, memory.root), (own[0x107], own[0x108]));
        assert_eq!((info.pt_base, info.nr_pt_frames), (LINUX_BASE + 0x10_8000, 5));
        assert_eq!((info.mfn_list, info.first_p2m_pfn, info.nr_p2m_frames), (LINUX_P2M, 0x402, 4 + 3));
        assert_eq!((info.mod_start, info.mod_len), (0x400, PAGE_SIZE + 100));
        assert_eq!(&info.cmd_line[..7], b"fast=1\0");
        assert_eq!(info.shared_info, memory.shared_info.0 * PAGE_SIZE);
        let module = [own[0x400], own[0x401]].map(|frame| machine.tables.memory.bytes(frame)).concat();
        assert_eq!(module[..4196], image.bytes()[4 * 4096..4 * 4096 + 4196]);
        assert!(module[4196..].iter().all(|byte| *byte == 0));
        for number in (0..0x100).chain([0x106, 0x107]).chain(0x10d..0x400).chain(0x409..2048) {
            assert!(machine.tables.memory.is_clear(own[number]), "guest frame {number:#x}");
        }
        // Behind the list nothing is mapped.
        assert_eq!(walk(machine, memory.root, LINUX_P2M + 4 * PAGE_SIZE), None);
    });
}

#[test]
fn what_the_smallest_kernels_ask_for_is_built() {
    let mut manifest = xen_manifest(SMALL);
    manifest.vms[0].command_line = "x".repeat(1023);
    with_machine(&manifest, 4096, [], |machine, image| {
        let memory = build(machine, image, Origin::Free).unwrap();
        check(machine, &memory, image);
        let info = start_info(machine, &memory);
        // The module at 0x105, the list of four frames, then the start info.
        assert_eq!((info.flags, info.mod_start, info.mod_len), (0x10, 0x10_5000, PAGE_SIZE + 100));
        assert_eq!((info.mfn_list, info.first_p2m_pfn, info.nr_p2m_frames), (0x10_7000, 0, 0));
        assert_eq!((memory.start_info, info.pt_base), (0x10_b000, 0x10_e000));
        assert_eq!(page(machine, &memory, info.mod_start), image.bytes()[4 * 4096..5 * 4096]);
        assert_eq!((info.cmd_line[1022], info.cmd_line[1023]), (b'x', 0));
        let stubs = page(machine, &memory, 0x10_2000);
        let plain = |number| [0x51, 0x41, 0x53, 0xb8, number, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3, 0xcc];
        for number in (0..128).filter(|number| *number != 23) {
            assert_eq!(stubs[number * 32..][..15], plain(u8::try_from(number).unwrap()));
        }
        assert_eq!(stubs[23 * 32..][..12], [0x51, 0x41, 0x53, 0x50, 0xb8, 23, 0, 0, 0, 0x0f, 0x05, 0xcc]);
    });
    manifest.vms[0].modules.clear();
    with_machine(&manifest, 4096, [], |machine, image| {
        let info = start_info(machine, &build(machine, image, Origin::Free).unwrap());
        assert_eq!((info.flags, info.mod_start, info.mod_len), (0x10, 0, 0));
    });
}

#[test]
fn the_shared_info_is_the_vms_and_writable_for_good_and_so_are_the_consoles_page_and_the_grants() {
    with_machine(&xen_manifest(LINUX), 4096, [], |machine, image| {
        let mut memory = build(machine, image, Origin::Free).unwrap();
        let (shared, _) = SharedInfo::read_from_prefix(&machine.tables.memory.bytes(memory.shared_info)).unwrap();
        assert!(shared.vcpu_info.iter().all(|vcpu| (vcpu.evtchn_upcall_mask, vcpu.evtchn_upcall_pending) == (1, 0)));
        assert_eq!((shared.evtchn_pending, shared.evtchn_mask, shared.wc_version), ([0; 64], [0; 64], 0));
        assert!(!p2m(machine, &memory).contains(&memory.shared_info));
        for (frame, count) in [(memory.shared_info, 1), (memory.console, 2)] {
            let used = machine.frames.typed(frame, class(Kind::Paged)).unwrap();
            assert_eq!((used.current(), used.count()), (Type::Writable, count));
        }
        // The guest maps it, gives the mapping up, and cannot have the frame as anything else.
        let place = memory.paging.find(machine, memory.root, protocol::GuestVirt(LINUX_BASE)).unwrap();
        for word in [memory.shared_info.0 << 12 | 7, 0] {
            assert_eq!(memory.paging.set(machine, place, word), Ok(Progress::Done(())));
        }
        assert!(memory.grants.iter().all(|frame| machine.tables.memory.is_clear(*frame)));
        for frame in [memory.shared_info, memory.console].into_iter().chain(memory.grants) {
            let pinned = memory.paging.pin(machine, VcpuId(0), frame, Level::L1);
            assert_eq!(pinned, Err(Errno::Invalid));
            assert_eq!(memory.paging.release(machine, frame), Err(Errno::Busy));
        }
    });
}

fn counts(frames: &FrameTable<'_>) -> Vec<u64> {
    KINDS.iter().map(|kind| frames.count(class(*kind))).collect()
}

/// What a guest could do: unpin the builder's tables, map and unmap, give frames back and get others.
fn use_it(machine: TestMachine<'_>, memory: &mut XenMemory, numbers: &[u64]) {
    let own = p2m(machine, memory);
    let base = start_info(machine, memory).pt_base & !0x3f_ffff;
    let paging = &mut memory.paging;
    for number in numbers {
        let frame = own[usize::try_from(number % memory.frames).unwrap()];
        machine.tables.memory.write(memory.console, 8, b"secret");
        if let Some(place) = paging.find(machine, memory.root, protocol::GuestVirt(base + number % 1024 * PAGE_SIZE)) {
            while paging.set(machine, place, 0) == Ok(Progress::Again) {}
            if number % 3 == 0 {
                while paging.set(machine, place, frame.0 << 12 | 0x21) == Ok(Progress::Again) {}
            }
        }
        while paging.release(machine, frame) == Ok(Progress::Again) {}
        if number % 2 == 0 {
            let _ = paging.populate(machine, number % memory.frames);
        }
        let level = Level::ALL[usize::try_from(number % 4).unwrap()];
        while paging.pin(machine, VcpuId(0), frame, level) == Ok(Progress::Again) {}
    }
    while paging.unpin(machine, memory.root) == Ok(Progress::Again) {}
}

/// Builds, uses, takes down and builds again on a machine whose memory is in pieces; every frame is accounted for.
fn live_through(kernel: XenKernel, (memory_frames, pool_frames): (u64, u64), taken: &BTreeSet<u64>, numbers: &[u64]) {
    let mut manifest = xen_manifest(kernel);
    manifest.vms[0].memory_frames = memory_frames;
    manifest.vms[0].pool_frames = pool_frames;
    with_machine(&manifest, 4096, taken.iter().copied(), |machine, image| {
        let free = machine.frames.free_frames();
        let mut memory = build(machine, image, Origin::Free).unwrap();
        check(machine, &memory, image);
        let after = counts(machine.frames);
        let own = memory_frames + pool_frames + memory_frames.div_ceil(512) + 1;
        assert_eq!(free - machine.frames.free_frames(), own);
        // Nothing is left beside its own.
        let others = Class::new(None, Kind::Channel);
        while machine.frames.claim_run(Class::FREE, others, 0, (1, 1)).is_some() {}
        for _ in 0..3 {
            use_it(machine, &mut memory, numbers);
            let remains = take_down(machine, memory);
            assert_eq!(machine.frames.count(class(Kind::Kept)), memory_frames + pool_frames);
            assert_eq!(counts(machine.frames).iter().sum::<u64>(), own);
            let is_own = |frame: &Mfn| KINDS.iter().any(|kind| machine.frames.number(*frame, class(*kind)).is_some());
            let mut all = (0..machine.frames.frames()).map(Mfn).filter(is_own);
            assert!(all.all(|frame| machine.tables.memory.is_clear(frame)));
            memory = build(machine, image, Origin::Kept(remains)).unwrap();
            check(machine, &memory, image);
            assert_eq!(counts(machine.frames), after);
        }
        take_down(machine, memory);
        let mut next = Some(Mfn(0));
        while let Some(from) = next {
            next = machine.frames.free_remains(VM, from, 1000);
        }
        assert_eq!(machine.frames.free_frames(), own);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 12 }))]
    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn a_vm_is_built_again_from_its_own_frames_however_they_lie_and_were_used(
        is_linux in any::<bool>(),
        sizes in (1040_u64..2600, 22_u64..100),
        pieces in prop::collection::btree_set(1_u64..4096, 0..300),
        numbers in prop::collection::vec(any::<u64>(), 0..60),
    ) {
        live_through(if is_linux { LINUX } else { SMALL }, sizes, &pieces, &numbers);
    }
}

#[test]
fn a_block_in_which_the_vm_has_one_frame_is_listed_like_any_other() {
    // Free are 1 to 1083, and the last frame of the machine.
    live_through(LINUX, (1040, 40), &(1084..4095).collect(), &[2, 4, 6, 7, 1033]);
}

#[test]
fn a_pool_that_is_too_small_is_said_so() {
    let mut manifest = xen_manifest(LINUX);
    for pool_frames in 1..20 {
        manifest.vms[0].pool_frames = pool_frames;
        with_machine(&manifest, 4096, [], |machine, image| match build(machine, image, Origin::Free) {
            // Three tables, a page for each of the five blocks in which the VM has frames, and the grants.
            Ok(_) => assert!(pool_frames >= 16, "{pool_frames} were enough"),
            Err(problem) => {
                assert!(pool_frames < 16, "{pool_frames} were not enough");
                let expected = format!(
                    "a pool of {pool_frames} frames is too small for its list of machine frames and its grants; raise pool_frames"
                );
                assert_eq!(problem.to_string(), expected);
            }
        });
    }
}

#[test]
fn a_vm_that_does_not_fit_is_said_so() {
    for frames in [3, 5, 600, 2053, 2092] {
        with_machine(&xen_manifest(LINUX), frames, [], |machine, image| {
            let problem = build(machine, image, Origin::Free).unwrap_err();
            assert!(problem.to_string().ends_with("; give the machine more memory or the VM less"), "{problem}");
        });
    }
}
