//! Sends 64 MiB to `pong` and compares checksums.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec;

use guest_sdk::channel::{Channel, ChannelError};
use guest_sdk::{StartInfo, println, time};
use link_messages::{CHANNEL, Checksum, MESSAGE_BYTES, MESSAGES, fill};

guest_sdk::entry!(ping);

fn ping(_start: &'static StartInfo) -> u64 {
    match send_all() {
        Ok(true) => {
            println!("ping: done");
            0
        }
        Ok(false) => 1,
        Err(error) => {
            println!("ping: {error}");
            1
        }
    }
}

/// Whether pong saw the same bytes.
fn send_all() -> Result<bool, ChannelError> {
    let mut link = Channel::open(CHANNEL)?;
    let mut message = vec![0; MESSAGE_BYTES];
    let mut sum = Checksum::default();
    let started = time::now();
    for number in 0..MESSAGES {
        fill(&mut message, number);
        sum.add(&message);
        link.send(&message)?;
    }
    let Checksum(sum) = sum;
    let answer: u64 = link.receive_value()?;
    let millis = (time::now().0 - started.0) / 1_000_000;
    println!("sent {MESSAGES} messages of {MESSAGE_BYTES} bytes in {millis} ms");
    println!("checksum {sum:#018x}, pong says {answer:#018x}");
    Ok(answer == sum)
}
