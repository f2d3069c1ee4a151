//! The event ports of one VM: who takes an event, and what makes it happen.
//!
//! The table decides; the pending bits themselves lie in the vCPU pages of the guest and are set and
//! cleared by `hv-arch`, as the returned [`Raise`], [`Rebind`] and [`Clear`] say. A guest can write
//! these bits too, so nothing here ever reads them back as truth: a lie harms only the liar.
//!
//! Invariant: a source knows its port exactly when the port knows the source. Sends to another VM
//! take a [`Permit`].

use alloc::boxed::Box;
use alloc::vec;

use protocol::flags::EventSource;
use protocol::layout::limit;
use protocol::{Port, Status, VcpuId, VmId};

use crate::addr::convert::index;
use crate::policy::{Operation, Permit};

/// What makes a port pending, checked against the VM that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Console input.
    ConsoleInput,
    /// The timer of a vCPU.
    Timer(VcpuId),
    /// The VM's channel with this index.
    Channel(u32),
}

/// The other end of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelEnd {
    /// The VM there.
    pub peer: VmId,
    /// The channel's index in that VM.
    pub peer_channel: u32,
    /// Whether this end sends: only side 0 of a one-way channel does.
    pub sends: bool,
}

/// To do: set the port's pending bit in the page of `vcpu`, then do as [`notify`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an event that is not raised is lost"]
pub struct Raise {
    /// Whose page.
    pub vcpu: VcpuId,
    /// Which bit.
    pub port: Port,
}

/// To do after a bind: take the pending bit out of the page of `moved_from`, if given; raise the
/// port if that bit was set or if `raise` says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "pending state moves with the port"]
pub struct Rebind {
    /// The vCPU that took its events until now, if another.
    pub moved_from: Option<VcpuId>,
    /// The source happened while nothing was bound to it.
    pub raise: bool,
}

/// Where a send goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an event that is not delivered is lost"]
pub enum Target {
    /// To the VM itself.
    Own(Raise),
    /// To another VM, if the policy permits: [`PortTable::accept`] on its table.
    Peer(ChannelEnd),
}

/// A port in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Binding {
    vcpu: VcpuId,
    source: Option<Source>,
}

/// What a source leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct SourceState {
    port: Option<Port>,
    /// It happened while no port was bound.
    latched: bool,
}

/// All ports of one VM.
#[derive(Debug)]
pub struct PortTable {
    vm: VmId,
    ports: Box<[Option<Binding>]>,
    vcpus: u32,
    channels: Box<[ChannelEnd]>,
    /// Console input, the timers, the channels.
    sources: Box<[SourceState]>,
}

impl PortTable {
    /// The table of a VM with `vcpus` vCPUs and the given channels, in the order of its start info.
    #[must_use]
    pub fn new(vm: VmId, vcpus: u32, channels: &[ChannelEnd]) -> PortTable {
        let sources = index(u64::from(vcpus)).saturating_add(channels.len()).saturating_add(1);
        PortTable {
            vm,
            ports: vec![None; index(u64::from(limit::PORTS))].into_boxed_slice(),
            vcpus,
            channels: channels.into(),
            sources: vec![SourceState::default(); sources].into_boxed_slice(),
        }
    }

    /// Forgets all ports and latches, for a VM that starts anew. Its vCPU pages are zeroed elsewhere.
    pub fn reset(&mut self) {
        self.ports.fill(None);
        self.sources.fill(SourceState::default());
    }

    /// Takes the lowest free port.
    ///
    /// # Errors
    /// `NotFound` without such a vCPU, `QuotaExceeded` when all ports are taken.
    pub fn alloc(&mut self, vcpu: VcpuId) -> Result<Port, Status> {
        if !self.has_vcpu(vcpu) {
            return Err(Status::NotFound);
        }
        let mut numbered = (0_u32..).zip(self.ports.iter_mut());
        let (number, slot) = numbered.find(|(_, slot)| slot.is_none()).ok_or(Status::QuotaExceeded)?;
        *slot = Some(Binding { vcpu, source: None });
        Ok(Port(number))
    }

    /// Checks the arguments of a bind.
    ///
    /// # Errors
    /// `InvalidArgument` when the VM has no such source.
    pub fn source(&self, kind: EventSource, number: u64) -> Result<Source, Status> {
        let short = u32::try_from(number).map_err(|_| Status::InvalidArgument)?;
        let source = match kind {
            EventSource::ConsoleInput if short == 0 => Source::ConsoleInput,
            EventSource::ConsoleInput => return Err(Status::InvalidArgument),
            EventSource::Timer => Source::Timer(VcpuId(short)),
            EventSource::Channel => Source::Channel(short),
        };
        self.sources.get(self.place(source)).map(|_| source).ok_or(Status::InvalidArgument)
    }

    /// Ties a port to a source and a vCPU; what it was tied to before becomes free.
    ///
    /// # Errors
    /// `NotFound` without such a port or vCPU, `InvalidArgument` without such a source, `Busy` when
    /// the source belongs to another port. Nothing has changed then.
    pub fn bind(&mut self, port: Port, source: Source, vcpu: VcpuId) -> Result<Rebind, Status> {
        let old = self.binding(port).ok_or(Status::NotFound)?;
        if !self.has_vcpu(vcpu) {
            return Err(Status::NotFound);
        }
        let state = self.state_mut(source).ok_or(Status::InvalidArgument)?;
        if state.port.is_some_and(|holder| holder != port) {
            return Err(Status::Busy);
        }
        state.port = Some(port);
        let raise = core::mem::take(&mut state.latched);
        if let Some(previous) = old.source.filter(|previous| *previous != source) {
            self.unbind(previous);
        }
        self.set(port, Some(Binding { vcpu, source: Some(source) }));
        Ok(Rebind { moved_from: Some(old.vcpu).filter(|from| *from != vcpu), raise })
    }

    /// Resolves a send on an own port.
    ///
    /// # Errors
    /// `NotFound` for a port that is not in use, `NotPermitted` at the receiving end of a one-way channel.
    pub fn send(&self, port: Port) -> Result<Target, Status> {
        let binding = self.binding(port).ok_or(Status::NotFound)?;
        if let Some(Source::Channel(channel)) = binding.source
            && let Some(end) = self.channel(channel)
        {
            return if end.sends { Ok(Target::Peer(*end)) } else { Err(Status::NotPermitted) };
        }
        Ok(Target::Own(Raise { vcpu: binding.vcpu, port }))
    }

    /// Takes an event that the permit's subject sends over this VM's channel `channel`: what happens
    /// then, at once or when the VM's time comes.
    ///
    /// # Errors
    /// `NotPermitted` when the permit is not for this, or the channel does not lead to the sender.
    pub fn accept(&self, permit: Permit, channel: u32) -> Result<Source, Status> {
        let from_peer = self.channel(channel).is_some_and(|end| end.peer == permit.subject());
        if permit.operation() != Operation::EventSend || permit.object() != self.vm || !from_peer {
            return Err(Status::NotPermitted);
        }
        Ok(Source::Channel(channel))
    }

    /// Notes that a source happened: what to raise, or nothing when it is kept for a later bind.
    pub fn happened(&mut self, source: Source) -> Option<Raise> {
        let state = self.state_mut(source)?;
        let Some(port) = state.port else {
            state.latched = true;
            return None;
        };
        let binding = self.binding(port)?;
        Some(Raise { vcpu: binding.vcpu, port })
    }

    /// Frees a port and its source. The vCPU in whose page the pending bit is to be cleared, or the
    /// port's next owner would see an event that is not its own.
    ///
    /// # Errors
    /// `NotFound` for a port that is not in use.
    pub fn close(&mut self, port: Port) -> Result<VcpuId, Status> {
        let binding = self.binding(port).ok_or(Status::NotFound)?;
        if let Some(source) = binding.source {
            self.unbind(source);
        }
        self.set(port, None);
        Ok(binding.vcpu)
    }

    const fn has_vcpu(&self, vcpu: VcpuId) -> bool {
        vcpu.0 < self.vcpus
    }

    fn channel(&self, channel: u32) -> Option<&ChannelEnd> {
        self.channels.get(index(u64::from(channel)))
    }

    /// Where the state of a source stands; out of range when there is no such source.
    fn place(&self, source: Source) -> usize {
        let place = match source {
            Source::ConsoleInput => 0,
            Source::Timer(vcpu) if self.has_vcpu(vcpu) => u64::from(vcpu.0).saturating_add(1),
            Source::Timer(_) => u64::MAX,
            Source::Channel(channel) => u64::from(self.vcpus).saturating_add(1).saturating_add(u64::from(channel)),
        };
        index(place)
    }

    fn binding(&self, port: Port) -> Option<Binding> {
        self.ports.get(index(u64::from(port.0))).copied().flatten()
    }

    fn set(&mut self, port: Port, binding: Option<Binding>) {
        if let Some(slot) = self.ports.get_mut(index(u64::from(port.0))) {
            *slot = binding;
        }
    }

    fn state_mut(&mut self, source: Source) -> Option<&mut SourceState> {
        self.sources.get_mut(self.place(source))
    }

    fn unbind(&mut self, source: Source) {
        if let Some(state) = self.state_mut(source) {
            state.port = None;
        }
    }
}

#[cfg(test)]
mod tests;
