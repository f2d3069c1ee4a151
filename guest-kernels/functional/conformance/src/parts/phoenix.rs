//! The VM that dies as it is asked to, and is built again.

use functional_support::program::Program;
use functional_support::user_code;
use guest_sdk::protocol::call::{EntryPointsSet, TrapTableSet};
use guest_sdk::protocol::shared::TrapEntry;
use guest_sdk::{GuestVirt, Status, trap};

use super::QUIT;
use crate::board::{Board, Request};
use crate::{assembly, record};

/// Raises an exception that never had a handler.
pub const UNHANDLED: u32 = 1;
/// Raises an exception whose handler was removed.
pub const REMOVED: u32 = 2;
/// Makes a system call from user mode without an entry for it.
pub const SYSTEM_CALL: u32 = 3;

/// Its word on the board: how often it started.
const LIVES: usize = 0;

/// Answers the request that it died of, and does what is asked next.
pub fn serve(board: &Board) {
    let lives = board.note(LIVES);
    board.set_note(LIVES, lives + 1);
    if lives > 0 {
        board.answer(Ok(lives));
    }
    board.serve(|request| {
        if request.operation == QUIT {
            return None;
        }
        die(request);
        // It should not be here.
        Some(Err(Status::WrongState))
    });
}

fn die(request: Request) {
    match request.operation {
        UNHANDLED => assembly::undefined(),
        REMOVED => {
            let installed = trap::set_handler(trap::INVALID_OPCODE, |context| context.frame.rip += 2);
            assembly::undefined();
            let entry = [TrapEntry { vector: u32::from(trap::INVALID_OPCODE), flags: 0, handler: 0 }];
            let table = entry.as_ptr().addr() as u64;
            let removed = record::make(TrapTableSet { table: GuestVirt(table), count: 1 });
            if (installed, removed) == (Ok(()), Ok(())) {
                assembly::undefined();
            }
        }
        SYSTEM_CALL => {
            let removed = record::make(EntryPointsSet { syscall: GuestVirt(0), event: GuestVirt(0) });
            if let (Ok(()), Ok(mut program)) = (removed, Program::new(ask())) {
                let _ = program.run();
            }
        }
        _ => {}
    }
}

user_code! {
    /// Asks the kernel for something.
    ask:
        "mov eax, 1",
        "syscall",
        "ud2",
}
