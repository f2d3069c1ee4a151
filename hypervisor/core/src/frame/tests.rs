use super::record::Record;
use super::{Class, FrameTable, Kind, MAX_REFERENCES, Search};
use crate::addr::Mfn;
use crate::fakes::{free_table, records};
use core::sync::atomic::Ordering;
use protocol::{Status, VmId};

/// Every kind.
pub(crate) const KINDS: [Kind; 10] = [
    Kind::Reserved,
    Kind::Free,
    Kind::Pool,
    Kind::Data,
    Kind::Table,
    Kind::FrameList,
    Kind::Shared,
    Kind::Channel,
    Kind::Kept,
    Kind::Paged,
];

std::thread_local! {
    /// Records that this test looked at to change them: the work of a search.
    pub(crate) static LOOKS: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
}

/// Counts in [`LOOKS`].
pub(super) fn look() {
    LOOKS.set(LOOKS.get().wrapping_add(1));
}

/// For audits.
impl FrameTable<'_> {
    /// How many frames there are of a class.
    pub(crate) fn count(&self, class: Class) -> u64 {
        let records = self.records.iter().map(|record| Record(record.load(Ordering::Relaxed)));
        u64::try_from(records.filter(|record| record.is(class)).count()).unwrap()
    }

    pub(crate) fn free_frames(&self) -> u64 {
        self.count(Class::FREE)
    }

    /// All records as they stand.
    #[cfg(feature = "xen")]
    pub(crate) fn words(&self) -> Vec<u64> {
        self.records.iter().map(|record| record.load(Ordering::Relaxed)).collect()
    }

    /// Goes back to what [`FrameTable::words`] said.
    #[cfg(feature = "xen")]
    pub(crate) fn restore(&self, words: &[u64]) {
        for (record, word) in self.records.iter().zip(words) {
            record.store(*word, Ordering::Relaxed);
        }
    }

    /// References of a frame of a class.
    pub(crate) fn references(&self, frame: Mfn, class: Class) -> Option<u64> {
        self.record(frame, class).map(Record::references)
    }
}

const VM: Option<VmId> = Some(VmId(5));
const OTHER: Option<VmId> = Some(VmId(6));
const DATA: Class = Class::new(VM, Kind::Data);
const POOL: Class = Class::new(VM, Kind::Pool);

/// Claims free frames as data.
fn claim(table: &FrameTable<'_>, number: u64, count: u64, alignment: u64) -> Option<Mfn> {
    table.claim_run(Class::FREE, DATA, number, (count, alignment))
}

#[test]
fn a_fresh_table_hands_out_nothing_and_frame_0_never() {
    let records = records(16);
    let table = FrameTable::new(&records);
    assert_eq!(claim(&table, 0, 1, 1), None);
    table.release_range(Mfn(0)..Mfn(u64::MAX));
    assert_eq!(table.free_frames(), 15);
    assert_eq!(claim(&table, 0, 16, 1), None);
    assert_eq!(claim(&table, 0, 15, 1), Some(Mfn(1)));
}

#[test]
fn a_run_takes_the_first_fit_and_numbers_its_frames() {
    let records = records(64);
    let table = free_table(&records);
    table.reserve(Mfn(3)..Mfn(5));
    assert_eq!(claim(&table, 7, 4, 1), Some(Mfn(5)));
    assert_eq!(table.number(Mfn(8), DATA), Some(10));
    assert_eq!(claim(&table, 0, 16, 16), Some(Mfn(16)));
    assert_eq!(claim(&table, 0, 16, 16), Some(Mfn(32)));
    assert_eq!(claim(&table, 0, 16, 16), Some(Mfn(48)));
    assert_eq!(claim(&table, 0, 16, 16), None);
    assert_eq!(table.free_frames(), 2 + 7);
}

#[test]
fn the_search_for_single_frames_comes_round_to_those_freed_behind_it() {
    let records = records(8);
    let table = free_table(&records);
    for _ in 1..8 {
        claim(&table, 0, 1, 1).unwrap();
    }
    table.change(Mfn(2), DATA, Class::FREE, 0).unwrap();
    assert_eq!(claim(&table, 0, 1, 1), Some(Mfn(2)));
    assert_eq!(claim(&table, 0, 1, 1), None);
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn a_search_stops_when_it_has_looked_enough_and_goes_on_where_it_stood() {
    let records = records(4096);
    let table = free_table(&records);
    // Every run of 512 but the last has its obstacle at the end, so that it is taken and given back.
    (1..7).for_each(|run| table.reserve(Mfn(run * 512 + 511)..Mfn(run * 512 + 512)));
    for budget in [1, 5, 511, 512, 513, 2000, u64::MAX] {
        let mut search = Search::START;
        let mut calls = 0;
        let found = loop {
            search.budget = budget;
            let before = LOOKS.get();
            let found = table.claim_next(&mut search, (Class::FREE, DATA), 9, (512, 512));
            calls += 1;
            // What was taken in vain is given back.
            assert!(LOOKS.get().wrapping_sub(before) <= 2 * budget.min(4096).saturating_add(512));
            if found != Ok(None) {
                break found;
            }
        };
        assert_eq!(found, Ok(Some(Mfn(7 * 512))));
        assert_eq!(calls, 6 / budget.div_ceil(512) + 1);
        assert_eq!(table.count(DATA), 512);
        search.budget = budget;
        let end = table.claim_next(&mut search, (Class::FREE, DATA), 9, (512, 512));
        assert_eq!(end, Err(Status::QuotaExceeded));
        (0..512).for_each(|offset| table.change(Mfn(7 * 512 + offset), DATA, Class::FREE, 0).unwrap());
    }
}

#[test]
fn an_impossible_run_is_refused_and_takes_nothing() {
    let records = records(8);
    let table = free_table(&records);
    for count in [8, u64::MAX, u64::MAX - 1] {
        assert_eq!(claim(&table, 0, count, 1), None);
        assert_eq!(claim(&table, 0, count, 512), None);
    }
    assert_eq!(claim(&table, 0, 1, u64::MAX), None);
    assert_eq!(table.free_frames(), 7);
}

#[test]
fn a_count_is_full_at_its_limit_and_never_wraps() {
    let records = records(4);
    let table = free_table(&records);
    let frame = claim(&table, 3, 1, 1).unwrap();
    for _ in 0..MAX_REFERENCES {
        table.add_reference(frame, DATA).unwrap();
    }
    assert_eq!(table.add_reference(frame, DATA), Err(Status::QuotaExceeded));
    assert_eq!(table.references(frame, DATA), Some(MAX_REFERENCES));
    assert_eq!(table.number(frame, DATA), Some(3));
    for _ in 0..MAX_REFERENCES {
        table.drop_reference(frame, DATA).unwrap();
    }
    assert_eq!(table.drop_reference(frame, DATA), Err(Status::InvalidArgument));
    assert_eq!(table.number(frame, DATA), Some(3));
}

#[test]
fn a_referenced_frame_keeps_its_kind_and_owner() {
    let records = records(4);
    let table = free_table(&records);
    let frame = claim(&table, 0, 1, 1).unwrap();
    table.add_reference(frame, DATA).unwrap();
    assert_eq!(table.change(frame, DATA, POOL, 0), Err(Status::Busy));
    assert_eq!(table.change(frame, DATA, Class::FREE, 0), Err(Status::Busy));
    table.drop_reference(frame, DATA).unwrap();
    assert_eq!(table.change(frame, DATA, POOL, 0), Ok(()));
    assert_eq!(table.count(POOL), 1);
    assert_eq!(table.count(DATA), 0);
}

#[test]
fn nobody_changes_what_belongs_to_another_or_is_of_another_kind_or_no_frame() {
    let records = records(4);
    let table = free_table(&records);
    let frame = claim(&table, 0, 1, 1).unwrap();
    let refused = Err(Status::InvalidArgument);
    for frame in [Mfn(0), Mfn(2), Mfn(4), Mfn(1 << 40), Mfn(u64::MAX)] {
        assert_eq!(table.add_reference(frame, DATA), refused);
        assert_eq!(table.change(frame, DATA, Class::FREE, 0), refused);
    }
    for (owner, kind) in [(OTHER, Kind::Data), (None, Kind::Data), (VM, Kind::Table)] {
        let class = Class::new(owner, kind);
        assert_eq!(table.add_reference(frame, class), refused);
        assert_eq!(table.drop_reference(frame, class), refused);
        assert_eq!(table.change(frame, class, DATA, 1), refused);
        assert_eq!(table.number(frame, class), None);
    }
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn every_owner_and_kind_has_a_record_of_its_own() {
    let vms = (0..protocol::layout::limit::VMS).map(|vm| Some(VmId(vm)));
    let mut seen = std::collections::HashSet::new();
    for owner in vms.chain([None]) {
        for kind in KINDS {
            assert!(seen.insert(Record::of(Class::new(owner, kind), 0).0));
        }
    }
}

#[test]
fn two_cpus_never_both_get_a_frame() {
    let records = records(if cfg!(miri) { 128 } else { 2048 });
    let table = free_table(&records);
    let claim = || {
        let mut frames = Vec::new();
        while let Some(frame) = claim(&table, 0, 3, 1) {
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
    assert_eq!(table.count(DATA), u64::try_from(claimed).unwrap());
}

#[test]
#[cfg(feature = "xen")]
fn a_frame_is_taken_back_from_its_vm_only_and_whatever_refers_to_it() {
    let records = records(32);
    let table = free_table(&records);
    for kind in KINDS {
        let class = Class::new(VM, kind);
        let frame = table.claim_run(Class::FREE, class, 9, (1, 1)).unwrap();
        table.add_reference(frame, class).unwrap();
        assert!(!table.take_back(frame, VmId(6)));
        let is_taken = matches!(kind, Kind::Paged | Kind::Table | Kind::Shared | Kind::Pool);
        assert_eq!(table.take_back(frame, VmId(5)), is_taken, "{kind:?}");
        let kept = Class::new(VM, Kind::Kept);
        if is_taken {
            assert_eq!((table.number(frame, kept), table.references(frame, kept)), (Some(0), Some(0)));
        } else {
            assert_eq!((table.number(frame, class), table.references(frame, class)), (Some(9), Some(1)));
        }
    }
    assert!(!table.take_back(Mfn(31), VmId(5)) && !table.take_back(Mfn(0), VmId(5)));
    assert!(!table.take_back(Mfn(32), VmId(5)) && !table.take_back(Mfn(u64::MAX), VmId(5)));
}

#[test]
#[cfg(feature = "xen")]
fn a_vm_has_frames_of_a_range_whatever_they_are_for() {
    for kind in KINDS {
        let records = records(64);
        let table = free_table(&records);
        table.reserve(Mfn(1)..Mfn(20));
        assert_eq!(table.claim_run(Class::FREE, Class::new(VM, kind), 0, (1, 1)), Some(Mfn(20)));
        let has = |vm, start, end| table.has_any(VmId(vm), Mfn(start)..Mfn(end));
        assert!(has(5, 0, 64) && has(5, 20, 21) && has(5, 20, u64::MAX) && has(5, 0, 21));
        assert!(!has(5, 0, 20) && !has(5, 21, 64) && !has(5, 64, 99) && !has(5, 99, 64) && !has(6, 0, 64));
    }
}
