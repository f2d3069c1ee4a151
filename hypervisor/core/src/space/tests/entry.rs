use crate::addr::Mfn;
use crate::space::entry::{Leaf, LeafKind, Stored, ValidEntry, reportable};
use protocol::flags::MapFlags;

/// The specification, bit by bit and apart from the code: Intel SDM volume 3A, 4.5, and the header
/// of the module.
fn expected_bit(bit: u32, frame: u64, flags: MapFlags, large: bool, kind: LeafKind) -> bool {
    let (own, special, grant, tag) = match kind {
        LeafKind::Own => (true, false, false, 0),
        LeafKind::Special => (false, true, false, 0),
        LeafKind::Grant(tag) => (false, false, true, tag),
    };
    match bit {
        0 | 2 | 5 => true,
        1 | 6 => flags.contains(MapFlags::WRITE),
        3 | 4 | 8 => false,
        7 => large,
        9 => own || grant,
        10 => special || grant,
        11 => tag >= 128,
        12..=51 => (frame >> (bit - 12)) & 1 == 1,
        52..=58 => (tag >> (bit - 52)) & 1 == 1,
        59..=62 => false,
        63 => !flags.contains(MapFlags::EXECUTE),
        _ => unreachable!(),
    }
}

fn frames() -> impl Iterator<Item = u64> {
    (0..64).map(|bit| 1 << bit).chain([0, 511, 512, 513, (1 << 40) - 1, (1 << 40) - 512, u64::MAX])
}

fn kinds() -> impl Iterator<Item = LeafKind> {
    [LeafKind::Own, LeafKind::Special].into_iter().chain((0..=255).map(LeafKind::Grant))
}

fn all_flags() -> impl Iterator<Item = MapFlags> {
    (0..8).map(MapFlags::from_bits_retain)
}

#[test]
fn every_bit_of_every_small_leaf_is_as_specified() {
    for frame in frames() {
        for flags in all_flags() {
            for kind in kinds() {
                let entry = ValidEntry::leaf(Mfn(frame), flags, kind);
                if frame >= 1 << 40 {
                    assert_eq!(entry, None);
                    continue;
                }
                let bits = entry.unwrap().bits();
                for bit in 0..64 {
                    let expected = expected_bit(bit, frame, flags, false, kind);
                    assert_eq!((bits >> bit) & 1 == 1, expected, "bit {bit} of {bits:#x}");
                }
                let leaf = Leaf::of(bits).unwrap();
                assert_eq!(leaf.frame(), Mfn(frame));
                assert_eq!(leaf.kind(), kind);
                assert_eq!(leaf.is_grant(), matches!(kind, LeafKind::Grant(_)));
                assert_eq!(leaf.rights(), flags.difference(MapFlags::LARGE));
            }
        }
    }
}

#[test]
fn every_bit_of_every_large_leaf_is_as_specified() {
    for frame in frames() {
        for flags in all_flags() {
            let entry = ValidEntry::large(Mfn(frame), flags);
            if frame >= 1 << 40 || frame % 512 != 0 {
                assert_eq!(entry, None);
                continue;
            }
            let bits = entry.unwrap().bits();
            for bit in 0..64 {
                let expected = expected_bit(bit, frame, flags, true, LeafKind::Own);
                assert_eq!((bits >> bit) & 1 == 1, expected, "bit {bit} of {bits:#x}");
            }
            let Stored::Large(leaf) = Stored::of(bits) else {
                panic!("{bits:#x} is no large leaf");
            };
            assert_eq!(leaf.frame(), Mfn(frame));
            assert_eq!(leaf.kind(), LeafKind::Own);
        }
    }
}

#[test]
fn tables_are_user_and_writable_and_those_of_the_hypervisor_are_not_for_users() {
    for frame in frames() {
        let (table, own) = (ValidEntry::table(Mfn(frame)), ValidEntry::hypervisor_table(Mfn(frame)));
        if frame >= 1 << 40 {
            assert_eq!((table, own), (None, None));
            continue;
        }
        assert_eq!(table.unwrap().bits(), (frame << 12) | 0b10_0111);
        assert_eq!(own.unwrap().bits(), (frame << 12) | 0b10_0011);
        let Stored::Table(stored) = Stored::of(table.unwrap().bits()) else {
            panic!("no table");
        };
        assert_eq!(stored, Mfn(frame));
    }
    assert_eq!(ValidEntry::NONE.bits(), 0);
    assert_eq!(Stored::of(0), Stored::Nothing);
    assert_eq!(Leaf::of(0), None);
}

#[test]
fn new_rights_leave_frame_kind_and_size_alone() {
    for old in all_flags() {
        for new in all_flags() {
            for kind in kinds() {
                let small = old.difference(MapFlags::LARGE);
                let entry = ValidEntry::leaf(Mfn(0x1234), small, kind).unwrap();
                let changed = ValidEntry::with_rights(Leaf::of(entry.bits()).unwrap(), new);
                let fresh = new.difference(MapFlags::LARGE);
                assert_eq!(Some(changed), ValidEntry::leaf(Mfn(0x1234), fresh, kind));
            }
            let entry = ValidEntry::large(Mfn(0x1200), old).unwrap();
            let changed = ValidEntry::with_rights(Leaf::of(entry.bits()).unwrap(), new);
            assert_eq!(Some(changed), ValidEntry::large(Mfn(0x1200), new));
        }
    }
}

#[test]
fn a_report_shows_no_frame_number() {
    assert_eq!(reportable(u64::MAX), 0x8000_0000_0000_0fff);
}
