use super::{Argument, CALLS, Call, Map, Registers, Right};
use crate::flags::MapFlags;
use crate::handle::{Gfn, GuestVirt, SpaceId};
use crate::status::Status;

#[test]
fn numbers_ascend_so_that_none_is_used_twice() {
    for pair in CALLS.windows(2) {
        assert!(pair[0].number < pair[1].number, "{} and {}", pair[0].name, pair[1].name);
    }
}

#[test]
fn clause_ids_are_unique() {
    let mut ids: Vec<&str> = CALLS.iter().flat_map(|call| call.clauses.iter().map(|(id, _)| *id)).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

#[test]
fn every_call_has_words_clauses_and_at_most_six_arguments() {
    for call in CALLS {
        assert!(!call.doc.trim().is_empty(), "{}", call.name);
        assert!(!call.clauses.is_empty(), "{}", call.name);
        assert!(call.arguments.len() <= 6, "{}", call.name);
        assert_eq!(call.errors.contains(&Status::NotInBatch), !call.in_batch, "{}", call.name);
    }
}

#[test]
fn only_calls_about_peers_ask_the_policy() {
    let peers: Vec<&str> = CALLS.iter().filter(|call| call.right == Right::Peer).map(|call| call.name).collect();
    assert_eq!(peers, ["event_send", "grant_create", "grant_map", "grant_copy"]);
}

#[test]
fn arguments_travel_in_register_order() {
    let call = Map { space: SpaceId(3), address: GuestVirt(0x1000), frame: Gfn(7), count: 2, flags: MapFlags::WRITE };
    let registers: Registers = call.encode();
    assert_eq!(registers, [3, 0x1000, 7, 2, 1, 0]);
    assert_eq!(Map::decode(registers), Ok(call));
}

#[test]
fn out_of_range_arguments_are_refused_not_cut() {
    assert_eq!(Map::decode([1 << 32, 0, 0, 0, 0, 0]), Err(Status::InvalidArgument));
    assert_eq!(Map::decode([0, 0, 0, 0, 8, 0]), Err(Status::InvalidArgument));
    assert_eq!(u32::decode(u64::MAX), Err(Status::InvalidArgument));
}

#[test]
fn arguments_that_are_decoded_make_their_call_document_invalid_arguments() {
    // Types that every register holds a value of.
    let words = ["u64", "Gfn", "GuestVirt", "Nanos"];
    for call in CALLS {
        let is_checked = call.arguments.iter().any(|(_, kind, _)| !words.contains(kind));
        assert!(!is_checked || call.errors.contains(&Status::InvalidArgument), "{}", call.name);
    }
}
