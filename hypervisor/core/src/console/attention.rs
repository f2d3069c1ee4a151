//! The trusted path: what a person and the hypervisor say to each other when no VM may listen or speak.
//!
//! The secure attention key (a BREAK on the serial line, which no VM sees) opens it. Until a choice is
//! made, nothing that a VM writes from then on goes out, and nothing that is typed reaches a VM.

use protocol::VmId;

/// The longest number that can be typed.
const LARGEST: u32 = 9_999;
/// Bytes of a label that are shown.
pub(super) const LABEL: usize = 63;

/// What a key in the menu leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// A part of one, to be shown.
    Part,
    /// Back to the VM that had the input.
    Back,
    /// The input for this VM, if there is one.
    Vm(VmId),
    /// The end of this VM, if there is one.
    End(VmId),
    /// Nothing of the menu.
    Unknown,
}

/// The menu, open.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Menu {
    number: Option<u32>,
    ends: bool,
}

impl Menu {
    /// Takes a key. The number of a VM in the menu is its own plus one; 0 and a bare Return lead back. A minus in front
    /// asks for the VM's end.
    pub(super) fn key(&mut self, byte: u8) -> Choice {
        match byte {
            b'0'..=b'9' => {
                let digit = u32::from(byte.wrapping_sub(b'0'));
                let number = self.number.unwrap_or(0).saturating_mul(10).saturating_add(digit);
                self.number = Some(number.min(LARGEST));
                Choice::Part
            }
            b'-' if self.number.is_none() && !self.ends => {
                self.ends = true;
                Choice::Part
            }
            b'\r' | b'\n' => {
                let Menu { number, ends } = core::mem::take(self);
                match (number.unwrap_or(0).checked_sub(1), ends) {
                    (None, false) => Choice::Back,
                    (None, true) => Choice::Unknown,
                    (Some(vm), false) => Choice::Vm(VmId(vm)),
                    (Some(vm), true) => Choice::End(VmId(vm)),
                }
            }
            _ => {
                *self = Menu::default();
                Choice::Unknown
            }
        }
    }
}
