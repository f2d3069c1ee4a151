//! User mode: run a program's code until it traps, and look why.
//!
//! ```no_run
//! # #[cfg(feature = "alloc")] {
//! use guest_sdk::space::Space;
//! use guest_sdk::user::{Exit, UserContext};
//!
//! # fn number_of_processes() -> u64 { 1 }
//! let space = Space::new().unwrap();
//! let mut context = UserContext::new(0x40_0000, 0x7fff_f000);
//! loop {
//!     match context.run_in(space.id()).unwrap() {
//!         Exit::Syscall => context.set_rax(number_of_processes()),
//!         Exit::Fault(fault) => break guest_sdk::println!("killed: {fault:?}"),
//!         Exit::Event => {} // the events' handlers have run
//!     }
//! }
//! # }
//! ```

use core::sync::atomic::Ordering;

use protocol::flags::{Features, SegmentBase};
use protocol::shared::{TrapFrame, frame_info, vector};
use protocol::{SpaceId, Status};

use crate::event;
use crate::raw::user::RawContext;
use crate::raw::vcpu::Vcpu;
use crate::raw::{segment, vcpu};
use crate::{start, trap};

pub use crate::raw::user::Registers;

/// The state of a program in user mode.
#[derive(Debug, Clone)]
pub struct UserContext {
    raw: RawContext,
    fs_base: u64,
    gs_base: u64,
}

/// Why user mode ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The program executed `syscall`. Its registers say what it wants; rip is behind the
    /// instruction, and rcx and r11 are lost to the program.
    Syscall,
    /// The program caused an exception. rip is where, and running the context again tries again.
    Fault(Fault),
    /// An event came. Its handlers have run.
    Event,
}

/// An exception of user mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The vector.
    pub vector: u8,
    /// The architecture's error code, or 0.
    pub error_code: u64,
    /// The faulting address of a page fault, or 0.
    pub address: u64,
}

/// Bits of a page fault's error code.
pub mod page_fault {
    /// The page was mapped: the access was not allowed.
    pub const PRESENT: u64 = 1 << 0;
    /// The access was a write.
    pub const WRITE: u64 = 1 << 1;
    /// The access was an instruction fetch.
    pub const FETCH: u64 = 1 << 4;
}

impl UserContext {
    /// A program that starts at `rip` with its stack pointer at `rsp`; every other register is zero.
    #[must_use]
    pub fn new(rip: u64, rsp: u64) -> UserContext {
        let mut raw = RawContext::new();
        raw.frame.rip = rip;
        raw.frame.rsp = rsp;
        UserContext { raw, fs_base: 0, gs_base: 0 }
    }

    /// Runs the program in a space until it traps.
    ///
    /// Handlers of events run within this, whether or not events are masked outside. The x87 and SSE
    /// registers are whatever they were: see [`raw::fpu`](crate::raw::fpu).
    ///
    /// # Errors
    /// [`Status::NotFound`] for a space that does not exist.
    pub fn run_in(&mut self, space: SpaceId) -> Result<Exit, Status> {
        let vcpu = Vcpu::current();
        if !vcpu.traps_installed.load(Ordering::Relaxed) {
            trap::install_all(vcpu)?;
        }
        vcpu::switch_space(vcpu, space)?;
        let _masked = event::masked();
        self.load_bases(vcpu)?;
        let entered = self.raw.enter();
        if start::features().contains(Features::FSGSBASE) {
            self.fs_base = segment::fs_base();
        }
        Ok(self.exit(entered))
    }

    fn load_bases(&self, vcpu: &Vcpu) -> Result<(), Status> {
        if start::features().contains(Features::FSGSBASE) {
            segment::set_fs_base_quickly(self.fs_base)?;
        } else if vcpu.user_fs.load(Ordering::Relaxed) != self.fs_base {
            segment::set(SegmentBase::Fs, self.fs_base)?;
            vcpu.user_fs.store(self.fs_base, Ordering::Relaxed);
        }
        if vcpu.user_gs.load(Ordering::Relaxed) != self.gs_base {
            segment::set(SegmentBase::UserGs, self.gs_base)?;
            vcpu.user_gs.store(self.gs_base, Ordering::Relaxed);
        }
        Ok(())
    }

    /// What the frame says, or for a frame that `resume` refused: a jump to where no user code is.
    fn exit(&self, entered: bool) -> Exit {
        let frame = &self.raw.frame;
        if !entered {
            let address = frame.rip;
            return Exit::Fault(Fault { vector: trap::GENERAL_PROTECTION, error_code: 0, address });
        }
        match frame.info & frame_info::VECTOR {
            vector::SYSCALL => Exit::Syscall,
            vector::EVENT => {
                event::dispatch();
                Exit::Event
            }
            other => Exit::Fault(Fault { vector: other as u8, error_code: frame.error_code, address: frame.address }),
        }
    }

    /// rax, rcx, r11, rip, rsp and the flags, as the program will find them.
    #[must_use]
    pub fn frame(&self) -> &TrapFrame {
        &self.raw.frame
    }

    /// The same, to change.
    pub fn frame_mut(&mut self) -> &mut TrapFrame {
        &mut self.raw.frame
    }

    /// The registers that are not in the frame.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        &self.raw.registers
    }

    /// The same, to change.
    pub fn registers_mut(&mut self) -> &mut Registers {
        &mut self.raw.registers
    }

    /// rax: by custom a system call's number and result.
    #[must_use]
    pub fn rax(&self) -> u64 {
        self.raw.frame.rax
    }

    /// Gives the program rax.
    pub fn set_rax(&mut self, value: u64) {
        self.raw.frame.rax = value;
    }

    /// rdi, rsi, rdx, r10, r8 and r9: by custom a system call's arguments.
    #[must_use]
    pub fn arguments(&self) -> [u64; 6] {
        let Registers { rdi, rsi, rdx, r10, r8, r9, .. } = self.raw.registers;
        [rdi, rsi, rdx, r10, r8, r9]
    }

    /// The FS base, which programs use for thread-local data.
    #[must_use]
    pub fn fs_base(&self) -> u64 {
        self.fs_base
    }

    /// Sets the FS base. A program that sets it itself (`wrfsbase`) keeps its own.
    pub fn set_fs_base(&mut self, base: u64) {
        self.fs_base = base;
    }

    /// Sets the GS base of user mode. What a program sets itself (`wrgsbase`) stays only until
    /// another context with another base runs on the vCPU.
    pub fn set_gs_base(&mut self, base: u64) {
        self.gs_base = base;
    }
}
