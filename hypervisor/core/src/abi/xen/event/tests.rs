//! Every operation in every state, and random sequences against a naive model.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{CONSOLE, PORTS, Ports, Raise, Sent};
use crate::abi::xen::Domain;
use protocol::xen::{DOMID_SELF, Errno, event};
use protocol::{Port, VcpuId, VmId};

const VM: VmId = VmId(4);
const OWN: u16 = 5;
const VCPUS: u32 = 3;
const FIRST: VcpuId = VcpuId(0);
const SECOND: VcpuId = VcpuId(1);
const ABSENT: VcpuId = VcpuId(VCPUS);
/// The lowest free ports of a VM that starts: the console's is between them.
const LOWEST: Port = Port(1);
const NEXT: Port = Port(3);
/// A virtual interrupt that a VM has once.
const GLOBAL: u32 = 3;

fn table() -> Ports {
    Ports::new(VM, VCPUS)
}

fn raise(vcpu: VcpuId, port: Port) -> Raise {
    Raise { vcpu, port }
}

/// A port in each state, by name; each of a table of its own.
fn states() -> Vec<(&'static str, Ports, Port)> {
    let mut all = vec![("free", table(), Port(9)), ("console", table(), CONSOLE)];
    let mut add = |name, make: &dyn Fn(&mut Ports) -> Port| {
        let mut table = table();
        let port = make(&mut table);
        all.push((name, table, port));
    };
    add("unbound", &|table| table.alloc_unbound(DOMID_SELF, 0).unwrap());
    add("waits for itself", &|table| table.alloc_unbound(OWN, OWN).unwrap());
    add("local", &|table| {
        let waiting = table.alloc_unbound(DOMID_SELF, DOMID_SELF).unwrap();
        table.bind_interdomain(DOMID_SELF, waiting).unwrap().port
    });
    add("virq", &|table| table.bind_virq(event::VIRQ_TIMER, SECOND).unwrap());
    add("global virq", &|table| table.bind_virq(GLOBAL, FIRST).unwrap());
    add("ipi", &|table| table.bind_ipi(SECOND).unwrap());
    all
}

/// What each operation does with a port in the state: send, unmask, move to a vCPU, bind to it, close,
/// and its status.
struct Expected {
    send: Result<Sent, Errno>,
    unmask: Result<VcpuId, Errno>,
    bind_vcpu: Result<(), Errno>,
    bind_interdomain: Result<(), Errno>,
    close: Result<(), Errno>,
    status: (u32, [u32; 2]),
}

fn expected(state: &str, port: Port) -> Expected {
    let usual = Expected {
        send: Err(Errno::Invalid),
        unmask: Ok(FIRST),
        bind_vcpu: Ok(()),
        bind_interdomain: Err(Errno::Invalid),
        close: Ok(()),
        status: (event::STATUS_CLOSED, [0, 0]),
    };
    let invalid = Err(Errno::Invalid);
    match state {
        "free" => Expected { unmask: Err(Errno::Invalid), bind_vcpu: invalid, close: invalid, ..usual },
        "console" => Expected { send: Ok(Sent::Console), status: (event::STATUS_INTERDOMAIN, [0, port.0]), ..usual },
        "unbound" => Expected { send: Ok(Sent::Nobody), status: (event::STATUS_UNBOUND, [0, 0]), ..usual },
        "waits for itself" => {
            let status = (event::STATUS_UNBOUND, [u32::from(OWN), 0]);
            Expected { send: Ok(Sent::Nobody), bind_interdomain: Ok(()), status, ..usual }
        }
        "local" => {
            let status = (event::STATUS_INTERDOMAIN, [u32::from(OWN), LOWEST.0]);
            Expected { send: Ok(Sent::Own(raise(FIRST, LOWEST))), status, ..usual }
        }
        "virq" => {
            let status = (event::STATUS_VIRQ, [event::VIRQ_TIMER, 0]);
            Expected { unmask: Ok(SECOND), bind_vcpu: invalid, status, ..usual }
        }
        "global virq" => Expected { status: (event::STATUS_VIRQ, [GLOBAL, 0]), ..usual },
        "ipi" => {
            let send = Ok(Sent::Own(raise(SECOND, port)));
            Expected { send, unmask: Ok(SECOND), bind_vcpu: invalid, status: (event::STATUS_IPI, [0, 0]), ..usual }
        }
        other => panic!("no such state: {other}"),
    }
}

#[test]
fn every_operation_in_every_state() {
    for (name, table, port) in states() {
        let expected = expected(name, port);
        assert_eq!(table.send(port), expected.send, "{name}");
        assert_eq!(table.unmask(port), expected.unmask.map(|vcpu| raise(vcpu, port)), "{name}");
        let status = table.status(DOMID_SELF, port).unwrap();
        assert_eq!((status.status, status.detail), expected.status, "{name}");
        assert_eq!(status.vcpu, expected.unmask.unwrap_or(FIRST).0, "{name}");
        assert_eq!((status.dom, status.port), (DOMID_SELF, port.0));
    }
    for (name, mut table, port) in states() {
        let expected = expected(name, port);
        assert_eq!(table.bind_vcpu(port, ABSENT), Err(Errno::NotFound), "{name}");
        assert_eq!(table.bind_vcpu(port, VcpuId(2)), expected.bind_vcpu, "{name}");
        if expected.bind_vcpu.is_ok() {
            assert_eq!(table.unmask(port), Ok(raise(VcpuId(2), port)), "{name}");
        }
    }
    for (name, mut table, port) in states() {
        let bound = table.bind_interdomain(OWN, port);
        assert_eq!(bound.map(|_| ()), expected(name, port).bind_interdomain, "{name}");
        if let Ok(new) = bound {
            assert_eq!(new.vcpu, FIRST);
            assert_eq!(table.send(new.port), Ok(Sent::Own(raise(FIRST, port))), "{name}");
            assert_eq!(table.send(port), Ok(Sent::Own(new)), "{name}");
        }
    }
    for (name, mut table, port) in states() {
        assert_eq!(table.close(port), expected(name, port).close, "{name}");
        assert_eq!(table.status(OWN, port).unwrap().status, event::STATUS_CLOSED, "{name}");
        assert_eq!(table.close(port), Err(Errno::Invalid), "{name}");
    }
}

#[test]
fn numbers_that_no_port_has_are_invalid() {
    let mut table = table();
    for port in [0, PORTS, PORTS + 1, event::PORTS, u32::MAX].map(Port) {
        assert!(!table.has(port));
        assert_eq!(table.send(port), Err(Errno::Invalid));
        assert_eq!(table.unmask(port), Err(Errno::Invalid));
        assert_eq!(table.status(OWN, port), Err(Errno::Invalid));
        assert_eq!(table.close(port), Err(Errno::Invalid));
        assert_eq!(table.bind_vcpu(port, FIRST), Err(Errno::Invalid));
        assert_eq!(table.bind_interdomain(OWN, port), Err(Errno::Invalid));
    }
    assert!(table.has(Port(1)) && table.has(Port(PORTS - 1)));
}

#[test]
fn no_other_domain_can_be_named() {
    let mut table = table();
    assert_eq!(Domain::of(VM).number(), OWN);
    let waiting = table.alloc_unbound(OWN, OWN).unwrap();
    for dom in [0, 4, 6, DOMID_SELF - 1, DOMID_SELF + 1, u16::MAX] {
        assert_eq!(table.alloc_unbound(dom, OWN), Err(Errno::NotPermitted));
        assert_eq!(table.status(dom, waiting), Err(Errno::NotPermitted));
        assert_eq!(table.reset_by(dom), Err(Errno::NotPermitted));
        assert_eq!(table.bind_interdomain(dom, waiting), Err(Errno::NoDomain));
    }
    let foreign = table.alloc_unbound(OWN, 6).unwrap();
    assert_eq!(table.bind_interdomain(OWN, foreign), Err(Errno::Invalid), "it waits for somebody else");
}

#[test]
fn virtual_interrupts_that_are_not_there_or_taken_are_refused() {
    let mut table = table();
    assert_eq!(table.bind_virq(event::VIRQS, FIRST), Err(Errno::Invalid));
    assert_eq!(table.bind_virq(u32::MAX, FIRST), Err(Errno::Invalid));
    assert_eq!(table.bind_virq(GLOBAL, SECOND), Err(Errno::Invalid));
    assert_eq!(table.bind_virq(event::VIRQ_TIMER, ABSENT), Err(Errno::NotFound));
    assert_eq!(table.virq(event::VIRQ_TIMER, FIRST), None);
    let first = table.bind_virq(event::VIRQ_TIMER, FIRST).unwrap();
    let second = table.bind_virq(event::VIRQ_TIMER, SECOND).unwrap();
    assert_eq!(table.bind_virq(event::VIRQ_TIMER, FIRST), Err(Errno::Exists));
    assert_eq!(table.virq(event::VIRQ_TIMER, FIRST), Some(raise(FIRST, first)));
    assert_eq!(table.virq(event::VIRQ_TIMER, SECOND), Some(raise(SECOND, second)));
    assert_eq!(table.virq(event::VIRQS, FIRST), None);
    assert_eq!(table.virq(event::VIRQ_TIMER, ABSENT), None);
    table.close(first).unwrap();
    assert_eq!(table.virq(event::VIRQ_TIMER, FIRST), None);
    assert_eq!(table.bind_virq(event::VIRQ_TIMER, FIRST), Ok(first));
    assert_eq!(table.bind_ipi(ABSENT), Err(Errno::NotFound));
}

#[test]
fn a_global_interrupt_follows_its_port_and_can_be_bound_again() {
    let mut table = table();
    let port = table.bind_virq(GLOBAL, FIRST).unwrap();
    table.bind_vcpu(port, SECOND).unwrap();
    assert_eq!(table.virq(GLOBAL, FIRST), Some(raise(SECOND, port)));
    table.close(port).unwrap();
    assert_eq!(table.virq(GLOBAL, FIRST), None);
    assert_eq!(table.bind_virq(GLOBAL, FIRST), Ok(port));
}

#[test]
fn a_closed_peer_waits_for_the_same_vm_and_keeps_its_vcpu() {
    let mut table = table();
    let waiting = table.alloc_unbound(OWN, DOMID_SELF).unwrap();
    let bound = table.bind_interdomain(OWN, waiting).unwrap().port;
    table.bind_vcpu(waiting, SECOND).unwrap();
    table.close(bound).unwrap();
    assert_eq!(table.send(waiting), Ok(Sent::Nobody));
    assert_eq!(table.bind_interdomain(OWN, waiting).unwrap().port, bound, "lowest free");
    assert_eq!(table.send(bound), Ok(Sent::Own(raise(SECOND, waiting))));
}

#[test]
fn the_console_is_raised_until_its_port_is_closed_and_is_back_after_a_reset() {
    let mut table = table();
    assert_eq!(table.console(), Some(raise(FIRST, CONSOLE)));
    table.bind_vcpu(CONSOLE, SECOND).unwrap();
    assert_eq!(table.console(), Some(raise(SECOND, CONSOLE)));
    table.close(CONSOLE).unwrap();
    assert_eq!(table.console(), None);
    assert_eq!(table.bind_ipi(FIRST), Ok(LOWEST));
    assert_eq!(table.bind_ipi(FIRST), Ok(CONSOLE), "its number is free for others");
    assert_eq!(table.console(), None, "another's port is not the console");
    table.reset_by(DOMID_SELF).unwrap();
    assert_eq!(table.console(), Some(raise(FIRST, CONSOLE)));
    assert_eq!(table.bind_virq(event::VIRQ_DEBUG, FIRST), Ok(LOWEST));
    table.reset_by(OWN).unwrap();
    assert_eq!(table.virq(event::VIRQ_DEBUG, FIRST), None);
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn ports_end_and_a_refused_bind_changes_nothing() {
    let mut table = table();
    let waiting = table.alloc_unbound(OWN, OWN).unwrap();
    assert_eq!(waiting, LOWEST);
    for number in NEXT.0..PORTS {
        assert_eq!(table.bind_ipi(FIRST), Ok(Port(number)));
    }
    assert_eq!(table.bind_ipi(FIRST), Err(Errno::NoSpace));
    assert_eq!(table.alloc_unbound(OWN, OWN), Err(Errno::NoSpace));
    assert_eq!(table.bind_virq(event::VIRQ_TIMER, FIRST), Err(Errno::NoSpace));
    assert_eq!(table.bind_interdomain(OWN, waiting), Err(Errno::NoSpace));
    assert_eq!(table.send(waiting), Ok(Sent::Nobody));
    assert_eq!(table.virq(event::VIRQ_TIMER, FIRST), None);
    table.close(Port(77)).unwrap();
    assert_eq!(table.bind_virq(event::VIRQ_TIMER, FIRST), Ok(Port(77)));
}

/// The naive model: what a port is, told by what it was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Waiting { remote: u16 },
    Pair { peer: u32 },
    Console,
    Virq { virq: u32, vcpu: u32 },
    Ipi,
}

#[derive(Debug, Default)]
struct Model {
    /// Each port in use and who takes its events.
    ports: BTreeMap<u32, (Made, u32)>,
}

impl Model {
    fn lowest(&self) -> u32 {
        (1..).find(|port| !self.ports.contains_key(port)).unwrap()
    }

    fn add(&mut self, made: Made, vcpu: u32) -> u32 {
        let port = self.lowest();
        self.ports.insert(port, (made, vcpu));
        port
    }

    fn holder(&self, virq: u32, vcpu: u32) -> Option<u32> {
        let is_it = |made: &Made| matches!(made, Made::Virq { virq: v, vcpu: c } if *v == virq && *c == vcpu);
        self.ports.iter().find(|(_, (made, _))| is_it(made)).map(|(port, _)| *port)
    }

    /// # Errors
    /// As `bind_vcpu`.
    fn give(&mut self, port: u32, vcpu: u32) -> Result<(), Errno> {
        let entry = self.ports.get_mut(&port).filter(|(made, _)| match made {
            Made::Virq { virq, .. } => ![0, 1, 7, 13].contains(virq),
            Made::Waiting { .. } | Made::Pair { .. } | Made::Console => true,
            Made::Ipi => false,
        });
        entry.map(|entry| entry.1 = vcpu).ok_or(Errno::Invalid)
    }

    fn send(&self, port: u32) -> Option<Sent> {
        let (made, vcpu) = *self.ports.get(&port)?;
        match made {
            Made::Waiting { .. } => Some(Sent::Nobody),
            Made::Pair { peer } => Some(Sent::Own(raise(VcpuId(self.ports[&peer].1), Port(peer)))),
            Made::Console => Some(Sent::Console),
            Made::Ipi => Some(Sent::Own(raise(VcpuId(vcpu), Port(port)))),
            Made::Virq { .. } => None,
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Alloc { to_self: bool },
    Interdomain(u32),
    Virq { virq: u32, vcpu: u32 },
    Ipi(u32),
    Move(u32, u32),
    Close(u32),
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let port = 0..12_u32;
    let vcpu = 0..VCPUS + 1;
    prop_oneof![
        3 => any::<bool>().prop_map(|to_self| Step::Alloc { to_self }),
        4 => port.clone().prop_map(Step::Interdomain),
        2 => (0..26_u32, vcpu.clone()).prop_map(|(virq, vcpu)| Step::Virq { virq, vcpu }),
        1 => vcpu.clone().prop_map(Step::Ipi),
        3 => (port.clone(), vcpu).prop_map(|(port, vcpu)| Step::Move(port, vcpu)),
        5 => port.prop_map(Step::Close),
        1 => Just(Step::Reset),
    ]
}

/// Does the step in both; both must answer alike.
fn take(table: &mut Ports, model: &mut Model, step: &Step) {
    match *step {
        Step::Alloc { to_self } => {
            let remote = if to_self { OWN } else { 0 };
            let port = model.add(Made::Waiting { remote }, 0);
            assert_eq!(table.alloc_unbound(OWN, remote), Ok(Port(port)));
        }
        Step::Interdomain(remote) => {
            let bound = table.bind_interdomain(OWN, Port(remote));
            let waits = model.ports.get(&remote).is_some_and(|(made, _)| *made == Made::Waiting { remote: OWN });
            if waits {
                let port = model.add(Made::Pair { peer: remote }, 0);
                model.ports.get_mut(&remote).unwrap().0 = Made::Pair { peer: port };
                assert_eq!(bound, Ok(raise(FIRST, Port(port))));
            } else {
                assert_eq!(bound, Err(Errno::Invalid));
            }
        }
        Step::Virq { virq, vcpu } => {
            let is_own = [0, 1, 7, 13].contains(&virq);
            let expected = match () {
                () if virq >= 24 || (!is_own && vcpu != 0) => Err(Errno::Invalid),
                () if vcpu >= VCPUS => Err(Errno::NotFound),
                () if model.holder(virq, vcpu).is_some() => Err(Errno::Exists),
                () => Ok(Port(model.add(Made::Virq { virq, vcpu }, vcpu))),
            };
            assert_eq!(table.bind_virq(virq, VcpuId(vcpu)), expected);
        }
        Step::Ipi(vcpu) => {
            let expected = if vcpu < VCPUS { Ok(Port(model.add(Made::Ipi, vcpu))) } else { Err(Errno::NotFound) };
            assert_eq!(table.bind_ipi(VcpuId(vcpu)), expected);
        }
        Step::Move(port, vcpu) => {
            let expected = if vcpu < VCPUS { model.give(port, vcpu) } else { Err(Errno::NotFound) };
            assert_eq!(table.bind_vcpu(Port(port), VcpuId(vcpu)), expected);
        }
        Step::Close(port) => {
            let expected = model.ports.remove(&port).ok_or(Errno::Invalid).map(|(made, _)| {
                if let Made::Pair { peer } = made {
                    model.ports.get_mut(&peer).unwrap().0 = Made::Waiting { remote: OWN };
                }
            });
            assert_eq!(table.close(Port(port)), expected);
        }
        Step::Reset => {
            table.reset();
            model.ports.clear();
            model.ports.insert(CONSOLE.0, (Made::Console, 0));
        }
    }
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn behaves_like_the_model(steps in proptest::collection::vec(step(), 1..120)) {
        let mut table = table();
        let mut model = Model::default();
        model.ports.insert(CONSOLE.0, (Made::Console, 0));
        for step in &steps {
            take(&mut table, &mut model, step);
            for port in 0..16 {
                prop_assert_eq!(table.send(Port(port)), model.send(port).ok_or(Errno::Invalid));
                let vcpu = model.ports.get(&port).map(|(_, vcpu)| raise(VcpuId(*vcpu), Port(port)));
                prop_assert_eq!(table.unmask(Port(port)).ok(), vcpu);
            }
            for (virq, vcpu) in (0..24).flat_map(|virq| (0..VCPUS).map(move |vcpu| (virq, vcpu))) {
                let is_own = [0, 1, 7, 13].contains(&virq);
                let port = model.holder(virq, if is_own { vcpu } else { 0 });
                let expected = port.map(|port| raise(VcpuId(model.ports[&port].1), Port(port)));
                prop_assert_eq!(table.virq(virq, VcpuId(vcpu)), expected);
            }
            let console = model.ports.get(&CONSOLE.0).filter(|(made, _)| *made == Made::Console);
            prop_assert_eq!(table.console(), console.map(|(_, vcpu)| raise(VcpuId(*vcpu), CONSOLE)));
        }
    }
}
