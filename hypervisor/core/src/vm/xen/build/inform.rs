//! What a guest reads first: its start info, the shared info and its page of call stubs.

use core::mem::offset_of;

use protocol::Gfn;
use protocol::layout::PAGE_SIZE;
use protocol::xen::structure::{SharedInfo, StartInfo, VcpuInfo};
use protocol::xen::{CONSOLE_PORT, START_MAGIC, call, start_flag};
use zerocopy::IntoBytes;

use super::super::super::error::Problem;
use super::{Next, Stage, XenBuilder, refused};
use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::Kind;
use crate::paging::GuestTables;
use crate::space::{Machine, TableMemory};

/// Bytes of a call stub; as many as fit are in the page.
const STUB_BYTES: u64 = 32;
/// What fills a stub behind its code: `int3`.
const FILLER: u8 = 0xcc;

impl XenBuilder<'_> {
    /// Writes all that, and takes the pages that the hypervisor writes itself.
    ///
    /// # Errors
    /// That the plan gave frames that the VM does not have.
    pub(super) fn inform(&mut self, machine: Machine<'_, impl GuestTables>) -> Next {
        self.memory.root = self.machine_frame(machine, self.plan.root)?;
        self.memory.console = self.machine_frame(machine, self.plan.console)?;
        let mut grants = self.memory.grants;
        for frame in &mut grants {
            *frame = self.take(machine, Kind::Paged)?;
        }
        self.memory.grants = grants;
        for page in [self.memory.shared_info, self.memory.console].into_iter().chain(grants) {
            self.memory.paging.take_writable(machine, page).map_err(refused)?;
        }
        // The rest of the shared info is zero.
        let masks = offset_of!(VcpuInfo, evtchn_upcall_mask)..offset_of!(SharedInfo, evtchn_pending);
        for mask in masks.step_by(size_of::<VcpuInfo>()) {
            machine.tables.write(self.memory.shared_info, mask, &[1]);
        }
        if let Some(address) = self.kernel.hypercall_page {
            let frame = Gfn(address.saturating_sub(self.kernel.virt_base) / PAGE_SIZE);
            write_stubs(machine, self.machine_frame(machine, frame)?);
        }
        let info = self.start_info(machine)?;
        machine.tables.write(self.machine_frame(machine, self.plan.start_info)?, 0, info.as_bytes());
        Ok(Stage::Pin)
    }

    /// What the guest is told at its start.
    ///
    /// # Errors
    /// That the plan gave frames that the VM does not have.
    fn start_info(&self, machine: Machine<'_, impl TableMemory>) -> Result<StartInfo, Problem> {
        let (manifest, plan) = (self.source.manifest, &self.plan);
        let mut info = StartInfo {
            nr_pages: manifest.memory_frames,
            shared_info: self.memory.shared_info.start().0,
            flags: start_flag::LINEAR_P2M,
            store_mfn: self.machine_frame(machine, plan.store)?.0,
            console_mfn: self.memory.console.0,
            console_evtchn: CONSOLE_PORT,
            pt_base: plan.address(plan.root),
            nr_pt_frames: plan.first.table_frames().saturating_add(1),
            mfn_list: plan.address(plan.p2m),
            ..StartInfo::default()
        };
        info.magic.iter_mut().zip(START_MAGIC).for_each(|(slot, byte)| *slot = *byte);
        info.cmd_line.iter_mut().zip(manifest.command_line.bytes()).for_each(|(slot, byte)| *slot = byte);
        if let Some(module) = manifest.modules.first() {
            info.mod_len = module.bytes;
            info.mod_start = plan.address(plan.module);
            if self.kernel.module_by_frame {
                info.mod_start = plan.module.0;
                info.flags |= start_flag::MODULE_IS_FRAME;
            }
        }
        if let Some(second) = plan.second {
            info.mfn_list = second.start;
            info.first_p2m_pfn = plan.p2m.0;
            info.nr_p2m_frames = second.pages.saturating_add(second.table_frames());
        }
        Ok(info)
    }
}

/// Writes the page of stubs by which a guest's kernel calls: stub n for call n.
fn write_stubs(machine: Machine<'_, impl TableMemory>, page: Mfn) {
    for number in 0..PAGE_SIZE / STUB_BYTES {
        let mut stub = [FILLER; index(STUB_BYTES)];
        let [low, high, ..] = number.to_le_bytes();
        // push rcx; push r11; mov eax, number; syscall; pop r11; pop rcx; ret
        let plain: &[u8] = &[0x51, 0x41, 0x53, 0xb8, low, high, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3];
        // It never comes back, and the hypervisor takes rax from the stack: push rcx; push r11; push rax;
        // mov eax, number; syscall
        let iret: &[u8] = &[0x51, 0x41, 0x53, 0x50, 0xb8, low, high, 0, 0, 0x0f, 0x05];
        let code = if number == call::IRET { iret } else { plain };
        stub.iter_mut().zip(code).for_each(|(slot, byte)| *slot = *byte);
        machine.tables.write(page, index(number.wrapping_mul(STUB_BYTES)), &stub);
    }
}
