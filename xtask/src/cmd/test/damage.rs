//! Damaged system images: each is refused with a sentence, never a hang or a wild jump. Every
//! truncation and flip is tried on the host by hv-core's tests; these are samples on the machine.

use super::{Case, Verdict, guest};
use crate::cmd;
use crate::error::{Context, Exit, Failure};
use crate::qemu::Boot;
use crate::session::Outcome;

/// What is done to the image.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// Cut at this part of its length, rounded to 512 bytes: numerator of 8.
    Cut(usize),
    /// One bit of this byte flipped.
    Flip(usize),
    /// One bit flipped at this part of its length: numerator of 8.
    FlipPart(usize),
    /// Something else instead.
    Noise,
}

/// The tests.
pub fn cases() -> Vec<Case> {
    let mut samples: Vec<Damage> = (0..8).map(Damage::Cut).collect();
    // The header's fields, the first bytes of the manifest, the payloads.
    samples.extend([0, 8, 10, 12, 16, 24, 32, 36, 40, 47].map(Damage::Flip));
    samples.extend([4, 7].map(Damage::FlipPart));
    samples.push(Damage::Noise);
    samples
        .into_iter()
        .map(|damage| {
            Case::new(format!("guest/damaged-image {damage:?}"), move |bench| {
                let outcome = guest::run_hello(bench, "max", |prepared| {
                    let mut image = std::fs::read(&prepared.image).context(prepared.image.display())?;
                    damage.apply(&mut image);
                    let path = prepared.image.with_extension("damaged");
                    cmd::write(&path, &image)?;
                    Ok(Some(Boot::Direct { hypervisor: prepared.hypervisor.clone(), image: path }))
                });
                expect_refusal(outcome, "cannot start")
            })
        })
        .collect()
}

impl Damage {
    /// Damages an image.
    fn apply(self, image: &mut Vec<u8>) {
        let flip = |image: &mut Vec<u8>, at: usize| {
            if let Some(byte) = image.get_mut(at) {
                *byte ^= 0x10;
            }
        };
        match self {
            // QEMU passes no module of length 0: one sector is the shortest.
            Damage::Cut(eighths) => image.truncate((image.len() * eighths / 8 / 512 * 512).max(512)),
            Damage::Flip(at) => flip(image, at),
            Damage::FlipPart(eighths) => flip(image, image.len() * eighths / 8),
            Damage::Noise => *image = (0..65_536u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect(),
        }
    }
}

/// Passes when the hypervisor refused with a line that holds the text.
pub fn expect_refusal(outcome: Result<Outcome, Failure>, text: &str) -> Verdict {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(failure) => return Verdict::Failed(0, 1, failure.message),
    };
    let said = outcome.transcript.iter().any(|line| line.contains(text));
    let mut wrong = Vec::new();
    if outcome.exit != Exit::Unfit {
        wrong.push(format!("it was not refused: exit code {}", outcome.exit.code()));
    }
    if !said {
        wrong.push(format!("no line says `{text}`"));
    }
    if wrong.is_empty() {
        return Verdict::Passed(1);
    }
    Verdict::Failed(0, 1, guest::explain(&wrong, &outcome))
}
