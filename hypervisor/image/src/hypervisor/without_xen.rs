//! Stands in for the Xen personality in builds without it: nothing of these types exists.

use hv_arch::guest::Registers;
use hv_core::addr::Mfn;
use hv_core::frame::FrameTable;
use protocol::manifest::VmManifest;
use protocol::record::WalkStep;

use super::cpu::Cpu;
use super::machine::{After, Vm};
use super::vcpu::Vcpu;

/// What a VM of the personality has besides: no VM is one.
#[derive(Debug)]
pub(super) enum Domain {}

/// What a vCPU of such a VM has besides.
#[derive(Debug)]
pub(super) enum XenVcpu {}

/// The memory of such a VM, held.
#[cfg(feature = "recount")]
pub(super) struct Held<'a>(core::convert::Infallible, core::marker::PhantomData<&'a ()>);

#[cfg(feature = "recount")]
impl Held<'_> {
    pub(super) fn recount(&self, _: &mut hv_core::space::Recount<'_>) -> Result<(), hv_core::space::Wrong> {
        match self.0 {}
    }
}

#[cfg(feature = "recount")]
impl Domain {
    pub(super) fn hold(&self, _: &'static Vm) -> Option<Held<'_>> {
        match *self {}
    }
}

/// What a manifest asks for; a system that asks for the personality is refused.
pub(super) fn domain(
    entry: &VmManifest,
    _: protocol::VmId,
    _: &hv_core::abi::native::cpuid::Machine,
    _: u64,
) -> Option<Domain> {
    if entry.personality != protocol::manifest::Personality::Native {
        hv_arch::boot::refuse(format_args!("VM {} speaks Xen's ABI, which this build leaves out", entry.name));
    }
    None
}

/// See [`domain`].
pub(super) fn vcpu(_: &VmManifest) -> Option<XenVcpu> {
    None
}

/// There are no windows.
pub(super) fn make_windows(_: &[VmManifest], _: Mfn, _: &FrameTable<'_>) {}

/// Native tables are always in force.
#[inline(always)]
pub(super) const fn load_native(_: &Cpu) {}

/// How far taking a VM apart came.
#[expect(dead_code, reason = "whoever asks can name these answers; no VM gives one")]
#[derive(Debug)]
pub(super) enum Apart {
    Again,
    Free,
    Built,
}

impl XenVcpu {
    pub(super) fn system_call(&self, _: &'static Cpu, _: &'static Vcpu, _: &mut Registers) {
        match *self {}
    }

    pub(super) fn trap(&self, _: &'static Cpu, _: &'static Vcpu, _: &mut Registers) {
        match *self {}
    }

    pub(super) fn upcall(&self, _: &'static Cpu, _: &'static Vcpu, _: &mut Registers) {
        match *self {}
    }

    pub(super) fn leave(&self, _: &Vcpu) {
        match *self {}
    }

    pub(super) fn enter(&self, _: &Cpu, _: &Vcpu, _: hv_arch::guest::segments::Selectors) {
        match *self {}
    }

    pub(super) fn entered(&self, _: &Vcpu) {
        match *self {}
    }

    pub(super) fn page_walk(&self, _: &Vcpu, _: u64, _: &mut [WalkStep; 4]) -> usize {
        match *self {}
    }
}

impl Domain {
    pub(super) fn happened(&self, _: &'static Vm, _: hv_core::event::Source) {
        match *self {}
    }

    pub(super) fn drain_piece(&self, _: &'static Vm) -> bool {
        match *self {}
    }

    pub(super) fn report_unknown(&self, _: &Vm) -> bool {
        match *self {}
    }

    pub(super) fn build(&'static self, _: &'static Vm) {
        match *self {}
    }

    pub(super) fn take_apart(&self, _: &'static Vm, _: After) -> Apart {
        match *self {}
    }
}
