//! The VM builder: claims frames, loads the image, makes the first space, writes the start info.
//!
//! It works in bounded steps and allocates nothing, so that a VM can also be built again while
//! others run. Frames come from free memory the first time, and afterwards from those that
//! [`Memory::teardown_step`] kept for the VM: building again cannot fail for lack of frames.

pub(super) mod fill;
mod inform;
mod regions;

use protocol::VmId;
use protocol::layout::LARGE_PAGE_FRAMES;
use protocol::manifest::VmManifest;

use super::error::Problem;
use super::plan::Plan;
use crate::addr::Mfn;
use crate::frame::{Class, Kind, Search};
use crate::space::{FrameList, HypervisorSlots, Machine, Memory, Region, Remains, TableMemory};

/// Whether a VM is built from free memory or from what was kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The first time.
    Free,
    /// Again, with what the teardown left.
    Kept(Remains),
}

/// One end of a channel, for the VM that is built.
#[derive(Debug, Clone, Copy)]
pub struct ChannelEnd<'a> {
    /// Name of the channel.
    pub name: &'a str,
    /// Its region, from [`claim_channel`].
    pub region: Region,
    /// The VM at the other end.
    pub peer: VmId,
    /// 0 or 1.
    pub side: u32,
}

/// What a VM is built from.
#[derive(Debug, Clone, Copy)]
pub struct VmSource<'a> {
    /// Its number.
    pub vm: VmId,
    /// Its part of a checked manifest.
    pub manifest: &'a VmManifest,
    /// The whole system image.
    pub image: &'a [u8],
    /// Its channel ends, in the order of the manifest.
    pub channels: &'a [ChannelEnd<'a>],
    /// The hypervisor's slots.
    pub slots: HypervisorSlots,
    /// The features word for the start info.
    pub features: u64,
    /// Where its frames come from.
    pub origin: Origin,
}

/// Whether the VM is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// Another step is needed.
    Again,
    /// [`Builder::finish`] can be called.
    Done,
}

/// What the next step does; numbers say how far it came.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Claims the time page, then the frame list.
    Own(Option<Mfn>),
    /// Claims guest frames from this one on, in runs of so many.
    Claim(u64, u64),
    /// Fills the pool, which has this many frames, and creates the first space.
    Pool(u64),
    /// Loads the pieces' frames from this one on.
    Load(u64),
    /// Maps regions: which one, and how many of its pages are mapped.
    Map(usize, u64),
    /// Writes what the guest reads first.
    Inform,
}

/// What a step comes to: the next stage, or why the VM cannot be built.
type Next = Result<Stage, Problem>;

/// A VM that is being built.
#[derive(Debug)]
pub struct Builder<'a> {
    source: VmSource<'a>,
    plan: Plan,
    /// Of no frames until the frame list is there.
    memory: Memory,
    stage: Stage,
    search: Search,
}

/// Claims and clears the region of a channel. It lives as long as the system.
///
/// # Errors
/// That too little memory is free.
pub fn claim_channel(machine: Machine<'_, impl TableMemory>, frames: u64) -> Result<Region, Problem> {
    let claimed = machine.frames.claim_run(Class::FREE, Class::new(None, Kind::Channel), 0, (frames, 1));
    let first = claimed.ok_or_else(|| fill::out_of_memory(frames))?;
    (0..frames).for_each(|offset| machine.tables.clear(first.offset(offset)));
    Ok(Region { first, frames })
}

impl<'a> Builder<'a> {
    /// Begins to build a VM.
    #[must_use]
    pub fn new(source: VmSource<'a>) -> Builder<'a> {
        let memory = Memory::new(source.vm, FrameList::new(source.vm, Mfn(0), 0), source.slots, Mfn(0));
        let plan = Plan::of(source.manifest);
        let mut builder = Builder { source, plan, memory, stage: Stage::Own(None), search: Search::START };
        if let Origin::Kept(remains) = source.origin {
            builder.stage = builder.begin(remains);
        }
        builder
    }

    /// Begins with the guest's frames, in a memory that is made of what holds its frame list and time.
    fn begin(&mut self, Remains { list, time_page }: Remains) -> Stage {
        let list = FrameList::new(self.source.vm, list, self.source.manifest.memory_frames);
        self.memory = Memory::new(self.source.vm, list, self.source.slots, time_page);
        for (slot, end) in self.memory.channels.iter_mut().zip(self.source.channels) {
            *slot = Some(end.region);
        }
        self.search = Search::START;
        Stage::Claim(0, LARGE_PAGE_FRAMES)
    }

    /// Does one step.
    ///
    /// # Errors
    /// Why the VM cannot be built.
    pub fn step(&mut self, machine: Machine<'_, impl TableMemory>) -> Result<Build, Problem> {
        self.search.budget = fill::STEP_LOOKS;
        self.stage = match self.stage {
            Stage::Own(time_page) => self.claim_own(machine, time_page)?,
            Stage::Claim(next, run) => self.claim(machine, next, run)?,
            Stage::Pool(filled) => self.fill_pool(machine, filled)?,
            Stage::Load(next) => self.load(machine, next),
            Stage::Map(region, done) => self.map(machine, region, done)?,
            Stage::Inform => {
                self.inform(machine)?;
                return Ok(Build::Done);
            }
        };
        Ok(Build::Again)
    }

    /// The memory of the VM, when [`Builder::step`] has answered [`Build::Done`]: space 0 exists and
    /// nobody is in it, and the time page is still zero.
    #[must_use]
    pub fn finish(self) -> Memory {
        self.memory
    }

    /// What is wrong when the VM's own pool is empty.
    fn pool_too_small(&self) -> Problem {
        let sentence = "a pool of # frames is too small for the first page tables; raise pool_frames";
        Problem::new(sentence, &[self.source.manifest.pool_frames])
    }
}
