//! The count.

use functional_support::restart::{CHANNEL, LIVES};
use guest_sdk::channel::{Channel, ChannelError};
use guest_sdk::{Nanos, StartInfo, check_eq, time, verdict};

pub fn main(_start: &'static StartInfo) {
    match count_lives() {
        Ok(lives) => check_eq!(lives, LIVES, "lives"),
        Err(error) => verdict::fail(format_args!("{error}")),
    }
    verdict::pass();
}

/// How many lives announced themselves, until a while after the last.
fn count_lives() -> Result<u64, ChannelError> {
    let mut channel = Channel::open(CHANNEL)?;
    let mut lives = 0;
    let mut patience = Nanos(time::now().0 + 10_000_000_000);
    loop {
        let mut byte = [0];
        lives += channel.try_receive(&mut byte)? as u64;
        if lives == LIVES {
            // One more life would be one too many.
            patience = patience.min(Nanos(time::now().0 + 500_000_000));
        }
        if lives > LIVES || time::now() >= patience {
            return Ok(lives);
        }
        time::sleep(Nanos(5_000_000));
    }
}
