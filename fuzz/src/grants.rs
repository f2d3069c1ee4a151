//! Grants: any sequence of calls of an owner and two peers, against a list of what was granted.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use hv_core::addr::Mfn;
use hv_core::grant::{Attempt, Change, GrantTable, Place};
use hv_core::policy::{Monitor, Operation, Permit};
use protocol::label::Label;
use protocol::policy::{Hardware, OnFull, Policy, Profile, Subject};
use protocol::{GrantRef, GuestVirt, SpaceId, Status, VmId};

use super::Choices;

const OWNER: VmId = VmId(0);
const PLACE: Place = Place { space: SpaceId(0), address: GuestVirt(0x1000) };

static MONITOR: LazyLock<Monitor> = LazyLock::new(|| {
    let subject = |name: &str| Subject {
        name: name.into(),
        label: Label::default(),
        label_text: "any".into(),
        roles: Vec::new(),
        trust: None,
        audit_share: 100,
    };
    let policy = Policy {
        profile: Profile::Shared,
        hardware: Hardware::Strict,
        on_full: OnFull::DropCounted,
        subjects: ["owner", "one", "two"].map(subject).into(),
        flows: Vec::new(),
    };
    Monitor::new(policy, [0; 32])
});

fn permit(subject: VmId, operation: Operation, object: VmId) -> Permit {
    MONITOR.decide(subject, operation, object).expect("the labels are equal")
}

/// What was granted.
struct Granted {
    peer: VmId,
    writable: bool,
    machine: Mfn,
    revoking: bool,
    busy: bool,
    mapped: bool,
}

struct World {
    table: GrantTable,
    given: Vec<GrantRef>,
    granted: BTreeMap<GrantRef, Granted>,
    revokes: Vec<(GrantRef, Change)>,
    maps: Vec<(GrantRef, Change)>,
    unmaps: Vec<(GrantRef, Change)>,
}

/// A sequence of calls; those of two parts may have others between.
pub fn grants(bytes: &[u8]) {
    let mut world = World {
        table: GrantTable::new(OWNER),
        given: Vec::new(),
        granted: BTreeMap::new(),
        revokes: Vec::new(),
        maps: Vec::new(),
        unmaps: Vec::new(),
    };
    let mut choices = Choices(bytes);
    while !choices.is_empty() {
        world.step(&mut choices);
    }
}

impl World {
    fn step(&mut self, choices: &mut Choices<'_>) {
        let kind = choices.below(9);
        let detail = choices.byte();
        let (vm, write) = (VmId(1 + u32::from(detail & 1)), detail & 2 != 0);
        let back = usize::from(detail >> 2) % 5;
        let grant = self.given.iter().rev().nth(back).copied().unwrap_or(GrantRef(u32::from(detail)));
        match kind {
            0 => self.create(vm, write),
            1 => self.begin_revoke(grant),
            2 => self.finish_revoke(),
            3 => self.begin_map(vm, grant, write),
            4 => self.finish_map(if write { Attempt::Mapped } else { Attempt::Refused }),
            5 => self.begin_unmap(vm, grant),
            6 => self.finish_unmap(),
            7 => self.copy(vm, grant, write, choices.word(), choices.word()),
            _ => self.forget(vm),
        }
    }

    fn create(&mut self, peer: VmId, writable: bool) {
        let operation = if writable { Operation::GrantCreateWrite } else { Operation::GrantCreateRead };
        let own = self.table.create(permit(OWNER, Operation::GrantMapRead, peer), Mfn(0));
        assert_eq!(own, Err(Status::NotPermitted), "a permit for something else");
        let machine = Mfn(self.given.len() as u64);
        let Ok(grant) = self.table.create(permit(OWNER, operation, peer), machine) else {
            assert_eq!(self.granted.len(), protocol::layout::limit::GRANTS as usize);
            return;
        };
        assert!(!self.given.contains(&grant), "a reference is given once");
        self.given.push(grant);
        let granted = Granted { peer, writable, machine, revoking: false, busy: false, mapped: false };
        self.granted.insert(grant, granted);
    }

    fn begin_revoke(&mut self, grant: GrantRef) {
        let answer = self.table.begin_revoke(grant);
        match self.granted.get_mut(&grant).filter(|granted| !granted.revoking) {
            Some(granted) => {
                granted.revoking = true;
                let change = answer.expect("it was given");
                assert_eq!(change.place.is_some(), granted.busy);
                assert_eq!((change.peer, change.machine), (granted.peer, granted.machine));
                self.revokes.push((grant, change));
            }
            None => assert_eq!(answer, Err(Status::NotFound)),
        }
    }

    fn finish_revoke(&mut self) {
        if let Some((grant, change)) = self.revokes.pop() {
            self.table.finish_revoke(change);
            self.granted.remove(&grant);
        }
    }

    /// The grant, if the VM may use it so.
    fn usable(&mut self, vm: VmId, grant: GrantRef, write: bool) -> Option<&mut Granted> {
        let granted = self.granted.get_mut(&grant);
        granted.filter(|granted| granted.peer == vm && !granted.revoking && (granted.writable || !write))
    }

    fn begin_map(&mut self, vm: VmId, grant: GrantRef, write: bool) {
        let operation = if write { Operation::GrantMapWrite } else { Operation::GrantMapRead };
        let answer = self.table.begin_map(permit(vm, operation, OWNER), grant, PLACE);
        match self.usable(vm, grant, write) {
            None => assert_eq!(answer, Err(Status::NotPermitted)),
            Some(granted) if granted.busy => assert_eq!(answer, Err(Status::Busy)),
            Some(granted) => {
                granted.busy = true;
                let change = answer.expect("nothing is against it");
                assert_eq!(change.machine, granted.machine);
                self.maps.push((grant, change));
            }
        }
    }

    fn finish_map(&mut self, attempt: Attempt) {
        let Some((grant, change)) = self.maps.pop() else { return };
        let answer = self.table.finish_map(change, attempt);
        let Some(granted) = self.granted.get_mut(&grant) else {
            assert_eq!(answer, Err(Status::NotPermitted));
            return;
        };
        assert_eq!(answer.is_err(), granted.revoking);
        granted.mapped = attempt == Attempt::Mapped && !granted.revoking;
        granted.busy = granted.mapped;
    }

    fn begin_unmap(&mut self, vm: VmId, grant: GrantRef) {
        let wanted = self.granted.get(&grant).is_some_and(|granted| granted.mapped && granted.peer == vm);
        let answer = self.table.begin_unmap(vm, grant);
        assert_eq!(answer.is_ok(), wanted);
        // One unmapping at a time, as the lock of the mapper's memory has it.
        if let Ok(change) = answer {
            self.unmaps.push((grant, change));
            self.finish_unmap();
        }
    }

    fn finish_unmap(&mut self) {
        if let Some((grant, change)) = self.unmaps.pop() {
            self.table.finish_unmap(change);
            if let Some(granted) = self.granted.get_mut(&grant).filter(|granted| granted.mapped) {
                (granted.mapped, granted.busy) = (false, false);
            }
        }
    }

    fn copy(&mut self, vm: VmId, grant: GrantRef, write: bool, offset: u64, length: u64) {
        let operation = if write { Operation::GrantCopyTo } else { Operation::GrantCopyFrom };
        let answer = self.table.copy(permit(vm, operation, OWNER), grant, offset, length);
        let fits = offset.checked_add(length).is_some_and(|end| end <= protocol::layout::PAGE_SIZE);
        let machine = self.usable(vm, grant, write).map(|granted| granted.machine);
        let wanted = if fits { machine.ok_or(Status::NotPermitted) } else { Err(Status::InvalidArgument) };
        assert_eq!(answer, wanted);
    }

    /// The end of a mapper.
    fn forget(&mut self, vm: VmId) {
        while let Some(change) = self.table.any_mapped_by(vm) {
            self.table.finish_unmap(change);
        }
        for granted in self.granted.values_mut().filter(|granted| granted.peer == vm && granted.mapped) {
            (granted.mapped, granted.busy) = (false, false);
        }
    }
}
