//! A second VM of the attacker's: it does what it is told, for attacks that need two.

use guest_sdk::{Nanos, StartInfo, VmId, call, println, time, verdict};
use hostile_support::board::{Board, order};
use hostile_support::wild;

use crate::execute::{self, Code, Fault};

/// Name of the channel between the two.
pub const CHANNEL: &str = "orders";

/// The accomplice's side.
pub fn serve(start: &StartInfo) {
    let (Ok(board), Ok(()), Ok(code)) = (Board::open(CHANNEL), execute::install(), Code::new()) else {
        verdict::fail(format_args!("{} has no board", start.name()));
    };
    // An order that ended the last life is done; one that came before the first life is not.
    if board.get(order::LIVES) > 0 {
        board.set(order::ANSWERED, board.get(order::ASKED));
    }
    board.count(order::LIVES);
    loop {
        let asked = board.get(order::ASKED);
        if asked == board.get(order::ANSWERED) {
            board.wait(Nanos(2_000_000));
            continue;
        }
        let words = [0, 1, 2, 3, 4, 5, 6].map(|offset| board.get(order::FIRST + offset));
        let [first, arguments @ ..] = words;
        let of_access = |result: Result<u64, Fault>| match result {
            Ok(value) => (value, 0),
            Err(fault) => (u64::from(fault.vector), fault.error_code + 1),
        };
        let (result, second) = match board.get(order::KIND) {
            order::CALL => wild::raw(first, arguments),
            order::READ => of_access(code.read(first)),
            order::WRITE => of_access(code.write(first, arguments[0]).map(|()| 0)),
            order::KEEP_WRITING => {
                board.set(order::ANSWERED, asked);
                let mut last = Ok(());
                for value in 1_u64.. {
                    last = code.write(first, value);
                    if last.is_err() || board.get(order::ASKED) != asked {
                        break;
                    }
                }
                board.set(order::RESULT, 0);
                board.set(order::SECOND, last.map_or_else(|fault| fault.error_code + 1, |()| 0));
                while board.get(order::ASKED) == asked {
                    board.wait(Nanos(1_000_000));
                }
                continue;
            }
            order::DIE => {
                println!("attack - ordered dies HV-VM-003");
                die()
            }
            order::END => verdict::pass(),
            _ => (0, 0),
        };
        board.set(order::RESULT, result);
        board.set(order::SECOND, second);
        board.set(order::ANSWERED, asked);
        board.ring();
    }
}

/// Ends this VM by the hypervisor's hand: an exception whose frame cannot be written.
pub fn die() -> ! {
    execute::lose_stack();
    call::exit(99)
}

/// The attacker's side.
#[derive(Debug)]
pub struct Accomplice {
    board: Board,
    /// Its number.
    pub vm: VmId,
}

impl Accomplice {
    /// Finds it.
    pub fn open() -> Option<Accomplice> {
        let board = Board::open(CHANNEL).ok()?;
        let vm = board.peer;
        let accomplice = Accomplice { board, vm };
        // An order of an earlier life of the attacker may still be under way.
        accomplice.wait(accomplice.board.get(order::ASKED));
        Some(accomplice)
    }

    fn wait(&self, number: u64) -> bool {
        let end = time::now().0 + 20_000_000_000;
        while self.board.get(order::ANSWERED) != number {
            if time::now().0 > end {
                return false;
            }
            self.board.wait(Nanos(1_000_000));
        }
        true
    }

    fn begin(&self, kind: u64, words: &[u64]) -> u64 {
        self.board.set(order::KIND, kind);
        for (offset, word) in words.iter().enumerate() {
            self.board.set(order::FIRST + offset, *word);
        }
        let number = self.board.count(order::ASKED);
        self.board.ring();
        number
    }

    fn order(&self, kind: u64, words: &[u64]) -> (u64, u64) {
        if !self.wait(self.begin(kind, words)) {
            println!("attack FAIL: the accomplice does not answer");
        }
        (self.board.get(order::RESULT), self.board.get(order::SECOND))
    }

    /// Has it make a call; rax as the status or value, and rdx.
    pub fn call(&self, number: u64, arguments: [u64; 6]) -> Result<u64, guest_sdk::Status> {
        let [a, b, c, d, e, f] = arguments;
        guest_sdk::Status::check_register(self.order(order::CALL, &[number, a, b, c, d, e, f]).0)
    }

    /// As [`Accomplice::call`], for rdx.
    pub fn second(&self, number: u64, arguments: [u64; 6]) -> u64 {
        let [a, b, c, d, e, f] = arguments;
        self.order(order::CALL, &[number, a, b, c, d, e, f]).1
    }

    /// Has it read a word: the word, or the error code of the fault.
    pub fn read(&self, address: u64) -> Result<u64, u64> {
        let (value, fault) = self.order(order::READ, &[address]);
        if fault == 0 { Ok(value) } else { Err(fault - 1) }
    }

    /// Has it write a word again and again, until the next order.
    pub fn keep_writing(&self, address: u64) {
        let _ = self.order(order::KEEP_WRITING, &[address]);
    }

    /// Has it die, and waits for its next life.
    pub fn die(&self) -> bool {
        let life = self.board.get(order::LIVES);
        self.begin(order::DIE, &[]);
        let end = time::now().0 + 20_000_000_000;
        while self.board.get(order::LIVES) == life && time::now().0 < end {
            self.board.wait(Nanos(1_000_000));
        }
        self.board.get(order::LIVES) != life
    }

    /// Rings its bell.
    pub fn ring(&self) -> Result<(), guest_sdk::Status> {
        self.board.event().send()
    }

    /// Has it end.
    pub fn end(&self) {
        self.begin(order::END, &[]);
    }
}
