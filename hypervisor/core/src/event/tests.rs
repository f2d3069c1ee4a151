//! Refusals of the port table, and random sequences against a naive model in which every event is
//! seen exactly once.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{ChannelEnd, PortTable, Raise, Rebind, Source, Target};
use crate::policy::tests::monitor;
use crate::policy::{Operation, Permit};
use protocol::flags::EventSource;
use protocol::label::Label;
use protocol::layout::limit;
use protocol::{Port, Status, VcpuId, VmId};

const OWN: VmId = VmId(0);
const PEER: VmId = VmId(7);
const FIRST: VcpuId = VcpuId(0);
const SECOND: VcpuId = VcpuId(1);

/// A VM of two vCPUs with two channels to the same peer.
fn table() -> PortTable {
    let end = |peer_channel| ChannelEnd { peer: PEER, peer_channel, sends: true };
    PortTable::new(OWN, 2, &[end(3), end(5)])
}

fn permit(operation: Operation, subject: VmId, object: VmId) -> Permit {
    monitor(&[Label::default(); 10]).decide(subject, operation, object).unwrap()
}

fn raise(vcpu: VcpuId, port: Port) -> Raise {
    Raise { vcpu, port }
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn ports_end_at_the_quota_and_come_back_when_closed() {
    let mut table = table();
    for number in 0..limit::PORTS {
        assert_eq!(table.alloc(FIRST), Ok(Port(number)));
    }
    assert_eq!(table.alloc(FIRST), Err(Status::QuotaExceeded));
    assert_eq!(table.close(Port(9)), Ok(FIRST));
    assert_eq!(table.alloc(SECOND), Ok(Port(9)));
}

#[test]
fn a_port_that_is_not_in_use_is_not_found() {
    let mut table = table();
    for port in [0, 1, limit::PORTS - 1, limit::PORTS, u32::MAX].map(Port) {
        assert_eq!(table.send(port), Err(Status::NotFound));
        assert_eq!(table.close(port), Err(Status::NotFound));
        let bound = table.bind(port, Source::ConsoleInput, FIRST);
        assert_eq!(bound, Err(Status::NotFound));
    }
}

#[test]
fn a_vcpu_that_is_not_there_is_not_found() {
    let mut table = table();
    assert_eq!(table.alloc(VcpuId(2)), Err(Status::NotFound));
    let port = table.alloc(FIRST).unwrap();
    let bound = table.bind(port, Source::ConsoleInput, VcpuId(u32::MAX));
    assert_eq!(bound, Err(Status::NotFound));
    assert_eq!(table.happened(Source::ConsoleInput), None, "nothing was bound");
}

#[test]
fn a_source_that_the_vm_has_not_is_invalid() {
    let table = table();
    let ok = [
        (EventSource::ConsoleInput, 0, Source::ConsoleInput),
        (EventSource::Timer, 1, Source::Timer(SECOND)),
        (EventSource::Channel, 1, Source::Channel(1)),
    ];
    for (kind, number, source) in ok {
        assert_eq!(table.source(kind, number), Ok(source));
    }
    for (kind, _, _) in EventSource::ALL {
        for number in [2, u64::from(u32::MAX), 1 << 32, u64::MAX] {
            assert_eq!(table.source(*kind, number), Err(Status::InvalidArgument));
        }
    }
    let console = table.source(EventSource::ConsoleInput, 1);
    assert_eq!(console, Err(Status::InvalidArgument));
}

#[test]
fn a_source_belongs_to_one_port_and_a_refusal_changes_nothing() {
    let mut table = table();
    let first = table.alloc(FIRST).unwrap();
    let second = table.alloc(SECOND).unwrap();
    let _bound = table.bind(first, Source::Channel(0), FIRST).unwrap();
    let _bound = table.bind(second, Source::Timer(FIRST), SECOND).unwrap();
    let refused = table.bind(second, Source::Channel(0), FIRST);
    assert_eq!(refused, Err(Status::Busy));
    let fired = table.happened(Source::Timer(FIRST));
    assert_eq!(fired, Some(raise(SECOND, second)));
}

#[test]
fn what_happened_while_unbound_makes_the_port_pending_once() {
    let mut table = table();
    assert_eq!(table.happened(Source::Timer(SECOND)), None);
    assert_eq!(table.happened(Source::Timer(SECOND)), None);
    let port = table.alloc(FIRST).unwrap();
    let bound = table.bind(port, Source::Timer(SECOND), FIRST).unwrap();
    assert!(bound.raise);
    let again = table.bind(port, Source::Timer(SECOND), FIRST).unwrap();
    assert!(!again.raise);
}

#[test]
fn a_port_that_is_bound_anew_moves_its_pending_state_and_frees_its_source() {
    let mut table = table();
    let port = table.alloc(FIRST).unwrap();
    let _bound = table.bind(port, Source::ConsoleInput, FIRST).unwrap();
    let moved = Rebind { moved_from: Some(FIRST), raise: false };
    assert_eq!(table.bind(port, Source::Channel(1), SECOND), Ok(moved));
    let other = table.alloc(FIRST).unwrap();
    assert!(table.bind(other, Source::ConsoleInput, FIRST).is_ok());
}

#[test]
fn closing_a_port_frees_its_source() {
    let mut table = table();
    let port = table.alloc(FIRST).unwrap();
    let _bound = table.bind(port, Source::Channel(0), FIRST).unwrap();
    let _cleared = table.close(port).unwrap();
    assert_eq!(table.happened(Source::Channel(0)), None);
    let port = table.alloc(FIRST).unwrap();
    assert!(table.bind(port, Source::Channel(0), FIRST).unwrap().raise);
}

#[test]
fn a_send_goes_to_the_vm_itself_or_to_the_channels_other_end() {
    let mut table = table();
    let port = table.alloc(SECOND).unwrap();
    assert_eq!(table.send(port), Ok(Target::Own(raise(SECOND, port))));
    let _bound = table.bind(port, Source::Channel(1), SECOND).unwrap();
    let end = ChannelEnd { peer: PEER, peer_channel: 5, sends: true };
    assert_eq!(table.send(port), Ok(Target::Peer(end)));
    let _bound = table.bind(port, Source::ConsoleInput, SECOND).unwrap();
    assert_eq!(table.send(port), Ok(Target::Own(raise(SECOND, port))));
}

#[test]
fn only_the_channels_peer_delivers_and_only_with_a_permit_for_it() {
    let mut table = table();
    let port = table.alloc(FIRST).unwrap();
    let _bound = table.bind(port, Source::Channel(0), FIRST).unwrap();
    let wrong = [
        (Operation::ChannelUse, PEER, OWN, 0),
        (Operation::EventSend, VmId(8), OWN, 0),
        (Operation::EventSend, PEER, VmId(8), 0),
        (Operation::EventSend, PEER, OWN, 2),
        (Operation::EventSend, PEER, OWN, u32::MAX),
    ];
    for (operation, subject, object, channel) in wrong {
        let delivered = table.accept(permit(operation, subject, object), channel);
        assert_eq!(delivered, Err(Status::NotPermitted));
    }
    let delivered = [0, 1].map(|channel| table.accept(permit(Operation::EventSend, PEER, OWN), channel).unwrap());
    assert_eq!(delivered.map(|source| table.happened(source)), [Some(raise(FIRST, port)), None]);
}

#[test]
fn a_reset_table_is_as_new() {
    let mut table = table();
    let port = table.alloc(FIRST).unwrap();
    let _bound = table.bind(port, Source::Channel(0), FIRST).unwrap();
    assert_eq!(table.happened(Source::ConsoleInput), None);
    table.reset();
    assert_eq!(table.send(port), Err(Status::NotFound));
    let port = table.alloc(FIRST).unwrap();
    assert!(!table.bind(port, Source::ConsoleInput, FIRST).unwrap().raise);
    assert!(!table.bind(port, Source::Channel(0), FIRST).unwrap().raise);
}

#[derive(Debug, Clone)]
enum Step {
    Alloc(VcpuId),
    Bind(Port, Source, VcpuId),
    Close(Port),
    Send(Port),
    Happen(Source),
    /// The vCPU takes what is pending.
    Take(VcpuId),
}

fn step() -> impl Strategy<Value = Step> {
    let vcpu = || (0..2_u32).prop_map(VcpuId);
    let port = || (0..5_u32).prop_map(Port);
    let source = || {
        prop_oneof![Just(Source::ConsoleInput), vcpu().prop_map(Source::Timer), (0..2_u32).prop_map(Source::Channel),]
    };
    prop_oneof![
        vcpu().prop_map(Step::Alloc),
        (port(), source(), vcpu()).prop_map(|(port, source, vcpu)| Step::Bind(port, source, vcpu)),
        port().prop_map(Step::Close),
        port().prop_map(Step::Send),
        source().prop_map(Step::Happen),
        vcpu().prop_map(Step::Take),
    ]
}

/// What a guest should see: for each port what it is tied to, and whether it has news.
#[derive(Default)]
struct Model {
    ports: BTreeMap<Port, (VcpuId, Option<Source>, bool)>,
    /// Sources with news that no port has taken.
    latched: BTreeSet<String>,
}

/// The bits in the guest's pages, as `hv-arch` would keep them.
#[derive(Default)]
struct Pages(BTreeSet<(VcpuId, Port)>);

impl Pages {
    fn raise(&mut self, raise: Raise) {
        self.0.insert((raise.vcpu, raise.port));
    }

    fn rebind(&mut self, rebind: Rebind, port: Port, vcpu: VcpuId) {
        let from = rebind.moved_from.map(|vcpu| (vcpu, port));
        let moved = from.is_some_and(|bit| self.0.remove(&bit));
        if moved || rebind.raise {
            self.0.insert((vcpu, port));
        }
    }
}

impl Model {
    fn apply(&mut self, step: &Step, table: &mut PortTable, pages: &mut Pages) {
        match *step {
            Step::Alloc(vcpu) if self.ports.len() < 5 => {
                let port = table.alloc(vcpu).unwrap();
                assert_eq!(self.ports.insert(port, (vcpu, None, false)), None);
            }
            Step::Alloc(_) => {}
            Step::Bind(port, source, vcpu) => self.bind(port, source, vcpu, table, pages),
            Step::Close(port) => match table.close(port) {
                Ok(vcpu) => {
                    pages.0.remove(&(vcpu, port));
                    assert!(self.ports.remove(&port).is_some());
                }
                Err(status) => {
                    assert_eq!(status, Status::NotFound);
                    assert!(!self.ports.contains_key(&port));
                }
            },
            Step::Send(port) => self.send(port, table, pages),
            Step::Happen(source) => {
                if let Some(raise) = table.happened(source) {
                    pages.raise(raise);
                }
                let holder = self.ports.values_mut().find(|(_, own, _)| *own == Some(source));
                match holder {
                    Some((_, _, news)) => *news = true,
                    None => {
                        self.latched.insert(format!("{source:?}"));
                    }
                }
            }
            Step::Take(vcpu) => {
                for (port, (_, _, news)) in self.ports.iter_mut().filter(|(_, p)| p.0 == vcpu) {
                    assert_eq!(std::mem::take(news), pages.0.remove(&(vcpu, *port)));
                }
            }
        }
    }

    fn send(&mut self, port: Port, table: &mut PortTable, pages: &mut Pages) {
        let Some((vcpu, source, news)) = self.ports.get_mut(&port) else {
            assert_eq!(table.send(port), Err(Status::NotFound));
            return;
        };
        match table.send(port).unwrap() {
            Target::Own(raise) => {
                assert_eq!((raise.vcpu, raise.port), (*vcpu, port));
                pages.raise(raise);
                *news = true;
            }
            Target::Peer(end) => {
                assert!(matches!(source, Some(Source::Channel(_))));
                assert_eq!(end.peer, PEER);
            }
        }
    }

    fn bind(&mut self, port: Port, source: Source, vcpu: VcpuId, table: &mut PortTable, pages: &mut Pages) {
        let holder = self.ports.iter().find(|(_, (_, own, _))| *own == Some(source));
        let busy = holder.is_some_and(|(other, _)| *other != port);
        let answer = table.bind(port, source, vcpu);
        let Some(slot) = self.ports.get_mut(&port) else {
            assert_eq!(answer, Err(Status::NotFound));
            return;
        };
        if busy {
            assert_eq!(answer, Err(Status::Busy));
            return;
        }
        pages.rebind(answer.unwrap(), port, vcpu);
        let latched = self.latched.remove(&format!("{source:?}"));
        *slot = (vcpu, Some(source), slot.2 || latched);
    }
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn every_event_is_seen_exactly_once(steps in prop::collection::vec(step(), 1..200)) {
        let (mut table, mut model, mut pages) = (table(), Model::default(), Pages::default());
        for step in &steps {
            model.apply(step, &mut table, &mut pages);
            // No bit is set that belongs to no port or to another vCPU.
            for (vcpu, port) in &pages.0 {
                prop_assert_eq!(model.ports.get(port).map(|slot| slot.0), Some(*vcpu));
            }
        }
        for vcpu in [FIRST, SECOND] {
            model.apply(&Step::Take(vcpu), &mut table, &mut pages);
        }
        prop_assert!(pages.0.is_empty());
    }
}

#[test]
fn the_receiving_end_of_a_one_way_channel_sends_nothing_but_receives() {
    let end = ChannelEnd { peer: PEER, peer_channel: 3, sends: false };
    let mut table = PortTable::new(OWN, 1, &[end]);
    let port = table.alloc(FIRST).unwrap();
    let _bound = table.bind(port, Source::Channel(0), FIRST).unwrap();
    assert_eq!(table.send(port), Err(Status::NotPermitted));
    let source = table.accept(permit(Operation::EventSend, PEER, OWN), 0).unwrap();
    assert_eq!(table.happened(source), Some(raise(FIRST, port)));
}
