//! The system calls.

use guest_sdk::space::Space;
use guest_sdk::{Nanos, print, time};
use tasks_user::abi::{Call, FAILED, PRINT_BYTES};

use crate::process::{End, Process, State};

/// Whether the process goes on at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It does.
    Keep,
    /// Another may run.
    Over,
}

/// Does what the process asks for.
pub fn handle(process: &mut Process) -> Turn {
    let [first, second, ..] = process.context.arguments();
    let mut turn = Turn::Keep;
    let result = match Call::from_number(process.context.rax()) {
        Some(Call::Exit) => {
            process.state = State::Ended(End::Exited(first));
            turn = Turn::Over;
            0
        }
        Some(Call::Print) => print_text(&process.space, first, second),
        Some(Call::Yield) => {
            turn = Turn::Over;
            0
        }
        Some(Call::Sleep) => {
            process.state = State::Sleeping(Nanos(time::now().0.saturating_add(first)));
            turn = Turn::Over;
            0
        }
        Some(Call::Pid) => process.number(),
        Some(Call::Grow) => process.areas.grow_heap(first).unwrap_or(FAILED),
        None => FAILED,
    };
    process.context.set_rax(result);
    turn
}

/// Prints bytes of a process. Its pages are read through the space's own list, so that a bad
/// address cannot fault here.
fn print_text(space: &Space, address: u64, length: u64) -> u64 {
    let mut bytes = [0; PRINT_BYTES as usize];
    let Some(bytes) = usize::try_from(length).ok().and_then(|length| bytes.get_mut(..length)) else {
        return FAILED;
    };
    if space.read(address, bytes).is_err() {
        return FAILED;
    }
    print!("{}", core::str::from_utf8(bytes).unwrap_or("(not UTF-8)\n"));
    0
}
