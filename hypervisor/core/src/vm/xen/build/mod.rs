//! The builder of Xen VMs: claims frames, makes the list "machine frame to guest frame", loads the
//! image, writes the guest's first page tables and what it reads first, and has the tables validated as
//! if the guest had written them.
//!
//! It works in bounded steps and allocates nothing. Frames come from free memory the first time, and
//! afterwards from those that [`XenMemory::teardown_step`] kept. Building again cannot fail: what is
//! needed beside the guest frames depends on which machine frames the VM has, and these are the same.

mod claim;
mod inform;
mod tables;

use protocol::manifest::XenKernel;
use protocol::xen::Errno;
use protocol::{Gfn, VcpuId};

use super::super::build::fill::STEP_LOOKS;
use super::super::build::{Build, VmSource};
use super::super::error::Problem;
use super::memory::XenMemory;
use super::plan::Plan;
use crate::abi::xen::grant::FRAMES;
use crate::addr::Mfn;
use crate::frame::typed::Level;
use crate::frame::{Class, Kind, Search};
use crate::paging::{GuestTables, Paging, Progress};
use crate::space::{FrameList, Machine, TableMemory};

/// What the next step does; numbers say how far it came.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Claims the frames of the shared info, which may be there, and of the frame list.
    Own(Option<Mfn>),
    /// Claims guest frames from this one on.
    Claim(u64),
    /// Fills the pool, which has this many frames.
    Pool(u64),
    /// Makes pages of the list "machine frame to guest frame", from this page on.
    Cover(u64),
    /// Writes both lists from this guest frame on.
    List(u64),
    /// Loads a piece of the image from this frame of it on.
    Load(usize, u64),
    /// Writes a mapping's entries that lead to a level, from this one on.
    Tables(usize, u32, u64),
    /// Writes what the guest reads first.
    Inform,
    /// Has the first page tables validated and pinned.
    Pin,
    /// Takes them for the first vCPU.
    Enter,
    /// Nothing.
    End,
}

/// What a step comes to: the next stage, or why the VM cannot be built.
type Next = Result<Stage, Problem>;

/// A Xen VM that is being built.
#[derive(Debug)]
pub struct XenBuilder<'a> {
    source: VmSource<'a>,
    kernel: XenKernel,
    plan: Plan,
    /// Of no frames until they are claimed.
    list: FrameList,
    /// The third-level table of the list "machine frame to guest frame".
    m2p: Mfn,
    memory: XenMemory,
    stage: Stage,
    search: Search,
}

impl<'a> XenBuilder<'a> {
    /// Begins to build a VM; `kernel` is the personality that its manifest names.
    #[must_use]
    pub fn new(source: VmSource<'a>, kernel: XenKernel) -> XenBuilder<'a> {
        let plan = Plan::of(source.manifest, kernel);
        let memory = XenMemory {
            paging: Paging::new(source.vm, source.slots, None),
            root: Mfn(0),
            entry: source.manifest.entry,
            stack: plan.address(Gfn(plan.stack.0.saturating_add(1))),
            start_info: plan.address(plan.start_info),
            shared_info: Mfn(0),
            console: Mfn(0),
            grants: [Mfn(0); FRAMES],
            frames: source.manifest.memory_frames,
            vm: source.vm,
            list: Mfn(0),
            taken_down: Mfn(0),
        };
        let list = FrameList::new(source.vm, Mfn(0), 0);
        let (stage, search) = (Stage::Own(None), Search::START);
        XenBuilder { source, kernel, plan, list, m2p: Mfn(0), memory, stage, search }
    }

    /// Does one step.
    ///
    /// # Errors
    /// Why the VM cannot be built.
    pub fn step(&mut self, machine: Machine<'_, impl GuestTables>) -> Result<Build, Problem> {
        self.search.budget = STEP_LOOKS;
        self.stage = match self.stage {
            Stage::Own(time_page) => self.claim_own(machine, time_page)?,
            Stage::Claim(next) => self.claim_guest_frames(machine, next)?,
            Stage::Pool(filled) => self.fill_pool(machine, filled)?,
            Stage::Cover(page) => self.cover(machine, page)?,
            Stage::List(next) => self.write_lists(machine, next)?,
            Stage::Load(piece, done) => self.load(machine, piece, done)?,
            Stage::Tables(mapping, level, next) => self.write_tables(machine, mapping, level, next)?,
            Stage::Inform => self.inform(machine)?,
            Stage::Pin => {
                let pinned = self.memory.paging.pin(machine, VcpuId(0), self.memory.root, Level::L4);
                if done(pinned)? { Stage::Enter } else { Stage::Pin }
            }
            Stage::Enter => {
                let taken = self.memory.paging.take_root(machine, VcpuId(0), self.memory.root);
                if done(taken)? { Stage::End } else { Stage::Enter }
            }
            Stage::End => return Ok(Build::Done),
        };
        Ok(Build::Again)
    }

    /// The memory of the VM, when [`XenBuilder::step`] has answered [`Build::Done`]. The shared info has
    /// no time yet.
    #[must_use]
    pub fn finish(self) -> XenMemory {
        self.memory
    }

    /// The machine frame of a guest frame.
    ///
    /// # Errors
    /// That the plan gave frames that the VM does not have.
    fn machine_frame(&self, machine: Machine<'_, impl TableMemory>, frame: Gfn) -> Result<Mfn, Problem> {
        let found = self.list.get(machine, frame).ok().flatten();
        found.ok_or_else(|| Problem::new("its memory ends before guest frame #", &[frame.0]))
    }

    /// The VM's frames of a kind.
    const fn class(&self, kind: Kind) -> Class {
        Class::new(Some(self.source.vm), kind)
    }
}

/// Whether an operation on the first page tables is done.
///
/// # Errors
/// That it was refused.
fn done(result: Result<Progress<()>, Errno>) -> Result<bool, Problem> {
    result.map(|progress| matches!(progress, Progress::Done(()))).map_err(refused)
}

/// What is wrong when the memory does not take what was built.
fn refused(error: Errno) -> Problem {
    let number = error.to_register().wrapping_neg();
    Problem::new(
        "what was built of it breaks a rule for page tables: error #; this is a fault of the hypervisor",
        &[number],
    )
}
