//! The memory of a Xen VM, and how it is taken apart in bounded steps.

use protocol::VmId;

use crate::abi::xen::grant::FRAMES;
use crate::addr::Mfn;
use crate::frame::{Class, Kind};
use crate::paging::Paging;
use crate::space::{Machine, Remains, TableMemory, Teardown};

/// Records of frames that one step of the teardown looks at.
const STEP_LOOKS: u64 = 2048;
/// Frames that it takes back at most.
const STEP_FRAMES: u64 = 64;

/// What was built: the frames, the page tables, and where the first vCPU finds things.
#[derive(Debug)]
pub struct XenMemory {
    /// Page tables and what each frame is used as.
    pub paging: Paging,
    /// The root that vCPU 0 starts with; a reference for it is counted.
    pub root: Mfn,
    /// Where vCPU 0 starts.
    pub entry: u64,
    /// The end of its stack.
    pub stack: u64,
    /// The address of its start info.
    pub start_info: u64,
    /// The page that it shares with the hypervisor: none of the guest frames, for good of writable type.
    pub shared_info: Mfn,
    /// The console's page, for good of writable type.
    pub console: Mfn,
    /// The frames of its grant table, for good of writable type like the first two, and none of the guest frames.
    pub grants: [Mfn; FRAMES],
    /// Guest frames at the start.
    pub frames: u64,
    pub(super) vm: VmId,
    /// First frame of the list of machine frames that the VM was built with.
    pub(super) list: Mfn,
    /// How far the teardown came in the frame table.
    pub(super) taken_down: Mfn,
}

impl XenMemory {
    /// Does one step of taking the memory apart.
    ///
    /// Before the first step: no vCPU runs, no CPU has a root of the VM loaded, and no grant of the VM
    /// or to it is left. So nothing outside refers to its frames, and what refers to them inside does not
    /// matter. Afterwards they are of kind `Kept`, but for the frame list and the shared info; all are
    /// zero.
    pub fn teardown_step(&mut self, machine: Machine<'_, impl TableMemory>) -> Teardown {
        let mut frames = STEP_FRAMES;
        for _ in 0..STEP_LOOKS {
            let frame = self.taken_down;
            if frame.0 >= machine.frames.frames() {
                // It was taken back just now. Refused is not possible, then.
                let _ = machine.frames.change(self.shared_info, self.class(Kind::Kept), self.class(Kind::Shared), 0);
                return Teardown::Done(Remains { list: self.list, time_page: self.shared_info });
            }
            self.taken_down = frame.offset(1);
            let is_list = machine.frames.number(frame, self.class(Kind::FrameList)).is_some();
            if is_list || machine.frames.take_back(frame, self.vm) {
                machine.tables.clear(frame);
                frames = frames.saturating_sub(1);
                if frames == 0 {
                    break;
                }
            }
        }
        Teardown::Again
    }

    const fn class(&self, kind: Kind) -> Class {
        Class::new(Some(self.vm), kind)
    }
}
