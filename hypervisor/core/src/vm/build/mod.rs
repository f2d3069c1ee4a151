//! The VM builder: claims frames, loads the image, makes the first space, writes the start info.
//!
//! It works in bounded steps and allocates nothing, so that a VM can also be built again while
//! others run. Frames come from free memory the first time, and afterwards from those that
//! [`Memory::teardown_step`] kept for the VM: building again cannot fail for lack of frames.

mod fill;
mod inform;
mod regions;

use protocol::layout::{FIRST_STACK_TOP, START_INFO, limit};
use protocol::manifest::VmManifest;
use protocol::{GuestVirt, VmId};

use super::error::BuildError;
use super::plan::Plan;
use crate::addr::Mfn;
use crate::frame::{Kind, Owner, Use};
use crate::space::{FrameList, HypervisorSlots, Machine, Memory, Parts, Region, Remains, TableMemory};
use fill::Claims;

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

/// A VM that is ready to be started.
#[derive(Debug)]
pub struct Built {
    /// Its memory; space 0 exists and nobody is in it.
    pub memory: Memory,
    /// The pages of its vCPUs, pinned until the teardown.
    pub vcpu_pages: [Option<Mfn>; VCPUS],
    /// Its time page, still zero.
    pub time_page: Mfn,
    /// Where vCPU 0 starts.
    pub entry: GuestVirt,
    /// Its stack pointer.
    pub stack: GuestVirt,
    /// Its rdi.
    pub start_info: GuestVirt,
}

const VCPUS: usize = 16;
const _: () = assert!(limit::VCPUS == 16);

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
    /// Claims guest frames from this one on.
    Claim(u64),
    /// Clears guest frames from this one on.
    Clear(u64),
    /// Fills the pool, which has this many frames.
    Pool(u64),
    /// Creates the first space.
    Space,
    /// Loads the pieces' frames from this one on.
    Load(u64),
    /// Maps regions: which one, and how many of its pages are mapped.
    Map(usize, u64),
    /// Writes what the guest reads first.
    Inform,
    /// Nothing.
    Done,
}

/// A VM that is being built.
#[derive(Debug)]
pub struct Builder<'a> {
    source: VmSource<'a>,
    plan: Plan,
    memory: Memory,
    time_page: Mfn,
    vcpu_pages: [Option<Mfn>; VCPUS],
    stage: Stage,
}

/// Claims and clears the region of a channel. It lives as long as the system.
///
/// # Errors
/// [`BuildError::OutOfMemory`].
pub fn claim_channel<T: TableMemory>(machine: Machine<'_, T>, frames: u64) -> Result<Region, BuildError> {
    let usage = Use::new(Owner::Hypervisor, Kind::Channel);
    let claimed = machine.frames.claim_run(usage, frames, 1);
    let first = claimed.map_err(|_| BuildError::OutOfMemory { what: "a channel", frames })?;
    for offset in 0..frames {
        machine.tables.clear(first.offset(offset));
    }
    Ok(Region { first, frames })
}

impl<'a> Builder<'a> {
    /// Claims the frames that everything else is written into.
    ///
    /// # Errors
    /// [`BuildError::OutOfMemory`]; then nothing is claimed.
    pub fn new<T: TableMemory>(machine: Machine<'_, T>, source: VmSource<'a>) -> Result<Builder<'a>, BuildError> {
        let owner = Owner::Vm(source.vm);
        let claims = Claims { frames: machine.frames, origin: source.origin, owner };
        let Remains { list, time_page } = match source.origin {
            Origin::Kept(remains) => remains,
            Origin::Free => claims.first_frames(machine, source.manifest.memory_frames)?,
        };
        let mut memory = Memory::new(Parts {
            vm: source.vm,
            list: FrameList::new(list, source.manifest.memory_frames),
            slots: source.slots,
            time_page,
        });
        for (index, end) in source.channels.iter().enumerate() {
            memory.attach_channel(index, end.region);
        }
        Ok(Builder {
            source,
            plan: Plan::of(source.manifest),
            memory,
            time_page,
            vcpu_pages: [None; VCPUS],
            stage: Stage::Claim(0),
        })
    }

    /// Does one step.
    ///
    /// # Errors
    /// Why the VM cannot be built; [`Builder::abandon`] is what is left to do.
    pub fn step<T: TableMemory>(&mut self, machine: Machine<'_, T>) -> Result<Build, BuildError> {
        self.stage = match self.stage {
            Stage::Claim(next) => self.claim(machine, next)?,
            Stage::Clear(next) => self.clear(machine, next),
            Stage::Pool(filled) => self.fill_pool(machine, filled)?,
            Stage::Space => {
                self.memory.space_create(machine).map_err(|_| self.pool_too_small())?;
                Stage::Load(0)
            }
            Stage::Load(next) => self.load(machine, next),
            Stage::Map(region, done) => self.map(machine, region, done)?,
            Stage::Inform => self.inform(machine)?,
            Stage::Done => return Ok(Build::Done),
        };
        Ok(Build::Again)
    }

    /// The VM, when [`Builder::step`] has answered [`Build::Done`].
    #[must_use]
    pub fn finish(self) -> Option<Built> {
        matches!(self.stage, Stage::Done).then_some(Built {
            memory: self.memory,
            vcpu_pages: self.vcpu_pages,
            time_page: self.time_page,
            entry: GuestVirt(self.source.manifest.entry),
            stack: FIRST_STACK_TOP,
            start_info: START_INFO,
        })
    }

    /// What was built so far, to be torn down.
    #[must_use]
    pub fn abandon(self) -> Memory {
        self.memory
    }

    const fn pool_too_small(&self) -> BuildError {
        BuildError::PoolTooSmall { frames: self.source.manifest.pool_frames }
    }
}

#[cfg(test)]
mod tests;
