//! The event channels of one VM, delivered by two levels of bits.
//!
//! The table decides; pending and mask bits lie in guest memory and are set by `hv-arch`, as the
//! returned [`Raise`] says. A guest can write these bits too, so nothing here ever reads them back. A
//! port's pending bit can be left over from an earlier use of it: the caller clears it before a guest
//! learns the number of a port that an operation hands out.
//!
//! Channels lead to the VM itself or to the hypervisor: domain 0 stands for the services of the
//! hypervisor, another VM cannot be reached. Invariants: two ports are each other's peers or neither is;
//! a virtual interrupt knows its port exactly when the port knows it.

use alloc::boxed::Box;
use alloc::vec;

use protocol::xen::structure::EventStatus;
use protocol::xen::{Errno, event};
use protocol::{Port, VcpuId, VmId};

use super::Domain;
use crate::addr::convert::index;

/// One above the greatest port of a VM. Port 0 is never given out.
pub const PORTS: u32 = 1024;
/// The port by which the hypervisor's console is reached, from the VM's start.
pub const CONSOLE: Port = Port(protocol::xen::CONSOLE_PORT);
/// Virtual interrupts that each vCPU has for itself; the others happen once in a VM, at vCPU 0.
const PER_VCPU: u32 =
    1 << event::VIRQ_TIMER | 1 << event::VIRQ_DEBUG | 1 << event::VIRQ_XENOPROF | 1 << event::VIRQ_XENPMU;

/// To do: set the pending bit of `port`, and if that and its mask allow, tell `vcpu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an event that is not raised is lost"]
pub struct Raise {
    /// Who takes the event.
    pub vcpu: VcpuId,
    /// Which port.
    pub port: Port,
}

/// Where a send leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an event that is not delivered is lost"]
pub enum Sent {
    /// To a port of the VM itself.
    Own(Raise),
    /// To the console: it wrote output or took input.
    Console,
    /// Nobody is at the other end yet.
    Nobody,
}

/// What a port is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    /// Waits for a domain to bind to it.
    Unbound(u16),
    /// The other end is this port of the same VM.
    Local(Port),
    /// The other end is the hypervisor's console.
    Console,
    Virq(u32),
    Ipi,
}

/// One port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    state: State,
    /// Who takes its events.
    vcpu: VcpuId,
}

/// What a port is that nobody uses.
const FREE: Entry = Entry { state: State::Free, vcpu: VcpuId(0) };

/// All ports of one VM.
#[derive(Debug)]
pub struct Ports {
    own: Domain,
    vcpus: u32,
    ports: Box<[Entry]>,
    /// The ports of the virtual interrupts, those of a vCPU together; a global one is with vCPU 0.
    virqs: Box<[Option<Port>]>,
}

impl Ports {
    /// The table of a VM that starts with `vcpus` vCPUs: only the console is connected.
    #[must_use]
    pub fn new(vm: VmId, vcpus: u32) -> Ports {
        let virqs = index(u64::from(vcpus).saturating_mul(u64::from(event::VIRQS)));
        let mut ports = Ports {
            own: Domain::of(vm),
            vcpus,
            ports: vec![FREE; index(u64::from(PORTS))].into_boxed_slice(),
            virqs: vec![None; virqs].into_boxed_slice(),
        };
        ports.reset();
        ports
    }

    /// Goes back to what a VM starts with.
    pub fn reset(&mut self) {
        self.ports.fill(FREE);
        self.virqs.fill(None);
        self.set(CONSOLE, Entry { state: State::Console, ..FREE });
    }

    /// The guest's own reset.
    ///
    /// # Errors
    /// `NotPermitted` for another domain.
    pub fn reset_by(&mut self, dom: u16) -> Result<(), Errno> {
        if !self.own.is(dom) {
            return Err(Errno::NotPermitted);
        }
        self.reset();
        Ok(())
    }

    /// Takes a port to which `remote` may bind.
    ///
    /// # Errors
    /// `NotPermitted` in another domain than its own, `NoSpace` when all ports are taken.
    pub fn alloc_unbound(&mut self, dom: u16, remote: u16) -> Result<Port, Errno> {
        if !self.own.is(dom) {
            return Err(Errno::NotPermitted);
        }
        let remote = if self.own.is(remote) { self.own.number() } else { remote };
        self.take(State::Unbound(remote), VcpuId(0)).ok_or(Errno::NoSpace)
    }

    /// Connects a new port to a port of the same VM that waits for it. The new port is raised at once.
    ///
    /// # Errors
    /// `NoDomain` for another domain, `Invalid` when that port does not wait for this VM, `NoSpace` when
    /// all ports are taken.
    pub fn bind_interdomain(&mut self, dom: u16, remote: Port) -> Result<Raise, Errno> {
        if !self.own.is(dom) {
            return Err(Errno::NoDomain);
        }
        let other = self
            .entry(remote)
            .filter(|entry| entry.state == State::Unbound(self.own.number()))
            .ok_or(Errno::Invalid)?;
        let vcpu = VcpuId(0);
        let port = self.take(State::Local(remote), vcpu).ok_or(Errno::NoSpace)?;
        self.set(remote, Entry { state: State::Local(port), ..other });
        Ok(Raise { vcpu, port })
    }

    /// Takes a port for a virtual interrupt.
    ///
    /// # Errors
    /// `Invalid` without such an interrupt or for a global one elsewhere than at vCPU 0, `NotFound`
    /// without such a vCPU, `Exists` when it has a port, `NoSpace` when all ports are taken.
    pub fn bind_virq(&mut self, virq: u32, vcpu: VcpuId) -> Result<Port, Errno> {
        if virq >= event::VIRQS || (is_global(virq) && vcpu != VcpuId(0)) {
            return Err(Errno::Invalid);
        }
        match self.virq_slot(virq, vcpu) {
            None => return Err(Errno::NotFound),
            Some(Some(_)) => return Err(Errno::Exists),
            Some(None) => {}
        }
        let port = self.take(State::Virq(virq), vcpu).ok_or(Errno::NoSpace)?;
        if let Some(slot) = self.virq_slot(virq, vcpu) {
            *slot = Some(port);
        }
        Ok(port)
    }

    /// Takes a port that a send raises at `vcpu`.
    ///
    /// # Errors
    /// `NotFound` without such a vCPU, `NoSpace` when all ports are taken.
    pub fn bind_ipi(&mut self, vcpu: VcpuId) -> Result<Port, Errno> {
        if vcpu.0 >= self.vcpus {
            return Err(Errno::NotFound);
        }
        self.take(State::Ipi, vcpu).ok_or(Errno::NoSpace)
    }

    /// Gives a port's events to another vCPU. What is pending stays with the old one.
    ///
    /// # Errors
    /// `NotFound` without such a vCPU, `Invalid` for a port whose events belong to a vCPU, or that is
    /// not in use.
    pub fn bind_vcpu(&mut self, port: Port, vcpu: VcpuId) -> Result<(), Errno> {
        if vcpu.0 >= self.vcpus {
            return Err(Errno::NotFound);
        }
        let entry = self.entry(port).ok_or(Errno::Invalid)?;
        match entry.state {
            State::Unbound(_) | State::Local(_) | State::Console => {}
            State::Virq(virq) if is_global(virq) => {}
            State::Free | State::Virq(_) | State::Ipi => return Err(Errno::Invalid),
        }
        self.set(port, Entry { vcpu, ..entry });
        Ok(())
    }

    /// Frees a port. A peer waits for this VM again and is not told.
    ///
    /// # Errors
    /// `Invalid` for a port that is not in use.
    pub fn close(&mut self, port: Port) -> Result<(), Errno> {
        let entry = self.entry(port).ok_or(Errno::Invalid)?;
        match entry.state {
            State::Free => return Err(Errno::Invalid),
            State::Local(peer) => {
                if let Some(other) = self.entry(peer) {
                    self.set(peer, Entry { state: State::Unbound(self.own.number()), ..other });
                }
            }
            State::Virq(virq) => {
                if let Some(slot) = self.virq_slot(virq, entry.vcpu) {
                    *slot = None;
                }
            }
            State::Unbound(_) | State::Console | State::Ipi => {}
        }
        self.set(port, FREE);
        Ok(())
    }

    /// Resolves a send.
    ///
    /// # Errors
    /// `Invalid` for a port that is not in use or cannot be sent to.
    pub fn send(&self, port: Port) -> Result<Sent, Errno> {
        let entry = self.entry(port).ok_or(Errno::Invalid)?;
        match entry.state {
            State::Local(peer) => self.entry(peer).map(|other| Sent::Own(Raise { vcpu: other.vcpu, port: peer })),
            State::Ipi => Some(Sent::Own(Raise { vcpu: entry.vcpu, port })),
            State::Console => Some(Sent::Console),
            State::Unbound(_) => Some(Sent::Nobody),
            State::Free | State::Virq(_) => None,
        }
        .ok_or(Errno::Invalid)
    }

    /// To whom the port is raised if it is pending when its mask bit was cleared.
    ///
    /// # Errors
    /// `Invalid` for a port that is not in use.
    pub fn unmask(&self, port: Port) -> Result<Raise, Errno> {
        let entry = self.entry(port).filter(|entry| entry.state != State::Free).ok_or(Errno::Invalid)?;
        Ok(Raise { vcpu: entry.vcpu, port })
    }

    /// What a port is.
    ///
    /// # Errors
    /// `NotPermitted` in another domain than its own, `Invalid` for a number that no port has.
    pub fn status(&self, dom: u16, port: Port) -> Result<EventStatus, Errno> {
        if !self.own.is(dom) {
            return Err(Errno::NotPermitted);
        }
        let entry = self.entry(port).ok_or(Errno::Invalid)?;
        let (status, detail) = match entry.state {
            State::Free => (event::STATUS_CLOSED, [0, 0]),
            State::Unbound(remote) => (event::STATUS_UNBOUND, [u32::from(remote), 0]),
            State::Local(peer) => (event::STATUS_INTERDOMAIN, [u32::from(self.own.number()), peer.0]),
            State::Console => (event::STATUS_INTERDOMAIN, [u32::from(Domain::SERVICES.number()), port.0]),
            State::Virq(virq) => (event::STATUS_VIRQ, [virq, 0]),
            State::Ipi => (event::STATUS_IPI, [0, 0]),
        };
        Ok(EventStatus { dom, port: port.0, status, vcpu: entry.vcpu.0, detail, ..EventStatus::default() })
    }

    /// A virtual interrupt happened at `vcpu`.
    pub fn virq(&mut self, virq: u32, vcpu: VcpuId) -> Option<Raise> {
        let port = (*self.virq_slot(virq, vcpu)?)?;
        self.entry(port).map(|entry| Raise { vcpu: entry.vcpu, port })
    }

    /// The console has input, or room for output.
    #[must_use]
    pub fn console(&self) -> Option<Raise> {
        let entry = self.entry(CONSOLE).filter(|entry| entry.state == State::Console)?;
        Some(Raise { vcpu: entry.vcpu, port: CONSOLE })
    }

    /// Whether a port has this number, used or not.
    #[must_use]
    pub fn has(&self, port: Port) -> bool {
        self.entry(port).is_some()
    }

    /// Takes the lowest free port; nothing when all are taken.
    fn take(&mut self, state: State, vcpu: VcpuId) -> Option<Port> {
        let mut numbered = (0_u32..).zip(self.ports.iter_mut()).skip(1);
        let (number, entry) = numbered.find(|(_, entry)| entry.state == State::Free)?;
        *entry = Entry { state, vcpu };
        Some(Port(number))
    }

    fn entry(&self, port: Port) -> Option<Entry> {
        self.ports.get(index(u64::from(port.0))).copied().filter(|_| port.0 != 0)
    }

    fn set(&mut self, port: Port, entry: Entry) {
        if let Some(slot) = self.ports.get_mut(index(u64::from(port.0))) {
            *slot = entry;
        }
    }

    /// Where the port of a virtual interrupt stands; nothing without such an interrupt or vCPU.
    fn virq_slot(&mut self, virq: u32, vcpu: VcpuId) -> Option<&mut Option<Port>> {
        if virq >= event::VIRQS || vcpu.0 >= self.vcpus {
            return None;
        }
        let owner = if is_global(virq) { 0 } else { u64::from(vcpu.0) };
        let slot = owner.wrapping_mul(u64::from(event::VIRQS)).wrapping_add(u64::from(virq));
        self.virqs.get_mut(index(slot))
    }
}

/// Whether a virtual interrupt happens once in a VM.
const fn is_global(virq: u32) -> bool {
    PER_VCPU.unbounded_shr(virq) & 1 == 0
}

#[cfg(test)]
mod tests;
