//! The VM that ends by `exit` while its second vCPU runs.

use core::sync::atomic::{AtomicU32, Ordering};

use guest_sdk::protocol::call::Exit;
use guest_sdk::{Status, VcpuId, print, smp};

use super::QUIT;
use crate::board::{self, Board};
use crate::record;

/// Ends by the call.
pub const LEAVE: u32 = 1;
/// Its word on the board: counts while its second vCPU runs.
pub const COUNT: usize = 0;
/// Its word on the board: not 0 when `exit` came back.
pub const SURVIVED: usize = 1;

static TURNS: AtomicU32 = AtomicU32::new(0);

/// Waits for the request to end.
pub fn serve(board: &Board) {
    board.serve(|request| match request.operation {
        QUIT => None,
        LEAVE => Some(leave(board)),
        _ => Some(Err(Status::UnknownCall)),
    });
}

fn leave(board: &Board) -> Result<u32, Status> {
    smp::spawn(VcpuId(1), || {
        if let Some(board) = Board::open("leaver") {
            loop {
                board.set_note(COUNT, TURNS.fetch_add(1, Ordering::Relaxed));
            }
        }
    })?;
    while board.note(COUNT) < 1000 {
        board::pause();
    }
    // A line that nobody ends: it has to go out with the VM.
    print!("conform last words");
    let _ = record::make(Exit { code: 0 });
    board.set_note(SURVIVED, 1);
    Err(Status::WrongState)
}
