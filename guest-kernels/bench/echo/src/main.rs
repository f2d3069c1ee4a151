//! The other VM of the benchmarks: answers events, yields on demand, and lends a frame.
#![cfg_attr(target_os = "none", no_std, no_main)]

use functional_support::bench::{ECHO, GRANT, YIELD};
use guest_sdk::channel::{Channel, ChannelError};
use guest_sdk::event;
use guest_sdk::frame::Frame;
use guest_sdk::grant::Grant;
use guest_sdk::protocol::flags::GrantFlags;
use guest_sdk::{StartInfo, Status, VmId, call, println};

guest_sdk::entry!(echo);

fn echo(start: &'static StartInfo) -> u64 {
    match serve(start) {
        Ok(()) => 0,
        Err(error) => {
            println!("bench-echo: {error}");
            1
        }
    }
}

fn serve(start: &StartInfo) -> Result<(), ChannelError> {
    let peer = start.channels().first().ok_or(ChannelError::NoSuchChannel)?.peer;
    let frame = Frame::new().ok_or(Status::QuotaExceeded)?;
    let grant = Grant::new(VmId(peer), frame, GrantFlags::WRITE)?;
    let echo = Channel::open(ECHO)?;
    let yields = Channel::open(YIELD)?;
    Channel::open(GRANT)?.send_value(&grant.reference().0)?;
    loop {
        event::wait_until(|| echo.event().take() || yields.event().take() && yield_until(&yields));
        echo.event().send()?;
    }
}

/// Gives up the CPU until the next event; false, so that the echo says nothing.
fn yield_until(yields: &Channel) -> bool {
    while !yields.event().take() {
        let _ = call::yield_cpu();
        event::dispatch();
    }
    false
}
