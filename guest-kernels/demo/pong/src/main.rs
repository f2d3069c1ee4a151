//! Receives 64 MiB from `ping` and answers with the checksum.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec;

use guest_sdk::channel::{Channel, ChannelError};
use guest_sdk::{StartInfo, println};
use link_messages::{CHANNEL, Checksum, MESSAGE_BYTES, MESSAGES, fill};

guest_sdk::entry!(pong);

fn pong(_start: &'static StartInfo) -> u64 {
    match receive_all() {
        Ok(true) => {
            println!("pong: done");
            0
        }
        Ok(false) => 1,
        Err(error) => {
            println!("pong: {error}");
            1
        }
    }
}

/// Whether the bytes were those that ping is to send.
fn receive_all() -> Result<bool, ChannelError> {
    let mut link = Channel::open(CHANNEL)?;
    let mut message = vec![0; MESSAGE_BYTES];
    let mut sum = Checksum::default();
    for _ in 0..MESSAGES {
        link.receive_exact(&mut message)?;
        sum.add(&message);
    }
    let mut last = vec![0; MESSAGE_BYTES];
    fill(&mut last, MESSAGES - 1);
    let Checksum(sum) = sum;
    println!("received {MESSAGES} messages, checksum {sum:#018x}");
    link.send_value(&sum)?;
    Ok(last == message)
}
