//! Refusals of the grant table, its races, and random sequences against a naive model. `interleaved`
//! checks every order of the halves of calls.

mod interleaved;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Attempt, Change, GrantTable, Place};
use crate::addr::Mfn;
use crate::policy::tests::monitor;
use crate::policy::{Operation, Permit};
use protocol::label::Label;
use protocol::layout::{PAGE_SIZE, limit};
use protocol::{GrantRef, GuestVirt, SpaceId, Status, VmId};

const OWNER: VmId = VmId(1);
const PEER: VmId = VmId(2);
const STRANGER: VmId = VmId(3);
const PLACE: Place = Place { space: SpaceId(0), address: GuestVirt(0x1000) };
const REFUSED: Status = Status::NotPermitted;

fn permit(subject: VmId, operation: Operation, object: VmId) -> Permit {
    monitor(&[Label::default(); 10]).decide(subject, operation, object).unwrap()
}

fn by_peer(operation: Operation) -> Permit {
    permit(PEER, operation, OWNER)
}

/// A table with one grant of machine frame 70 to the peer.
fn granted(operation: Operation) -> (GrantTable, GrantRef) {
    let mut table = GrantTable::new(OWNER);
    let permit = permit(OWNER, operation, PEER);
    let grant = table.create(permit, Mfn(70)).unwrap();
    (table, grant)
}

fn mapped() -> (GrantTable, GrantRef) {
    let (mut table, grant) = granted(Operation::GrantCreateWrite);
    let mapping = table.begin_map(by_peer(Operation::GrantMapWrite), grant, PLACE);
    table.finish_map(mapping.unwrap(), Attempt::Mapped).unwrap();
    (table, grant)
}

/// References that name no grant: never given, of other generations, out of range.
fn absent(grant: GrantRef) -> [GrantRef; 5] {
    [grant.0 + 1, grant.0 + 256, grant.0 ^ (1 << 31), limit::GRANTS - 1, u32::MAX].map(GrantRef)
}

#[test]
fn a_grant_to_oneself_or_without_the_right_permit_is_refused() {
    let mut table = GrantTable::new(OWNER);
    let wrong = [
        permit(OWNER, Operation::GrantCreateRead, OWNER),
        permit(PEER, Operation::GrantCreateRead, STRANGER),
        permit(OWNER, Operation::GrantMapWrite, PEER),
        permit(OWNER, Operation::EventSend, PEER),
    ];
    for permit in wrong {
        assert_eq!(table.create(permit, Mfn(0)), Err(REFUSED));
    }
    assert_eq!(table.any_given(), None);
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn grants_end_at_the_quota() {
    let mut table = GrantTable::new(OWNER);
    let create = |table: &mut GrantTable| {
        let permit = permit(OWNER, Operation::GrantCreateRead, PEER);
        table.create(permit, Mfn(1))
    };
    for _ in 0..limit::GRANTS {
        assert!(create(&mut table).is_ok());
    }
    assert_eq!(create(&mut table), Err(Status::QuotaExceeded));
    let any = table.any_given().unwrap();
    let revoking = table.begin_revoke(any).unwrap();
    assert_eq!(create(&mut table), Err(Status::QuotaExceeded));
    table.finish_revoke(revoking);
    assert!(create(&mut table).is_ok());
}

#[test]
fn absent_foreign_and_revoked_grants_answer_alike() {
    let (mut table, grant) = granted(Operation::GrantCreateWrite);
    let map = Operation::GrantMapRead;
    for wrong in absent(grant) {
        assert_eq!(table.begin_map(by_peer(map), wrong, PLACE), Err(REFUSED));
        let copy = table.copy(by_peer(Operation::GrantCopyFrom), wrong, 0, 1);
        assert_eq!(copy, Err(REFUSED));
        assert_eq!(table.begin_unmap(PEER, wrong), Err(REFUSED));
        assert_eq!(table.begin_revoke(wrong), Err(Status::NotFound));
    }
    let foreign = permit(STRANGER, map, OWNER);
    assert_eq!(table.begin_map(foreign, grant, PLACE), Err(REFUSED));
    let elsewhere = permit(PEER, map, STRANGER);
    assert_eq!(table.begin_map(elsewhere, grant, PLACE), Err(REFUSED));
    let revoking = table.begin_revoke(grant).unwrap();
    assert_eq!(table.begin_map(by_peer(map), grant, PLACE), Err(REFUSED));
    table.finish_revoke(revoking);
    assert_eq!(table.begin_map(by_peer(map), grant, PLACE), Err(REFUSED));
}

#[test]
fn writing_needs_a_grant_for_writing_and_a_permit_for_it() {
    let (mut table, grant) = granted(Operation::GrantCreateRead);
    let write = table.begin_map(by_peer(Operation::GrantMapWrite), grant, PLACE);
    assert_eq!(write, Err(REFUSED));
    let write = table.copy(by_peer(Operation::GrantCopyTo), grant, 0, 1);
    assert_eq!(write, Err(REFUSED));
    let mix = table.begin_map(by_peer(Operation::GrantCopyFrom), grant, PLACE);
    assert_eq!(mix, Err(REFUSED));
    let mix = table.copy(by_peer(Operation::GrantMapRead), grant, 0, 1);
    assert_eq!(mix, Err(REFUSED));
    let read = table.begin_map(by_peer(Operation::GrantMapRead), grant, PLACE);
    let read = read.unwrap();
    assert_eq!(read.machine, Mfn(70));
    table.finish_map(read, Attempt::Mapped).unwrap();
}

#[test]
fn a_grant_is_mapped_at_one_place_at_a_time() {
    let (mut table, grant) = granted(Operation::GrantCreateWrite);
    let map = |table: &mut GrantTable| table.begin_map(by_peer(Operation::GrantMapWrite), grant, PLACE);
    let first = map(&mut table).unwrap();
    assert_eq!(map(&mut table), Err(Status::Busy), "also while it is mapped");
    table.finish_map(first, Attempt::Refused).unwrap();
    let again = map(&mut table).unwrap();
    table.finish_map(again, Attempt::Mapped).unwrap();
    assert_eq!(map(&mut table), Err(Status::Busy));
    let unmapping = table.begin_unmap(PEER, grant).unwrap();
    assert_eq!((unmapping.machine, unmapping.place), (Mfn(70), Some(PLACE)));
    assert_eq!(map(&mut table), Err(Status::Busy), "until the page is out");
    table.finish_unmap(unmapping);
    assert!(map(&mut table).is_ok());
}

#[test]
fn only_the_mapper_unmaps() {
    let (mut table, grant) = mapped();
    assert_eq!(table.begin_unmap(STRANGER, grant), Err(REFUSED));
    assert_eq!(table.begin_unmap(OWNER, grant), Err(REFUSED));
    let unmapping = table.begin_unmap(PEER, grant).unwrap();
    table.finish_unmap(unmapping);
    assert_eq!(table.begin_unmap(PEER, grant), Err(REFUSED));
}

#[test]
fn a_revoke_says_where_the_page_is_and_happens_once() {
    let (mut table, grant) = mapped();
    let revoking = table.begin_revoke(grant).unwrap();
    assert_eq!(table.begin_revoke(grant), Err(Status::NotFound));
    assert_eq!(revoking.peer, PEER);
    assert_eq!((revoking.machine, revoking.place), (Mfn(70), Some(PLACE)));
    table.finish_revoke(revoking);
    assert_eq!(table.begin_revoke(grant), Err(Status::NotFound));
}

#[test]
fn a_map_that_a_revoke_overtakes_is_told_to_take_the_page_out() {
    let (mut table, grant) = granted(Operation::GrantCreateWrite);
    let map = by_peer(Operation::GrantMapWrite);
    let mapping = table.begin_map(map, grant, PLACE).unwrap();
    let revoking = table.begin_revoke(grant).unwrap();
    assert_eq!(revoking.place, Some(PLACE));
    assert_eq!(table.finish_map(mapping, Attempt::Mapped), Err(REFUSED));
    assert_eq!(table.begin_unmap(PEER, grant), Err(REFUSED), "it is not in");
    table.finish_revoke(revoking);

    let permit = permit(OWNER, Operation::GrantCreateWrite, PEER);
    let grant = table.create(permit, Mfn(80)).unwrap();
    let map = by_peer(Operation::GrantMapWrite);
    let mapping = table.begin_map(map, grant, PLACE).unwrap();
    let revoking = table.begin_revoke(grant).unwrap();
    table.finish_revoke(revoking);
    assert_eq!(table.finish_map(mapping, Attempt::Mapped), Err(REFUSED));
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn a_stale_reference_names_no_later_grant() {
    let mut table = GrantTable::new(OWNER);
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..1_000 {
        let permit = permit(OWNER, Operation::GrantCreateWrite, PEER);
        let grant = table.create(permit, Mfn(round)).unwrap();
        assert!(seen.insert(grant), "{grant:?} was used before");
        let revoking = table.begin_revoke(grant).unwrap();
        table.finish_revoke(revoking);
    }
}

#[test]
fn a_copy_stays_within_the_frame() {
    let (mut table, grant) = granted(Operation::GrantCreateWrite);
    let mut copy = |offset, length| {
        let permit = by_peer(Operation::GrantCopyTo);
        table.copy(permit, grant, offset, length)
    };
    assert_eq!(copy(0, PAGE_SIZE), Ok(Mfn(70)));
    assert_eq!(copy(PAGE_SIZE, 0), Ok(Mfn(70)));
    assert_eq!(copy(PAGE_SIZE - 1, 1), Ok(Mfn(70)));
    for (offset, length) in
        [(0, PAGE_SIZE + 1), (1, PAGE_SIZE), (PAGE_SIZE, 1), (PAGE_SIZE + 1, 0), (u64::MAX, 1), (1, u64::MAX)]
    {
        assert_eq!(copy(offset, length), Err(Status::InvalidArgument));
    }
}

#[test]
fn all_that_a_mapper_has_mapped_is_found_at_its_end() {
    let (mut table, grant) = mapped();
    assert_eq!(table.any_mapped_by(STRANGER), None);
    let unmapping = table.any_mapped_by(PEER).unwrap();
    assert_eq!((unmapping.machine, unmapping.place), (Mfn(70), Some(PLACE)));
    table.finish_unmap(unmapping);
    assert_eq!(table.any_mapped_by(PEER), None);
    assert_eq!(table.begin_revoke(grant).unwrap().place, None);
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Access {
    Read,
    Write,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Create(VmId, Access),
    BeginRevoke(usize),
    FinishRevoke,
    BeginMap(VmId, usize, Access),
    FinishMap(Attempt),
    BeginUnmap(VmId, usize),
    FinishUnmap,
    Copy(VmId, usize, Access),
    Forget(VmId),
}

fn step() -> impl Strategy<Value = Step> {
    let vm = || prop_oneof![Just(PEER), Just(STRANGER)];
    let access = || prop_oneof![Just(Access::Read), Just(Access::Write)];
    let which = 0..12_usize;
    prop_oneof![
        (vm(), access()).prop_map(|(vm, access)| Step::Create(vm, access)),
        which.clone().prop_map(Step::BeginRevoke),
        Just(Step::FinishRevoke),
        (vm(), which.clone(), access()).prop_map(|(vm, n, access)| Step::BeginMap(vm, n, access)),
        prop_oneof![Just(Attempt::Mapped), Just(Attempt::Refused)].prop_map(Step::FinishMap),
        (vm(), which.clone()).prop_map(|(vm, n)| Step::BeginUnmap(vm, n)),
        Just(Step::FinishUnmap),
        (vm(), which, access()).prop_map(|(vm, n, access)| Step::Copy(vm, n, access)),
        vm().prop_map(Step::Forget),
    ]
}

/// A grant as one would write it down on paper.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Paper {
    peer: VmId,
    access: Access,
    machine: Mfn,
    revoking: bool,
    busy: bool,
    mapped: bool,
}

struct Pair {
    table: GrantTable,
    given: Vec<GrantRef>,
    paper: BTreeMap<GrantRef, Paper>,
    revokes: Vec<(GrantRef, Change)>,
    maps: Vec<(GrantRef, Change)>,
    unmaps: Vec<(GrantRef, Change)>,
}

impl Pair {
    fn named(&self, which: usize) -> GrantRef {
        self.given.iter().rev().nth(which).copied().unwrap_or(GrantRef(77))
    }

    /// Whether `vm` may use the grant like this.
    fn usable(&mut self, vm: VmId, grant: GrantRef, access: Access) -> Option<&mut Paper> {
        self.paper.get_mut(&grant).filter(|paper| {
            let allows = access == Access::Read || paper.access == Access::Write;
            paper.peer == vm && !paper.revoking && allows
        })
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Create(peer, access) => self.create(peer, access),
            Step::BeginRevoke(which) => self.begin_revoke(which),
            Step::FinishRevoke => {
                if let Some((grant, revoking)) = self.revokes.pop() {
                    self.table.finish_revoke(revoking);
                    self.paper.remove(&grant);
                }
            }
            Step::BeginMap(vm, which, access) => self.begin_map(vm, which, access),
            Step::FinishMap(attempt) => self.finish_map(attempt),
            Step::BeginUnmap(vm, which) => {
                let grant = self.named(which);
                let wanted = self.paper.get(&grant).is_some_and(|p| p.mapped && p.peer == vm);
                let answer = self.table.begin_unmap(vm, grant);
                assert_eq!(answer.is_ok(), wanted);
                self.unmaps.extend(answer.ok().map(|unmapping| (grant, unmapping)));
            }
            Step::FinishUnmap => {
                if let Some((grant, unmapping)) = self.unmaps.pop() {
                    self.table.finish_unmap(unmapping);
                    if let Some(paper) = self.paper.get_mut(&grant).filter(|p| p.mapped) {
                        (paper.mapped, paper.busy) = (false, false);
                    }
                }
            }
            Step::Copy(vm, which, access) => {
                let grant = self.named(which);
                let operation = match access {
                    Access::Read => Operation::GrantCopyFrom,
                    Access::Write => Operation::GrantCopyTo,
                };
                let answer = self.table.copy(permit(vm, operation, OWNER), grant, 1, 2);
                let wanted = self.usable(vm, grant, access).map(|paper| paper.machine);
                assert_eq!(answer.ok(), wanted);
            }
            Step::Forget(vm) => {
                while let Some(unmapping) = self.table.any_mapped_by(vm) {
                    self.table.finish_unmap(unmapping);
                }
                let mapped = |paper: &&mut Paper| paper.peer == vm && paper.mapped;
                for paper in self.paper.values_mut().filter(mapped) {
                    (paper.mapped, paper.busy) = (false, false);
                }
            }
        }
    }

    fn create(&mut self, peer: VmId, access: Access) {
        let operation = match access {
            Access::Read => Operation::GrantCreateRead,
            Access::Write => Operation::GrantCreateWrite,
        };
        let machine = Mfn(self.given.len() as u64);
        let permit = permit(OWNER, operation, peer);
        let grant = self.table.create(permit, machine).unwrap();
        assert!(!self.given.contains(&grant));
        self.given.push(grant);
        let paper = Paper { peer, access, machine, revoking: false, busy: false, mapped: false };
        self.paper.insert(grant, paper);
    }

    fn begin_revoke(&mut self, which: usize) {
        let grant = self.named(which);
        let answer = self.table.begin_revoke(grant);
        match self.paper.get_mut(&grant).filter(|paper| !paper.revoking) {
            Some(paper) => {
                paper.revoking = true;
                let revoking = answer.unwrap();
                assert_eq!(revoking.place.is_some(), paper.busy);
                self.revokes.push((grant, revoking));
            }
            None => assert_eq!(answer, Err(Status::NotFound)),
        }
    }

    fn begin_map(&mut self, vm: VmId, which: usize, access: Access) {
        let grant = self.named(which);
        let operation = match access {
            Access::Read => Operation::GrantMapRead,
            Access::Write => Operation::GrantMapWrite,
        };
        let answer = self.table.begin_map(permit(vm, operation, OWNER), grant, PLACE);
        match self.usable(vm, grant, access) {
            None => assert_eq!(answer, Err(REFUSED)),
            Some(paper) if paper.busy => assert_eq!(answer, Err(Status::Busy)),
            Some(paper) => {
                paper.busy = true;
                self.maps.push((grant, answer.unwrap()));
            }
        }
    }

    fn finish_map(&mut self, attempt: Attempt) {
        let Some((grant, mapping)) = self.maps.pop() else {
            return;
        };
        let answer = self.table.finish_map(mapping, attempt);
        let Some(paper) = self.paper.get_mut(&grant) else {
            assert_eq!(answer, Err(REFUSED));
            return;
        };
        assert_eq!(answer.is_err(), paper.revoking);
        paper.mapped = attempt == Attempt::Mapped && !paper.revoking;
        paper.busy = paper.mapped;
    }
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn grants_agree_with_a_naive_model(steps in prop::collection::vec(step(), 1..200)) {
        let mut pair = Pair {
            table: GrantTable::new(OWNER),
            given: Vec::new(),
            paper: BTreeMap::new(),
            revokes: Vec::new(),
            maps: Vec::new(),
            unmaps: Vec::new(),
        };
        for step in steps {
            pair.apply(step);
        }
    }
}
