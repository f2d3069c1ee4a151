//! Event ports: any sequence of calls, against a list of what a guest should see.

use std::collections::{BTreeMap, BTreeSet};

use hv_core::event::{ChannelEnd, PortTable, Raise, Source, Target};
use protocol::{Port, Status, VcpuId, VmId};

use super::Choices;

const VCPUS: u8 = 2;
/// Sources, as numbers: console, timers, channels.
const SOURCES: u8 = 5;
const PEER: VmId = VmId(7);

/// What a port is tied to, and whether it has news.
struct Tied {
    vcpu: VcpuId,
    source: Option<u8>,
    news: bool,
}

fn source(number: u8) -> Source {
    match number {
        0 => Source::ConsoleInput,
        1 | 2 => Source::Timer(VcpuId(u32::from(number) - 1)),
        _ => Source::Channel(u32::from(number) - 3),
    }
}

struct World {
    table: PortTable,
    ports: BTreeMap<Port, Tied>,
    latched: BTreeSet<u8>,
    /// Pending bits of the shared pages.
    bits: BTreeSet<(VcpuId, Port)>,
}

/// A sequence of calls.
pub fn events(bytes: &[u8]) {
    let ends = [true, false].map(|sends| ChannelEnd { peer: PEER, peer_channel: 0, sends });
    let table = PortTable::new(VmId(0), u32::from(VCPUS), &ends);
    let mut world = World { table, ports: BTreeMap::new(), latched: BTreeSet::new(), bits: BTreeSet::new() };
    let mut choices = Choices(bytes);
    while !choices.is_empty() {
        world.step(&mut choices);
        for (vcpu, port) in &world.bits {
            assert_eq!(world.ports.get(port).map(|tied| tied.vcpu), Some(*vcpu), "a bit that is nobody's");
        }
    }
    for vcpu in 0..VCPUS {
        world.take(VcpuId(u32::from(vcpu)));
    }
    assert!(world.bits.is_empty());
}

impl World {
    fn step(&mut self, choices: &mut Choices<'_>) {
        let kind = choices.below(8);
        let vcpu = VcpuId(u32::from(choices.below(VCPUS + 1)));
        let port = Port(u32::from(choices.below(6)));
        let number = choices.below(SOURCES + 1);
        match kind {
            0 => self.alloc(vcpu),
            1 | 2 => self.bind(port, number, vcpu),
            3 => self.close(port),
            4 => self.send(port),
            5 | 6 if number < SOURCES => self.happen(number),
            _ => self.take(vcpu),
        }
    }

    fn alloc(&mut self, vcpu: VcpuId) {
        if vcpu.0 >= u32::from(VCPUS) {
            assert_eq!(self.table.alloc(vcpu), Err(Status::NotFound));
        } else if self.ports.len() < 5 {
            let port = self.table.alloc(vcpu).expect("there is a free port");
            assert!(self.ports.insert(port, Tied { vcpu, source: None, news: false }).is_none());
        }
    }

    fn raise(&mut self, raise: Raise) {
        self.bits.insert((raise.vcpu, raise.port));
    }

    fn bind(&mut self, port: Port, number: u8, vcpu: VcpuId) {
        let answer = self.table.bind(port, source(number), vcpu);
        let holder = self.ports.iter().find(|(_, tied)| tied.source == Some(number)).map(|(port, _)| *port);
        let Some(tied) = self.ports.get_mut(&port).filter(|_| vcpu.0 < u32::from(VCPUS)) else {
            assert_eq!(answer, Err(Status::NotFound));
            return;
        };
        if number >= SOURCES {
            assert_eq!(answer, Err(Status::InvalidArgument));
            return;
        }
        if holder.is_some_and(|holder| holder != port) {
            assert_eq!(answer, Err(Status::Busy));
            return;
        }
        let rebind = answer.expect("nothing is against it");
        tied.news |= self.latched.remove(&number);
        tied.source = Some(number);
        tied.vcpu = vcpu;
        let moved = rebind.moved_from.is_some_and(|from| self.bits.remove(&(from, port)));
        if moved || rebind.raise {
            self.bits.insert((vcpu, port));
        }
    }

    fn close(&mut self, port: Port) {
        match (self.table.close(port), self.ports.remove(&port)) {
            (Ok(vcpu), Some(tied)) => {
                assert_eq!(vcpu, tied.vcpu);
                self.bits.remove(&(vcpu, port));
            }
            (answer, tied) => assert!(answer == Err(Status::NotFound) && tied.is_none()),
        }
    }

    fn send(&mut self, port: Port) {
        let answer = self.table.send(port);
        let Some(tied) = self.ports.get_mut(&port) else {
            assert_eq!(answer, Err(Status::NotFound));
            return;
        };
        match tied.source {
            Some(3) => assert!(matches!(answer, Ok(Target::Peer(end)) if end.peer == PEER)),
            Some(4) => assert_eq!(answer, Err(Status::NotPermitted)),
            _ => {
                let Ok(Target::Own(raise)) = answer else { panic!("a send to oneself: {answer:?}") };
                assert_eq!((raise.vcpu, raise.port), (tied.vcpu, port));
                tied.news = true;
                self.raise(raise);
            }
        }
    }

    fn happen(&mut self, number: u8) {
        let raise = self.table.happened(source(number));
        match self.ports.iter_mut().find(|(_, tied)| tied.source == Some(number)) {
            Some((port, tied)) => {
                tied.news = true;
                assert_eq!(raise, Some(Raise { vcpu: tied.vcpu, port: *port }));
            }
            None => {
                assert_eq!(raise, None);
                self.latched.insert(number);
            }
        }
        if let Some(raise) = raise {
            self.raise(raise);
        }
    }

    fn take(&mut self, vcpu: VcpuId) {
        for (port, tied) in self.ports.iter_mut().filter(|(_, tied)| tied.vcpu == vcpu) {
            assert_eq!(std::mem::take(&mut tied.news), self.bits.remove(&(vcpu, *port)));
        }
    }
}
