//! A program of a few instructions in a space of its own.

use guest_sdk::Status;
use guest_sdk::protocol::flags::MapFlags;
use guest_sdk::space::Space;
use guest_sdk::user::{Exit, UserContext};

/// Where the code lies.
pub const CODE: u64 = 0x40_0000;
/// A page that the program can read and write.
pub const DATA: u64 = 0x50_0000;
/// End of its stack, which has one page.
pub const STACK_TOP: u64 = 0x60_0000;
/// An address where nothing is mapped.
pub const NOWHERE: u64 = 0x70_0000;

/// A program that can be run.
#[derive(Debug)]
pub struct Program {
    /// Its pages.
    pub space: Space,
    /// Its registers.
    pub context: UserContext,
}

impl Program {
    /// A program of this code, about to run its first instruction.
    ///
    /// # Errors
    /// When memory or spaces are used up.
    pub fn new(code: &[u8]) -> Result<Program, Status> {
        let mut space = Space::new()?;
        space.map_zeroed(CODE, 1, MapFlags::EXECUTE)?;
        space.write(CODE, code)?;
        space.map_zeroed(DATA, 1, MapFlags::WRITE)?;
        space.map_zeroed(STACK_TOP - 4096, 1, MapFlags::WRITE)?;
        Ok(Program { space, context: UserContext::new(CODE, STACK_TOP) })
    }

    /// Runs it until it traps.
    ///
    /// # Errors
    /// None in practice.
    pub fn run(&mut self) -> Result<Exit, Status> {
        self.context.run_in(self.space.id())
    }

    /// Runs it until it traps other than by an event.
    ///
    /// # Errors
    /// None in practice.
    pub fn run_on(&mut self) -> Result<Exit, Status> {
        loop {
            let exit = self.run()?;
            if exit != Exit::Event {
                return Ok(exit);
            }
        }
    }
}
