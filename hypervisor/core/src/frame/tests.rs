use super::{Class, FrameTable, Kind, MAX_REFERENCES, Owner, Refused, Use};
use crate::addr::Mfn;
use crate::fakes::{free_table, records};
use protocol::VmId;

const VM: Owner = Owner::Vm(VmId(5));
const DATA: Class = Class::new(VM, Kind::Data);
const OTHER: Owner = Owner::Vm(VmId(6));

fn data(number: u64) -> Use {
    Use { owner: VM, kind: Kind::Data, number }
}

#[test]
fn a_fresh_table_hands_out_nothing_and_frame_0_never() {
    let records = records(16);
    let table = FrameTable::new(&records);
    assert_eq!(table.claim_run(data(0), 1, 1), Err(Refused::OutOfMemory));
    table.release_range(Mfn(0)..Mfn(u64::MAX));
    assert_eq!(table.free_frames(), 15);
    assert_eq!(table.claim_run(data(0), 16, 1), Err(Refused::OutOfMemory));
    assert_eq!(table.claim_run(data(0), 15, 1), Ok(Mfn(1)));
}

#[test]
fn a_run_takes_the_first_fit_and_numbers_its_frames() {
    let records = records(64);
    let table = free_table(&records);
    table.reserve(Mfn(3)..Mfn(5));
    assert_eq!(table.claim_run(data(7), 4, 1), Ok(Mfn(5)));
    assert_eq!(table.number(Mfn(8), VM, Kind::Data), Some(10));
    assert_eq!(table.claim_run(data(0), 16, 16), Ok(Mfn(16)));
    assert_eq!(table.claim_run(data(0), 16, 16), Ok(Mfn(32)));
    assert_eq!(table.claim_run(data(0), 16, 16), Ok(Mfn(48)));
    assert_eq!(table.claim_run(data(0), 16, 16), Err(Refused::OutOfMemory));
    assert_eq!(table.free_frames(), 2 + 7);
}

#[test]
fn the_search_for_single_frames_comes_round_to_those_freed_behind_it() {
    let records = records(8);
    let table = free_table(&records);
    for _ in 1..8 {
        table.claim_run(data(0), 1, 1).unwrap();
    }
    table.free(Mfn(2), VM, Kind::Data).unwrap();
    assert_eq!(table.claim_run(data(0), 1, 1), Ok(Mfn(2)));
    assert_eq!(table.claim_run(data(0), 1, 1), Err(Refused::OutOfMemory));
}

#[test]
fn an_impossible_run_is_refused_and_takes_nothing() {
    let records = records(8);
    let table = free_table(&records);
    for count in [8, u64::MAX, u64::MAX - 1] {
        assert_eq!(table.claim_run(data(0), count, 1), Err(Refused::OutOfMemory));
        assert_eq!(table.claim_run(data(0), count, 512), Err(Refused::OutOfMemory));
    }
    assert_eq!(table.claim_run(data(0), 1, u64::MAX), Err(Refused::OutOfMemory));
    assert_eq!(table.free_frames(), 7);
}

#[test]
fn a_count_is_full_at_its_limit_and_never_wraps() {
    let records = records(4);
    let table = free_table(&records);
    let frame = table.claim_run(data(3), 1, 1).unwrap();
    for _ in 0..MAX_REFERENCES {
        table.add_reference(frame, DATA).unwrap();
    }
    assert_eq!(table.add_reference(frame, DATA), Err(Refused::Full));
    assert_eq!(table.references(frame, VM, Kind::Data), Some(MAX_REFERENCES));
    assert_eq!(table.number(frame, VM, Kind::Data), Some(3));
    for _ in 0..MAX_REFERENCES {
        table.drop_reference(frame, DATA).unwrap();
    }
    assert_eq!(table.drop_reference(frame, DATA), Err(Refused::NotYours));
    assert_eq!(table.number(frame, VM, Kind::Data), Some(3));
}

#[test]
fn a_referenced_frame_keeps_its_kind_and_owner() {
    let records = records(4);
    let table = free_table(&records);
    let frame = table.claim_run(data(0), 1, 1).unwrap();
    table.add_reference(frame, DATA).unwrap();
    let pool = Use::new(VM, Kind::Pool);
    assert_eq!(table.change(frame, VM, Kind::Data, pool), Err(Refused::Busy));
    assert_eq!(table.free(frame, VM, Kind::Data), Err(Refused::Busy));
    table.drop_reference(frame, DATA).unwrap();
    assert_eq!(table.change(frame, VM, Kind::Data, pool), Ok(()));
    assert_eq!(table.count(VM, Kind::Pool), 1);
    assert_eq!(table.count(VM, Kind::Data), 0);
}

#[test]
fn nobody_changes_what_belongs_to_another_or_is_of_another_kind_or_no_frame() {
    let records = records(4);
    let table = free_table(&records);
    let frame = table.claim_run(data(0), 1, 1).unwrap();
    let refused = Err(Refused::NotYours);
    for frame in [Mfn(0), Mfn(2), Mfn(4), Mfn(1 << 40), Mfn(u64::MAX)] {
        assert_eq!(table.add_reference(frame, DATA), refused);
        assert_eq!(table.free(frame, VM, Kind::Data), refused);
    }
    for (owner, kind) in
        [(OTHER, Kind::Data), (Owner::Nobody, Kind::Data), (Owner::Hypervisor, Kind::Data), (VM, Kind::Table)]
    {
        assert_eq!(table.add_reference(frame, Class::new(owner, kind)), refused);
        assert_eq!(table.drop_reference(frame, Class::new(owner, kind)), refused);
        assert_eq!(table.change(frame, owner, kind, data(1)), refused);
        assert_eq!(table.number(frame, owner, kind), None);
    }
}

#[test]
fn every_owner_and_kind_has_a_record_of_its_own() {
    let owners = [Owner::Nobody, Owner::Hypervisor]
        .into_iter()
        .chain((0..protocol::layout::limit::VMS).map(|vm| Owner::Vm(VmId(vm))));
    let mut seen = std::collections::HashSet::new();
    for owner in owners {
        for kind in Kind::ALL {
            assert!(seen.insert(super::Record::of(Use::new(owner, *kind)).0));
        }
    }
}

#[test]
fn two_cpus_never_both_get_a_frame() {
    let records = records(2048);
    let table = free_table(&records);
    let claim = || {
        let mut frames = Vec::new();
        while let Ok(frame) = table.claim_run(data(0), 3, 1) {
            frames.extend([frame, frame.offset(1), frame.offset(2)]);
        }
        frames
    };
    let mut all = std::thread::scope(|scope| {
        let other = scope.spawn(claim);
        let mut own = claim();
        own.extend(other.join().unwrap());
        own
    });
    let claimed = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), claimed);
    assert_eq!(table.count(VM, Kind::Data), u64::try_from(claimed).unwrap());
}
