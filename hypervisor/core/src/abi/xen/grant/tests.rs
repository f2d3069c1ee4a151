//! Refusals, one by one, and random sequences in which every entry shows what a naive list of uses says.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Access, Begun, Clear, EntryPlace, GrantTable, Place, Side, USES, set_version};
use crate::abi::xen::Domain;
use crate::addr::{Mfn, Phys};
use protocol::layout::{HYPERVISOR_START, KERNEL_START, LOWER_END};
use protocol::xen::structure::{GrantCopy, GrantCopySide, GrantMap, GrantUnmap};
use protocol::xen::{DOMID_SELF, Errno, grant};
use protocol::{GuestVirt, VmId};

const OWN: u16 = 5;
const PAGE: u64 = KERNEL_START + 0x5000;
const FRAMES: [Mfn; 3] = [Mfn(100), Mfn(200), Mfn(300)];
const REFUSED: i16 = grant::GENERAL_ERROR;

fn table() -> GrantTable {
    GrantTable::new(VmId(4), &FRAMES)
}

fn map(reference: u32) -> GrantMap {
    GrantMap { host_addr: PAGE, flags: grant::MAP_HOST, reference, dom: OWN, ..GrantMap::default() }
}

/// An entry that grants frame 0x77.
fn entry(flags: u16, dom: u16) -> u64 {
    u64::from(flags) | u64::from(dom) << 16 | 0x77 << 32
}

fn mapped(table: &mut GrantTable, asked: &GrantMap) -> u32 {
    let begun = table.begin_map(asked).unwrap();
    let claim = begun.claim(entry(1, OWN)).unwrap();
    table.complete(begun, claim.frame)
}

fn unmap(handle: u32) -> GrantUnmap {
    GrantUnmap { host_addr: PAGE, handle, ..GrantUnmap::default() }
}

fn drop_begun(table: &mut GrantTable, begun: Begun) {
    let _ = table.abandon(begun);
}

#[test]
fn the_table_grows_up_to_its_frames_and_never_shrinks() {
    let mut table = table();
    assert_eq!(table.size(DOMID_SELF), Ok((1, 3)));
    assert_eq!(table.set_up(OWN, 2), Ok(&FRAMES[..2]));
    assert_eq!(table.set_up(DOMID_SELF, 1), Ok(&FRAMES[..1]));
    assert_eq!(table.size(OWN), Ok((2, 3)));
    assert_eq!(table.set_up(OWN, 4), Err(REFUSED));
    assert_eq!(table.set_up(OWN, u32::MAX), Err(REFUSED));
    let begun = table.begin_map(&map(1023)).unwrap();
    assert_eq!(begun.entry, EntryPlace { frame: Mfn(200), index: 511 });
    drop_begun(&mut table, begun);
    for reference in [1024, 1535, 1536, u32::MAX] {
        assert_eq!(table.begin_map(&map(reference)), Err(grant::BAD_REFERENCE), "not asked for yet");
        let held = table.begin_hold(reference, Access::Read, Domain::SERVICES);
        assert_eq!(held, Err(grant::BAD_REFERENCE));
    }
}

#[test]
fn no_other_domain_can_be_named() {
    let mut table = table();
    for dom in [0, 4, 6, u16::MAX] {
        assert_eq!(table.set_up(dom, 1), Err(grant::BAD_DOMAIN));
        assert_eq!(table.size(dom), Err(grant::BAD_DOMAIN));
        assert_eq!(table.version(dom), Err(grant::BAD_DOMAIN));
        assert_eq!(table.begin_map(&GrantMap { dom, ..map(8) }), Err(grant::BAD_DOMAIN));
        let (own, other) = (
            GrantCopySide { domid: OWN, ..GrantCopySide::default() },
            GrantCopySide { domid: dom, ..GrantCopySide::default() },
        );
        for (source, dest) in [(own, other), (other, own)] {
            let asked = GrantCopy { source, dest, ..GrantCopy::default() };
            assert_eq!(table.copy(&asked), Err(grant::BAD_DOMAIN));
        }
    }
}

#[test]
fn only_version_1_is_served() {
    assert_eq!(set_version(1), Ok(()));
    assert_eq!(set_version(2), Err(Errno::NotImplemented));
    assert_eq!((set_version(0), set_version(3)), (Err(Errno::Invalid), Err(Errno::Invalid)));
    assert_eq!(table().version(DOMID_SELF), Ok(1));
}

/// Every combination of flags, of whom the entry names, who asks and what for.
fn combinations() -> impl Iterator<Item = (u16, u16, Domain, Access)> {
    let users = [(OWN, Domain::of(VmId(4))), (0, Domain::SERVICES), (6, Domain::SERVICES)];
    let asked = users.into_iter().flat_map(|(dom, user)| [(dom, user, Access::Read), (dom, user, Access::Write)]);
    asked.flat_map(|(dom, user, access)| (0..=0x1ff).map(move |flags| (flags, dom, user, access)))
}

#[test]
fn every_combination_of_an_entry_is_granted_or_refused_as_it_says() {
    let mut table = table();
    for (flags, dom, user, access) in combinations() {
        let begun = table.begin_hold(8, access, user).unwrap();
        let word = entry(flags, dom);
        let may = flags & 3 == 1 && dom != 6 && (access == Access::Read || flags & 4 == 0);
        let marks = if access == Access::Read { 8 } else { 24 };
        let claim = begun.claim(word).map(|claim| (claim.expected, claim.desired, claim.frame));
        let expected = if may { Ok((word, word | marks, Mfn(0x77))) } else { Err(REFUSED) };
        assert_eq!(claim, expected, "{flags:#x} {dom} {access:?}");
        drop_begun(&mut table, begun);
    }
    let begun = table.begin_map(&map(8)).unwrap();
    assert_eq!(begun.claim(entry(1, DOMID_SELF)), Err(REFUSED), "an entry names a domain by its number");
    drop_begun(&mut table, begun);
}

#[test]
fn places_that_cannot_be_are_refused() {
    let mut table = table();
    let outside = [PAGE + 1, PAGE + 8, HYPERVISOR_START, KERNEL_START - 0x1000, LOWER_END, 1 << 47, !0xfff];
    for host_addr in outside {
        let asked = GrantMap { host_addr, ..map(8) };
        assert_eq!(table.begin_map(&asked), Err(grant::BAD_ADDRESS), "{host_addr:#x}");
    }
    let by_entry = GrantMap { host_addr: 0x1238, flags: grant::MAP_HOST | grant::MAP_CONTAINS_PTE, ..map(8) };
    let begun = table.begin_map(&by_entry).unwrap();
    assert_eq!(begun.place(), Place::Entry(Phys(0x1238)));
    drop_begun(&mut table, begun);
    for offset in 1..8 {
        let asked = GrantMap { host_addr: 0x1238 + offset, ..by_entry };
        assert_eq!(table.begin_map(&asked), Err(grant::BAD_ADDRESS));
    }
    assert_eq!(table.begin_map(&GrantMap { flags: 0, ..map(8) }), Err(REFUSED));
    assert_eq!(table.begin_map(&GrantMap { flags: 3, ..map(8) }), Err(grant::NO_SPACE));
}

#[test]
fn the_page_table_entry_is_as_the_flags_say() {
    let mut table = table();
    for (flags, bits) in [(2, 0x63), (2 | 4, 0x61), (2 | 8, 0x67), (2 | 5 << 16, 0xa63), (2 | 0xfff8 << 16, 0x63)] {
        let begun = table.begin_map(&GrantMap { flags, ..map(8) }).unwrap();
        assert_eq!(begun.leaf(Mfn(0x77)), 0x77_000 | bits, "{flags:#x}");
        assert_eq!(begun.access(), if flags & 4 == 0 { Access::Write } else { Access::Read });
        drop_begun(&mut table, begun);
    }
}

#[test]
fn only_the_mapping_itself_is_taken_out() {
    let mut table = table();
    let handle = mapped(&mut table, &map(8));
    let ending = table.begin_unmap(&unmap(handle)).unwrap();
    assert_eq!((ending.place, ending.frame), (Place::Page(GuestVirt(PAGE)), Mfn(0x77)));
    assert!(ending.is_in(0x8000_0000_0007_7e67));
    for other in [0, 0x7_7066, 0x7_7065, 0x7_8067, 0x0008_0000_0007_7067] {
        assert!(!ending.is_in(other), "{other:#x}");
    }
    let elsewhere = GrantUnmap { host_addr: PAGE + 0x1000, ..unmap(handle) };
    assert_eq!(table.begin_unmap(&elsewhere), Err(grant::BAD_ADDRESS));
    assert_eq!(table.finish(ending).bits, 24);
    assert_eq!(table.begin_unmap(&unmap(handle)), Err(grant::BAD_HANDLE), "once only");
}

#[test]
fn handles_name_no_later_use_and_not_the_hypervisors() {
    let mut table = table();
    let first = mapped(&mut table, &map(8));
    let ending = table.begin_unmap(&unmap(first)).unwrap();
    let twice = table.begin_unmap(&unmap(first)).unwrap();
    let _ = table.finish(ending);
    let second = mapped(&mut table, &map(9));
    assert_ne!(first, second);
    assert_eq!(table.finish(twice), Clear { entry: None, bits: 0 }, "the use has ended already");
    for wrong in [first, second + 1, second ^ (1 << 31), u32::MAX] {
        assert_eq!(table.begin_unmap(&unmap(wrong)), Err(grant::BAD_HANDLE));
        assert_eq!(table.begin_release(wrong), None);
    }
    let begun = table.begin_hold(10, Access::Read, Domain::SERVICES).unwrap();
    let held = table.complete(begun, Mfn(5));
    assert_eq!(table.begin_unmap(&unmap(held)), Err(grant::BAD_HANDLE), "no mapping");
    assert!(table.begin_release(held).is_some());
    table.reset(&FRAMES);
    for old in [second, held] {
        assert_eq!(table.begin_release(old), None, "of an earlier life");
    }
    assert_ne!(mapped(&mut table, &map(8)), second);
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn no_handle_is_the_number_that_means_none() {
    let mut table = GrantTable::new(VmId(4), &FRAMES);
    for slot in &mut table.slots {
        slot.generation = u32::MAX;
    }
    for _ in 0..USES {
        let handle = mapped(&mut table, &map(8));
        assert!(handle < 1 << 31);
        assert!(table.begin_release(handle).is_some());
    }
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn uses_end_at_their_number_and_a_begun_one_counts() {
    let mut table = table();
    let begun = table.begin_map(&map(0)).unwrap();
    for reference in 1..USES {
        mapped(&mut table, &map(reference));
    }
    assert_eq!(table.begin_map(&map(300)), Err(grant::NO_SPACE));
    assert_eq!(table.begin_hold(300, Access::Read, Domain::SERVICES), Err(grant::NO_SPACE));
    drop_begun(&mut table, begun);
    mapped(&mut table, &map(300));
}

#[test]
fn copies_stay_within_frames() {
    let side = |place, offset| GrantCopySide { place, domid: DOMID_SELF, offset, pad0: 0 };
    let table = table();
    let asked = GrantCopy { source: side(0x12, 4000), dest: side(0x34, 0), len: 96, flags: 1, ..GrantCopy::default() };
    let copying = table.copy(&asked).unwrap();
    assert_eq!(copying.source, (Side::Grant(0x12), 4000));
    assert_eq!(copying.target, (Side::Own(Mfn(0x34)), 0));
    assert_eq!(copying.length, 96);
    let both = table.copy(&GrantCopy { flags: 3, ..asked }).unwrap();
    assert_eq!(both.target, (Side::Grant(0x34), 0));
    for wrong in [
        GrantCopy { len: 97, ..asked },
        GrantCopy { len: u16::MAX, ..asked },
        GrantCopy { dest: side(0x34, 4001), ..asked },
        GrantCopy { source: side(0x12, u16::MAX), len: 0, ..asked },
        GrantCopy { flags: 4, ..asked },
        GrantCopy { flags: 0x8001, ..asked },
    ] {
        assert_eq!(table.copy(&wrong), Err(grant::BAD_COPY), "{wrong:?}");
    }
}

/// What a step does to a random reference or to a use that is there.
#[derive(Debug, Clone)]
enum Step {
    Map { reference: u32, writes: bool },
    Hold { reference: u32, writes: bool },
    Abandon { reference: u32, writes: bool },
    End(usize),
    Revoke(u32),
    Permit { reference: u32, read_only: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let reference = 0..4_u32;
    prop_oneof![
        4 => (reference.clone(), any::<bool>()).prop_map(|(reference, writes)| Step::Map { reference, writes }),
        2 => (reference.clone(), any::<bool>()).prop_map(|(reference, writes)| Step::Hold { reference, writes }),
        2 => (reference.clone(), any::<bool>()).prop_map(|(reference, writes)| Step::Abandon { reference, writes }),
        6 => any::<usize>().prop_map(Step::End),
        2 => reference.clone().prop_map(Step::Revoke),
        4 => (reference, any::<bool>()).prop_map(|(reference, read_only)| Step::Permit { reference, read_only }),
    ]
}

/// The guest's memory beside a list of uses: handle, reference, whether it writes.
#[derive(Default)]
struct World {
    entries: BTreeMap<u32, u64>,
    uses: Vec<(u32, u32, bool)>,
}

impl World {
    fn clear(&mut self, clear: Clear) {
        if let Some(EntryPlace { frame, index }) = clear.entry {
            assert_eq!(frame, FRAMES[0]);
            *self.entries.entry(u32::try_from(index).unwrap()).or_default() &= !clear.bits;
        }
    }

    /// Carries a begun use through, or gives it up after the claim.
    fn carry(&mut self, table: &mut GrantTable, begun: Begun, step: (u32, bool), keep: Option<()>) {
        let (reference, writes) = step;
        let word = self.entries.entry(reference).or_default();
        let may = *word & 3 == 1 && !(writes && *word & 4 != 0);
        let claim = begun.claim(*word);
        assert_eq!(claim.is_ok(), may);
        if let Ok(claim) = claim {
            *word = claim.desired;
        }
        match claim.ok().and(keep) {
            Some(()) => {
                let handle = table.complete(begun, Mfn(0x77));
                assert!(self.uses.iter().all(|(other, ..)| *other != handle));
                self.uses.push((handle, reference, writes));
            }
            None => self.clear(table.abandon(begun)),
        }
    }

    fn take(&mut self, table: &mut GrantTable, step: &Step) {
        let access = |writes: bool| if writes { Access::Write } else { Access::Read };
        match *step {
            Step::Map { reference, writes } => {
                let read_only = if writes { 0 } else { grant::MAP_READ_ONLY };
                let asked = GrantMap { flags: grant::MAP_HOST | read_only, ..map(reference) };
                let begun = table.begin_map(&asked).unwrap();
                self.carry(table, begun, (reference, writes), Some(()));
            }
            Step::Hold { reference, writes } => {
                let begun = table.begin_hold(reference, access(writes), Domain::of(VmId(4))).unwrap();
                self.carry(table, begun, (reference, writes), Some(()));
            }
            Step::Abandon { reference, writes } => {
                let begun = table.begin_hold(reference, access(writes), Domain::of(VmId(4))).unwrap();
                self.carry(table, begun, (reference, writes), None);
            }
            Step::End(which) => {
                if let Some(place) = which.checked_rem(self.uses.len()) {
                    let (handle, _, writes) = self.uses.remove(place);
                    let ending = table.begin_release(handle).unwrap();
                    assert_eq!((ending.frame, ending.access), (Mfn(0x77), access(writes)));
                    let clear = table.finish(ending);
                    self.clear(clear);
                    assert_eq!(table.begin_release(handle), None);
                }
            }
            // As a guest does it: only when nobody uses the grant.
            Step::Revoke(reference) => {
                let word = self.entries.entry(reference).or_default();
                if *word & 24 == 0 {
                    *word = 0;
                }
            }
            Step::Permit { reference, read_only } => {
                let word = self.entries.entry(reference).or_default();
                if *word & 24 == 0 {
                    *word = entry(if read_only { 5 } else { 1 }, OWN);
                }
            }
        }
    }
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn entries_show_exactly_the_uses_that_are_there(steps in proptest::collection::vec(step(), 1..150)) {
        let mut table = table();
        let mut world = World::default();
        for step in &steps {
            world.take(&mut table, step);
            for (reference, word) in &world.entries {
                let uses = || world.uses.iter().filter(|(_, used, _)| used == reference);
                let (reads, writes) = (uses().next().is_some(), uses().any(|(.., writes)| *writes));
                prop_assert_eq!((word & 8 != 0, word & 16 != 0), (reads, writes), "{:?}", step);
            }
        }
    }
}
