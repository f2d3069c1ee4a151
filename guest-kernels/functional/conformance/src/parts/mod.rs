//! The parts that the VMs of the system play, each named by a command line.

pub mod leaver;
pub mod phoenix;
pub mod servant;

use guest_sdk::{Nanos, StartInfo, exit_code, println, time};

use crate::board::Board;
use crate::runner::{self, Wish};

/// Operation of every helper: end.
pub const QUIT: u32 = 0;
/// Names of the channels from the suite to its helpers, which are the helpers' names.
pub const HELPERS: [&str; 3] = ["servant", "phoenix", "leaver"];
/// Name of the VM that no flow may reach, and its number: the last one.
pub const OUTSIDER: u32 = 4;
/// How long the outsider stays.
const STAY: Nanos = Nanos(5_000_000_000);

/// Plays the part that the command line names.
pub fn main(start: &'static StartInfo) -> u64 {
    let (part, rest) = start.command_line().split_once(' ').unwrap_or((start.command_line(), ""));
    match part {
        "suite" => {
            let wish = if rest == "list" { Wish::List } else { Wish::Run(rest.strip_prefix("filter=").unwrap_or("")) };
            let is_well = runner::run(wish);
            for name in HELPERS {
                if let Some(board) = Board::open(name) {
                    board.begin(QUIT, &[]);
                }
            }
            println!("conform end");
            if is_well { exit_code::SUCCESS } else { exit_code::FAILURE }
        }
        "servant" => help("servant", servant::serve),
        "phoenix" => help("phoenix", phoenix::serve),
        "leaver" => help("leaver", leaver::serve),
        "outsider" => {
            time::sleep(STAY);
            exit_code::SUCCESS
        }
        other => {
            println!("conform trouble: no part is called {other}");
            exit_code::FAILURE
        }
    }
}

fn help(name: &str, serve: fn(&Board)) -> u64 {
    let Some(board) = Board::open(name) else {
        println!("conform trouble: there is no channel {name}");
        return exit_code::FAILURE;
    };
    serve(&board);
    exit_code::SUCCESS
}
