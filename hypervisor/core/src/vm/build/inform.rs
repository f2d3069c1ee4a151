//! What a guest reads first: its start info and the pages of its vCPUs.

use protocol::Gfn;
use protocol::shared::{ChannelInfo, ModuleInfo, START_MAGIC, StartInfo, VcpuPage};
use zerocopy::IntoBytes;

use super::super::error::Problem;
use super::super::plan::pieces;
use super::Builder;
use super::regions::channel_place;
use crate::space::{Machine, TableMemory};

impl Builder<'_> {
    /// Writes the start info and the vCPU pages, and pins the latter for the hypervisor.
    ///
    /// # Errors
    /// That the plan gave frames that the VM does not have.
    pub(super) fn inform(&mut self, machine: Machine<'_, impl TableMemory>) -> Result<(), Problem> {
        let lost = |_| Problem::new("its memory ends before the pages of its start", &[]);
        let first = self.plan.vcpu_pages;
        for (slot, vcpu) in (0_usize..).zip(0..self.source.manifest.vcpus) {
            let page = self.memory.pin(machine, Gfn(first.0.saturating_add(vcpu.into()))).map_err(lost)?;
            let content = VcpuPage { vcpu, events_masked: 1, ..VcpuPage::default() };
            machine.tables.write(page, 0, content.as_bytes());
            if let Some(slot) = self.memory.vcpu_pages.get_mut(slot) {
                *slot = Some(page);
            }
        }
        if let Ok(Some(page)) = self.memory.list().get(machine, self.plan.start_info) {
            machine.tables.write(page, 0, self.start_info().as_bytes());
        }
        Ok(())
    }

    fn start_info(&self) -> StartInfo {
        let manifest = self.source.manifest;
        let mut info = StartInfo {
            magic: START_MAGIC,
            version: protocol::version::CURRENT.packed(),
            vm: self.source.vm.0,
            vcpus: manifest.vcpus,
            memory_frames: manifest.memory_frames,
            first_free_frame: self.plan.first_free.0,
            features: self.source.features,
            name: text(&manifest.name),
            command_line: text(&manifest.command_line),
            ..StartInfo::default()
        };
        for (slot, (number, end)) in info.channels.iter_mut().zip(self.source.channels.iter().enumerate()) {
            let (address, frame) = channel_place(number);
            *slot = ChannelInfo {
                name: text(end.name),
                address: address.0,
                frame: frame.0,
                frames: end.region.frames,
                peer: end.peer.0,
                side: end.side,
                ..ChannelInfo::default()
            };
            info.channel_count = info.channel_count.saturating_add(1);
        }
        let modules = pieces(manifest).skip(manifest.segments.len());
        for (slot, (module, piece)) in info.modules.iter_mut().zip(manifest.modules.iter().zip(modules)) {
            *slot = ModuleInfo { name: text(&module.name), frame: piece.first.0, bytes: module.bytes };
            info.module_count = info.module_count.saturating_add(1);
        }
        info
    }
}

/// A text with zeros behind it, at least one.
fn text<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let most = N.saturating_sub(1);
    bytes.iter_mut().take(most).zip(text.bytes()).for_each(|(slot, byte)| *slot = byte);
    bytes
}
