//! What the VM was told at its start.

use core::ops::Deref;

use protocol::flags::Features;
use protocol::shared::{self, ChannelInfo, ModuleInfo};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::raw::{page, region};

/// The VM's start info. The plain fields are those of [`shared::StartInfo`]; the methods give names
/// as text.
#[derive(Debug, FromBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct StartInfo(shared::StartInfo);

impl Deref for StartInfo {
    type Target = shared::StartInfo;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl StartInfo {
    /// The start info of the VM that executes this.
    #[must_use]
    pub fn of_this_vm() -> &'static StartInfo {
        zerocopy::transmute_ref!(page::start_info())
    }

    /// The VM's name in the system file.
    #[must_use]
    pub fn name(&self) -> &str {
        text(&self.0.name)
    }

    /// The command line of the system file.
    #[must_use]
    pub fn command_line(&self) -> &str {
        text(&self.0.command_line)
    }

    /// Features of the hypervisor that this SDK knows.
    #[must_use]
    pub fn features(&self) -> Features {
        Features::from_bits_truncate(self.0.features)
    }

    /// The VM's ends of channels, in the order of their indices.
    #[must_use]
    pub fn channels(&self) -> &[ChannelInfo] {
        self.0.channels.get(..self.0.channel_count as usize).unwrap_or_default()
    }

    /// The files that were given to the VM.
    pub fn modules(&self) -> impl Iterator<Item = Module<'_>> {
        let modules = self.0.modules.get(..self.0.module_count as usize).unwrap_or_default();
        modules.iter().map(Module)
    }

    /// The file of a name.
    #[must_use]
    pub fn module(&self, name: &str) -> Option<Module<'_>> {
        self.modules().find(|module| module.name() == name)
    }
}

/// Features of the hypervisor below.
#[must_use]
pub fn features() -> Features {
    StartInfo::of_this_vm().features()
}

/// A file given to the VM.
#[derive(Debug, Clone, Copy)]
pub struct Module<'a>(&'a ModuleInfo);

impl<'a> Module<'a> {
    /// Its name in the system file.
    #[must_use]
    pub fn name(&self) -> &'a str {
        text(&self.0.name)
    }

    /// Its contents.
    #[must_use]
    pub fn bytes(&self) -> &'static [u8] {
        region::module_bytes(self.0)
    }
}

/// Text up to the first zero byte; from the first byte on that is no UTF-8, the rest is left out.
#[must_use]
pub fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let bytes = bytes.get(..end).unwrap_or_default();
    match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            bytes.get(..error.valid_up_to()).and_then(|valid| core::str::from_utf8(valid).ok()).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn text_ends_at_the_first_zero_or_damaged_byte() {
        assert_eq!(text(b"ping\0\0\0"), "ping");
        assert_eq!(text(b"whole"), "whole");
        assert_eq!(text(b"a\xffb\0"), "a");
        assert_eq!(text(b"\0x"), "");
    }
}
