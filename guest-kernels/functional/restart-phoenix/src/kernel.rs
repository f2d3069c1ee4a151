//! One life.

use core::sync::atomic::{AtomicU64, Ordering};

use functional_support::probe;
use functional_support::restart::CHANNEL;
use guest_sdk::channel::Channel;
use guest_sdk::frame::{Frame, FrameRun};
use guest_sdk::{StartInfo, check, check_eq, verdict};

/// Written before death; a fresh VM finds the value from its file.
static MARK: AtomicU64 = AtomicU64::new(0x600d);

pub fn main(_start: &'static StartInfo) {
    check_eq!(MARK.swap(0xbad, Ordering::Relaxed), 0x600d, "data of the image");
    check_memory();
    match Channel::open(CHANNEL).map(|mut channel| channel.send(b"!")) {
        Ok(Ok(())) => {}
        Ok(Err(error)) | Err(error) => verdict::fail(format_args!("{error}")),
    }
    let _ = probe::read(0x10);
    verdict::fail(format_args!("survived its own death"));
}

/// Free memory is zero, and is not when this life ends.
fn check_memory() {
    let Some(run) = FrameRun::new(200, 1) else {
        verdict::fail(format_args!("no memory"));
    };
    let mut bytes = [0; 64];
    for offset in (0..200 * 4096).step_by(64) {
        check!(run.read(offset, &mut bytes), "read");
        check_eq!(bytes, [0; 64], "free memory at the start");
        check!(run.write(offset, &[0xdd; 64]), "write");
    }
    check!(Frame::new().is_some(), "another frame");
}
