//! What the vCPUs of a Xen VM refer to. In builds for tests only (feature `recount`).

use hv_core::addr::{Mfn, Phys};
use hv_core::frame::typed::{Level, Type};
use hv_core::space::{Recount, Wrong};
use hv_core::vm::xen::XenMemory;
use spin::mutex::SpinMutexGuard;

use super::memory::tables;
use super::{Domain, XenVcpu};
use crate::hypervisor::lock::Serving;
use crate::hypervisor::machine::Vm;

/// The memory of a VM, so that nothing changes while it is counted.
pub(in super::super) struct Held<'a> {
    vm: &'static Vm,
    memory: SpinMutexGuard<'a, Option<XenMemory>, Serving>,
}

impl Domain {
    /// Holds the memory of the VM, if there is any.
    pub(in super::super) fn hold(&self, vm: &'static Vm) -> Option<Held<'_>> {
        let memory = self.memory.lock();
        memory.is_some().then_some(Held { vm, memory })
    }
}

impl Held<'_> {
    /// Notes the frames of the VM and all references to them.
    ///
    /// # Errors
    /// What does not agree.
    pub(in super::super) fn recount(&self, all: &mut Recount<'_>) -> Result<(), Wrong> {
        let Some(memory) = &*self.memory else {
            return Ok(());
        };
        let vcpus = self.vm.vcpus().iter().filter_map(|vcpu| vcpu.xen.as_ref());
        memory.recount(tables(self.vm), all, vcpus.flat_map(holds))
    }
}

/// What a vCPU refers to.
fn holds(xen: &XenVcpu) -> impl Iterator<Item = (Mfn, Type)> + use<> {
    let (own, local) = {
        let state = xen.state.lock();
        (state.own, state.local.shown())
    };
    let root = own.is_initialised.then_some(own.kernel_root);
    let roots = root.into_iter().chain(own.user_root).map(|root| (root, Type::Table(Level::L4)));
    let table = own.table.into_iter().take(own.table_frames).map(|frame| (frame, Type::Descriptors));
    let record = own.has_own_info.then(|| (Mfn::containing(Phys(xen.info.get())), Type::Writable));
    let local = local.into_iter().flatten().map(|frame| (frame, Type::Descriptors));
    roots.chain(table).chain(record).chain(local)
}
