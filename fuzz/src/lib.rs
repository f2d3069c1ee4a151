//! Fuzz targets: each takes any bytes and panics when something is wrong.
//!
//! The same functions are driven by libFuzzer (`fuzz_targets/`, nightly) and by the runner of this
//! crate, which needs stable Rust only (`cargo xtask fuzz`).

mod calls;
mod decode;
mod events;
mod grants;
mod image;
mod spaces;

pub use calls::calls;
pub use decode::decode;
pub use events::events;
pub use grants::grants;
pub use image::{image, manifest, policy};
pub use spaces::spaces;

/// A target: its name, the function, and inputs to begin with.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All targets.
pub const TARGETS: &[Target] = &[
    ("image", image, image::images),
    ("manifest", manifest, image::manifests),
    ("policy", policy, image::policies),
    ("calls", calls, Vec::new),
    ("events", events, Vec::new),
    ("grants", grants, Vec::new),
    ("decode", decode, decode::instructions),
    ("spaces", spaces, Vec::new),
];

/// Bytes as a stream of small choices; zeros behind its end.
struct Choices<'b>(&'b [u8]);

impl Choices<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `bound`.
    fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound
    }

    /// A word: small, a power of two or one beside it, or any.
    fn word(&mut self) -> u64 {
        let shifted = 1_u64 << self.below(64);
        match self.below(4) {
            0 => u64::from(self.byte()),
            1 => shifted,
            2 => shifted.wrapping_sub(1),
            _ => u64::from_le_bytes([(); 8].map(|()| self.byte())),
        }
    }
}
